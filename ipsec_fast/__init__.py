"""IPsec without kernel IPsec: ESP kernels over batches of packets, IKEv2, and the gateway between them.

    from ipsec_fast import SA, PacketBatch, protect, unprotect

These names load the compiled kernels when they are first used, so that a command line that only talks to a gateway does not.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .control.child_sas import sas_from_ike
    from .dataplane.pipeline import (
        SA,
        SAD,
        Audit,
        AuditEvent,
        LastDrop,
        OuterHeader,
        PacketBatch,
        Reassembler,
        fragment_packet,
        open_for_test,
        protect,
        protect_dummies,
        protect_packet,
        seal_with_iv_for_test,
        unprotect,
        unprotect_packet,
        verdict_text,
    )

__all__ = [
    "SA",
    "SAD",
    "Audit",
    "AuditEvent",
    "LastDrop",
    "OuterHeader",
    "PacketBatch",
    "Reassembler",
    "__version__",
    "fragment_packet",
    "open_for_test",
    "protect",
    "protect_dummies",
    "protect_packet",
    "sas_from_ike",
    "seal_with_iv_for_test",
    "unprotect",
    "unprotect_packet",
    "verdict_text",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # late, on purpose: see above
    if name == "sas_from_ike":
        from .control import child_sas as home
    else:
        from .dataplane import pipeline as home  # type: ignore[no-redef]
    value = getattr(home, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
