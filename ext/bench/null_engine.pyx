"""The engine `null`: leaves packets as they are, with an ICV of zeros that it does not look at. What remains is what I/O and headers cost.

Nothing of the gateway or the kernels knows it: its rows are there once a benchmark's process has called `register`. Called by null_gateway.py.
"""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memset

from ipsec_fast.dataplane.engine cimport crypto_op, engine_suite, find_suite, register_suite

from ipsec_fast.algorithms import esp_suite_names

cdef enum:
    MAX_ROWS = 256

cdef engine_suite rows[MAX_ROWS]
cdef bint registered = False
cdef uint8_t a_key


cdef void *key_new(const engine_suite *suite, const uint8_t *keymat, bint seal) noexcept nogil:
    return &a_key


cdef void key_free(void *key) noexcept nogil:
    pass


cdef void seal_ops(crypto_op *ops, uint32_t n) noexcept nogil:
    cdef uint32_t i
    for i in range(n):
        memset(ops[i].icv, 0, 8)  # the shortest there is
        ops[i].ok = 1


cdef void open_ops(crypto_op *ops, uint32_t n) noexcept nogil:
    cdef uint32_t i
    for i in range(n):
        ops[i].ok = 1


def register():
    """The engine `null` for every ESP algorithm of this process, chosen by its name alone; no packet is protected by it."""
    global registered
    cdef uint32_t i
    if registered:
        return
    for i, name in enumerate(esp_suite_names()[:MAX_ROWS]):
        rows[i] = find_suite(name, "openssl")[0]
        rows[i].engine = b"null"
        rows[i].priority = -1000
        rows[i].key_new = key_new
        rows[i].key_free = key_free
        rows[i].seal = seal_ops
        rows[i].open = open_ops
        register_suite(&rows[i])
    registered = True
