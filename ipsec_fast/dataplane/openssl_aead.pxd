# The AEAD half of the OpenSSL engine; openssl.pyx registers it.

from libc.stdint cimport uint8_t, uint32_t

from ipsec_fast.dataplane.engine cimport crypto_op, engine_suite

cdef void *aead_key_new(const engine_suite *suite, const uint8_t *keymat, bint seal) noexcept nogil
cdef void *ccm_key_new(const engine_suite *suite, const uint8_t *keymat, bint seal) noexcept nogil
cdef void aead_key_free(void *key) noexcept nogil
cdef void aead_seal(crypto_op *ops, uint32_t n) noexcept nogil
cdef void aead_open(crypto_op *ops, uint32_t n) noexcept nogil
cdef void gmac_seal(crypto_op *ops, uint32_t n) noexcept nogil
cdef void gmac_open(crypto_op *ops, uint32_t n) noexcept nogil
cdef void ccm_seal(crypto_op *ops, uint32_t n) noexcept nogil
cdef void ccm_open(crypto_op *ops, uint32_t n) noexcept nogil
