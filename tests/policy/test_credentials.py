"""Which PSK belongs to whom: the best entry, and never a neighbour's."""

from __future__ import annotations

from random import Random

import pytest

from ipsec_fast.errors import SecretError
from ipsec_fast.model import Identity
from ipsec_fast.policy import credentials
from ipsec_fast.policy.credentials import Credentials, SharedKey, _score


class FakeSecret:
    def __init__(self) -> None:
        self.closed = False

    def close(self) -> None:
        self.closed = True


def key(name: str, *ids: str) -> SharedKey:
    return SharedKey(name, tuple(Identity.parse(one) for one in ids), FakeSecret())  # type: ignore[arg-type]


LONDON, PARIS, ROME = (Identity.parse(f"{name}.example") for name in ("london", "paris", "rome"))


def test_a_key_of_two_others_is_never_used_and_the_error_names_both_sides():
    with pytest.raises(
        SecretError, match=r"london\.example with rome\.example; .*ike-paris \(london\.example paris\.example\)"
    ):
        Credentials([key("ike-paris", "london.example", "paris.example")]).shared_key(LONDON, ROME)


def test_without_any_key_the_error_says_so():
    with pytest.raises(SecretError, match="has none"):
        Credentials([]).shared_key(LONDON, ROME)


def test_both_beat_the_peer_alone_beat_ourselves_alone_beat_nobody():
    ladder = [
        key("nobody"),
        key("us", "london.example"),
        key("peer", "paris.example"),
        key("both", "LONDON.example", "paris.example"),
    ]
    for wanted in reversed(ladder):
        assert Credentials(ladder).shared_key(LONDON, PARIS) is wanted.secret
        ladder.pop()


def test_the_secret_is_in_no_repr():
    assert "Secret object" not in repr(key("a"))
    assert "secret" not in repr(key("a")).replace("SharedKey", "")


def test_close_wipes_all():
    one = key("a")
    Credentials([one]).close()
    assert one.secret.closed


def test_a_wildcard_stands_between_the_peer_s_name_and_ours_as_in_strongswan():
    ladder = [
        key("nobody"),
        key("us", "london.example"),
        key("pattern", "*.example"),
        key("us and pattern", "london.example", "*.example"),
        key("peer", "paris.example"),
    ]
    for wanted in reversed(ladder):
        assert Credentials(ladder).shared_key(LONDON, PARIS) is wanted.secret
        ladder.pop()


@pytest.mark.parametrize("peer", ["paris.other", "x@paris.example", "example", "*.paris.example"])
def test_a_wildcard_means_nobody_else_and_no_peer_that_calls_itself_one(peer: str):
    with pytest.raises(SecretError):
        Credentials([key("pattern", "*.example")]).shared_key(Identity.parse("us.other"), Identity.parse(peer))


def test_a_wildcard_is_never_ourselves():
    """A secret for all of a domain is for its peers: we, being of that domain too, may use it with no other peer."""
    with pytest.raises(SecretError):
        Credentials([key("pattern", "*.example")]).shared_key(LONDON, Identity.parse("rome.other"))


def test_a_secret_that_needs_allow_weak_is_for_connections_that_have_it():
    short = SharedKey("short", (), FakeSecret(), needs_allow_weak=True)  # type: ignore[arg-type]
    with pytest.raises(SecretError, match="allow_weak"):
        Credentials([short]).shared_key(LONDON, PARIS)
    assert Credentials([short]).shared_key(LONDON, PARIS, allow_weak=True) is short.secret


def test_a_look_up_finds_what_a_walk_over_all_entries_finds():
    rng = Random(7)
    names = ["a.example", "b.example", "*.example", "ops@a.example", "*@a.example", "c.other", "10.0.0.1"]
    for _ in range(400):
        keys = [key(f"k{n}", *rng.sample(names, rng.randrange(4))) for n in range(rng.randrange(7))]
        local, remote = (Identity.parse(one) for one in rng.sample([n for n in names if "*" not in n], 2))
        scores = [(score, -n) for n, one in enumerate(keys) if (score := _score(one.ids, local, remote)) is not None]
        if scores:
            assert Credentials(keys).shared_key(local, remote) is keys[-max(scores)[1]].secret
        else:
            with pytest.raises(SecretError):
                Credentials(keys).shared_key(local, remote)


def test_a_look_up_costs_the_same_among_ten_secrets_and_ten_thousand(monkeypatch):
    looked = []
    monkeypatch.setattr(credentials, "_score", lambda ids, *rest: looked.append(ids) or _score(ids, *rest))
    for count in (10, 10_000):
        keys = [key(f"k{n}", "london.example", f"site{n}.example") for n in range(count)]
        store = Credentials([*keys, key("ours", "london.example"), key("any")])
        looked.clear()
        store.shared_key(LONDON, Identity.parse("site7.example"))
        with pytest.raises(SecretError) as refused:
            Credentials(keys).shared_key(LONDON, PARIS)
        assert len(looked) == 3
        assert len(str(refused.value)) < 600
