"""The audit lines of a gateway: the first at once, the rest as sums, none for what is gone, and none of a flood."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from types import SimpleNamespace

import pytest

from ipsec_fast import SA, protect_packet, unprotect_packet
from ipsec_fast.control.audit import AGAIN_S, STRANGERS_S, AuditLog
from ipsec_fast.errors import IntegrityError
from ipsec_fast.model import Path

KEY = bytes(range(20))
PATH = Path(ip_address("192.0.2.1"), 4500, ip_address("192.0.2.2"), 4500, marker=True)
INNER = bytes.fromhex("45000014000000004011000000000000") + bytes(4)


@dataclass
class Child:
    child_id: int
    sa_in: SA
    sa_out: SA
    connection: str = "paris"
    name: str = "net"
    path: Path = PATH


def child(number: int) -> Child:
    return Child(number, SA("in", 256 + number, key=KEY), SA("out", 256 + number, key=KEY))


def forge(one: Child, count: int) -> None:
    for _ in range(count):
        packet = bytearray(protect_packet(one.sa_out, INNER))
        packet[-1] ^= 1
        with pytest.raises(IntegrityError, match="bad_icv"):
            unprotect_packet(one.sa_in, bytes(packet))


def site(*children: Child) -> tuple[AuditLog, list[str], list[Child]]:
    lines: list[str] = []
    there = list(children)
    return AuditLog(SimpleNamespace(all=lambda: there), lines.append), lines, there  # type: ignore[arg-type]


def test_the_first_at_once_and_then_a_sum_each_minute():
    one = child(1)
    log, lines, _ = site(one)
    log.handle_timer(10.0)
    assert lines == []
    forge(one, 2)
    log.handle_timer(11.0)
    assert lines == [
        "audit: paris net: bad_icv: esp in SPI 0x00000101, sequence number 2, 2 packets, path 192.0.2.1[4500] - 192.0.2.2[4500]"
    ]
    for second in range(12, 71):
        forge(one, 1)
        log.handle_timer(float(second))
    assert len(lines) == 1
    log.handle_timer(11.0 + AGAIN_S)
    assert len(lines) == 2
    assert "59 packets" in lines[1]
    log.handle_timer(11.0 + 3 * AGAIN_S)
    assert len(lines) == 2, "nothing new, nothing told"


def test_it_looks_once_a_second_and_each_child_has_lines_of_its_own():
    one, two = child(1), child(2)
    log, lines, there = site(one, two)
    log.handle_timer(10.0)
    forge(one, 1)
    forge(two, 1)
    log.handle_timer(10.5)
    assert lines == []
    assert log.get_timer() == 11.0
    log.handle_timer(11.0)
    assert ["0x00000101" in line for line in lines] == [True, False]
    forge(one, 1)
    log.handle_timer(12.0)
    there.clear()
    log.handle_timer(11.0 + 2 * AGAIN_S)
    assert len(lines) == 2
    assert log.get_timer() is None


def test_strangers_have_one_line_in_ten_seconds():
    log, lines, _ = site()
    for tenth in range(250):
        log.note_unknown_spi(0x1234 + tenth, ip_address("192.0.2.9"), tenth / 10)
    assert len(lines) == 3
    assert lines[0] == f"audit: unknown_spi: SPI 0x00001234 from 192.0.2.9; no more of these for {STRANGERS_S:.0f} s"
