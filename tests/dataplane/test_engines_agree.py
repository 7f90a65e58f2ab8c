"""The engines against each other, and what happens where the optional one is absent."""

from __future__ import annotations

import ctypes
import mmap
import os
import random
import subprocess
import sys
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_packets import Slots, ipv4, key_of, open_batch, seal

from ipsec_fast import SA, PacketBatch, protect, unprotect
from ipsec_fast.algorithms import Mode, ah_suite, ah_suite_names, esp_suite
from ipsec_fast.dataplane import engine
from ipsec_fast.errors import AlgorithmError, IntegrityError

ENGINES = engine.engines()
BOTH = sorted(set(ENGINES["openssl"]) & set(ENGINES.get("ipsecmb", ())))
CHOICES = ("openssl", "ipsecmb", "auto")
# where auto goes from libcrypto to the narrow manager, from there to the wide one, and round its lanes (imb_plan in ext/include/imb_glue.h)
TURNS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 15, 16, 17, 18, 27, 28, 31, 32, 33, 43, 44, 63, 64, 65, 127, 130)
HMACS = [name for name in BOTH if "-sha" in name]
two_engines = pytest.mark.skipif(not BOTH, reason="Intel ipsec-mb is not here")


# --- absence ------------------------------------------------------------------------------------------------------------------


def test_an_engine_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(AlgorithmError, match=r"engine 'null' does not carry aes128gcm16; there are: .*openssl"):
        SA("in", 0x1001, key=key_of("aes128gcm16"), engine="null")
    assert engine.engine_for("aes128gcm16", "null") == "auto"


