"""The TUN device's state, and what the host says of paths and addresses. The device itself is made by dataplane.tun.

Called by the gateway at start and stop and, for paths and preferred sources, by control.
"""

from __future__ import annotations

import contextlib
import ipaddress
from pathlib import Path as FilePath
from typing import Any

from ..errors import HostError
from ..model import Address
from .netlink import Netlink

IFF_UP = 0x1
# The kernel's 500 are over in 10 ms at 50,000 packets/s: what a worker that lost its CPU for a moment would drop
QUEUE_PACKETS = 2000
RT_SCOPE_HOST = 254


class Links:
    def __init__(self, netlink: Netlink) -> None:
        self._netlink = netlink

    def index(self, name: str) -> int:
        found = self._netlink.call(f"look for the device {name}", lambda ip: ip.link_lookup(ifname=name))
        if not found:
            raise HostError(f"there is no device {name}")
        return int(found[0])

    def set_up(self, name: str, mtu: int) -> int:
        """Bring the device up with this MTU; returns its index. No link-local address: nothing on the other side would answer it."""
        index = self.index(name)
        setting = FilePath(f"/proc/sys/net/ipv6/conf/{name}/addr_gen_mode")
        # without IPv6 or with a read-only /proc: the device then sends a few router solicitations, which the SPD drops
        with contextlib.suppress(OSError):
            setting.write_text("1")
        self._netlink.call(
            f"bring {name} up", lambda ip: ip.link("set", index=index, mtu=mtu, txqlen=QUEUE_PACKETS, state="up")
        )
        return index

    def set_mtu(self, name: str, mtu: int) -> None:
        index = self.index(name)
        self._netlink.call(f"set the MTU of {name} to {mtu}", lambda ip: ip.link("set", index=index, mtu=mtu))

    def add_address(self, name: str, interface: ipaddress.IPv4Interface | ipaddress.IPv6Interface) -> None:
        index, address, length = self.index(name), str(interface.ip), interface.network.prefixlen
        self._netlink.call(
            f"give {interface} to {name}", lambda ip: ip.addr("replace", index=index, address=address, prefixlen=length)
        )

    def addresses_of(self, index: int) -> list[ipaddress.IPv4Interface | ipaddress.IPv6Interface]:
        """The addresses of one device, without link-local ones, which the kernel makes."""
        rows = self._netlink.call("list the addresses of a device", lambda ip: list(ip.get_addr(index=index)))
        found = [
            ipaddress.ip_interface(f"{row.get_attr('IFA_LOCAL') or row.get_attr('IFA_ADDRESS')}/{row['prefixlen']}")
            for row in rows or ()
        ]
        return [one for one in found if not one.is_link_local]

    def addresses(self, but: str = "") -> list[Address]:
        """Every address of this host that others may see, except those of the device `but`."""

        def dump(ip: Any) -> list[str]:
            names = {link["index"]: link.get_attr("IFLA_IFNAME") for link in ip.get_links()}
            return [
                row.get_attr("IFA_LOCAL") or row.get_attr("IFA_ADDRESS")
                for row in ip.get_addr()
                if row["scope"] != RT_SCOPE_HOST and names.get(row["index"]) != but
            ]

        found = [ipaddress.ip_address(text) for text in self._netlink.call("list the addresses", dump) or ()]
        return [address for address in found if not address.is_link_local]

    def networks(self, but: str = "") -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
        """The connected networks: of each address its network, or the other end of a
        point-to-point link; without device `but`.
        """

        def dump(ip: Any) -> list[str]:
            names = {link["index"]: link.get_attr("IFLA_IFNAME") for link in ip.get_links()}
            return [
                f"{row.get_attr(name)}/{row['prefixlen']}"
                for row in ip.get_addr()
                for name in ("IFA_LOCAL", "IFA_ADDRESS")
                if row.get_attr(name) and row["scope"] != RT_SCOPE_HOST and names.get(row["index"]) != but
            ]

        texts = self._netlink.call("list the networks", dump) or ()
        found = dict.fromkeys(ipaddress.ip_network(text, strict=False) for text in texts)
        return [network for network in found if network.prefixlen and not network.is_link_local]

    def path_mtu(self, remote: Address, mark: int, default: int = 1500) -> int:
        """The MTU of the way to `remote`: of the route if somebody set one there, otherwise of its device.

        What ICMP taught the kernel is left out, because anybody can send that (docs/mtu.md).
        """
        try:
            found = self._netlink.call(
                f"ask for the route to {remote}", lambda ip: _route_mtu(ip, str(remote), mark, remote.version)
            )
        except HostError:
            return default
        return found or default


def _route_mtu(ip: Any, remote: str, mark: int, version: int) -> int | None:
    family = 2 if version == 4 else 10
    for route in ip.route("get", dst=remote, mark=mark, family=family):
        learnt = (route.get_attr("RTA_CACHEINFO") or {}).get("rta_expires", 0)
        metrics = route.get_attr("RTA_METRICS")
        configured = metrics.get_attr("RTAX_MTU") if metrics is not None and not learnt else None
        if configured:
            return int(configured)
        links = ip.get_links(route.get_attr("RTA_OIF"))
        return int(links[0].get_attr("IFLA_MTU"))
    return None
