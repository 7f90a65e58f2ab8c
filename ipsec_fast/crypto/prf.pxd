# HMAC over parts, for compiled code of crypto: key and parts may lie in the arena.

cdef struct octets:
    const unsigned char *data
    size_t bytes

cdef const char *digest_of_prf(int prf_id) except NULL
cdef Py_ssize_t digest_bytes(const char *digest) noexcept nogil
cdef int hmac(const char *digest, octets key, const octets *parts, int n, unsigned char *out) except -1
