"""The arena: nothing readable in repr, nothing usable after close, nothing left in memory."""

from __future__ import annotations

import base64
import copy
import gc
import os
import pickle
import random
import subprocess
import sys

import pytest

from ipsec_fast.crypto.secret import (
    Secret,
    arena_report,
    random_secret,
    reveal_for_test,
    secret_from_buffer,
    secret_from_fd,
    wipe,
)
from ipsec_fast.errors import SecretError, StateError, UsageError

# under AddressSanitizer mlock does nothing, and its shadow memory cannot be read through
not_sanitized = pytest.mark.skipif("IPSEC_FAST_SANITIZED" in os.environ, reason="AddressSanitizer owns the memory map")


def copies_in_memory(masked: bytes, mask: int) -> int:
    """How often the bytes that `masked` hides stand in our writable memory; they are never unmasked in one piece."""
    found = 0
    first = masked[0] ^ mask
    with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", buffering=0) as memory:
        for line in maps:
            span, rights = line.split()[:2]
            if not rights.startswith("rw") or "[vvar" in line:
                continue
            start, end = (int(part, 16) for part in span.split("-"))
            memory.seek(start)
            try:
                region = memory.read(end - start)
            except OSError:
                continue
            at = region.find(first)
            while at >= 0:
                if all(region[at + i] == masked[i] ^ mask for i in range(min(len(masked), len(region) - at))):
                    found += len(region) - at >= len(masked)
                at = region.find(first, at + 1)
            del region
    return found


SCAN = """
import gc, sys
sys.path.insert(0, {folder!r})
from test_crypto_secret import copies_in_memory
from ipsec_fast.crypto import exchange, prf, seal, secret
MASKED, MASK = bytes(range(0x91, 0x91 + 32)), 0x5b
source = bytearray(32)
for i in range(32): source[i] = MASKED[i] ^ MASK
key = secret.secret_from_buffer(source, wipe=True)
assert not key.guessable
live = copies_in_memory(MASKED, MASK)
sealer = seal.Sealer(20, 128, key.slice(0, 20))
cbc = seal.Sealer(12, 256, key, 12, key)
for n in range(50):
    sealer.open(b"aad", sealer.seal(b"aad", b"plaintext", n.to_bytes(8, "big")))
    cbc.open(b"aad", cbc.seal(b"aad", bytes(64), bytes(16)))
    prf.prf(5, key, b"data"); prf.prf_plus(7, key, b"seed", 300).close()
    prf.derive_ike_keys(5, key, bytes(32), bytes(32), bytes(8), bytes(8), 20, 0).close()
    prf.psk_auth(6, key, b"message", bytes(32), key, b"id")
used = copies_in_memory(MASKED, MASK)
key.close(); sealer.close(); cbc.close(); gc.collect()
print(live, used, copies_in_memory(MASKED, MASK), secret.arena_report()["used_bytes"])
"""


GUESSABLE = [
    "x" * 16,
    "abababababababab",
    "aK3!aK3!aK3!aK3!",
    "PasswordPASSWORD",
    "Password12345678",
    "P@$$w0rd2024!!!!",
    "0123456789abcdef",
    "zyxwvutsrqponmlkji",
    "MyVpnSecretKey2024",
    "strongswan-secret1",
    "qwertyuiopasdfgh",
    "changeme",
    "",
]
GOOD = [
    "h7Gk2mQ9zR4tWx8v",
    "3f9a1c77b2e84d06",
    "Yrpbk-FGdXwm-jsfUa",
    "sv+NkxY9LLZvwj4qCC2o",
    "7302945861170359",
    "password h7Gk2mQ9zR4t",
    "a secret of thirty-two characters",
]


@pytest.mark.parametrize("text", GUESSABLE)
def test_a_text_that_can_be_guessed_is_seen(text):
    assert secret_from_buffer(text.encode()).guessable


@pytest.mark.parametrize("text", GOOD)
def test_no_text_is_called_guessable_that_is_not(text):
    assert not secret_from_buffer(text.encode()).guessable


def test_what_a_generator_made_is_not_called_guessable():
    chance = random.Random(31)
    for _ in range(2000):
        for made in (base64.b64encode(chance.randbytes(12)), chance.randbytes(16), chance.randbytes(8).hex().encode()):
            assert not secret_from_buffer(made).guessable, made


def test_a_closed_secret_is_not_looked_at():
    secret = secret_from_buffer(b"passwordpassword")
    secret.close()
    with pytest.raises(StateError):
        assert secret.guessable


@not_sanitized
def test_no_copy_of_a_key_is_left_after_close():
    script = SCAN.format(folder=os.path.dirname(__file__))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=os.getcwd())
    live, used, after, still_used = map(int, done.stdout.split()) if done.returncode == 0 else pytest.fail(done.stderr)
    assert live == 1
    # key, and both copies of the CBC sealer; its 20-byte slice is no whole copy
    assert used == 3
    assert after == 0
    assert still_used == 0


def test_repr_str_and_format_show_the_length_only():
    secret = secret_from_buffer(b"correct horse battery staple")
    assert {repr(secret), str(secret), f"{secret}", f"{[secret]}"} == {"<Secret 28 bytes>", "[<Secret 28 bytes>]"}


