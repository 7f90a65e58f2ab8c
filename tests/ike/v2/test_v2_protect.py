"""SK{}: every flipped bit is refused, padding is what the cipher needs, and what goes in comes out.

Runs on crypto.seal and on the second opinion in tests/support alike.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ike_samples import any_payload, header, ike_auth
from reference_sealer import ReferenceSealer
from third_party import load, needs_vectors

from ipsec_fast.crypto.seal import Sealer
from ipsec_fast.crypto.secret import secret_from_buffer
from ipsec_fast.errors import IntegrityError, ParseError, RemoteError, UsageError
from ipsec_fast.iana import Encr, ExchangeType, Integ
from ipsec_fast.ike.v2.message import decode_message, encode_chain, encode_message
from ipsec_fast.ike.v2.payloads import EncryptedPayload, NotifyPayload, Payload, VendorPayload
from ipsec_fast.ike.v2.protect import open_message, seal_message

KEY, INTEGRITY_KEY = bytes(range(36)), bytes(range(100, 132))


def reference_gcm() -> Any:
    return ReferenceSealer("aes-gcm-16", KEY)


def reference_cbc() -> Any:
    return ReferenceSealer("aes-cbc", KEY[:32], "hmac-sha2-256-128", INTEGRITY_KEY)


def our_gcm() -> Any:
    return Sealer(Encr.AES_GCM_16, 256, secret_from_buffer(KEY))


def our_cbc() -> Any:
    keys = secret_from_buffer(KEY[:32]), secret_from_buffer(INTEGRITY_KEY)
    return Sealer(Encr.AES_CBC, 256, keys[0], Integ.HMAC_SHA2_256_128, keys[1])


SEALERS = [
    pytest.param(reference_gcm, id="reference-gcm"),
    pytest.param(reference_cbc, id="reference-cbc"),
    pytest.param(our_gcm, id="gcm"),
    pytest.param(our_cbc, id="cbc"),
]
HEADER = header(ExchangeType.IKE_AUTH, message_id=1)


@pytest.fixture(params=SEALERS)
def make(request: pytest.FixtureRequest) -> Callable[[], Any]:
    return request.param  # type: ignore[no-any-return]


def seal(make: Callable[[], Any], payloads: tuple[Payload, ...]) -> bytes:
    sealer = make()
    return seal_message(HEADER, payloads, sealer, bytes(range(sealer.iv_bytes)))


def opened(make: Callable[[], Any], data: bytes) -> tuple[Payload, ...]:
    return open_message(data, decode_message(data), make())


def test_every_flipped_bit_is_refused(make: Callable[[], Any]) -> None:
    data = seal(make, ike_auth())
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            message = decode_message(bytes(flipped))
        except RemoteError:  # the clear part tells: a length, a version
            continue
        if message.get(EncryptedPayload) is None:
            continue
        with pytest.raises(IntegrityError):
            open_message(bytes(flipped), message, make())


@pytest.mark.parametrize("count", range(60))
def test_every_short_sk_is_refused(make: Callable[[], Any], count: int) -> None:
    payload = EncryptedPayload(41, bytes(count), 32)
    data = encode_message(HEADER, [payload])
    with pytest.raises(IntegrityError):
        opened(make, data)


def test_a_message_without_sk_is_refused_and_not_answered(make: Callable[[], Any]) -> None:
    with pytest.raises(ParseError) as caught:
        opened(make, encode_message(HEADER, [VendorPayload(b"x")]))
    assert caught.value.notify is None


def sealed_plaintext(make: Callable[[], Any], plaintext: bytes, first: int = 43) -> bytes:
    """A message with a good ICV round bytes of our choice."""

    class Swap:
        def __init__(self, sealer: Any) -> None:
            self._sealer = sealer
            self.iv_bytes, self.icv_bytes, self.block_bytes = sealer.iv_bytes, sealer.icv_bytes, sealer.block_bytes

        def seal(self, aad: bytes, padded: bytes, iv: bytes) -> bytes:
            assert len(padded) == len(plaintext)
            return bytes(self._sealer.seal(aad, plaintext, iv))

    # an inner Vendor ID whose padded length is the wanted one
    sealer = Swap(make())
    return seal_message(HEADER, (VendorPayload(bytes(len(plaintext) - 5)),), sealer, bytes(sealer.iv_bytes))  # type: ignore[arg-type]


def test_pad_length_beyond_the_plaintext_is_refused(make: Callable[[], Any]) -> None:
    chain = encode_chain([VendorPayload(bytes(11 + 64))])  # 79 bytes
    assert opened(make, sealed_plaintext(make, chain + b"\0")) == (VendorPayload(bytes(75)),)
    for pad_length in range(1, 256):
        with pytest.raises(ParseError):
            opened(make, sealed_plaintext(make, chain + bytes([pad_length])))


def test_padding_may_hold_anything(make: Callable[[], Any]) -> None:
    chain = encode_chain([VendorPayload(b"x" * 12)])
    assert opened(make, sealed_plaintext(make, chain + b"\xff" * 31 + b"\x1f")) == (VendorPayload(b"x" * 12),)


def test_bytes_between_chain_and_padding_are_refused(make: Callable[[], Any]) -> None:
    chain = encode_chain([VendorPayload(b"x" * 12)])
    with pytest.raises(ParseError):
        opened(make, sealed_plaintext(make, chain + b"\0" * 31 + b"\x1e"))


def test_an_empty_message_is_an_empty_chain(make: Callable[[], Any]) -> None:
    assert opened(make, seal(make, ())) == ()


@pytest.mark.parametrize("size", range(40))
def test_padding_is_the_least_the_cipher_needs(make: Callable[[], Any], size: int) -> None:
    sealer = make()
    data = seal(make, (NotifyPayload(40000, bytes(size)),))
    padded = len(data) - 28 - 4 - sealer.iv_bytes - sealer.icv_bytes
    unpadded = 4 + 4 + size + 1
    alignment = 16 if sealer.iv_bytes == 16 else 1
    assert padded == -(-unpadded // alignment) * alignment


def test_message_too_long_for_a_datagram_is_our_own_fault(make: Callable[[], Any]) -> None:
    with pytest.raises(UsageError):
        seal(make, (VendorPayload(bytes(65480)),))


@given(payloads=st.lists(any_payload, max_size=8))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
def test_round_trip(make: Callable[[], Any], payloads: list[Payload]) -> None:
    assert opened(make, seal(make, tuple(payloads))) == tuple(payloads)


@pytest.mark.parametrize(("ours", "reference"), [(our_gcm, reference_gcm), (our_cbc, reference_cbc)])
def test_both_sealers_make_the_same_bytes(ours: Callable[[], Any], reference: Callable[[], Any]) -> None:
    assert seal(ours, ike_auth()) == seal(reference, ike_auth())


@needs_vectors
def test_rfc_7634_message_is_parsed_and_opened() -> None:
    for vector in load("ike_message_vectors.json")["vectors"]:
        data = bytes.fromhex(vector["message"])
        payloads = open_message(
            data,
            decode_message(data),
            ReferenceSealer(vector["enc"], bytes.fromhex(vector["sk_e"])),  # type: ignore[arg-type]
        )
        assert [(p.type, p.encode().hex()) for p in payloads] == [(p["type"], p["body"]) for p in vector["inner"]]
