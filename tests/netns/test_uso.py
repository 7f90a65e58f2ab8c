"""UDP segmentation inside the tunnel (USO): a super-packet crosses the TUN as one frame and the wire as equal ESP packets."""

from __future__ import annotations

import os

import pytest
from datagrams import header_bytes, pieces, received, received_joined, send_super, udp_socket
from hand_pair import Pair
from lab import wait_for

pytestmark = pytest.mark.netns
FAR = {4: "10.2.0.1", 6: "fd02::1"}


@pytest.mark.parametrize("uso", [True, False])
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(
    ("length", "size"), [(5500, 1000), (6000, 1000), (1001, 1000), (64 * 300, 300), (63 * 1000 + 1, 1000)]
)
def test_super_packet_of_an_application_arrives_as_its_datagrams(
    uso: bool, version: int, length: int, size: int
) -> None:
    with Pair(4, a={"offload": {"uso": uso}}, b={"offload": {"uso": uso, "coalesce": uso}}) as pair:
        assert pair.a.do("counters")["features"]["uso"] is uso
        data, before = os.urandom(length), (pair.a.counters(), pair.b.counters())
        expected = pieces(data, size)
        with (
            udp_socket(pair.names["b"], version, FAR[version]) as receiver,
            udp_socket(pair.names["a"], version) as sender,
        ):
            send_super(sender, FAR[version], data, size)
            assert received(receiver, len(expected)) == expected

        def grown() -> list[dict[str, int]]:
            after = pair.a.counters(), pair.b.counters()
            return [{name: now[name] - was[name] for name in now} for now, was in zip(after, before, strict=True)]

        # what has arrived may not be counted yet
        wait_for(
            "counted", lambda: grown()[0]["packets_out"] and grown()[1]["tun_writes"] and grown()[1]["merged"] >= uso
        )
        a, b = grown()
        header = header_bytes(FAR[version])
        assert a["packets_out"] == b["packets_in"] == len(expected)
        # one frame, one header; or the kernel's own segments, a header each
        assert a["tun_read_bytes"] == length + header * (1 if uso else len(expected))
        if uso:
            assert a["udp_messages_out"] <= 2  # runs of equal packets, the shorter one joins as the last
            assert b["merged"] == len(expected)
            assert b["merge_refused"] == b["tun_write_failed"] == 0
            assert b["tun_writes"] < len(expected)
        else:
            assert b["merged"] == 0


@pytest.mark.parametrize("version", [4, 6])
def test_merged_datagrams_reach_an_application_with_gro_in_one_piece(version: int) -> None:
    with Pair(4) as pair:
        data = os.urandom(20 * 1000 + 7)
        joined = udp_socket(pair.names["b"], version, FAR[version], joined=True)
        with joined as receiver, udp_socket(pair.names["a"], version) as sender:
            send_super(sender, FAR[version], data, 1000)
            assert received_joined(receiver) == (data, 1000)
        assert wait_for("counted", lambda: pair.b.counters()["merged"]) == 21


def test_datagrams_without_checksum_are_not_merged_and_arrive() -> None:
    with Pair(4) as pair:
        with udp_socket(pair.names["b"], 4, FAR[4]) as receiver, udp_socket(pair.names["a"], 4) as sender:
            sender.setsockopt(1, 11, 1)  # SO_NO_CHECK
            sent = [bytes([n]) * 500 for n in range(20)]
            for data in sent:
                sender.sendto(data, (FAR[4], 7001))
            assert received(receiver, 20) == sent
        assert pair.b.counters()["merged"] == 0
