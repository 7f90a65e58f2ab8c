"""The bare engine, timed: the yardstick that `ipsec-fast bench esp` holds the kernels against. No header, trailer, number or window here.

Operations, keys, nonces and AADs of the whole batch are laid out before the clock starts, as the kernels would have left them. Called by: bench.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from ipsec_fast.dataplane.engine cimport crypto_op, engine_suite, find_suite
from ipsec_fast.errors import IpsecFastError


cdef extern from *:
    """
    #include <time.h>
    static inline uint64_t now_ns(void)
    {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
    }
    """
    uint64_t now_ns() noexcept nogil


cdef enum:
    BEFORE = 64              # AAD and IV stand before the data, as in a packet
    BEHIND = 64
    IPV4_AND_AH = 32         # in front of an IV or ICV
    MOST_ICV = 32


cdef class RawBatch:
    """`batch` operations of the bare engine, of the size that an inner packet of `packet_bytes` has under ESP, or AH.

    `packet_bytes` may be a sequence, a size for each operation; ValueError where it has another length than `batch`.
    """

    cdef const engine_suite *suite
    cdef void *key
    cdef void *other_key
    cdef crypto_op *ops
    cdef uint8_t *memory
    cdef uint8_t *pristine
    cdef uint8_t *icvs       # AH, in: what came, while zeros stand in the packet
    cdef size_t size
    cdef uint32_t n
    cdef bint seal

    def __cinit__(self, str algorithm, packet_bytes, uint32_t batch, bint seal, str engine="auto", bint ah=False):
        cdef uint32_t length
        cdef list sealed
        sizes = [packet_bytes] * batch if isinstance(packet_bytes, int) else list(packet_bytes)
        if len(sizes) != batch:
            raise ValueError(f"{len(sizes)} sizes for {batch} packets")
        self.suite = find_suite(algorithm, engine)
        self.n, self.seal = batch, seal
        sealed = [(size + 2 + self.suite.align - 1) & ~(self.suite.align - 1) for size in sizes]
        if ah:
            sealed = [size + IPV4_AND_AH + self.suite.iv_length + self.suite.icv_length for size in sizes]
        self.size = sum([stride_of(length) for length in sealed])
        self.ops = <crypto_op *> calloc(batch, sizeof(crypto_op))
        self.memory = <uint8_t *> calloc(1, self.size)
        self.pristine = <uint8_t *> calloc(1, self.size)
        self.icvs = <uint8_t *> calloc(batch, MOST_ICV)
        keymat = bytes(range(self.suite.keymat_length))
        self.key = self.suite.key_new(self.suite, <const uint8_t *> <const char *> keymat, True)
        self.other_key = self.suite.key_new(self.suite, <const uint8_t *> <const char *> keymat, False)
        if self.ops == NULL or self.memory == NULL or self.pristine == NULL or self.icvs == NULL or self.key == NULL or self.other_key == NULL:
            raise MemoryError
        if ah:
            lay_out_ah(self, sealed)
        else:
            lay_out(self, sealed)
        if not seal:
            self.suite.seal(self.ops, self.n)
            if ah:
                take_icvs(self)
            memcpy(self.pristine, self.memory, self.size)
            for i in range(self.n):
                self.ops[i].key = self.other_key

    def __dealloc__(self):
        if self.key != NULL:
            self.suite.key_free(self.key)
        if self.other_key != NULL:
            self.suite.key_free(self.other_key)
        free(self.ops)
        free(self.memory)
        free(self.pristine)
        free(self.icvs)

    def run(self):
        """One pass over the batch, in nanoseconds; what it works on is put back first, off the clock."""
        cdef uint64_t start, end
        cdef uint32_t i, bad = 0
        with nogil:
            memcpy(self.memory, self.pristine, self.size)
            start = now_ns()
            if self.seal:
                self.suite.seal(self.ops, self.n)
            else:
                self.suite.open(self.ops, self.n)
            end = now_ns()
            for i in range(self.n):
                bad += self.ops[i].ok == 0
        if bad:
            raise IpsecFastError(f"the bare engine refused {bad} operations: no yardstick")
        return end - start


cdef size_t stride_of(uint32_t sealed) noexcept:
    """The room of one operation: an odd number of cache lines."""
    return ((BEFORE + sealed + BEHIND + 63) & ~<size_t> 63) | 64


cdef void lay_out(RawBatch raw, list sealed):
    cdef uint32_t i, length
    cdef crypto_op *op
    cdef uint8_t *at = raw.memory
    for i in range(raw.n):
        length = sealed[i]
        op = &raw.ops[i]
        op.data = at + BEFORE
        op.length = length
        op.icv = op.data + length
        op.key = raw.key
        op.aad = op.data - 8 - raw.suite.iv_length
        op.aad_length = 8 if raw.suite.is_aead else 8 + raw.suite.iv_length + length
        memset(op.nonce, 0, 16)
        memcpy(op.nonce, &i, 4)
        at += stride_of(length)


cdef void lay_out_ah(RawBatch raw, list totals):
    """As clear_and_cover of ah.pyx leaves it: one stretch from the IP header on, the ICV in it; of GMAC the last 8 bytes stand before `data`."""
    cdef uint32_t i, total
    cdef crypto_op *op
    cdef uint8_t *at = raw.memory
    for i in range(raw.n):
        total = totals[i]
        op = &raw.ops[i]
        op.aad = at + BEFORE - IPV4_AND_AH - raw.suite.iv_length
        op.aad_length = total - 8 if raw.suite.is_aead else total
        op.data = <uint8_t *> op.aad + total
        op.length = 0
        op.icv = at + BEFORE
        op.key = raw.key
        memset(op.nonce, 0, 16)
        memcpy(op.nonce, &i, 4)
        at += stride_of(total)


cdef void take_icvs(RawBatch raw) noexcept:
    cdef uint32_t i
    for i in range(raw.n):
        memcpy(raw.icvs + i * MOST_ICV, raw.ops[i].icv, raw.suite.icv_length)
        memset(raw.ops[i].icv, 0, raw.suite.icv_length)
        raw.ops[i].icv = raw.icvs + i * MOST_ICV
