"""The five offloads of the dataplane, each with an off switch (`[gateway] offload` of the configuration).

True asks for it; what the kernel refuses is off, feature by feature, at the start or at run time (`Tun.features`,
`UdpSocket.features`).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Offload:
    """`tso`, `uso`: super-packets from the TUN. `coalesce`: to the TUN. `udp_segment`, `udp_gro`: super-datagrams out, in."""

    tso: bool = True
    uso: bool = True
    udp_segment: bool = True
    udp_gro: bool = True
    coalesce: bool = True
