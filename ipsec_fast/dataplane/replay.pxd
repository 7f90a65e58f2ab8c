# Anti-replay window (RFC 4303 section 3.4.3, RFC 6479 blocks): a face on ext/include/replay.h for tests. Kernels include the header themselves.

cdef class ReplayWindow:
    cdef void *window
