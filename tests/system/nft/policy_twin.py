"""The SPD as RFC 4301 section 4.4.1 says it, slowly: policies in order, the first whose selectors hold the packet decides.

Written from the RFC and from issue-level rules of order (priority, then narrow before wide, then load order); it shares nothing with
`policies` but the Policy that both are given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from ipsec_fast.model import Address, TrafficSelector
from ipsec_fast.system.nft.policies import Action, Policy

PORTS, TYPES = {6, 17, 33, 132, 136}, {1, 58}


@dataclass(frozen=True)
class Packet:
    """`ports` of source and destination; of ICMP type << 8 | code twice; None where a protocol has none."""

    source: Address
    target: Address
    protocol: int
    ports: tuple[int, int] | None = None

    @property
    def back(self) -> Packet:
        """The same as seen from the other end."""
        return Packet(self.target, self.source, self.protocol, self.ports and (self.ports[1], self.ports[0]))


def decide(policies: Sequence[Policy], packet: Packet) -> tuple[str, Action] | None:
    """Of a packet whose source is the local side."""
    pairs = [
        (_rank(policy, number, local, remote), policy, local, remote)
        for number, policy in enumerate(policies)
        for local in policy.local_ts
        for remote in policy.remote_ts
        if local.version == remote.version
        and (not local.protocol or not remote.protocol or local.protocol == remote.protocol)
    ]
    for _, policy, local, remote in sorted(pairs, key=lambda pair: pair[0]):
        if _holds(local, packet, 0) and _holds(remote, packet, 1):
            return policy.name, policy.action
    return None


def way_of(policies: Sequence[Policy], packet: Packet) -> str:
    """What becomes of a forwarded packet: it leaves by the "tun", in "clear", or is "dropped"."""
    out = decide(policies, packet)
    if out is not None:
        return {Action.PROTECT: "tun", Action.PASS: "clear", Action.DROP: "dropped"}[out[1]]
    back = decide(policies, packet.back)
    return "dropped" if back is not None and back[1] is not Action.PASS else "clear"


def _rank(policy: Policy, number: int, local: TrafficSelector, remote: TrafficSelector) -> tuple[object, ...]:
    ports = (local.end_port - local.start_port) + (remote.end_port - remote.start_port)
    return (
        policy.priority or 1 << 40,
        int(remote.end) - int(remote.start),
        int(local.end) - int(local.start),
        not (local.protocol or remote.protocol),
        ports,
        number,
    )


def _holds(ts: TrafficSelector, packet: Packet, end: int) -> bool:
    address = (packet.source, packet.target)[end]
    if address.version != ts.version or not int(ts.start) <= int(address) <= int(ts.end):
        return False
    if ts.protocol and ts.protocol != packet.protocol:
        return False
    if ts.is_any_port:
        return True
    return packet.ports is not None and ts.start_port <= packet.ports[end] <= ts.end_port


def packet_of(text: str) -> Packet:
    """`10.1.0.5 10.2.0.9 tcp 1024 80`, `10.1.0.5 10.2.0.9 icmp 2048`, `10.1.0.5 10.2.0.9 47`."""
    source, target, protocol, *ports = text.split()
    number = {"icmp": 1, "tcp": 6, "udp": 17, "ipv6-icmp": 58}.get(protocol) or int(protocol)
    found = [int(port) for port in ports]
    pair = (found[0], found[-1]) if found else None
    return Packet(ip_address(source), ip_address(target), number, pair)
