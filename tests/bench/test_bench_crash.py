"""`ipsec-fast bench crash`: an eye that sees what must not be, and ten kills under traffic in which it sees nothing."""

from __future__ import annotations

import argparse
import random
import struct
from ipaddress import IPv4Network, ip_address

import pytest

from ipsec_fast import bench
from ipsec_fast.bench.crash import run_crash
from ipsec_fast.bench.wiretap import Eye, Numbers
from ipsec_fast.errors import UsageError

INNER = (IPv4Network("10.1.0.0/24"), IPv4Network("10.2.0.0/24"))
A, B = "192.0.2.1", "192.0.2.2"


def frame(payload: bytes, *, source: str = A, target: str = B, ports: tuple[int, int] = (4500, 4500)) -> bytes:
    udp = struct.pack(">HHHH", *ports, 8 + len(payload), 0) + payload
    addresses = ip_address(source).packed + ip_address(target).packed
    ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0) + addresses + udp
    return bytes(12) + b"\x08\x00" + ip


def esp(spi: int, number: int) -> bytes:
    return struct.pack(">IIQ", spi, number & 0xFFFFFFFF, number) + bytes(40)


def ike(message_id: int, iv: int, *, body: bytes = b"x" * 32, exchange: int = 37, flags: int = 8) -> bytes:
    header = bytes(range(16)) + bytes([46, 0x20, exchange, flags]) + struct.pack(">II", message_id, 28 + 12 + len(body))
    return bytes(4) + header + bytes(4) + struct.pack(">Q", iv) + body


@pytest.fixture
def eye() -> Eye:
    return Eye(INNER)


def test_a_number_twice_under_one_spi_is_seen_and_under_two_or_to_another_it_is_none(eye):
    for one in (esp(7, 1), esp(7, 2), esp(8, 1), esp(7, 2**32 + 1)):
        eye.look(frame(one))
    eye.look(frame(esp(7, 1), source=B, target=A))
    assert eye.findings.repeated_numbers == 0
    eye.look(frame(esp(7, 1)))
    assert (eye.findings.repeated_numbers, eye.findings.esp_packets) == (1, 6)


def test_what_the_kernel_hands_over_in_one_piece_is_cut(eye):
    size = len(esp(7, 1))
    eye.look(frame(b"".join(esp(7, n) for n in (1, 2, 3))), size)
    eye.look(frame(esp(7, 3)))
    assert (eye.findings.esp_packets, eye.findings.repeated_numbers) == (4, 1)


def test_an_iv_or_a_message_id_twice_is_seen_and_a_retransmission_is_none(eye):
    for one in (ike(1, 1), ike(1, 1), ike(2, 2), ike(1, 3, flags=0x28)):
        eye.look(frame(one))
    assert (eye.findings.repeated_ike_ivs, eye.findings.repeated_message_ids) == (0, 0)
    eye.look(frame(ike(3, 2)))
    eye.look(frame(ike(2, 9)))
    assert (eye.findings.repeated_ike_ivs, eye.findings.repeated_message_ids) == (1, 1)


def test_an_ike_auth_is_counted_once_per_ike_sa_also_on_port_500(eye):
    eye.look(frame(ike(1, 1, exchange=35)))
    eye.look(frame(ike(1, 1, exchange=35)[4:], ports=(500, 500)))
    assert len(eye.findings.ike_auths) == 1


@pytest.mark.parametrize(("source", "target"), [("10.1.0.10", "10.2.0.10"), (A, "10.2.0.10"), ("10.1.0.1", B)])
def test_an_inner_address_outside_is_a_packet_in_clear(eye, source, target):
    eye.look(frame(b"secret", source=source, target=target, ports=(7, 7)))
    assert eye.findings.clear_packets == 1


def test_frames_that_are_cut_off_or_strange_are_nothing(eye):
    whole = frame(ike(1, 1))
    for end in range(len(whole)):
        eye.look(whole[:end])
    eye.look(bytes(12) + b"\x86\xdd" + bytes(60))
    assert eye.findings.clear_packets == eye.findings.esp_packets == 0


def test_numbers_are_a_set_whatever_the_order():
    chance = random.Random(1)
    numbers, seen = Numbers(), set()
    for _ in range(3000):
        number = chance.randrange(500)
        assert numbers.add(number) == (number not in seen)
        seen.add(number)
    assert len(numbers._starts) <= 10


@pytest.mark.parametrize("kills", ["0", "-1", "100001"])
def test_impossible_counts_are_refused(kills):
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    with pytest.raises(UsageError, match=f"--kills {kills}: 1 to 100000"):
        bench.main(parser.parse_args(["crash", "--kills", kills]))


@pytest.mark.netns
def test_ten_kills_use_nothing_twice_show_nothing_in_clear_and_need_no_needless_authentication():
    said: list[str] = []
    result = run_crash(10, said.append)
    print(f"\n{result}")
    assert result.is_clean, result
    assert result.esp_packets > 1000
    assert result.restored >= result.kills - result.kills_with_own_request
    assert result.recovery_s_max <= 10  # 3 s on a host that is ours; this is no measurement
