"""SAs for a pipeline of one's own from what IKE negotiated: ESP with its outer headers, tunnel mode. Called by: embedders.

The gateway's way is control/children.py, whose sockets add the outer headers. Left out: grants, so an embedder that restarts must
negotiate anew.
"""

from __future__ import annotations

from ..dataplane.sad import SA
from ..ike.events import AskInstallChild
from ..model import OuterHeader

__all__ = ["sas_from_ike"]

ESP_PORT = 4500


def sas_from_ike(
    ask: AskInstallChild, *, window: int = 1024, engine: str = "auto", header: OuterHeader | None = None
) -> tuple[SA, SA]:
    """(inbound, outbound) for an AskInstallChild of `ipsec_fast.ike.endpoint.Endpoint`; answer the ask afterwards.

    UDP-encapsulated where the negotiation says so. The limits of the configuration are set. Selectors stay the caller's to check:
    `ask.local_ts` and `ask.remote_ts` (RFC 4301 section 5.2). Raises as SA does.
    """
    path = ask.path
    local_port = path.local_port if path.marker else ESP_PORT
    remote_port = path.remote_port if path.marker else ESP_PORT
    sa_in = SA(
        "in",
        ask.spi_in,
        ask.suite.name,
        ask.key_in,
        src=path.remote,
        dst=path.local,
        encap=(remote_port, local_port) if ask.encap else None,
        esn=ask.esn,
        window=window,
        engine=engine,
        header=header,
    )
    sa_out = SA(
        "out",
        ask.spi_out,
        ask.suite.name,
        ask.key_out,
        src=path.local,
        dst=path.remote,
        encap=(local_port, remote_port) if ask.encap else None,
        esn=ask.esn,
        engine=engine,
        header=header,
    )
    limits = ask.limits
    for sa in (sa_in, sa_out):
        sa.set_limits(limits.soft_packets, limits.hard_packets, limits.soft_bytes, limits.hard_bytes)
    return sa_in, sa_out
