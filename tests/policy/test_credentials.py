"""Which PSK belongs to whom: the best entry, and never a neighbour's."""

from __future__ import annotations

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
