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
