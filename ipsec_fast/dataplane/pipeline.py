"""The kernels for embedders, under one roof: SA, PacketBatch, protect, unprotect, and what the tests of vectors need.

`from ipsec_fast import SA, PacketBatch, protect, unprotect` ends here. Cython code cimports ipsec_fast.dataplane.sad and .esp instead.
"""

from ..model import OuterHeader
from .audit import Audit, AuditEvent
from .dropped import LastDrop
from .fragment import fragment_packet
from .packet import PacketBatch, protect, protect_dummies, unprotect
from .reassemble import Reassembler
from .sad import SA
from .sad_table import SAD
from .single import open_for_test, protect_packet, seal_with_iv_for_test, unprotect_packet
from .status import verdict_text

__all__ = [
    "SA",
    "SAD",
    "Audit",
    "AuditEvent",
    "LastDrop",
    "OuterHeader",
    "PacketBatch",
    "Reassembler",
    "fragment_packet",
    "open_for_test",
    "protect",
    "protect_dummies",
    "protect_packet",
    "seal_with_iv_for_test",
    "unprotect",
    "unprotect_packet",
    "verdict_text",
]
