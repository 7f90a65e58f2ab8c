"""Strategies of IP packets with every header that a gateway meets: options, extension headers, TCP and UDP with right checksums."""

from __future__ import annotations

import struct
from ipaddress import ip_address

from hypothesis import strategies as st
from twin_ip import ipv4_header, ipv6_header, upper_checksum, with_length

V4 = ("10.1.0.1", "10.2.0.1")
V6 = ("2001:db8:1::1", "2001:db8:2::1")


def upper(protocol: int, src: str, dst: str, data: bytes) -> bytes:
    """TCP and UDP with their checksum, anything else as it is."""
    if protocol == 17:
        bare = struct.pack("!HHHH", 4000, 53, 8 + len(data), 0) + data
        at = 6
    elif protocol == 6:
        bare = struct.pack("!HHIIBBHHH", 4000, 80, 1, 2, 0x50, 0x18, 512, 0, 0) + data
        at = 16
    else:
        return data
    check = upper_checksum(ip_address(src), ip_address(dst), protocol, bare)
    return bare[:at] + struct.pack("!H", check) + bare[at + 2 :]


def extension(kind: int, blocks: int, fill: int) -> bytes:
    """An IPv6 extension header without its first byte; AH counts in fours."""
    if kind == 44:
        return bytes([0, 0, 0, 0, 0, 0, fill])  # an atomic fragment
    if kind == 51:
        return bytes([2 * blocks]) + bytes([fill]) * (8 * blocks + 6)
    if kind == 43:
        return bytes([blocks - 1, fill & 7, fill >> 3 & 1]) + bytes(8 * blocks - 4)
    if kind in (0, 60):  # one option over the whole header, whose type says whether its data may change
        return bytes([blocks - 1, fill, 8 * blocks - 4]) + bytes(range(1, 8 * blocks - 3))
    return bytes([blocks - 1]) + bytes([fill]) * (8 * blocks - 2)


def ipv6_with_chain(
    kinds: list[tuple[int, int]], protocol: int, payload: bytes, fill: int = 0x3E, **more: int
) -> bytes:
    names = [kind for kind, _ in kinds] + [protocol]
    chain = b"".join(bytes([names[i + 1]]) + extension(kind, blocks, fill) for i, (kind, blocks) in enumerate(kinds))
    return ipv6_header(*V6, names[0], payload=len(chain) + len(payload), **more) + chain + payload


bodies = st.one_of(st.integers(0, 70), st.integers(0, 1500)).map(lambda n: bytes(i * 7 & 255 for i in range(n)))
protocols = st.sampled_from([6, 17, 1, 47, 4, 41, 132, 94])
tos_values = st.integers(0, 255)
ttls = st.integers(1, 255)


def option(kind: int, data: int) -> bytes:
    return bytes([kind, data + 2]) + bytes(range(1, data + 1))


# NOP, record route, timestamp, security, CIPSO, router alert, source routes, unknown ones, and some that lie about their length
some_option = st.one_of(
    st.just(b"\1"),
    st.tuples(st.sampled_from([7, 68, 130, 133, 134, 148, 149, 131, 137, 82, 30, 94, 222]), st.integers(1, 11)).map(
        lambda o: option(*o)
    ),
    st.sampled_from([b"\0", b"\x07\1", b"\x83\3\4", b"\x94\x30\0\0"]),
)
ipv4_options = st.lists(some_option, max_size=4).map(
    lambda chosen: (joined := b"".join(chosen)[:40]) + b"\0" * (-len(joined) % 4)
)


@st.composite
def ipv4_packets(draw, with_options: bool = True) -> bytes:
    protocol = draw(protocols)
    payload = upper(protocol, *V4, draw(bodies))
    options = draw(ipv4_options) if with_options else b""
    return (
        ipv4_header(
            *V4, protocol, tos=draw(tos_values), ident=draw(st.integers(0, 65535)), df=draw(st.booleans()), ttl=draw(ttls),
            options=options, payload=len(payload),
        )
        + payload
    )  # fmt: skip


@st.composite
def ipv6_packets(draw) -> bytes:
    protocol = draw(st.sampled_from([6, 17, 58, 47, 4, 41, 59]))
    payload = upper(protocol, *V6, draw(bodies))
    kinds = draw(st.lists(st.tuples(st.sampled_from([0, 43, 60, 51]), st.integers(1, 3)), max_size=4))
    if draw(st.integers(0, 4)) == 0:
        kinds.insert(draw(st.integers(0, len(kinds))), (44, 1))
    return ipv6_with_chain(
        kinds,
        protocol,
        payload,
        draw(st.sampled_from([0x3E, 0x1E, 2, 10, 1, 0])),
        tos=draw(tos_values),
        label=draw(st.integers(0, 0xFFFFF)),
        ttl=draw(ttls),
    )


def as_fragment(packet: bytes, offset: int, more: bool) -> bytes:
    """An IPv4 packet that says it is a piece."""
    word = (0x2000 if more else 0) | offset // 8
    return with_length(packet[:6] + struct.pack("!H", word) + packet[8:20], len(packet) - 20) + packet[20:]


any_packet = st.one_of(ipv4_packets(), ipv6_packets())
spoilt = st.one_of(
    st.binary(max_size=80),
    ipv4_packets(with_options=False).map(lambda p: as_fragment(p, 0, True)),
    ipv4_packets(with_options=False).map(lambda p: as_fragment(p, 64, False)),
    any_packet.map(lambda p: p[:-1]),
    any_packet.map(lambda p: p + b"link padding"),
)


def mutations(wire: bytes) -> st.SearchStrategy[bytes]:
    """Mostly whole, else a byte changed (the outer header included), cut, or longer."""
    spots = st.integers(0, len(wire) - 1)
    return st.one_of(
        st.just(wire),
        st.just(wire),
        st.tuples(spots, st.integers(1, 255)).map(
            lambda c: wire[: c[0]] + bytes([wire[c[0]] ^ c[1]]) + wire[c[0] + 1 :]
        ),
        spots.map(lambda at: wire[:at]),
        st.binary(min_size=1, max_size=20).map(lambda more: wire + more),
    )
