"""When a lost TUN device is made again, and what the log says of it. Virtual time."""

from __future__ import annotations

import socket
import struct
from ipaddress import ip_interface

from ipsec_fast.errors import HostError
from ipsec_fast.gateway.tun_keeper import MOST_S, STOOD_S, TunKeeper
from ipsec_fast.system import own_device
from ipsec_fast.system.own_device import RTM_DELADDR, RTM_DELLINK, RTM_NEWADDR, RTM_NEWLINK, OwnDevice


class Host:
    def __init__(self) -> None:
        self.made: list[float] = []
        self.lines: list[str] = []
        self.refusal = ""
        self.now = 0.0
        self.keeper = TunKeeper("ipsec0", self.remake, self.lines.append)

    def remake(self) -> None:
        self.made.append(self.now)
        if self.refusal:
            raise HostError(self.refusal)

    def run(self, until: float) -> None:
        while (at := self.keeper.get_timer()) is not None and at <= until:
            self.now = max(self.now, at)
            self.keeper.handle_timer(self.now)
        self.now = until


def test_the_first_loss_is_mended_at_once_with_one_error_line() -> None:
    host = Host()
    for _ in range(3):  # each worker and the device's own news tell of it
        host.keeper.note_lost(0.0)
    host.run(0.0)
    assert host.made == [0.0]
    assert [line.startswith("error: device ipsec0") for line in host.lines] == [True, False]


def test_who_deletes_it_again_and_again_waits_longer_each_time() -> None:
    host = Host()
    while host.now < 600:
        host.keeper.note_lost(host.now)
        host.run(host.now + 0.1)
    assert 10 < len(host.made) < 20
    assert max(b - a for a, b in zip(host.made, host.made[1:], strict=False)) >= MOST_S
    host.run(host.now + 2 * MOST_S)
    host.run(host.now + STOOD_S)
    host.keeper.note_lost(host.now)
    assert host.keeper.get_timer() == host.now


def test_a_host_that_refuses_is_asked_again_and_its_reason_is_told_once() -> None:
    host = Host()
    host.refusal = "cannot create TUN device ipsec0: another process holds it"
    host.keeper.note_lost(0.0)
    host.run(100.0)
    assert 4 < len(host.made) < 10
    assert len(host.lines) == 2
    host.refusal = ""
    host.run(200.0)
    assert host.lines[-1].startswith("device ipsec0 is there again after ")
    assert host.keeper.get_timer() is None


# --- what the kernel says of it

INDEX = 7


def link(kind: int, index: int, flags: int) -> tuple[int, bytes]:
    return kind, struct.pack("=BxHiII", socket.AF_UNSPEC, 1, index, flags, 0)


def address(kind: int, text: str, index: int = INDEX) -> tuple[int, bytes]:
    one = ip_interface(text)
    family = socket.AF_INET if one.version == 4 else socket.AF_INET6
    attribute = struct.pack("=HH", 4 + len(one.ip.packed), own_device.IFA_ADDRESS) + one.ip.packed
    return kind, struct.pack("=BBBBI", family, one.network.prefixlen, 0, 0, index) + attribute


def device(*, now: list[float]) -> OwnDevice:
    return OwnDevice(INDEX, [ip_interface("10.9.0.1/24")], lambda: now[0])


def test_addresses_that_went_with_the_device_are_its_own_and_others_are_not() -> None:
    now = [0.0]
    one = device(now=now)
    one._hear(*address(RTM_NEWADDR, "fd00:9::1/64"))
    one._hear(*address(RTM_NEWADDR, "10.8.0.1/24"))
    one._hear(*address(RTM_NEWADDR, "10.7.0.1/24", index=3))
    one._hear(*address(RTM_DELADDR, "10.8.0.1/24"))  # by the operator
    now[0] = 5.0
    one.take()
    for text in ("10.9.0.1/24", "fd00:9::1/64"):
        one._hear(*address(RTM_DELADDR, text))
    one._hear(*link(RTM_DELLINK, INDEX, 0))
    assert one.is_broken
    assert set(map(str, one.addresses)) == {"10.9.0.1/24", "fd00:9::1/64"}
    one.close()


def test_only_our_own_device_counts_and_down_is_as_bad_as_gone() -> None:
    one = device(now=[0.0])
    for news in (link(RTM_NEWLINK, 8, 0), link(RTM_DELLINK, 8, 0), link(RTM_NEWLINK, INDEX, own_device.IFF_UP)):
        one._hear(*news)
    assert not one.is_broken
    one._hear(*link(RTM_NEWLINK, INDEX, 0))
    assert one.is_broken
    one.move(9)
    assert not one.is_broken
    one._hear(*link(RTM_NEWLINK, INDEX, 0))
    assert not one.is_broken
    one.close()


def test_another_name_is_as_bad_as_gone() -> None:
    one = OwnDevice(INDEX, name="ipsec0")

    def named(name: bytes) -> tuple[int, bytes]:
        kind, body = link(RTM_NEWLINK, INDEX, own_device.IFF_UP)
        return kind, body + struct.pack("=HH", 4 + len(name), own_device.IFLA_IFNAME) + name

    one._hear(*named(b"ipsec0\0"))
    assert not one.is_broken
    one._hear(*named(b"mine0\0"))
    assert one.is_broken
    one.close()


def test_each_return_is_a_line_of_its_own() -> None:
    """The log leaves out a line that it told less than 20 s ago."""
    host = Host()
    for _ in range(2):
        host.keeper.note_lost(host.now)
        host.run(host.now + 1.5)
    back = [line for line in host.lines if "there again" in line]
    assert len(set(back)) == 2
