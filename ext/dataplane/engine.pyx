"""The registry of crypto engines, and the faces that run test vectors on any of them.

An engine module calls register_suite once for each algorithm that its library and this processor carry; `find_suite` picks by name and by
engine, or the highest priority for "auto". The algorithms' names and sizes come from ipsec_fast.algorithms. Called by: sad.pyx, bench.py, tests.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy, memset

import contextlib

from ipsec_fast.errors import AlgorithmError, IntegrityError, UsageError

cdef enum:
    MAX_SUITES = 512         # 71 algorithms, three times, and what a benchmark adds

cdef const engine_suite *registered[MAX_SUITES]
cdef uint32_t registered_count = 0
cdef bint loaded = False


cdef void register_suite(const engine_suite *suite) noexcept:
    global registered_count
    if registered_count < MAX_SUITES:
        registered[registered_count] = suite
        registered_count += 1


cdef int load_engines() except -1:
    """Late: they register themselves here and import this module to do so. The optional one may be not built, or its library gone."""
    global loaded
    if loaded:
        return 0
    import ipsec_fast.dataplane.openssl
    with contextlib.suppress(ImportError):
        import ipsec_fast.dataplane.ipsecmb
    loaded = True
    return 0


cdef const engine_suite *find_suite(str name, str engine) except NULL:
    cdef const engine_suite *best = NULL
    cdef uint32_t i
    load_engines()
    wanted = name.encode()
    for i in range(registered_count):
        if registered[i].name == wanted and (engine == "auto" or (engine == registered[i].engine.decode() and not registered[i].is_choice)):
            if best == NULL or registered[i].priority > best.priority:
                best = registered[i]
    if best == NULL:
        raise AlgorithmError(f"engine {engine!r} does not carry {name}; there are: {', '.join(engines())}")
    return best


def engines():
    """Name -> the algorithms it carries here, best engine first."""
    load_engines()
    order = sorted(range(registered_count), key=lambda i: -registered[i].priority)
    found = {}
    for i in order:
        if registered[i].is_choice:
            continue
        found.setdefault(registered[i].engine.decode(), []).append(registered[i].name.decode())
    return {name: tuple(suites) for name, suites in found.items()}


def engine_for(str algorithm, str wanted) -> str:
    """`wanted`, or "auto" where that engine does not carry the algorithm."""
    return wanted if wanted == "auto" or algorithm in engines().get(wanted, ()) else "auto"


cdef class _TestKey:
    """One key of one suite and a buffer laid out as the kernels do: AAD, IV (HMAC suites), data, ICV."""

    cdef const engine_suite *suite
    cdef void *key
    cdef bytearray buffer
    cdef crypto_op op

    def __cinit__(self, str algorithm, const uint8_t[::1] keymat not None, bint seal, str engine, bytes nonce, bytes aad, bytes data,
                  bytes icv, bytes tail):
        self.suite = find_suite(algorithm, engine)
        if <uint32_t> keymat.shape[0] != self.suite.keymat_length:
            raise AlgorithmError(f"{algorithm} needs {self.suite.keymat_length} bytes of key, not {keymat.shape[0]}")
        wanted = 16 if self.suite.iv_kind == IV_RANDOM else 0 if self.suite.iv_kind == IV_NONE else self.suite.salt_length + 8
        if len(nonce) != wanted or len(tail) > 4:
            raise UsageError(f"{algorithm} takes {wanted} bytes of salt and IV, and at most 4 bytes of tail")
        self.key = self.suite.key_new(self.suite, &keymat[0], seal)
        if self.key == NULL:
            raise MemoryError
        # what is authenticated where it stands has its IV there too
        contiguous = b""
        if self.suite.iv_in_place and (data or self.suite.is_aead):
            contiguous = nonce[len(nonce) - self.suite.iv_length :]
        self.buffer = bytearray(aad + contiguous + data + icv.ljust(self.suite.icv_length, b"\0"))
        self.fill(nonce, len(aad), len(contiguous), len(data), tail)

    cdef void fill(self, bytes nonce, uint32_t aad_length, uint32_t between, uint32_t length, bytes tail) except *:
        cdef uint8_t *base = <uint8_t *> <char *> self.buffer
        memset(&self.op, 0, sizeof(crypto_op))
        memcpy(self.op.nonce, <const char *> nonce, len(nonce))
        memcpy(self.op.tail, <const char *> tail, len(tail))
        self.op.tail_length = len(tail)
        self.op.aad = base
        self.op.data = base + aad_length + between
        self.op.length = length
        self.op.icv = self.op.data + length
        self.op.aad_length = aad_length if self.suite.is_aead else aad_length + between + length
        self.op.key = self.key

    def __dealloc__(self):
        if self.key != NULL:
            self.suite.key_free(self.key)

    cdef bytes data(self):
        return PyBytes_FromStringAndSize(<char *> self.op.data, self.op.length)

    cdef bytes icv(self):
        return PyBytes_FromStringAndSize(<char *> self.op.icv, self.suite.icv_length)


def seal_for_test(str algorithm, keymat, bytes nonce, bytes aad, bytes plaintext, bytes tail=b"", str engine="auto"):
    """(ciphertext, ICV) of the bare engine, for vectors: any AAD, no ESP.

    HMAC suites authenticate AAD, IV (if there is data), data, tail.
    """
    cdef _TestKey key = _TestKey(algorithm, keymat, True, engine, nonce, aad, plaintext, b"", tail)
    key.suite.seal(&key.op, 1)
    if not key.op.ok:
        raise IntegrityError("the engine refused to seal")
    return key.data(), key.icv()


def open_for_test(str algorithm, keymat, bytes nonce, bytes aad, bytes ciphertext, bytes icv, bytes tail=b"", str engine="auto"):
    """The plaintext, or IntegrityError. For vectors."""
    cdef _TestKey key = _TestKey(algorithm, keymat, False, engine, nonce, aad, ciphertext, icv, tail)
    if len(icv) != key.suite.icv_length:
        raise IntegrityError(f"an ICV of {len(icv)} bytes; {algorithm} has {key.suite.icv_length}")
    key.suite.open(&key.op, 1)
    if not key.op.ok:
        raise IntegrityError("the ICV does not verify")
    return key.data()
