"""Which PSK belongs to whom: the best entry, and never a neighbour's."""

from __future__ import annotations

import contextlib
import random
import sys

import pytest

from ipsec_fast.errors import SecretError
from ipsec_fast.model import Identity
from ipsec_fast.policy.credentials import Credentials, SharedKey


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


def score(ids: tuple[Identity, ...], local: Identity, remote: Identity) -> tuple[int, int] | None:
    """The rule, entry by entry: (how well it means the peer, whether it names us)."""
    if not ids:
        return 0, 0
    names_local = any(one.matches(local) for one in ids)
    if any(one.matches(remote) for one in ids):
        return 2, names_local
    if any(one.covers(remote) for one in ids):
        return 1, names_local
    return (0, 1) if names_local and all(one.matches(local) for one in ids) else None


def test_the_look_up_finds_what_a_walk_over_all_entries_finds():
    chance = random.Random(33)
    names = [
        "a.example",
        "A.EXAMPLE",
        "b.example",
        "*.example",
        "*.b.example",
        "x.b.example",
        "192.0.2.1",
        "keyid:k",
        "*@c.example",
    ]
    some = [Identity.parse(name) for name in (*names, "m@c.example")]
    for _ in range(2000):
        keys = [key(str(i), *chance.choices(names, k=chance.randrange(4))) for i in range(chance.randrange(6))]
        local, remote = chance.choice(some), chance.choice(some)
        scores = [(score(one.ids, local, remote), one) for one in keys]
        best = max((found for found, _ in scores if found is not None), default=None)
        wanted = next((one.secret for found, one in scores if found is not None and found == best), None)
        try:
            assert Credentials(keys).shared_key(local, remote) is wanted
        except SecretError:
            assert wanted is None


def calls_of(function, *args) -> int:
    count = 0

    def note(_frame, event, _arg):
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        with contextlib.suppress(SecretError):
            function(*args)
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("who", ["p7.example", "stranger.example"])
def test_a_look_up_costs_the_same_among_ten_secrets_and_three_thousand(who: str):
    """Whoever shows an identity makes us look, and has proved nothing yet."""
    counts = []
    for number in (10, 300, 3000):
        keys = [key(f"k{i}", "london.example", f"p{i}.example") for i in range(number)]
        credentials = Credentials(keys)
        calls_of(credentials.shared_key, LONDON, PARIS)  # sorts them once
        counts.append(calls_of(credentials.shared_key, LONDON, Identity.parse(who)))
    assert max(counts) <= counts[0] + 5


def test_a_refusal_among_many_secrets_names_the_first_few():
    keys = [key(f"k{i}", *(f"p{j}.example" for j in range(20))) for i in range(100)]
    with pytest.raises(SecretError, match=r"p5\.example and 14 more\).* and 94 more$") as caught:
        Credentials(keys).shared_key(LONDON, ROME)
    assert len(str(caught.value)) < 1000
