"""Which child a responder takes and how it narrows the offer (RFC 7296 section 2.9)."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from pair import Pair, child, connection
from tampering import change_one

from ipsec_fast.iana import ExchangeType, PayloadType
from ipsec_fast.ike.config import ChildConfig, EndpointSettings
from ipsec_fast.ike.events import ChildFailed
from ipsec_fast.ike.v2.payloads import Payload, TsPayload
from ipsec_fast.model import TrafficSelector

parse = TrafficSelector.parse


def texts(selectors: tuple[TrafficSelector, ...]) -> str:
    return " ".join(map(str, selectors))


def theirs(name: str, local: str, remote: str = "10.1.0.0/16") -> ChildConfig:
    return child(name, local=local, remote=remote)


def negotiate(offer: str, *children: ChildConfig, local: str = "10.1.0.0/24", **options: object) -> Pair:
    """Side a asks for `offer`; side b has these children."""
    a = connection("a", children=(child("mine", local=local, remote=offer),))
    pair = Pair(a, connection("b", children=children), **options)  # type: ignore[arg-type]
    pair.initiate()
    pair.run(2.0)
    return pair


def given(pair: Pair) -> tuple[str, str]:
    (one,) = pair.b.view.children
    assert [(c.local_ts, c.remote_ts) for c in pair.a.view.children] == [(one.remote_ts, one.local_ts)]
    return one.name, texts(one.local_ts)


CASES = [
    # the first selector is the packet's, and must be in the answer
    ("10.2.0.5 10.0.0.0/8", {"other": "10.9.0.0/24", "right": "10.2.0.0/16"}, "right"),
    ("10.2.0.5[tcp/443] 10.0.0.0/8", {"all but": "10.9.0.0/16 10.3.0.0/16 10.4.0.0/16", "right": "10.2.0.0/24"}, "right"),
    ("10.2.0.5[icmp/2048] 0.0.0.0/0", {"other": "10.0.0.0/15", "right": "10.2.0.4/31"}, "right"),
    ("fd00:2::5 10.2.0.0/16 fd00:2::/64", {"four": "10.2.0.0/16", "six": "fd00:2::/64"}, "six"),
    # a first selector that only two of our selectors hold together
    ("10.2.0.0/23 10.0.0.0/8", {"part": "10.2.0.0/24 10.128.0.0/9", "both": "10.2.0.0/24 10.2.1.0/24"}, "both"),
    # the offer as a whole
    ("10.2.0.0/16", {"one": "10.2.1.0/24", "all": "10.2.0.0/16"}, "all"),
    ("10.2.0.0/16", {"less": "10.2.1.0/24", "more": "10.2.128.0/17"}, "more"),
    ("10.2.2.0/24 10.2.1.0/24", {"one": "10.2.1.0/24", "two": "10.2.2.0/24", "both": "10.2.0.0/22"}, "both"),
    ("10.2.2.0/24 10.2.1.0/24", {"one": "10.2.1.0/24", "two": "10.2.2.0/24"}, "two"),
    # what fits closest
    ("10.2.1.0/24", {"any": "0.0.0.0/0", "narrow": "10.2.1.0/24"}, "narrow"),
    ("0.0.0.0/0", {"any": "0.0.0.0/0", "narrow": "10.2.1.0/24"}, "any"),
    # ports and protocols
    ("10.2.0.0/24[tcp/443]", {"http": "10.2.0.0/24[tcp/80]", "https": "10.2.0.0/24[tcp/443]", "any": "10.2.0.0/24"}, "https"),
    ("10.2.0.0/24[tcp/80-90]", {"http": "10.2.0.0/24[tcp/80]", "range": "10.2.0.0/24[tcp/80-85]"}, "range"),
    ("10.2.0.0/24[udp/53] 10.2.0.0/24", {"tcp": "10.2.0.0/24[tcp]", "udp": "10.2.0.0/24[udp]"}, "udp"),
]  # fmt: skip


@pytest.mark.parametrize(("offer", "children", "wanted"), CASES)
def test_the_child_that_holds_the_offer_best_whatever_their_order(
    offer: str, children: dict[str, str], wanted: str
) -> None:
    local = "10.1.0.0/24 fd00:1::/64" if "fd00" in offer else "10.1.0.0/24"
    remote = "10.1.0.0/16 fd00:1::/64"
    for order in itertools.permutations(children):
        configured = (theirs(name, children[name], remote) for name in order)
        pair = negotiate(offer, *configured, local=local)
        assert given(pair)[0] == wanted
        first = parse(offer.split()[0])
        if children[wanted] and wanted not in ("more", "range", "two", "any"):
            assert any(ts.contains(first) or first.contains(ts) for ts in pair.b.view.children[0].local_ts)


def test_children_that_hold_it_equally_well_go_by_the_order_of_the_configuration() -> None:
    for names in (("first", "second"), ("second", "first")):
        pair = negotiate("10.2.0.0/16", *(theirs(name, "10.2.0.0/24") for name in names))
        assert given(pair)[0] == names[0]


def test_a_child_without_a_common_proposal_does_not_stand_in_the_way() -> None:
    best = child("best", local="10.2.0.0/16", remote="10.1.0.0/16", esp=("aes256-sha512",))
    pair = negotiate("10.2.0.0/16", best, theirs("other", "10.2.3.0/24"))
    assert given(pair) == ("other", "10.2.3.0/24")


# --- what can carry nothing


def test_a_crossed_address_family_loses_its_selectors_and_not_the_child() -> None:
    pair = negotiate("10.2.0.0/24 fd00:2::/64", theirs("both", "10.2.0.0/24 fd00:2::/64"))
    assert given(pair) == ("both", "10.2.0.0/24"), "we have no IPv6 at our side of it"
    assert "narrowed by us from fd00:2::/64" in pair.b.log
    assert "narrowed by the peer from fd00:2::/64" in pair.a.log


CROSSING = [  # ours, the peer's
    (("10.1.0.0/24", "10.2.0.0/24 fd00:2::/64"), ("fd00:2::/64", "10.1.0.0/24")),
    (("10.1.0.0/24 fd00:1::/64", "10.2.0.0/24"), ("10.2.0.0/24", "fd00:1::/64")),
    (("10.1.0.0/24[udp]", "10.2.0.0/24[tcp] 10.2.0.0/24[udp]"), ("10.2.0.0/24[tcp]", "10.1.0.0/24")),
]


@pytest.mark.parametrize(("ours", "peers"), CROSSING)
def test_selectors_that_only_cross_are_ts_unacceptable_and_the_ike_sa_stays(
    ours: tuple[str, str], peers: tuple[str, str]
) -> None:
    mine = child("mine", local=ours[0], remote=ours[1])
    good = child("good", local="10.4.0.0/24", remote="10.3.0.0/24")
    others = (child("good", local="10.3.0.0/24", remote="10.4.0.0/24"), theirs("crossed", *peers))
    pair = Pair(connection("a", children=(good, mine)), connection("b", children=others)).up("a", "good")
    pair.call("a", "initiate_child", pair.a.view.ike_id, mine)
    pair.run(2.0)
    assert "TS_UNACCEPTABLE" in pair.a.of(ChildFailed)[0].reason
    pair.check_one_pair()


def test_a_child_of_ours_that_can_carry_nothing_is_not_offered() -> None:
    pair = negotiate("fd00:2::/64", theirs("net", "fd00:2::/64"))
    assert not pair.b.views("ESTABLISHED")
    assert "no packet can match both 10.1.0.0/24 and fd00:2::/64" in pair.a.of(ChildFailed)[0].reason


class RawTs:
    """A TS payload with selectors of types that nobody here knows."""

    def __init__(self, type_: PayloadType, selectors: tuple[TrafficSelector, ...], *others: bytes) -> None:
        self.type, self._known, self._others = type_, selectors, others

    def encode(self) -> bytes:
        known = TsPayload(self.type, self._known).encode()[4:] if self._known else b""
        return bytes([len(self._known) + len(self._others), 0, 0, 0]) + b"".join(self._others) + known


FIBRE_CHANNEL = bytes([9, 0, 0, 20]) + bytes(16)  # TS_FC_ADDR_RANGE
LABEL = bytes([10, 0, 0, 7]) + b"abc"  # TS_SECLABEL, RFC 9478: no ports
EMPTY = bytes([241, 0, 0, 4])


@pytest.mark.parametrize("others", [(FIBRE_CHANNEL,), (LABEL,), (EMPTY,), (FIBRE_CHANNEL, LABEL, EMPTY)])
@pytest.mark.parametrize("response", [False, True])
@pytest.mark.parametrize("known", [True, False])
def test_a_selector_of_an_unknown_type_is_lost_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, others: tuple[bytes, ...], response: bool, known: bool
) -> None:
    two = (child("net"), child("more", local="10.3.0.0/24", remote="10.4.0.0/24"))
    b = connection("b", children=tuple(replace(c, local_ts=c.remote_ts, remote_ts=c.local_ts) for c in two))
    pair = Pair(connection("a", children=two), b).up("a", "net")

    def add_unknown(payloads: list[Payload]) -> list[object]:
        return [
            RawTs(p.type, p.selectors if known else (), *others) if isinstance(p, TsPayload) else p for p in payloads
        ]

    side = "b" if response else "a"
    change_one(monkeypatch, pair, side, ExchangeType.CREATE_CHILD_SA, response=response, change=add_unknown)
    pair.call("a", "initiate_child", pair.a.view.ike_id, two[1])
    pair.run(3.0)
    if known:
        pair.check_one_pair(children=2)
        assert response or "left out" in next(c.narrowed for c in pair.b.view.children if c.name == "more")
    else:
        pair.check_one_pair(children=1)
        assert response or "TS_UNACCEPTABLE" in pair.a.of(ChildFailed)[-1].reason


# --- narrowing is logged and shown


def test_narrowing_by_the_peer_is_logged_and_shown() -> None:
    pair = negotiate("10.2.0.0/16 10.5.0.0/24", theirs("net", "10.2.0.0/24 10.5.0.0/24"))
    (child_a,), (child_b,) = pair.a.view.children, pair.b.view.children
    assert child_a.narrowed == "by the peer from 10.2.0.0/16"
    assert "CHILD SA mine{1} narrowed by the peer from 10.2.0.0/16" in pair.a.log
    assert child_b.narrowed == "by us from 10.2.0.0/16"
    pair.call("a", "rekey_child", child_a.child_id)
    pair.run(3.0)
    assert [c.narrowed for c in pair.a.view.children] == ["by the peer from 10.2.0.0/16"], "a rekey changes nothing"
    assert [c.narrowed for c in pair.b.view.children] == ["by us from 10.2.0.0/16"]


def test_what_was_not_narrowed_says_nothing() -> None:
    pair = Pair().up()
    assert pair.a.view.children[0].narrowed == pair.b.view.children[0].narrowed == ""
    assert "narrowed" not in pair.a.log + pair.b.log


def hosts(count: int, first: str = "10.2") -> str:
    return " ".join(f"{first}.{i // 100}.{2 * (i % 100)}" for i in range(count))


@pytest.mark.parametrize("count", [64, 65, 100, 255])
def test_more_selectors_than_we_take_are_narrowed_and_that_is_told(count: int) -> None:
    pair = negotiate(hosts(count), theirs("net", "10.2.0.0/16"))
    (one,) = pair.b.view.children
    assert len(one.local_ts) == min(count, 64)
    assert bool(one.narrowed) == (count > 64) == ("narrowed by us" in pair.b.log)
    if count > 64:
        assert f"({count - 64} selectors are more than one Child SA takes" in one.narrowed
        assert len(one.narrowed) < 600
        assert "narrowed by the peer" in pair.a.log
    for side in "ab":
        pair.call(side, "rekey_child", pair.shell(side).view.children[0].child_id)
        pair.run(3.0)
        pair.check_one_pair()
        assert len(pair.b.view.children[0].local_ts) == min(count, 64), "a rekey neither narrows nor fails"


def test_as_many_as_the_administrator_has_configured_are_taken() -> None:
    pair = negotiate(hosts(200), theirs("net", hosts(200)))
    assert len(pair.b.view.children[0].local_ts) == 200
    assert pair.b.view.children[0].narrowed == ""


def test_pairs_and_prefixes_are_bounded_by_what_the_shell_can_install_and_the_first_ones_stay() -> None:
    settings = EndpointSettings(policies_per_child=64, routes_per_child=20)
    ranges = " ".join(f"10.1.{i}.1-10.1.{i}.6" for i in range(30))  # four prefixes each
    pair = negotiate(hosts(40), theirs("net", "10.2.0.0/16"), local=f"10.1.20.3[udp/53] {ranges}", settings=settings)
    (one,) = pair.b.view.children
    assert len(one.local_ts) * len(one.remote_ts) <= 64
    assert sum(len(ts.networks()) for ts in one.remote_ts) <= 20
    assert any(ts.contains(parse("10.1.20.3[udp/53]")) for ts in one.remote_ts), "the packet that asked for it"
    assert "more than one Child SA takes" in one.narrowed


@pytest.mark.parametrize("count", [256, 300])
def test_too_many_selectors_are_refused_before_anything_is_sent(count: int) -> None:
    pair = negotiate(hosts(count), theirs("net", "10.2.0.0/16"))
    reason = pair.a.of(ChildFailed)[0].reason
    assert f"child mine has {count} selectors on one side, at most 255 fit into a Child SA" in reason


def test_neighbours_are_joined_where_there_are_too_many_selectors() -> None:
    nets = " ".join(f"10.{2 + i // 250}.{i % 250}.0/24" for i in range(300))
    pair = negotiate(nets, theirs("net", nets))
    assert given(pair) == ("net", "10.2.0.0-10.2.249.255 10.3.0.0-10.3.49.255")
