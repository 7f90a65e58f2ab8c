# The required engine registers itself at import; its IV generator is for the kernels.

from libc.stdint cimport uint8_t, uint32_t


# Unpredictable IVs for CBC (RFC 3602 section 3): the keystream of AES-CTR under a random key of this generator's own. One thread. In a child of fork it
# takes another key; a holder of its keystream must check fork_count (forks.pxd).
cdef struct iv_generator
cdef iv_generator *iv_generator_new() noexcept nogil
cdef void iv_generator_free(iv_generator *generator) noexcept nogil
cdef bint iv_generator_fill(iv_generator *generator, uint8_t *out, uint32_t length) noexcept nogil
