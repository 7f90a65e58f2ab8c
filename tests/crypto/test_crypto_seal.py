"""SK{} payloads: forged, short and bent ones first, then round trips and third-party captures."""

from __future__ import annotations

import hmac
import os
import pickle
import struct

import crypto_vectors
import pytest

from ipsec_fast.crypto.seal import Sealer
from ipsec_fast.crypto.secret import random_secret, secret_from_buffer
from ipsec_fast.errors import AlgorithmError, IntegrityError, StateError, UsageError

CBC, GCM, CHACHA = 12, 20, 28
SUITES = [
    *((GCM, bits, None) for bits in (128, 192, 256)),
    (CHACHA, 256, None),
    *((CBC, bits, integ) for bits in (128, 192, 256) for integ in (12, 13, 14)),
    (CBC, 128, 2),
]
INTEG_KEY = {2: 20, 12: 32, 13: 48, 14: 64}


def sealer(encr, bits, integ):
    sk_e = secret_from_buffer(os.urandom(bits // 8 + (4 if encr != CBC else 0)))
    return Sealer(encr, bits, sk_e, integ, random_secret(INTEG_KEY[integ]) if integ else None)


@pytest.mark.parametrize("suite", SUITES)
def test_every_flipped_bit_is_refused_with_one_text(suite):
    one = sealer(*suite)
    aad, plaintext = b"IKE header and SK header", bytes(32)
    body = one.seal(aad, plaintext, bytes(one.iv_bytes))
    texts = set()
    for whole, rebuild in ((body, lambda bent: (aad, bent)), (aad, lambda bent: (bent, body))):
        for bit in range(len(whole) * 8):
            bent = bytearray(whole)
            bent[bit // 8] ^= 1 << bit % 8
            with pytest.raises(IntegrityError) as caught:
                one.open(*rebuild(bytes(bent)))
            texts.add(str(caught.value))
    for length in range(len(body)):
        with pytest.raises(IntegrityError) as caught:
            one.open(aad, body[:length])
        texts.add(str(caught.value))
    with pytest.raises(IntegrityError) as caught:
        one.open(aad, body + bytes(one.block_bytes))
    texts.add(str(caught.value))
    assert len(texts) == 1
    assert one.open(aad, body) == plaintext


@pytest.mark.parametrize("suite", SUITES)
def test_the_other_direction_s_key_is_refused(suite):
    one, other = sealer(*suite), sealer(*suite)
    with pytest.raises(IntegrityError):
        other.open(b"aad", one.seal(b"aad", bytes(16), bytes(one.iv_bytes)))


@pytest.mark.parametrize("suite", SUITES)
def test_lengths_that_cannot_be_sealed_are_refused(suite):
    one = sealer(*suite)
    for length in (0, 65537, *((15, 17) if one.block_bytes == 16 else ())):
        with pytest.raises(UsageError):
            one.seal(b"aad", bytes(length), bytes(one.iv_bytes))
    for length in (0, one.iv_bytes - 1, one.iv_bytes + 1):
        with pytest.raises(UsageError):
            one.seal(b"aad", bytes(16), bytes(length))


@pytest.mark.parametrize(
    ("encr", "bits", "key_bytes", "integ", "integ_bytes", "error"),
    [
        (CBC, 160, 20, 12, 32, AlgorithmError),
        (CHACHA, 128, 20, None, 0, AlgorithmError),
        (GCM, 224, 32, None, 0, AlgorithmError),
        (CHACHA, 256, 32, None, 0, UsageError),
        (CHACHA, 256, 36, 12, 32, AlgorithmError),
        (18, 128, 20, None, 0, AlgorithmError),
        (GCM, 128, 16, None, 0, UsageError),
        (GCM, 128, 36, None, 0, UsageError),
        (GCM, 128, 20, 12, 32, AlgorithmError),
        (CBC, 128, 16, None, 0, AlgorithmError),
        (CBC, 128, 20, 12, 32, UsageError),
        (CBC, 128, 16, 12, 20, UsageError),
        (CBC, 128, 16, 8, 16, AlgorithmError),
        (CBC, 128, 16, 2, 32, UsageError),
        (CBC, 128, 16, 12, 0, UsageError),
    ],
)  # fmt: skip
def test_keys_and_algorithms_that_do_not_fit_are_refused(encr, bits, key_bytes, integ, integ_bytes, error):
    with pytest.raises(error):
        Sealer(encr, bits, random_secret(key_bytes), integ, random_secret(integ_bytes) if integ_bytes else None)


@pytest.mark.parametrize("suite", SUITES)
def test_a_closed_sealer_is_refused_and_closing_twice_is_fine(suite):
    one = sealer(*suite)
    body = one.seal(b"aad", bytes(16), bytes(one.iv_bytes))
    one.close()
    one.close()
    assert one.closed
    with pytest.raises(StateError):
        one.seal(b"aad", bytes(16), bytes(one.iv_bytes))
    with pytest.raises(StateError):
        one.open(b"aad", body)


def test_a_sealer_keeps_its_own_copy_of_its_keys():
    key = random_secret(20)
    one = Sealer(GCM, 128, key)
    key.close()
    assert one.open(b"aad", one.seal(b"aad", b"x", bytes(8))) == b"x"


def test_a_sealer_shows_nothing_and_cannot_be_pickled():
    one = sealer(GCM, 256, None)
    assert repr(one) == "<Sealer AES-GCM-16 256 bits>"
    with pytest.raises(TypeError):
        pickle.dumps(one)


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("length", [1, 15, 16, 64, 1504, 65536])
def test_round_trip_and_shape(suite, length):
    one = sealer(*suite)
    length = -(-length // one.block_bytes) * one.block_bytes
    plaintext, iv = os.urandom(length), os.urandom(one.iv_bytes)
    body = one.seal(b"", plaintext, iv)
    assert body[: one.iv_bytes] == iv
    assert len(body) == one.iv_bytes + length + one.icv_bytes
    assert one.open(b"", body) == plaintext


def test_gcm_is_what_pyca_makes_of_salt_and_iv():
    aead = pytest.importorskip("cryptography.hazmat.primitives.ciphers.aead")
    key, iv, plaintext = os.urandom(36), os.urandom(8), os.urandom(77)
    body = Sealer(GCM, 256, secret_from_buffer(key)).seal(b"aad", plaintext, iv)
    assert body == iv + aead.AESGCM(key[:32]).encrypt(key[32:] + iv, plaintext, b"aad")


def test_chacha20_poly1305_is_what_pyca_makes_of_salt_and_iv():
    aead = pytest.importorskip("cryptography.hazmat.primitives.ciphers.aead")
    key, iv, plaintext = os.urandom(36), os.urandom(8), os.urandom(77)
    body = Sealer(CHACHA, 256, secret_from_buffer(key)).seal(b"aad", plaintext, iv)
    assert body == iv + aead.ChaCha20Poly1305(key[:32]).encrypt(key[32:] + iv, plaintext, b"aad")


def test_aes_192_and_hmac_sha1_are_pyca_s_and_python_s():
    aead = pytest.importorskip("cryptography.hazmat.primitives.ciphers.aead")
    key, iv, plaintext = os.urandom(28), os.urandom(8), os.urandom(77)
    body = Sealer(GCM, 192, secret_from_buffer(key)).seal(b"aad", plaintext, iv)
    assert body == iv + aead.AESGCM(key[:24]).encrypt(key[24:] + iv, plaintext, b"aad")
    sk_a = os.urandom(20)
    body = Sealer(CBC, 192, random_secret(24), 2, secret_from_buffer(sk_a)).seal(b"aad", bytes(48), bytes(range(16)))
    assert hmac.new(sk_a, b"aad" + body[:-12], "sha1").digest()[:12] == body[-12:]


def test_cbc_maces_aad_iv_and_ciphertext():
    sk_e, sk_a = os.urandom(32), os.urandom(48)
    body = Sealer(CBC, 256, secret_from_buffer(sk_e), 13, secret_from_buffer(sk_a)).seal(
        b"aad", bytes(48), bytes(range(16))
    )
    assert hmac.new(sk_a, b"aad" + body[:-24], "sha384").digest()[:24] == body[-24:]


CAPTURES = {"aes-gcm-16": (GCM, 4), "aes-cbc": (CBC, 0)}
INTEGS = {"none": None, "hmac-sha2-256-128": 12, "hmac-sha2-384-192": 13, "hmac-sha2-512-256": 14}


def test_sk_payloads_of_captures_open():
    for name, entry in crypto_vectors.load("pcap_keys.json").items():
        for keys in entry.get("ikev2", []):
            if keys["enc"] not in CAPTURES or keys["integ"] not in INTEGS:
                crypto_vectors.SKIPPED[f"captures {name}: {keys['enc']}, {keys['integ']} (not carried)"] += 1
                continue
            expected = expected_frames(name)
            opened = open_capture(name, keys)
            assert len(opened) == entry["decrypted_frames"] == len(expected)
            for first, plaintext, bodies in zip(*zip(*opened, strict=True), expected, strict=True):
                assert chain(first, plaintext) == bodies
            crypto_vectors.RAN["SK payloads of captures"] += len(opened)


def expected_frames(name):
    frames = crypto_vectors.load(f"pcaps/{name}.expected.json")["frames"]
    return [[(p["type"], p["body"]) for p in frame["decrypted"]] for frame in frames if "decrypted" in frame]


def open_capture(name, keys):
    encr, salt = CAPTURES[keys["enc"]]
    sides = {}
    for side in "ir":
        sk_e = bytes.fromhex(keys[f"ske_{side}"])
        integ = INTEGS[keys["integ"]]
        sk_a = secret_from_buffer(bytes.fromhex(keys[f"ska_{side}"])) if integ else None
        sides[side] = Sealer(encr, (len(sk_e) - salt) * 8, secret_from_buffer(sk_e), integ, sk_a)
    opened = []
    for message in crypto_vectors.udp_payloads(name):
        message = message[4:] if message[:4] == bytes(4) else message
        if message[:8].hex() != keys["spi_i"] or message[16] != 46:
            continue
        side = "i" if message[19] & 0x08 else "r"
        length = struct.unpack_from(">I", message, 24)[0]
        opened.append((message[28], sides[side].open(message[:32], message[32:length])))
    return opened


def chain(kind, plaintext):
    plaintext = plaintext[: -1 - plaintext[-1]]
    found, at = [], 0
    while kind:
        following, _, length = struct.unpack_from(">BBH", plaintext, at)
        found.append((kind, plaintext[at + 4 : at + length].hex()))
        kind, at = following, at + length
    assert at == len(plaintext)
    return found
