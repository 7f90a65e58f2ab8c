"""IKE datagrams in IP fragments of our own: the packet that they make, and that the other end gets it whole."""

from __future__ import annotations

import os
import socket
from contextlib import closing
from ipaddress import ip_address

import pytest

from ipsec_fast.dataplane.fragment import fragment_packet
from ipsec_fast.dataplane.ip import checksum
from ipsec_fast.errors import HostError
from ipsec_fast.gateway import ike_cut
from ipsec_fast.gateway.ike_cut import CUT_BYTES, MOST_BYTES, CutSender, packet_of
from ipsec_fast.model import Path

V4 = ip_address("127.0.0.1"), ip_address("127.0.0.1")
V6 = ip_address("::1"), ip_address("::1")


@pytest.mark.parametrize("addresses", [V4, V6], ids=["v4", "v6"])
@pytest.mark.parametrize("count", [1, 100, 1401, 9000])
def test_fragments_are_small_and_sums_are_right(addresses: tuple, count: int) -> None:
    local, remote = addresses
    packet = packet_of(os.urandom(count), Path(local, 500, remote, 4500))
    head_bytes = 20 if local.version == 4 else 40
    udp = packet[head_bytes:]
    pseudo = local.packed + remote.packed + len(udp).to_bytes(4, "big") + bytes([0, 0, 0, 17])
    assert checksum(pseudo + udp) == b"\xff\xff"
    if local.version == 4:
        assert checksum(packet[:20]) == b"\xff\xff"
        assert not packet[6] & 0x40, "no DF"
    fragments = fragment_packet(packet, CUT_BYTES[local.version])
    assert all(len(one) <= CUT_BYTES[local.version] for one in fragments)


@pytest.mark.parametrize(("family", "addresses"), [(socket.AF_INET, V4), (socket.AF_INET6, V6)], ids=["v4", "v6"])
def test_the_other_end_gets_the_datagram_whole(family: int, addresses: tuple) -> None:
    sender, payload = CutSender(), os.urandom(5000)
    with socket.socket(family, socket.SOCK_DGRAM) as receiver:
        receiver.bind((str(addresses[0]), 0))
        receiver.settimeout(5)
        try:
            sender.send(payload, Path(addresses[0], 4500, addresses[1], receiver.getsockname()[1]))
        except HostError as error:
            pytest.skip(str(error))
        data, source = receiver.recvfrom(65535)
    sender.close()
    assert data == payload
    assert source[1] == 4500


def test_without_a_source_address_nothing_is_made_up() -> None:
    with pytest.raises(HostError, match="source address"):
        CutSender().send(b"x", Path(ip_address("0.0.0.0"), 500, V4[1], 500))


@pytest.mark.parametrize("addresses", [V4, V6], ids=["v4", "v6"])
def test_what_no_udp_datagram_holds_is_refused_and_the_longest_is_not(addresses: tuple) -> None:
    """The longest IKE message with the marker before it is four bytes more than IPv4 carries."""
    local, remote = addresses
    path, most = Path(local, 4500, remote, 4500, marker=True), MOST_BYTES[local.version]
    with pytest.raises(HostError, match=f"at most {most} bytes, not {most + 1}"):
        CutSender().send(bytes(most + 1), path)
    assert len(fragment_packet(packet_of(bytes(most), path), CUT_BYTES[local.version])) > 50


def test_nothing_leaves_without_our_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be routed into the tunnel. Whoever fails once is not kept either."""
    sender = CutSender()
    try:
        sender.send(b"x", Path(V4[0], 4500, V4[1], 4500))
    except HostError as error:
        pytest.skip(str(error))
    sender.close()
    monkeypatch.setattr(ike_cut, "_SO_MARK", 9999)
    with closing(sender):
        for _ in range(2):
            with pytest.raises(HostError, match="no mark"):
                sender.send(b"x", Path(V4[0], 4500, V4[1], 4500))