def test_without_the_optional_library_everything_goes_on():
    script = """
import sys
sys.modules["ipsec_fast.dataplane.ipsecmb"] = None  # what an import says where the module or its library is not there
from ipsec_fast import SA
from ipsec_fast.bench.machine import machine
from ipsec_fast.dataplane.engine import engines
print(*engines(), SA("in", 0x1001, key=bytes(20)).engine, machine()["ipsecmb"])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=os.environ)
    assert (done.stdout, done.stderr) == ("openssl openssl None\n", "")


# --- the same bytes -------------------------------------------------------------------------------------------------------------


@two_engines
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_bare_engines_seal_and_open_alike(data):
    algorithm = data.draw(st.sampled_from(BOTH))
    suite = esp_suite(algorithm)
    cipher, rng = suite.encryption, random.Random(data.draw(st.integers()))
    key = rng.randbytes(suite.keymat_bytes)
    blocks = data.draw(st.one_of(st.integers(1, 40), st.integers(1, 2000)))
    plain = rng.randbytes(blocks * cipher.block_bytes)
    salt = b"" if cipher.mode in (Mode.CBC, Mode.NULL) else key[cipher.key_bytes : cipher.keymat_bytes]
    nonce = salt + rng.randbytes({Mode.CBC: 16, Mode.NULL: 0}.get(cipher.mode, 8))
    aad = rng.randbytes(data.draw(st.sampled_from([8, 12])) if cipher.is_aead else 8)
    tail = rng.randbytes(4) if not cipher.is_aead and data.draw(st.booleans()) else b""
    sealed = {name: engine.seal_for_test(algorithm, key, nonce, aad, plain, tail, name) for name in CHOICES}
    assert sealed["openssl"] == sealed["ipsecmb"] == sealed["auto"]
    ciphertext, icv = sealed["openssl"]
    wrong = bytearray(icv)
    wrong[data.draw(st.integers(0, len(icv) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    for name in CHOICES:
        assert engine.open_for_test(algorithm, key, nonce, aad, ciphertext, icv, tail, name) == plain
        with pytest.raises(IntegrityError):
            engine.open_for_test(algorithm, key, nonce, aad, ciphertext, bytes(wrong), tail, name)


def sas_of(chosen: list[str], direction: str, name: str, esn: bool) -> list[SA]:
    """Keys differ from SA to SA."""
    return [
        SA(direction, 0x1001 + i, algorithm, key_of(algorithm, i), esn=esn, engine=name, seq=1000 * i)
        for i, algorithm in enumerate(chosen)
    ]


@two_engines
@pytest.mark.parametrize("esn", [False, True])
@pytest.mark.parametrize("size", [1, 2, 31, 32, 33, 63, 64, 65, 256])
def test_batches_of_any_size_mixing_keys_and_algorithms_cross_over(size, esn):
    rng = random.Random(size)
    for mix in (
        BOTH,
        ["aes128-sha256", "aes128gcm16"],
        ["aes128-sha1"],
        ["null-aesxcbc", "aes256ctr-aescmac"],
        ["aes256ccm12"],
    ):
        chosen = [rng.choice(mix) for _ in range(min(size, 40))]
        order = sorted(rng.randrange(len(chosen)) for _ in range(size))
        packets = [ipv4(rng.randrange(20, 1500), fill=rng.randrange(256)) for _ in range(size)]
        for one, other in (("openssl", "ipsecmb"), ("ipsecmb", "auto"), ("auto", "openssl")):
            outs, intos = sas_of(chosen, "out", one, esn), sas_of(chosen, "in", other, esn)
            slots = Slots(packets, [outs[i] for i in order], 64, 96)
            assert protect(slots.batch) == size
            sealed = slots.packets
            spoilt = set(rng.sample(range(size), size // 5))
            wire = [p[:-1] + bytes([p[-1] ^ 1]) if i in spoilt else p for i, p in enumerate(sealed)]
            opened = Slots(wire, [intos[i] for i in order])
            unprotect(opened.batch)
            assert opened.names == ["bad_icv" if i in spoilt else "ok" for i in range(size)]
            assert opened.packets == [b"" if i in spoilt else p for i, p in enumerate(packets)]


@two_engines
@pytest.mark.parametrize("esn", [False, True])
@pytest.mark.parametrize("algorithm", ah_suite_names())
def test_ah_crosses_over(algorithm, esn):
    key = bytes(range(ah_suite(algorithm).keymat_bytes))
    more = {"mode": "transport", "protocol": "ah", "esn": esn, "seq": (1 << 32) - 5 if esn else 0}
    packets = [ipv4(20 + n * 7) for n in range(70)]
    for one, other in (("openssl", "ipsecmb"), ("ipsecmb", "auto"), ("auto", "openssl")):
        sealed = seal(packets, SA("out", 0x1001, algorithm, key, engine=one, **more))
        into = SA("in", 0x1001, algorithm, key, engine=other, **more)
        assert open_batch([p[:-1] + bytes([p[-1] ^ 1]) for p in sealed], into).names == ["bad_icv"] * 70
        assert open_batch(sealed, into).packets == packets


# --- auto goes by the number of packets ---------------------------------------------------------------------------------------------


@two_engines
def test_auto_says_that_it_uses_both_where_it_does():
    shown = {name: SA("in", 0x1001, name, key_of(name)).engine for name in BOTH}
    aead = {name for name in BOTH if esp_suite(name).encryption.mode in (Mode.GCM, Mode.GMAC, Mode.CHACHA20)}
    assert {name for name, one in shown.items() if one == "ipsecmb"} in (aead, set())  # none without AVX2
    assert {name for name, one in shown.items() if one == "ipsecmb+openssl"} in (set(HMACS), set())
    assert SA("in", 0x1001, "aes128-sha1", key_of("aes128-sha1"), engine="ipsecmb").engine == "ipsecmb"
    assert SA("in", 0x1001, "aes128-sha1", key_of("aes128-sha1"), engine="openssl").engine == "openssl"
    assert "ipsecmb+openssl" not in ENGINES
    with pytest.raises(AlgorithmError, match="does not carry aes128-sha1; there are: "):
        SA("in", 0x1001, "aes128-sha1", key_of("aes128-sha1"), engine="ipsecmb+openssl")


@two_engines
@pytest.mark.parametrize("esn", [False, True])
@pytest.mark.parametrize("algorithm", HMACS)
def test_every_number_of_packets_gives_the_same_bytes_and_verdicts(algorithm, esn):
    """Sealed and opened by each in turn; of each batch one packet in the middle is spoilt, and it alone is lost and wiped."""
    rng = random.Random(algorithm)
    key = key_of(algorithm)
    for count in TURNS:
        packets = [ipv4(rng.randrange(20, 300), fill=i & 255) for i in range(count)]
        sealed = {
            name: seal(packets, SA("out", 0x1001, algorithm, key, engine=name, esn=esn, seq=(1 << 31) - 3))
            for name in CHOICES
        }
        if not algorithm.startswith("aes") or "ctr" in algorithm:  # an IV of CBC is nobody's to foresee
            assert sealed["openssl"] == sealed["ipsecmb"] == sealed["auto"]
        for name, other in (("openssl", "auto"), ("auto", "ipsecmb"), ("ipsecmb", "auto"), ("auto", "openssl")):
            wire = list(sealed[name])
            at, kind = count // 2, rng.choice((-1, 9, 30))  # its ICV, its header or IV, its payload
            wire[at] = spoil(wire[at], kind)
            into = SA("in", 0x1001, algorithm, key, engine=other, esn=esn, seq=(1 << 31) - 3)
            opened = open_batch(wire, into)
            assert opened.names == ["bad_icv" if i == at else "ok" for i in range(count)]
            assert opened.packets == [b"" if i == at else p for i, p in enumerate(packets)]
            start = sum(len(p) for p in wire[:at])
            assert not any(opened.buffer[start : start + len(wire[at])])


def spoil(packet: bytes, at: int) -> bytes:
    changed = bytearray(packet)
    changed[at] ^= 0x10
    return bytes(changed)


@two_engines
@pytest.mark.parametrize("architecture", ["sse", "avx2"])
def test_managers_of_lesser_processors_agree_too(architecture):
    """What a processor without AVX-512, or without AVX2, would run: the same tests in a process that may not use more."""
    chosen = "every_number_of_packets or bare_engines or auto_says or crosses_over"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", chosen],
        capture_output=True,
        text=True,
        env=os.environ | {"IPSEC_FAST_IPSECMB_ARCH": architecture},
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


def test_an_architecture_that_is_none_is_refused_with_those_there_are():
    done = subprocess.run(
        [sys.executable, "-c", "import ipsec_fast.dataplane.engine as e; e.engines()"],
        capture_output=True,
        text=True,
        env=os.environ | {"IPSEC_FAST_IPSECMB_ARCH": "mmx"},
    )
    if BOTH:
        assert "IPSEC_FAST_IPSECMB_ARCH=mmx: it is sse, avx2, avx512, or not set" in done.stderr


# --- not a byte too far -----------------------------------------------------------------------------------------------------------

LIBC = ctypes.CDLL(None, use_errno=True)
PAGE = mmap.PAGESIZE


class Fenced:
    """Writable memory with a page on either side that may not be touched."""

    def __init__(self, pages: int) -> None:
        self.map = mmap.mmap(-1, (pages + 2) * PAGE)
        self.size = pages * PAGE
        start = ctypes.addressof(ctypes.c_char.from_buffer(self.map))
        for fence in (start, start + (pages + 1) * PAGE):
            assert LIBC.mprotect(ctypes.c_void_p(fence), PAGE, 0) == 0, os.strerror(ctypes.get_errno())
        self.view = memoryview(self.map)[PAGE : PAGE + self.size]


@pytest.mark.parametrize("esn", [False, True])
@pytest.mark.parametrize(
    ("name", "algorithm"),
    [*((name, one) for name, suites in ENGINES.items() for one in suites), *(("auto", one) for one in HMACS)],
)
def test_no_engine_reads_or_writes_beyond_a_packet(name, algorithm, esn):
    """A byte too far ends the process: the packet ends where the memory ends, then begins where it begins."""
    fenced = Fenced(2)
    for length in (20, 21, 35, 36, 50, 63, 64, 65, 127, 128, 129, 255, 256, 257, 1400):
        out, into = (SA(way, 0x1001, algorithm, key_of(algorithm), engine=name, esn=esn) for way in ("out", "in"))
        packet = ipv4(length)
        sealed_length = out.sealed_length(length)
        for at_end in (True, False):
            at = fenced.size - sealed_length + out.headroom if at_end else out.headroom
            fenced.view[at : at + length] = packet
            offsets, lengths = numbers([at]), numbers([length])
            room = fenced.view if not at_end else memoryview(fenced.map)[PAGE : PAGE + fenced.size]
            # tailroom is the most that may be written: where this packet needs less, the batch still wants room for all
            if at_end and at + length + out.tailroom > fenced.size:
                at -= at + length + out.tailroom - fenced.size
                fenced.view[at : at + length] = packet
                offsets = numbers([at])
            verdicts = bytearray(1)
            assert protect(PacketBatch(room, offsets, lengths, out, verdicts)) == 1
            sealed = bytes(fenced.view[offsets[0] : offsets[0] + lengths[0]])
            begin = fenced.size - len(sealed) if at_end else 0
            fenced.view[begin : begin + len(sealed)] = sealed
            offsets, lengths = numbers([begin]), numbers([len(sealed)])
            assert unprotect(PacketBatch(room, offsets, lengths, into, verdicts)) == 1
            assert bytes(fenced.view[offsets[0] : offsets[0] + lengths[0]]) == packet


@pytest.mark.parametrize("esn", [False, True])
@pytest.mark.parametrize("algorithm", ah_suite_names())
@pytest.mark.parametrize("name", ENGINES)
def test_no_engine_reads_or_writes_beyond_an_ah_packet(name, algorithm, esn):
    """AH's packet ends with the payload: nothing of ours is behind it, not even for the high half of an ESN."""
    fenced, key = Fenced(2), bytes(range(ah_suite(algorithm).keymat_bytes))
    for length in (*range(20, 90), 127, 128, 129, 191, 192, 255, 256, 257, 1400):
        more = {"mode": "transport", "protocol": "ah", "esn": esn, "engine": name}
        out, into = (SA(way, 0x1001, algorithm, key, **more) for way in ("out", "in"))
        assert out.tailroom == 0
        packet = ipv4(length)
        for at_end in (True, False):
            at = fenced.size - length if at_end else out.headroom
            fenced.view[at : at + length] = packet
            offsets, lengths, verdicts = numbers([at]), numbers([length]), bytearray(1)
            assert protect(PacketBatch(fenced.view, offsets, lengths, out, verdicts)) == 1
            sealed = bytes(fenced.view[offsets[0] : offsets[0] + lengths[0]])
            begin = fenced.size - len(sealed) if at_end else 0
            fenced.view[begin : begin + len(sealed)] = sealed
            offsets, lengths = numbers([begin]), numbers([len(sealed)])
            assert unprotect(PacketBatch(fenced.view, offsets, lengths, into, verdicts)) == 1
            assert bytes(fenced.view[offsets[0] : offsets[0] + lengths[0]]) == packet


def numbers(values: list[int]):
    import numpy as np

    return np.array(values, np.uint32)


# --- threads ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*ENGINES, "auto"])
def test_threads_have_managers_of_their_own(name):
    """Keys are made in one thread and used in others, which come and go."""
    wrong: list[str] = []
    carried = ENGINES[name] if name in ENGINES else ENGINES["openssl"]

    def work(seed: int) -> None:
        rng = random.Random(seed)
        for algorithm in rng.sample(carried, 12):
            out, into = made[algorithm, seed]
            packets = [ipv4(rng.randrange(20, 900)) for _ in range(rng.choice((1, 3, 40)))]
            if open_batch(seal(packets, out), into).packets != packets:
                wrong.append(algorithm)

    made = {
        (algorithm, seed): tuple(
            SA(way, 0x1001, algorithm, key_of(algorithm, seed), engine=name) for way in ("out", "in")
        )
        for algorithm in carried
        for seed in range(8)
    }
    for round_ in range(2):
        threads = [threading.Thread(target=work, args=(round_ * 4 + n,)) for n in range(4)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
    assert wrong == []
