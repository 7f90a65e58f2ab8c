# The cipher-and-MAC half of the OpenSSL engine; openssl.pyx registers it.

from libc.stdint cimport uint8_t, uint32_t

from ipsec_fast.dataplane.engine cimport crypto_op, engine_suite

cdef enum:
    MODE_CBC = 1
    MODE_CTR
    MODE_NULL

cdef enum:
    MAC_SHA1 = 1
    MAC_SHA256
    MAC_SHA384
    MAC_SHA512
    MAC_XCBC
    MAC_CMAC

cdef void *combined_key_new(const engine_suite *suite, const uint8_t *keymat, bint seal) noexcept nogil
cdef void combined_key_free(void *key) noexcept nogil
cdef void combined_seal(crypto_op *ops, uint32_t n) noexcept nogil
cdef void combined_open(crypto_op *ops, uint32_t n) noexcept nogil
