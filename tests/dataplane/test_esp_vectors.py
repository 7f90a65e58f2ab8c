"""Third-party vectors on every engine and through the kernels: every flipped bit is refused, opened and sealed bit for bit."""

from __future__ import annotations

import pytest
from dataplane_vectors import RAN, SKIPPED, EspVector, esp_vectors, load

from ipsec_fast import SA, open_for_test, seal_with_iv_for_test
from ipsec_fast.dataplane import engine
from ipsec_fast.errors import IntegrityError

ENGINES = tuple(engine.engines())
VECTORS = esp_vectors()
WITH_ICV = [v for v in VECTORS if v.has_icv]
PACKETS = [v for v in WITH_ICV if v.is_packet]
on_every_engine = pytest.mark.parametrize("name", ENGINES)


def vectors(chosen: list[EspVector]):
    return pytest.mark.parametrize("v", chosen, ids=[v.id for v in chosen])


def inbound(v: EspVector, name: str, window: int = 64) -> SA:
    return SA("in", v.spi, v.suite, v.keymat, esn=v.esn, seq=v.seq - 1, window=window, engine=name)


@on_every_engine
@vectors(PACKETS)
def test_every_flipped_bit_is_refused(v, name):
    sa = inbound(v, name)
    for bit in range(len(v.esp) * 8):
        wrong = bytearray(v.esp)
        wrong[bit // 8] ^= 1 << bit % 8
        with pytest.raises(IntegrityError):
            open_for_test(sa, bytes(wrong))
    assert open_for_test(sa, v.esp) == v.inner  # and none of them moved the window


@on_every_engine
@vectors([v for v in WITH_ICV if not v.is_packet])
def test_every_flipped_bit_is_refused_by_the_engine(v, name):
    def flips(data: bytes):
        for bit in range(len(data) * 8):
            wrong = bytearray(data)
            wrong[bit // 8] ^= 1 << bit % 8
            yield bytes(wrong)

    def refused(nonce=v.nonce, aad=v.aad, ciphertext=v.ciphertext, icv=v.icv):
        with pytest.raises(IntegrityError):
            engine.open_for_test(v.suite, v.keymat, nonce, aad, ciphertext, icv, v.tail, name)

    for wrong in flips(v.nonce):
        refused(nonce=wrong)
    for wrong in flips(v.aad):
        refused(aad=wrong)
    for wrong in flips(v.ciphertext):
        refused(ciphertext=wrong)
    for wrong in flips(v.icv):
        refused(icv=wrong)


@on_every_engine
@vectors(WITH_ICV)
def test_engine_opens_and_seals_bit_for_bit(v, name):
    plain = engine.open_for_test(v.suite, v.keymat, v.nonce, v.aad, v.ciphertext, v.icv, v.tail, name)
    assert engine.seal_for_test(v.suite, v.keymat, v.nonce, v.aad, plain, v.tail, name) == (v.ciphertext, v.icv)
    RAN[f"esp_vectors.json on {name}"] += 1


@on_every_engine
@vectors([v for v in VECTORS if not v.has_icv])
def test_cipher_alone_where_the_vector_has_no_icv(v, name):
    # the HMAC key is zeros and its ICV is made here; the cipher's part is the vector's
    plain = v.inner + bytes(0)
    for padded in candidates(v, plain):
        ciphertext, icv = engine.seal_for_test(v.suite, v.keymat, v.iv, v.header, padded, b"", name)
        if ciphertext == v.ciphertext:
            assert engine.open_for_test(v.suite, v.keymat, v.iv, v.header, ciphertext, icv, b"", name) == padded
            RAN[f"esp_vectors.json on {name} (cipher alone)"] += 1
            return
    pytest.fail("no right plaintext gave the vector's ciphertext")


def candidates(v: EspVector, inner: bytes):
    """What may stand behind the inner packet (tunnel) or the inner packet's payload (transport): padding and next header."""
    for payload, next_header in ((inner, 4), (inner[20:], inner[9] if inner else 0)):
        pad = len(v.ciphertext) - len(payload) - 2
        if pad >= 0:
            yield payload + bytes(range(1, pad + 1)) + bytes([pad, next_header])


@on_every_engine
@vectors(PACKETS)
def test_kernels_open_and_seal_bit_for_bit(v, name):
    assert open_for_test(inbound(v, name), v.esp) == v.inner
    sa = SA("out", v.spi, v.suite, v.keymat, esn=v.esn, engine=name)
    assert seal_with_iv_for_test(sa, v.inner, v.seq, v.iv) == v.esp
    RAN[f"esp_vectors.json through the kernels on {name}"] += 1


GCM_SUITES = {(bits // 8, icv): f"aes{bits}gcm{icv}" for bits in (128, 192, 256) for icv in (8, 12, 16)}


def check_gcm(
    source: str, name: str, key: bytes, iv: bytes, aad: bytes, plain: bytes, ciphertext: bytes, tag: bytes, good: bool
) -> None:
    suite = GCM_SUITES.get((len(key), len(tag)))
    if suite is None or len(iv) != 12:
        SKIPPED[f"{source} (key, IV or tag length that no suite has)"] += 1
        return
    RAN[f"{source} on {name}"] += 1
    keymat = key + iv[:4]
    if good:
        assert engine.open_for_test(suite, keymat, iv, aad, ciphertext, tag, b"", name) == plain
        assert engine.seal_for_test(suite, keymat, iv, aad, plain, b"", name) == (ciphertext, tag)
        return
    with pytest.raises(IntegrityError):
        engine.open_for_test(suite, keymat, iv, aad, ciphertext, tag, b"", name)


@on_every_engine
def test_cavp_gcm(name):
    for v in load("cavp_gcm.json")["vectors"]:
        fields = (bytes.fromhex(v.get(f) or "") for f in ("key", "iv", "aad", "pt", "ct", "tag"))
        check_gcm("cavp_gcm.json", name, *fields, v["result"] == "pass")


@on_every_engine
def test_wycheproof_gcm(name):
    for group in load("wycheproof/aes_gcm_test.json")["testGroups"]:
        for t in group["tests"]:
            fields = (bytes.fromhex(t[f]) for f in ("key", "iv", "aad", "msg", "ct", "tag"))
            check_gcm("wycheproof/aes_gcm_test.json", name, *fields, t["result"] == "valid")


@on_every_engine
def test_wycheproof_hmac_sha256(name):
    # an HMAC suite without data authenticates its AAD alone; the key is 32 bytes, the tag 16 (a longer valid one is cut)
    source = "wycheproof/hmac_sha256_test.json"
    for group in load(source)["testGroups"]:
        for t in group["tests"]:
            key, message, tag = (bytes.fromhex(t[f]) for f in ("key", "msg", "tag"))
            valid = t["result"] == "valid"
            if len(key) != 32 or (group["tagSize"] != 128 and not valid):
                SKIPPED[f"{source} (key or tag length that no suite has)"] += 1
                continue
            if not message and name == "ipsecmb":
                SKIPPED[f"{source} (no message: ipsec-mb hashes one byte at least, a packet has more)"] += 1
                continue
            RAN[f"{source} on {name}"] += 1
            keymat = bytes(16) + key
            _, icv = engine.seal_for_test("aes128-sha256", keymat, bytes(16), message, b"", b"", name)
            assert (icv == tag[:16]) == valid
            if not valid:
                with pytest.raises(IntegrityError):
                    engine.open_for_test("aes128-sha256", keymat, bytes(16), message, b"", tag[:16], b"", name)
