"""Networks that a peer may not pick: reserved ones and those connected here."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from ipsec_fast.errors import NegotiationError
from ipsec_fast.iana import NotifyType
from ipsec_fast.ike.v2.reserved import without_reserved
from ipsec_fast.model import TrafficSelector, selectors_text

CONNECTED = tuple(map(ip_network, ("192.0.2.0/24", "10.7.0.0/24", "2001:db8:7::/64")))
PEER = ip_address("198.51.100.9")


def left(proposed: str, configured: str, outer: str = "198.51.100.9") -> str:
    """Of what a peer proposes inside the configuration."""
    both = [tuple(map(TrafficSelector.parse, text.split())) for text in (proposed, configured)]
    return selectors_text(without_reserved(*both, CONNECTED, ip_address(outer)))


NOBODYS = """127.0.0.0/8 127.0.0.1/32 224.0.0.0/4 224.0.0.5/32 239.1.2.3/32 255.255.255.255/32 169.254.0.0/16 169.254.7.7/32 0.0.0.0/8
0.0.0.0/32 ::1/128 ::/128 fe80::/10 fe80::1/128 ff00::/8 ff02::1/128 ::ffff:a00:1/128
192.0.2.254/32 192.0.2.0/24 192.0.2.128/25 10.7.0.1/32 10.7.0.0/25 2001:db8:7::5/128 127.0.0.1[tcp/80] 224.0.0.0/4[udp]"""


@pytest.mark.parametrize("proposed", NOBODYS.split())
@pytest.mark.parametrize("configured", ["0.0.0.0/0 ::/0", "0.0.0.0/1 128.0.0.0/1 ::/1 8000::/1"])
def test_what_is_nobodys_or_connected_here_is_never_taken_from_a_wide_remote_ts(proposed: str, configured: str) -> None:
    with pytest.raises(NegotiationError, match="name them in remote_ts") as caught:
        left(proposed, configured)
    assert caught.value.notify == NotifyType.TS_UNACCEPTABLE
    assert left(f"10.9.0.0/24 {proposed}", configured) == "10.9.0.0/24", "the rest is kept"


@pytest.mark.parametrize("proposed", NOBODYS.split())
def test_what_the_configuration_names_is_taken(proposed: str) -> None:
    whole = str(TrafficSelector.parse(proposed))
    assert left(proposed, proposed) == whole
    assert left(proposed, f"0.0.0.0/0 ::/0 {proposed}") == whole


def test_a_part_of_a_network_that_is_named_is_taken_too() -> None:
    assert left("224.0.0.5/32", "224.0.0.0/4") == "224.0.0.5/32"
    assert left("192.0.2.128/26", "10.0.0.0/8 192.0.2.128/25") == "192.0.2.128/26"


@pytest.mark.parametrize(
    ("proposed", "kept"),
    [
        ("10.0.0.0/8", "10.0.0.0-10.6.255.255 10.7.1.0-10.255.255.255"),
        ("10.7.0.0/16[tcp/443]", "10.7.1.0-10.7.255.255[tcp/443]"),
        ("10.6.255.0-10.7.0.99", "10.6.255.0/24"),
        ("10.8.0.0/16", "10.8.0.0/16"),
        ("240.0.0.0/4", "240.0.0.0-255.255.255.254"),
        ("2001:db8:6::-2001:db8:7::ffff", "2001:db8:6::/48"),
    ],
)
def test_what_lies_in_a_wider_proposal_is_cut_out_of_it(proposed: str, kept: str) -> None:
    assert left(proposed, "0.0.0.0/0 ::/0") == kept


@pytest.mark.parametrize("whole", ["0.0.0.0/0", "::/0", "10.0.0.0/8", "0.0.0.0/1"])
def test_the_configured_selector_as_a_whole_is_the_administrators(whole: str) -> None:
    assert left(whole, "0.0.0.0/0 ::/0 10.0.0.0/8 0.0.0.0/1") == whole


@pytest.mark.parametrize(
    ("proposed", "kept"),
    [
        ("192.0.2.77/32", "192.0.2.77/32"),
        ("192.0.2.77[udp/53]", "192.0.2.77/32[udp/53]"),
        ("192.0.2.0/24", "192.0.2.77/32"),
        ("192.0.2.0/24 10.9.0.0/24", "10.9.0.0/24 192.0.2.77/32"),
    ],
)
def test_the_peers_own_outer_address_may_always_be(proposed: str, kept: str) -> None:
    assert left(proposed, "0.0.0.0/0", outer="192.0.2.77") == kept


def test_however_many_networks_are_connected_the_pieces_have_a_bound() -> None:
    many = tuple(ip_network(f"10.{i}.7.0/24") for i in range(250))
    wide = (TrafficSelector.parse("10.0.0.0/8"),)
    assert len(without_reserved(wide, (TrafficSelector.parse("0.0.0.0/0"),), many, PEER)) == 128
