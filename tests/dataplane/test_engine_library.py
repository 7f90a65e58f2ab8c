"""The optional engine against a library that is not what it was built for, and what it leaves in memory.

A stub stands before ipsec-mb (LD_PRELOAD) and gives other answers; without ipsec-mb or a C compiler there is nothing to ask.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ipsec_fast.dataplane import engine

CC = shutil.which("cc") or shutil.which("gcc")
needs_stub = pytest.mark.skipif(
    "ipsecmb" not in engine.engines() or not CC or "IPSEC_FAST_SANITIZED" in os.environ,
    reason="no Intel ipsec-mb here, no C compiler, or LD_PRELOAD is the sanitizer's",
)
STUBS = {
    "of the next minor version": "unsigned imb_get_version(void) { return imb_real_version() + 0x100; }",
    "of the next major version": "unsigned imb_get_version(void) { return imb_real_version() + 0x10000; }",
    "that finds no instructions": "void init_mb_mgr_auto(void *manager, int *found) { *found = 0; }",
    "without memory": "void *alloc_mb_mgr(unsigned long flags) { return 0; }",
}
MEDDLER = """
void init_mb_mgr_auto(void *manager, int *found)
{
    int unused;
    void (*real)(void *, int *) = dlsym(RTLD_NEXT, "init_mb_mgr_auto");
    real(manager, found);
    real(NULL, &unused);
}
"""
# RTLD_NEXT: the library's own
REAL = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <unistd.h>
#include <stdlib.h>
static unsigned imb_real_version(void) { unsigned (*f)(void) = dlsym(RTLD_NEXT, "imb_get_version"); return f(); }
size_t imb_get_mb_mgr_size(void);
"""
SHOW = "from ipsec_fast.dataplane.engine import engines\nfrom ipsec_fast import SA\nprint(*engines(), SA('in', 300, key=bytes(20)).engine)"


def run_with(stub: str, script: str, folder: Path, *more: str) -> str:
    source, library = folder / "stub.c", folder / "stub.so"
    source.write_text(REAL + stub)
    subprocess.run(
        [CC, "-shared", "-fPIC", "-w", str(source), "-o", str(library), "-Wl,--no-as-needed", "-lIPSec_MB", "-ldl"],
        check=True,
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *more],
        capture_output=True,
        text=True,
        env=os.environ | {"LD_PRELOAD": str(library)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@needs_stub
@pytest.mark.parametrize("kind", STUBS)
def test_a_library_that_does_not_fit_is_left_alone(kind, tmp_path):
    assert run_with(STUBS[kind], SHOW, tmp_path) == "openssl openssl\n"


@needs_stub
def test_an_error_of_another_thread_is_not_this_managers(tmp_path):
    # in 1.x imb_get_errno gives the last error of any thread; here another one asks for the impossible right behind every success
    assert run_with(MEDDLER, SHOW, tmp_path) == "ipsecmb openssl ipsecmb\n"


WIPED = """
import os, threading, time
from ipsec_fast.algorithms import esp_suite
from ipsec_fast import SA
from ipsec_fast.dataplane import engine
def work():
    for name in ("aes128gcm16", "aes128-sha256", "aes256ccm16", "aes128ctr-aescmac", "aes256-sha512"):
        key = bytes(range(1, 200))
        key = key[: esp_suite(name).keymat_bytes]
        engine.seal_for_test(name, key, nonce(name), bytes(8), bytes(range(64)), b"", "ipsecmb")
def nonce(name):
    return bytes(16) if name.startswith(("aes128-", "aes256-")) else bytes(11 if "ccm" in name else 12)
before = len(os.listdir("/proc/self/task"))
one = threading.Thread(target=work)
one.start()
one.join()
while len(os.listdir("/proc/self/task")) > before:  # join waits for Python's part of a thread alone
    time.sleep(0.01)
print("done", flush=True)
"""
WATCH = """
void free_mb_mgr(unsigned char *manager)
{
    size_t i, dirty = 0;
    for (i = 0; i < imb_get_mb_mgr_size(); i++)
        dirty += manager[i] != 0;
    write(1, dirty ? "dirty\\n" : "clean\\n", 6);
    free(manager);
}
"""


@needs_stub
def test_the_manager_of_a_thread_that_ends_is_wiped(tmp_path):
    lines = run_with(WATCH, WIPED, tmp_path).split()
    assert lines[0] == "dirty"  # the one that the processor was asked with; it never saw a key
    # one for few packets at once too, where the processor has instructions for SHA
    assert lines[1:] == ["clean"] * (1 + (" sha_ni" in Path("/proc/cpuinfo").read_text())) + ["done"]


KEYS_LEFT = """
import os, random, sys
import numpy as np
from ipsec_fast import SA, PacketBatch, protect
from ipsec_fast.algorithms import esp_suite
name, algorithm, kept = sys.argv[1:]
suite = esp_suite(algorithm)
seed = int.from_bytes(os.urandom(8), "big")

def masked():  # never the key itself
    rng = random.Random(seed)
    return [rng.getrandbits(8) for _ in range(suite.keymat_bytes)]

def use():
    key = bytearray(masked())
    sas = [SA("out", 400 + i, algorithm, key, engine=name) for i in range(3)]
    for i in range(len(key)):
        key[i] = 0
    buffer = np.zeros(3 * 512, np.uint8)
    for i in range(3):
        buffer[512 * i + 128 : 512 * i + 148] = list(bytes.fromhex("4500006400010000401100000a0100010a020001"))
    batch = PacketBatch(buffer, np.array([128, 640, 1152], np.uint32), np.array([100] * 3, np.uint32), sas, np.zeros(3, np.uint8))
    assert protect(batch) == 3
    return batch if kept == "kept" else None

used = use()
part = masked()[:16]
found = 0
with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
    regions = [line.split() for line in maps]
    for where, access, *_, path in [(r[0], r[1], r[-1]) for r in regions]:
        if not access.startswith("rw") or path in ("[vvar]", "[vsyscall]"):
            continue
        start, end = (int(x, 16) for x in where.split("-"))
        try:
            memory.seek(start)
            block = np.frombuffer(memory.read(end - start), np.uint8)
        except (OSError, ValueError):
            continue
        hits = np.flatnonzero(block[: len(block) - 16] == part[0])
        for i in range(1, 16):
            hits = hits[block[hits + i] == part[i]]
        found += len(hits)
print(found)
"""


@pytest.mark.skipif("IPSEC_FAST_SANITIZED" in os.environ, reason="the sanitizer's own memory is too large to search")
@pytest.mark.parametrize("name", [*engine.engines(), "auto"])
@pytest.mark.parametrize(
    "algorithm", ["aes128gcm16", "aes256ccm16", "aes128-sha256", "aes256ctr-aescmac", "chacha20poly1305"]
)
def test_no_key_stays_in_memory_when_its_sas_are_gone(name, algorithm):
    def found(kept: str) -> int:
        words = [sys.executable, "-c", KEYS_LEFT, name, algorithm, kept]
        return int(subprocess.run(words, capture_output=True, text=True, check=True).stdout)

    assert found("kept") >= 3  # a search that finds them
    assert found("gone") == 0
