"""What a host says of itself is remembered, and never longer than it is true."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from ipaddress import ip_address, ip_network

import pytest

from ipsec_fast.system.links import Links
from ipsec_fast.system.netlink import Netlink
from ipsec_fast.system.remembered import Remembered
from ipsec_fast.system.routes import MARK

pytestmark = pytest.mark.netns
Shell = Callable[[str], str]
PEER = ip_address("198.51.100.7")


class CountingLinks(Links):
    """The real ones; how often they are asked."""

    asked = 0

    def addresses(self, but=""):
        self.asked += 1
        return super().addresses(but)

    def path_mtu(self, remote, mark, default=1500):
        self.asked += 1
        return super().path_mtu(remote, mark, default)


@pytest.fixture
def host(private_net: Shell) -> Iterator[tuple[Remembered, CountingLinks, Shell]]:
    private_net(
        "ip link set lo up; ip link add out0 type veth peer name out1; ip link set out1 up; ip addr add 192.0.2.1/24 dev out0;"
        "ip link set out0 up; ip route add default via 192.0.2.254; ip tuntap add own0 mode tun; ip link set own0 up; sleep 0.2"
    )
    with Netlink() as netlink:
        links = CountingLinks(netlink)
        found = Remembered(links, "own0", links.index("own0"), MARK)
        yield found, links, private_net
        found.close()


def test_the_same_question_is_asked_once(host: tuple[Remembered, CountingLinks, Shell]) -> None:
    remembered, links, _ = host
    for _ in range(3):
        assert remembered.addresses() == [ip_address("192.0.2.1")]
        assert remembered.path_mtu(PEER, 1400) == 1500
    assert links.asked == 2


@pytest.mark.parametrize("address", ["192.0.2.9/32", "10.1.0.1/24", "2001:db8::9/128"])
def test_a_new_address_is_there_at_once_and_one_that_went_is_gone(host, address: str) -> None:
    remembered, _, shell = host
    new = ip_address(address.partition("/")[0])
    assert new not in remembered.addresses()
    shell(f"ip addr add {address} dev out0" + (" nodad" if new.version == 6 else ""))
    assert new in remembered.addresses()
    shell(f"ip addr del {address} dev out0")
    assert new not in remembered.addresses()


def test_the_mtu_of_a_way_follows_the_device_and_the_route(host) -> None:
    remembered, _, shell = host
    assert remembered.path_mtu(PEER, 1400) == 1500
    shell("ip link set out0 mtu 1300")
    assert remembered.path_mtu(PEER, 1400) == 1300
    shell("ip route add 198.51.100.0/24 via 192.0.2.254 mtu 1280")
    assert remembered.path_mtu(PEER, 1400) == 1280
    shell("ip route del 198.51.100.0/24")
    assert remembered.path_mtu(PEER, 1400) == 1300


def test_our_own_device_is_no_news(host) -> None:
    remembered, links, shell = host
    remembered.addresses()
    shell("ip link set own0 mtu 1280; ip route add 10.9.0.0/24 dev own0 protocol 73")
    assert remembered.addresses() == [ip_address("192.0.2.1")]
    assert links.asked == 1


def test_the_networks_that_are_connected_here_follow_the_addresses(
    host: tuple[Remembered, CountingLinks, Shell],
) -> None:
    remembered, _, shell = host
    assert remembered.networks() == [ip_network("192.0.2.0/24")]
    shell(
        "ip addr add 10.9.0.1/30 dev out0; ip addr add 2001:db8:5::1/64 dev out0 nodad; ip addr add 10.66.0.1/24 dev own0"
    )
    shell("ip addr add 198.51.100.1 peer 198.51.100.2/32 dev out0")
    found = {str(network) for network in remembered.networks()}
    assert found == {"192.0.2.0/24", "10.9.0.0/30", "2001:db8:5::/64", "198.51.100.1/32", "198.51.100.2/32"}
    shell("ip addr del 10.9.0.1/30 dev out0")
    assert ip_network("10.9.0.0/30") not in remembered.networks()