@pytest.mark.parametrize("take", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_secret_cannot_be_pickled_or_copied(take):
    with pytest.raises(TypeError, match="pickled or copied"):
        take(secret_from_buffer(b"0123456789abcdef"))


def test_a_secret_offers_no_buffer_and_no_constructor():
    with pytest.raises(TypeError):
        bytes(secret_from_buffer(b"0123456789abcdef"))
    with pytest.raises(TypeError):
        memoryview(secret_from_buffer(b"0123456789abcdef"))
    with pytest.raises(TypeError):
        Secret()


def test_close_twice_is_fine_and_use_after_close_is_not():
    secret = random_secret(32)
    secret.close()
    secret.close()
    assert secret.closed
    assert repr(secret) == "<Secret 32 bytes, closed>"
    with pytest.raises(StateError):
        secret.slice(0, 1)
    with pytest.raises(StateError):
        reveal_for_test(secret)


def test_a_secret_never_filled_is_as_closed():
    with pytest.raises(StateError):
        reveal_for_test(Secret.__new__(Secret))


@pytest.mark.parametrize(("start", "stop"), [(-1, 4), (3, 2), (0, 17), (17, 17)])
def test_slice_refuses_what_lies_outside(start, stop):
    with pytest.raises(UsageError):
        secret_from_buffer(b"0123456789abcdef").slice(start, stop)


def test_slice_copies():
    whole = secret_from_buffer(b"0123456789abcdef")
    part, nothing = whole.slice(4, 8), whole.slice(16, 16)
    whole.close()
    assert reveal_for_test(part) == b"4567"
    assert reveal_for_test(nothing) == b""


def test_secret_from_buffer_wipes_a_writable_source_and_refuses_a_readonly_one():
    source = bytearray(b"0123456789abcdef")
    secret = secret_from_buffer(source, wipe=True)
    assert source == bytearray(16)
    assert reveal_for_test(secret) == b"0123456789abcdef"
    with pytest.raises(BufferError):
        secret_from_buffer(b"0123456789abcdef", wipe=True)


def test_wipe_zeroes_buffers_and_bytes_and_leaves_shared_objects():
    writable, fixed, one = bytearray(b"abc"), os.urandom(16), b"a"
    wipe(writable)
    wipe(fixed)
    wipe(one)
    assert (writable, fixed, one) == (bytearray(3), bytes(16), b"a")
    with pytest.raises(BufferError):
        wipe(memoryview(b"abcd"))


@pytest.mark.parametrize(
    ("content", "strip", "kept"),
    [(b"psk\n", True, b"psk"), (b"psk\r\n", True, b"psk"), (b"psk\n\n", True, b"psk\n"), (b"psk\n", False, b"psk\n"),
     (b"\n", True, b""), (b"", True, b"")],
)  # fmt: skip
def test_secret_from_fd_strips_one_newline(tmp_path, content, strip, kept):
    (tmp_path / "psk").write_bytes(content)
    with open(tmp_path / "psk", "rb") as file:
        assert reveal_for_test(secret_from_fd(file.fileno(), strip_newline=strip)) == kept


def test_secret_from_fd_reads_a_pipe_in_pieces_and_refuses_too_much():
    reading, writing = os.pipe()
    os.write(writing, b"01234567")
    os.write(writing, b"89abcdef")
    os.close(writing)
    assert len(secret_from_fd(reading, limit=16)) == 16
    os.close(reading)
    with open("/dev/zero", "rb") as endless, pytest.raises(SecretError, match="more than 16 bytes"):
        secret_from_fd(endless.fileno(), limit=16)
    with pytest.raises(SecretError, match="could not be read"):
        secret_from_fd(reading)


def test_arena_grows_reuses_and_reports():
    gc.collect()
    before = arena_report()
    small = [secret_from_buffer(bytes([n % 256]) * 65) for n in range(2000)]
    large = random_secret(1 << 20)
    assert len({reveal_for_test(secret) for secret in small}) == 256
    full = arena_report()
    assert full["used_bytes"] - before["used_bytes"] == 2000 * 128 + (1 << 20)
    assert full["bytes"] >= full["used_bytes"]
    assert full["locked_bytes"] <= full["bytes"]
    for secret in small:
        secret.close()
    large.close()
    assert arena_report()["used_bytes"] == before["used_bytes"]
    assert arena_report()["bytes"] <= before["bytes"] + 65536


@not_sanitized
def test_arena_works_where_nothing_may_be_locked_and_says_so():
    script = (
        "import resource; resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))\n"
        "import os\n"
        "if os.geteuid() == 0:\n"
        "    import ctypes; ctypes.CDLL(None).prctl(24, 14, 0, 0, 0); os.setresuid(65534, 65534, 65534)\n"
        "from ipsec_fast.crypto.secret import *\n"
        "s = random_secret(32); r = arena_report(); print(r['bytes'] > 0, r['locked_bytes'], len(s))"
    )
    done = subprocess.run(
        [sys.executable, "-c", "import ipsec_fast.crypto.secret\n" + script], capture_output=True, text=True
    )
    assert done.stdout.split() == ["True", "0", "32"], done.stderr


def test_a_forked_child_gets_an_error_instead_of_a_zero_key():
    secret = random_secret(32)
    child = os.fork()
    if child == 0:
        try:
            reveal_for_test(secret)
        except StateError:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert len(reveal_for_test(secret)) == 32


def test_harden_process_stops_dumps():
    script = (
        "from ipsec_fast.crypto.secret import harden_process\n"
        "import ctypes, resource\n"
        "print(harden_process(), ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), resource.getrlimit(resource.RLIMIT_CORE))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "[] 0 (0, 0)", done.stderr
