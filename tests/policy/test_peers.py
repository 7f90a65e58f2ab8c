"""Which connection a path and a pair of identities mean."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from ipsec_fast.errors import NegotiationError, UsageError
from ipsec_fast.ike.config import ChildConfig, ConnectionConfig
from ipsec_fast.model import Identity, Path
from ipsec_fast.policy.peers import Peers

US, THEM, OTHER = ip_address("192.0.2.1"), ip_address("192.0.2.2"), ip_address("192.0.2.3")
PATH = Path(US, 500, THEM, 500)


def connection(
    name: str, *, local: tuple = (), remote: tuple = (), us: str = "", them: str = "", children: tuple = ()
) -> ConnectionConfig:
    return ConnectionConfig(
        name,
        local_addrs=local,
        remote_addrs=remote,
        local_id=Identity.parse(us) if us else None,
        remote_id=Identity.parse(them) if them else None,
        children=tuple(ChildConfig(child) for child in children),
    )


def test_a_path_that_no_connection_allows_is_refused_with_what_is_configured():
    with pytest.raises(NegotiationError, match=r"192\.0\.2\.1 with 192\.0\.2\.2; a is any with 192\.0\.2\.3") as caught:
        Peers([connection("a", remote=(OTHER,))]).by_path(PATH)
    assert caught.value.notify == 14


def test_named_addresses_come_first():
    peers = Peers(
        [
            connection("any"),
            connection("local", local=(US,)),
            connection("remote", remote=(THEM,)),
            connection("x", remote=(OTHER,)),
        ]
    )
    assert [one.name for one in peers.by_path(PATH)] == ["remote", "local", "any"]


def test_a_wrong_identity_is_refused_and_both_are_named():
    one = connection("a", us="london.example", them="paris.example")
    with pytest.raises(NegotiationError, match=r"rome\.example.*wants paris\.example and is london\.example") as caught:
        Peers([one]).by_identity(PATH, [one], Identity.parse("rome.example"), None)
    assert caught.value.notify == 24


def test_a_peer_that_asks_for_somebody_else_is_refused():
    one = connection("a")
    with pytest.raises(NegotiationError, match=r"asks for rome\.example"):
        Peers([one]).by_identity(PATH, [one], Identity.parse("paris.example"), Identity.parse("rome.example"))


def test_the_connection_that_names_the_peer_wins_over_one_for_anybody():
    anybody, named = connection("anybody"), connection("named", them="paris.example")
    peers = Peers([anybody, named])
    assert (
        peers.by_identity(PATH, peers.by_path(PATH), Identity.parse("PARIS.example"), Identity.of_address(US)) is named
    )


def test_find_says_what_there_is_and_when_a_name_is_ambiguous():
    peers = Peers([connection("a", children=("net",)), connection("b", children=("net", "dmz"))])
    with pytest.raises(UsageError, match=r"no connection c in .*a \(net\), b \(net dmz\)"):
        peers.find("c", None)
    with pytest.raises(UsageError, match="is in a, b: name the connection"):
        peers.find(None, "net")
    assert [child.name for child in peers.find("b", None)[1]] == ["net", "dmz"]
    assert peers.find(None, "dmz")[0].name == "b"


def test_an_ike_auth_from_an_address_that_the_connection_does_not_allow_is_refused():
    one, moved = connection("a", remote=(THEM,), them="paris.example"), Path(US, 4500, OTHER, 4500, marker=True)
    with pytest.raises(NegotiationError, match=r"at 192\.0\.2\.3"):
        Peers([one]).by_identity(moved, [one], Identity.parse("paris.example"), None)


def test_a_whole_identity_wins_over_a_wildcard_and_that_over_anybody():
    anybody, pattern, named = (
        connection("any"),
        connection("w", them="*.example"),
        connection("n", them="paris.example"),
    )
    peers = Peers([anybody, pattern, named])
    for said, wanted in (("PARIS.example", named), ("rome.Example", pattern), ("rome.other", anybody)):
        assert peers.by_identity(PATH, peers.connections, Identity.parse(said), None) is wanted


def test_identities_that_read_the_same_are_told_apart_by_their_type():
    one = connection("a", them="192.0.2.2")
    with pytest.raises(NegotiationError, match=r"192\.0\.2\.2 \(FQDN\).*wants 192\.0\.2\.2 \(IPV4_ADDR\)"):
        Peers([one]).by_identity(PATH, [one], Identity.parse("fqdn:192.0.2.2"), None)


@pytest.mark.parametrize("number", [5, 40, 400])
def test_among_many_connections_the_same_one_is_found_as_among_few(number: int):
    some = [connection(f"c{i}", them=f"p{i}.example") for i in range(number)]
    anybody, pattern = connection("any"), connection("w", them="*.rome.example")
    peers = Peers([anybody, *some, pattern])
    for said, wanted in (("P3.example", some[3]), ("x.rome.example", pattern), ("rome.other", anybody)):
        assert peers.by_identity(PATH, peers.by_path(PATH), Identity.parse(said), None) is wanted
    with pytest.raises(NegotiationError, match=r"no connection for stranger\.example"):
        Peers(some).by_identity(PATH, some, Identity.parse("stranger.example"), None)


def test_candidates_of_the_configuration_before_a_reload_are_still_found():
    before = [connection(f"c{i}", them=f"p{i}.example") for i in range(40)]
    peers = Peers(before)
    peers.replace([connection(f"c{i}", them=f"p{i}.example") for i in range(40)])
    assert peers.by_identity(PATH, before, Identity.parse("p7.example"), None) is before[7]


def test_few_identities_are_looked_at_however_many_connections_there_are(monkeypatch):
    """Whoever sends an IKE_AUTH makes us look, before its secret is asked for."""
    looked = []
    real = Identity.matches
    monkeypatch.setattr(Identity, "matches", lambda self, other: (looked.append(1), real(self, other))[1])
    counts = []
    for number in (40, 400):
        peers = Peers([connection(f"c{i}", us="london.example", them=f"p{i}.example") for i in range(number)])
        looked.clear()
        peers.by_identity(PATH, peers.by_path(PATH), Identity.parse("p7.example"), Identity.parse("london.example"))
        counts.append(len(looked))
    assert counts[0] == counts[1] <= 4
