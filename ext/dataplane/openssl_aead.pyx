"""AEAD on OpenSSL: AES-GCM (RFC 4106), ChaCha20-Poly1305 (RFC 7634), AES-CCM (RFC 4309), AES-GMAC over NULL (RFC 4543).

EVP contexts are keyed once per SA and re-armed by EVP_*Init_ex2 with the nonce alone, tags travel through parameters: the sequence that measured
best. A tag shorter than 16 bytes is the whole one, cut. Called by: openssl.pyx, which registers these for its suites.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t

from ipsec_fast.dataplane.engine cimport crypto_op, engine_suite
from ipsec_fast.dataplane.libcrypto cimport *


cdef struct aead_key:
    EVP_CIPHER_CTX *ctx
    OSSL_PARAM tag[2]


cdef void *aead_key_new(const engine_suite *suite, const uint8_t *keymat, bint seal) noexcept nogil:
    cdef aead_key *key = <aead_key *> OPENSSL_zalloc(sizeof(aead_key))
    cdef const EVP_CIPHER *cipher = <const EVP_CIPHER *> suite.cipher
    cdef OSSL_PARAM params[3]
    cdef size_t nonce_length = suite.salt_length + 8
    cdef int ok
    if key == NULL:
        return NULL
    key.ctx = EVP_CIPHER_CTX_new()
    key.tag[0] = OSSL_PARAM_construct_octet_string("tag", NULL, suite.icv_length)
    key.tag[1] = OSSL_PARAM_construct_end()
    ok = key.ctx != NULL and cipher != NULL
    if ok and suite.key_new == ccm_key_new:
        # CCM wants the lengths of nonce and tag before the key; the tag's bytes come with each packet
        params[0] = OSSL_PARAM_construct_size_t("ivlen", &nonce_length)
        params[1] = OSSL_PARAM_construct_octet_string("tag", NULL, suite.icv_length)
        params[2] = OSSL_PARAM_construct_end()
        if seal:
            ok = EVP_EncryptInit_ex2(key.ctx, cipher, NULL, NULL, params) and EVP_EncryptInit_ex2(key.ctx, NULL, keymat, NULL, NULL)
        else:
            ok = EVP_DecryptInit_ex2(key.ctx, cipher, NULL, NULL, params) and EVP_DecryptInit_ex2(key.ctx, NULL, keymat, NULL, NULL)
    elif ok and seal:
        ok = EVP_EncryptInit_ex2(key.ctx, cipher, keymat, NULL, NULL)
    elif ok:
        ok = EVP_DecryptInit_ex2(key.ctx, cipher, keymat, NULL, NULL)
    if ok <= 0:
        aead_key_free(key)
        return NULL
    return key


cdef void *ccm_key_new(const engine_suite *suite, const uint8_t *keymat, bint seal) noexcept nogil:
    return aead_key_new(suite, keymat, seal)


cdef void aead_key_free(void *key) noexcept nogil:
    if key != NULL:
        EVP_CIPHER_CTX_free((<aead_key *> key).ctx)  # wipes the expanded key
        OPENSSL_clear_free(key, sizeof(aead_key))


# --- GCM and ChaCha20-Poly1305: the same sequence ------------------------------------------------------------------------------------------------

cdef void aead_seal(crypto_op *ops, uint32_t n) noexcept nogil:
    cdef uint32_t i
    cdef int written
    cdef crypto_op *op
    cdef aead_key *key
    for i in range(n):
        op = &ops[i]
        key = <aead_key *> op.key
        key.tag[0].data = op.icv
        op.ok = (
            EVP_EncryptInit_ex2(key.ctx, NULL, NULL, op.nonce, NULL) > 0
            and EVP_EncryptUpdate(key.ctx, NULL, &written, op.aad, <int> op.aad_length) > 0
            and EVP_EncryptUpdate(key.ctx, op.data, &written, op.data, <int> op.length) > 0
            and EVP_EncryptFinal_ex(key.ctx, op.icv, &written) > 0
            and EVP_CIPHER_CTX_get_params(key.ctx, key.tag) > 0
        )


cdef void aead_open(crypto_op *ops, uint32_t n) noexcept nogil:
    cdef uint32_t i
    cdef int written
    cdef crypto_op *op
    cdef aead_key *key
    for i in range(n):
        op = &ops[i]
        key = <aead_key *> op.key
        key.tag[0].data = op.icv
        op.ok = (
            EVP_DecryptInit_ex2(key.ctx, NULL, NULL, op.nonce, key.tag) > 0
            and EVP_DecryptUpdate(key.ctx, NULL, &written, op.aad, <int> op.aad_length) > 0
            and EVP_DecryptUpdate(key.ctx, op.data, &written, op.data, <int> op.length) > 0
            and EVP_DecryptFinal_ex(key.ctx, op.icv, &written) > 0
        )


# --- GMAC: the payload is authenticated where it stands, behind the IV; nothing is encrypted ------------------------------------------------------

cdef void gmac_seal(crypto_op *ops, uint32_t n) noexcept nogil:
    cdef uint32_t i
    cdef int written
    cdef crypto_op *op
    cdef aead_key *key
    for i in range(n):
        op = &ops[i]
        key = <aead_key *> op.key
        key.tag[0].data = op.icv
        op.ok = (
            EVP_EncryptInit_ex2(key.ctx, NULL, NULL, op.nonce, NULL) > 0
            and EVP_EncryptUpdate(key.ctx, NULL, &written, op.aad, <int> op.aad_length) > 0
            and EVP_EncryptUpdate(key.ctx, NULL, &written, op.data - 8, <int> op.length + 8) > 0
            and (op.tail_length == 0 or EVP_EncryptUpdate(key.ctx, NULL, &written, op.tail, <int> op.tail_length) > 0)
            and EVP_EncryptFinal_ex(key.ctx, op.icv, &written) > 0
            and EVP_CIPHER_CTX_get_params(key.ctx, key.tag) > 0
        )


cdef void gmac_open(crypto_op *ops, uint32_t n) noexcept nogil:
    cdef uint32_t i
    cdef int written
    cdef uint8_t nothing[16]
    cdef crypto_op *op
    cdef aead_key *key
    for i in range(n):
        op = &ops[i]
        key = <aead_key *> op.key
        key.tag[0].data = op.icv
        op.ok = (
            EVP_DecryptInit_ex2(key.ctx, NULL, NULL, op.nonce, key.tag) > 0
            and EVP_DecryptUpdate(key.ctx, NULL, &written, op.aad, <int> op.aad_length) > 0
            and EVP_DecryptUpdate(key.ctx, NULL, &written, op.data - 8, <int> op.length + 8) > 0
            and (op.tail_length == 0 or EVP_DecryptUpdate(key.ctx, NULL, &written, op.tail, <int> op.tail_length) > 0)
            and EVP_DecryptFinal_ex(key.ctx, nothing, &written) > 0
        )


# --- CCM: the length first, then AAD, then everything in one call; its tag is checked by that call -------------------------------------------------

cdef void ccm_seal(crypto_op *ops, uint32_t n) noexcept nogil:
    cdef uint32_t i
    cdef int written
    cdef crypto_op *op
    cdef aead_key *key
    for i in range(n):
        op = &ops[i]
        key = <aead_key *> op.key
        key.tag[0].data = op.icv
        op.ok = (
            EVP_EncryptInit_ex2(key.ctx, NULL, NULL, op.nonce, NULL) > 0
            and EVP_EncryptUpdate(key.ctx, NULL, &written, NULL, <int> op.length) > 0
            and EVP_EncryptUpdate(key.ctx, NULL, &written, op.aad, <int> op.aad_length) > 0
            and EVP_EncryptUpdate(key.ctx, op.data, &written, op.data, <int> op.length) > 0
            and EVP_CIPHER_CTX_get_params(key.ctx, key.tag) > 0
        )


cdef void ccm_open(crypto_op *ops, uint32_t n) noexcept nogil:
    cdef uint32_t i
    cdef int written
    cdef crypto_op *op
    cdef aead_key *key
    for i in range(n):
        op = &ops[i]
        key = <aead_key *> op.key
        key.tag[0].data = op.icv
        op.ok = (
            EVP_CIPHER_CTX_set_params(key.ctx, key.tag) > 0
            and EVP_DecryptInit_ex2(key.ctx, NULL, NULL, op.nonce, NULL) > 0
            and EVP_DecryptUpdate(key.ctx, NULL, &written, NULL, <int> op.length) > 0
            and EVP_DecryptUpdate(key.ctx, NULL, &written, op.aad, <int> op.aad_length) > 0
            and EVP_DecryptUpdate(key.ctx, op.data, &written, op.data, <int> op.length) > 0
        )
