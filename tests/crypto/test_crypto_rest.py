"""Records at rest: bent, short and foreign ones first, then that no (salt, counter) comes twice, then round trips."""

from __future__ import annotations

import os
import pickle

import pytest
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ipsec_fast.crypto.rest import SEALED_EXTRA_BYTES, RestKey
from ipsec_fast.crypto.secret import random_secret, reveal_for_test, secret_from_buffer
from ipsec_fast.errors import StateError, UsageError

SALT, COUNTER = slice(0, 32), slice(32, 40)


def test_every_flipped_bit_and_every_length_is_refused_with_one_text() -> None:
    key = RestKey(random_secret(32))
    sealed = key.seal(b"aad", [b"public ", secret_from_buffer(b"secret")])
    bent = [sealed[:n] for n in range(len(sealed))] + [sealed + b"\0"]
    for bit in range(8 * len(sealed)):
        one = bytearray(sealed)
        one[bit // 8] ^= 1 << bit % 8
        bent.append(bytes(one))
    texts = set()
    for body in bent:
        with pytest.raises(StateError) as caught:
            key.open(b"aad", body)
        texts.add(str(caught.value))
    assert texts == {"a record at rest that does not verify"}
    assert key.open(b"aad", sealed).take(13) == b"public secret"


def test_another_aad_and_another_key_are_refused() -> None:
    key = RestKey(random_secret(32))
    sealed = key.seal(b"ike-1", [b"data"])
    for other, aad in ((key, b"ike-2"), (RestKey(random_secret(32)), b"ike-1")):
        with pytest.raises(StateError, match="does not verify"):
            other.open(aad, sealed)


def test_a_short_key_and_parts_that_are_neither_bytes_nor_secret_are_refused() -> None:
    with pytest.raises(UsageError, match="at least 32 bytes, this one 31"):
        RestKey(random_secret(31))
    key = RestKey(random_secret(32))
    for parts in ([], [b""], [bytearray(4)], ["text"]):
        with pytest.raises(UsageError):
            key.seal(b"", parts)
    closed = random_secret(8)
    closed.close()
    with pytest.raises(StateError, match="closed"):
        key.seal(b"", [b"x", closed])


def test_no_salt_and_counter_come_twice_even_under_the_same_key() -> None:
    secret = random_secret(32)
    keys = [RestKey(secret) for _ in range(50)]  # 50 processes after each other
    seen = [key.seal(b"", [b"the same"])[:40] for key in keys for _ in range(20)]
    assert len(set(seen)) == len(seen)
    assert len({one[SALT] for one in seen}) == 50
    assert sorted({one[COUNTER] for one in seen}) == [n.to_bytes(8, "big") for n in range(1, 21)]


def test_a_key_cannot_be_copied() -> None:
    with pytest.raises(TypeError, match="nonces"):
        pickle.dumps(RestKey(random_secret(32)))


def test_a_closed_key_seals_and_opens_nothing() -> None:
    key = RestKey(random_secret(32))
    sealed = key.seal(b"", [b"x"])
    key.close()
    key.close()
    for call in (lambda: key.seal(b"", [b"x"]), lambda: key.open(b"", sealed), lambda: key.tag(b"")):
        with pytest.raises(StateError):
            call()


def test_what_is_sealed_opens_piece_by_piece_in_a_later_process() -> None:
    secret, inner = random_secret(40), random_secret(100)
    sealed = RestKey(secret).seal(b"aad", [b"head", inner, b"", b"tail"])
    assert len(sealed) == 4 + 100 + 4 + SEALED_EXTRA_BYTES
    record = RestKey(secret).open(b"aad", sealed)
    assert record.take(4) == b"head"
    with pytest.raises(StateError, match="105 bytes are wanted where 104 are left"):
        record.take_secret(105)
    with pytest.raises(StateError):
        record.take(-1)
    assert reveal_for_test(record.take_secret(100)) == reveal_for_test(inner)
    assert (record.left, record.take(4), record.left) == (4, b"tail", 0)
    record.close()
    with pytest.raises(StateError, match="closed"):
        record.take(0)


def test_the_format_is_the_one_that_is_described() -> None:
    """AES-256-GCM under prf+ of the key, made a second time with another library."""
    raw = os.urandom(32)
    sealed = RestKey(secret_from_buffer(raw)).seal(b"aad", [b"some text"])
    mac = hmac.HMAC(raw, hashes.SHA256())
    mac.update(b"ipsec-fast record at rest" + sealed[SALT] + b"\1")
    assert AESGCM(mac.finalize()).decrypt(bytes(4) + sealed[COUNTER], sealed[40:], b"aad") == b"some text"
