"""Identities as text: the type can be seen, none is empty, none is long (docs/attacks.md, rows 16 and 84)."""

from __future__ import annotations

import pytest

from ipsec_fast.errors import UsageError
from ipsec_fast.model import IDENTITY_MAX_BYTES, Identity


@pytest.mark.parametrize("text", ["", "  ", "@", "@#", "fqdn:", "keyid:", "email:"])
def test_an_empty_identity_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        Identity.parse(text)


@pytest.mark.parametrize("text", ["x" * 1025, "@" + "x" * 1025, "@#" + "ab" * 1025, "keyid:" + "x" * 1025, "é" * 600])
def test_a_long_identity_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(UsageError, match=f"1 to {IDENTITY_MAX_BYTES}") as refused:
        Identity.parse(text)
    assert len(str(refused.value)) < 300


def test_the_longest_identity_is_taken() -> None:
    assert len(Identity.parse("x" * IDENTITY_MAX_BYTES).data) == IDENTITY_MAX_BYTES


@pytest.mark.parametrize(
    ("kind", "data", "text"),
    [
        (2, b"paris.example", "paris.example"),
        (3, b"ops@paris.example", "ops@paris.example"),
        (1, bytes((192, 0, 2, 1)), "192.0.2.1"),
        (2, b"192.0.2.1", "fqdn:192.0.2.1"),
        (2, b"ops@paris.example", "fqdn:ops@paris.example"),
        (3, b"paris.example", "email:paris.example"),
        (2, b"keyid:paris.example", "fqdn:keyid:paris.example"),
        (11, b"paris.example", f"KEY_ID:{b'paris.example'.hex()}"),
    ],
)  # fmt: skip
def test_two_types_never_look_the_same(kind: int, data: bytes, text: str) -> None:
    assert str(Identity(kind, data)) == text


@pytest.mark.parametrize("text", ["paris.example", "ops@paris.example", "192.0.2.1", "fqdn:192.0.2.1", "email:paris"])
def test_what_is_shown_reads_back(text: str) -> None:
    assert str(Identity.parse(text)) == text
    assert Identity.parse(str(Identity.parse(text))) == Identity.parse(text)


@pytest.mark.parametrize("kind", [2, 3, 9, 11, 200])
@pytest.mark.parametrize("data", [bytes(60000), b"\xff" * 60000, b"x" * 60000])
def test_no_text_of_an_identity_is_long(kind: int, data: bytes) -> None:
    text = str(Identity(kind, data))
    assert len(text) < 600
    assert text.endswith("...(60000 bytes)")
    assert text.isprintable()
