"""Fail closed, and clean up the rest: what stands in the kernel's tables after each step of a gateway's life."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from ipaddress import ip_address, ip_network

import pytest

from ipsec_fast.errors import HostError
from ipsec_fast.system.links import QUEUE_PACKETS, Links
from ipsec_fast.system.netlink import Netlink
from ipsec_fast.system.routes import MARK, Routes

pytestmark = pytest.mark.netns
Shell = Callable[[str], str]
SITE, SITE6, DEFAULT = ip_network("10.2.0.0/24"), ip_network("fd00:2::/64"), ip_network("0.0.0.0/0")


@pytest.fixture
def netlink(private_net: Shell) -> Iterator[Netlink]:
    private_net(
        "ip link set lo up; ip link add out0 type veth peer name out1; ip link set out1 up; ip addr add 192.0.2.1/24 dev out0;"
        "ip link set out0 up; ip route add default via 192.0.2.254; ip addr add 10.1.0.1/24 dev lo; ip addr add fd00:1::1/64 dev lo nodad"
    )
    with Netlink() as found:
        yield found


def tun(shell: Shell, netlink: Netlink, name: str = "ipsec0") -> int:
    shell(f"ip tuntap add {name} mode tun")
    return Links(netlink).set_up(name, 1438)


def leftovers(shell: Shell) -> str:
    return shell(
        "for f in -4 -6; do ip $f rule | grep proto || :; ip $f route show table all | grep 'proto 73' || :; done"
    )


def way(shell: Shell, to: str, *more: str) -> str:
    return shell(f"ip route get {to} {' '.join(more)} 2>&1 || :")


def test_a_prefix_goes_into_the_tun_with_our_inner_address_and_our_own_sockets_go_around(private_net, netlink):
    routes = Routes(netlink, "ipsec0")
    routes.add(SITE, tun(private_net, netlink), ip_address("10.1.0.1"))
    assert "dev ipsec0" in way(private_net, "10.2.0.9")
    assert "src 10.1.0.1" in way(private_net, "10.2.0.9")
    assert "dev out0" in way(private_net, "10.2.0.9", f"mark {MARK}")


def test_after_a_crash_nothing_leaves_in_clear_and_an_orderly_stop_leaves_nothing(private_net, netlink):
    crashed = Routes(netlink, "ipsec0")
    index = tun(private_net, netlink)
    for network in (SITE, SITE6, DEFAULT):
        crashed.add(network, index)
    private_net("ip link del ipsec0")  # as the kernel does when the last descriptor closes
    assert "prohibited" in way(private_net, "10.2.0.9") or "Permission denied" in way(private_net, "10.2.0.9")
    assert "Permission denied" in way(private_net, "8.8.8.8")
    assert "dev out0" in way(private_net, "192.0.2.7")  # the connected network is left alone

    again = Routes(netlink, "ipsec0")
    assert set(again.adopt([SITE, SITE6, DEFAULT])) == {SITE, SITE6, DEFAULT}
    again.close()
    assert leftovers(private_net) == ""
    assert "dev out0" in way(private_net, "10.2.0.9")


def test_what_is_no_longer_configured_is_removed_at_the_next_start(private_net, netlink):
    Routes(netlink, "ipsec0").prohibit(SITE)
    assert Routes(netlink, "ipsec0").adopt([ip_network("10.3.0.0/16")]) == []
    assert leftovers(private_net) == ""


def test_a_crashed_prefix_inside_a_configured_one_stays_closed(private_net, netlink):
    Routes(netlink, "ipsec0").prohibit(SITE)
    assert Routes(netlink, "ipsec0").adopt([ip_network("10.0.0.0/8")]) == [SITE]
    assert "Permission denied" in way(private_net, "10.2.0.9")


def test_a_default_route_never_drags_a_more_specific_prefix_of_ours_behind_main(private_net, netlink):
    private_net("ip route add 10.0.0.0/8 via 192.0.2.253")
    routes, index = Routes(netlink, "ipsec0"), tun(private_net, netlink)
    routes.add(SITE, index)
    routes.add(DEFAULT, index)
    assert "dev ipsec0" in way(private_net, "10.2.0.9")
    assert "via 192.0.2.253" in way(private_net, "10.3.0.9")
    assert "dev ipsec0" in way(private_net, "8.8.8.8")
    routes.remove(DEFAULT, keep_prohibit=False)
    assert "via 192.0.2.254" in way(private_net, "8.8.8.8")
    assert "dev ipsec0" in way(private_net, "10.2.0.9")


def test_two_gateways_on_one_host_leave_each_other_alone(private_net, netlink):
    one, two = Routes(netlink, "ipsec0"), Routes(netlink, "vpn7")
    one.add(SITE, tun(private_net, netlink))
    two.add(ip_network("10.7.0.0/24"), tun(private_net, netlink, "vpn7"))
    one.adopt([])
    one.close()
    assert "dev vpn7" in way(private_net, "10.7.0.9")
    assert "dev out0" in way(private_net, "10.2.0.9")
    two.close()
    assert leftovers(private_net) == ""


def test_a_child_that_goes_down_is_refused_or_freed_as_asked(private_net, netlink):
    routes, index = Routes(netlink, "ipsec0"), tun(private_net, netlink)
    routes.add(SITE, index)
    routes.remove(SITE, keep_prohibit=True)
    assert "Permission denied" in way(private_net, "10.2.0.9")
    routes.remove(SITE, keep_prohibit=False)
    assert leftovers(private_net) == ""


def test_a_local_network_inside_a_remote_one_stays_local(private_net, netlink):
    routes, index = Routes(netlink, "ipsec0"), tun(private_net, netlink)
    private_net("ip addr add 10.1.9.1/24 dev out0")
    routes.add(ip_network("10.0.0.0/8"), index, around=[ip_network("10.1.9.0/24")])
    assert "dev out0" in way(private_net, "10.1.9.7")
    assert "dev ipsec0" in way(private_net, "10.2.0.9")
    routes.close()
    assert leftovers(private_net) == ""


def test_the_kernels_refusal_is_one_line_that_names_the_request(private_net, netlink):
    with pytest.raises(HostError, match=r"cannot replace the route of 10\.2\.0\.0/24: "):
        Routes(netlink, "ipsec0").add(SITE, 4711)
    with pytest.raises(HostError, match="no device ipsec9"):
        Links(netlink).set_up("ipsec9", 1400)


def test_links_tell_addresses_and_the_mtu_of_a_path(private_net, netlink):
    links = Links(netlink)
    assert ip_address("10.1.0.1") in links.addresses()
    assert ip_address("192.0.2.1") in links.addresses()
    assert ip_address("192.0.2.1") not in links.addresses(but="out0")
    private_net("ip link set out0 mtu 1400; ip route add 198.51.100.0/24 via 192.0.2.9 mtu 1300")
    assert links.path_mtu(ip_address("192.0.2.2"), MARK) == 1400
    assert links.path_mtu(ip_address("198.51.100.1"), MARK) == 1300
    assert links.path_mtu(ip_address("2001:db8::1"), MARK, default=1500) == 1500


def test_the_tun_holds_what_comes_while_its_worker_has_no_cpu(private_net, netlink):
    tun(private_net, netlink)
    assert f"qlen {QUEUE_PACKETS}" in private_net("ip link show ipsec0")


def test_a_route_has_an_mtu_of_its_own_and_keeps_its_source(private_net, netlink):
    routes = Routes(netlink, "ipsec0")
    index = tun(private_net, netlink)
    for network, source, address in ((SITE, "10.1.0.1", "10.2.0.9"), (SITE6, "fd00:1::1", "fd00:2::9")):
        routes.add(network, index, ip_address(source))
        for mtu in (1300, 1400):
            routes.set_mtu(network, mtu)
            assert f"mtu {mtu}" in way(private_net, address)
            assert f"src {source}" in way(private_net, address)
    routes.set_mtu(ip_network("10.9.0.0/24"), 1300)  # not routed: nothing
    routes.close()
    assert leftovers(private_net) == ""
