"""The required engine: OpenSSL 3, AES-GCM (RFC 4106) and AES-CBC (RFC 3602) with HMAC-SHA2-256-128 (RFC 4868), and IVs for CBC.

The call sequences are the ones that measured best: EVP contexts keyed once per SA, re-armed by EVP_*Init_ex2 with the IV alone, tags through
parameters; HMAC from copies of the two keyed SHA-256 states (the low-level API, deprecated but a fifth faster than anything else). A key belongs
to one SA and one thread at a time. Called by: the kernels, through engine.pyx.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memset

from ipsec_fast.algorithms import esp_suite
from ipsec_fast.dataplane.engine cimport crypto_op, engine_suite, register_suite


cdef extern from *:
    """
    #define OPENSSL_SUPPRESS_DEPRECATED
    """

cdef extern from "openssl/evp.h" nogil:
    ctypedef struct OSSL_PARAM:
        void *data
    ctypedef struct EVP_CIPHER:
        pass
    ctypedef struct EVP_CIPHER_CTX:
        pass
    EVP_CIPHER *EVP_CIPHER_fetch(void *library, const char *name, const char *properties) noexcept
    EVP_CIPHER_CTX *EVP_CIPHER_CTX_new() noexcept
    void EVP_CIPHER_CTX_free(EVP_CIPHER_CTX *ctx) noexcept
    int EVP_CIPHER_CTX_set_padding(EVP_CIPHER_CTX *ctx, int padding) noexcept
    int EVP_CIPHER_CTX_get_params(EVP_CIPHER_CTX *ctx, OSSL_PARAM *params) noexcept
    int EVP_EncryptInit_ex2(EVP_CIPHER_CTX *ctx, const EVP_CIPHER *c, const uint8_t *k, const uint8_t *iv, const OSSL_PARAM *p) noexcept
    int EVP_EncryptUpdate(EVP_CIPHER_CTX *ctx, uint8_t *out, int *written, const uint8_t *data, int length) noexcept
    int EVP_EncryptFinal_ex(EVP_CIPHER_CTX *ctx, uint8_t *out, int *written) noexcept
    int EVP_DecryptInit_ex2(EVP_CIPHER_CTX *ctx, const EVP_CIPHER *c, const uint8_t *k, const uint8_t *iv, const OSSL_PARAM *p) noexcept
    int EVP_DecryptUpdate(EVP_CIPHER_CTX *ctx, uint8_t *out, int *written, const uint8_t *data, int length) noexcept
    int EVP_DecryptFinal_ex(EVP_CIPHER_CTX *ctx, uint8_t *out, int *written) noexcept

cdef extern from "openssl/params.h" nogil:
    OSSL_PARAM OSSL_PARAM_construct_octet_string(const char *key, void *data, size_t size) noexcept
    OSSL_PARAM OSSL_PARAM_construct_end() noexcept

cdef extern from "openssl/sha.h" nogil:
    ctypedef struct SHA256_CTX:
        pass
    int SHA256_Init(SHA256_CTX *ctx) noexcept
    int SHA256_Update(SHA256_CTX *ctx, const void *data, size_t length) noexcept
    int SHA256_Final(uint8_t *digest, SHA256_CTX *ctx) noexcept

cdef extern from "openssl/crypto.h" nogil:
    void *OPENSSL_zalloc(size_t length) noexcept
    void OPENSSL_clear_free(void *p, size_t length) noexcept
    void OPENSSL_cleanse(void *p, size_t length) noexcept
    const char *OpenSSL_version(int what) noexcept
    int CRYPTO_memcmp(const void *a, const void *b, size_t length) noexcept

cdef extern from "openssl/rand.h" nogil:
    int RAND_priv_bytes(uint8_t *out, int length) noexcept


cdef EVP_CIPHER *aes128_gcm = EVP_CIPHER_fetch(NULL, "AES-128-GCM", NULL)
cdef EVP_CIPHER *aes256_gcm = EVP_CIPHER_fetch(NULL, "AES-256-GCM", NULL)
cdef EVP_CIPHER *aes128_cbc = EVP_CIPHER_fetch(NULL, "AES-128-CBC", NULL)
cdef EVP_CIPHER *aes256_cbc = EVP_CIPHER_fetch(NULL, "AES-256-CBC", NULL)
cdef EVP_CIPHER *aes256_ctr = EVP_CIPHER_fetch(NULL, "AES-256-CTR", NULL)


# --- AES-GCM ---------------------------------------------------------------------------------------------------------------------------------

cdef struct gcm_key:
    EVP_CIPHER_CTX *ctx
    OSSL_PARAM tag[2]


cdef void *gcm_key_new(const EVP_CIPHER *cipher, const uint8_t *keymat, bint seal) noexcept nogil:
    cdef gcm_key *key = <gcm_key *> OPENSSL_zalloc(sizeof(gcm_key))
    cdef int ok
    if key == NULL:
        return NULL
    key.ctx = EVP_CIPHER_CTX_new()
    key.tag[0] = OSSL_PARAM_construct_octet_string("tag", NULL, 16)
    key.tag[1] = OSSL_PARAM_construct_end()
    ok = key.ctx != NULL and cipher != NULL
    if ok and seal:
        ok = EVP_EncryptInit_ex2(key.ctx, cipher, keymat, NULL, NULL)
    elif ok:
        ok = EVP_DecryptInit_ex2(key.ctx, cipher, keymat, NULL, NULL)
    if not ok:
        gcm_key_free(key)
        return NULL
    return key

cdef void *gcm128_key_new(const uint8_t *keymat, bint seal) noexcept nogil:
    return gcm_key_new(aes128_gcm, keymat, seal)

cdef void *gcm256_key_new(const uint8_t *keymat, bint seal) noexcept nogil:
    return gcm_key_new(aes256_gcm, keymat, seal)

cdef void gcm_key_free(void *key) noexcept nogil:
    if key != NULL:
        EVP_CIPHER_CTX_free((<gcm_key *> key).ctx)  # wipes the expanded key
        OPENSSL_clear_free(key, sizeof(gcm_key))


cdef void gcm_seal(crypto_op *ops, uint32_t n) noexcept nogil:
    cdef uint32_t i
    cdef int written
    cdef crypto_op *op
    cdef gcm_key *key
    for i in range(n):
        op = &ops[i]
        key = <gcm_key *> op.key
        key.tag[0].data = op.icv
        op.ok = (
            EVP_EncryptInit_ex2(key.ctx, NULL, NULL, op.nonce, NULL) > 0
            and EVP_EncryptUpdate(key.ctx, NULL, &written, op.aad, <int> op.aad_length) > 0
            and EVP_EncryptUpdate(key.ctx, op.data, &written, op.data, <int> op.length) > 0
            and EVP_EncryptFinal_ex(key.ctx, op.icv, &written) > 0
            and EVP_CIPHER_CTX_get_params(key.ctx, key.tag) > 0
        )


cdef void gcm_open(crypto_op *ops, uint32_t n) noexcept nogil:
    cdef uint32_t i
    cdef int written
    cdef crypto_op *op
    cdef gcm_key *key
    for i in range(n):
        op = &ops[i]
        key = <gcm_key *> op.key
        key.tag[0].data = op.icv
        op.ok = (
            EVP_DecryptInit_ex2(key.ctx, NULL, NULL, op.nonce, key.tag) > 0
            and EVP_DecryptUpdate(key.ctx, NULL, &written, op.aad, <int> op.aad_length) > 0
            and EVP_DecryptUpdate(key.ctx, op.data, &written, op.data, <int> op.length) > 0
            and EVP_DecryptFinal_ex(key.ctx, op.icv, &written) > 0
        )


# --- AES-CBC with HMAC-SHA2-256-128 ------------------------------------------------------------------------------------------------------------

cdef struct cbc_key:
    EVP_CIPHER_CTX *ctx
    SHA256_CTX inner
    SHA256_CTX outer


cdef void hmac_states(cbc_key *key, const uint8_t *secret) noexcept nogil:
    cdef uint8_t pad[64]
    cdef int i
    for i in range(64):
        pad[i] = (secret[i] if i < 32 else 0) ^ 0x36
    SHA256_Init(&key.inner)
    SHA256_Update(&key.inner, pad, 64)
    for i in range(64):
        pad[i] ^= 0x36 ^ 0x5c
    SHA256_Init(&key.outer)
    SHA256_Update(&key.outer, pad, 64)
    OPENSSL_cleanse(pad, 64)


cdef void *cbc_key_new(const EVP_CIPHER *cipher, uint32_t key_length, const uint8_t *keymat, bint seal) noexcept nogil:
    cdef cbc_key *key = <cbc_key *> OPENSSL_zalloc(sizeof(cbc_key))
    cdef int ok
    if key == NULL:
        return NULL
    key.ctx = EVP_CIPHER_CTX_new()
    ok = key.ctx != NULL and cipher != NULL
    if ok and seal:
        ok = EVP_EncryptInit_ex2(key.ctx, cipher, keymat, NULL, NULL)
    elif ok:
        ok = EVP_DecryptInit_ex2(key.ctx, cipher, keymat, NULL, NULL)
    if not ok or not EVP_CIPHER_CTX_set_padding(key.ctx, 0):
        cbc_key_free(key)
        return NULL
    hmac_states(key, keymat + key_length)
    return key

cdef void *cbc128_key_new(const uint8_t *keymat, bint seal) noexcept nogil:
    return cbc_key_new(aes128_cbc, 16, keymat, seal)

cdef void *cbc256_key_new(const uint8_t *keymat, bint seal) noexcept nogil:
    return cbc_key_new(aes256_cbc, 32, keymat, seal)

cdef void cbc_key_free(void *key) noexcept nogil:
    if key != NULL:
        EVP_CIPHER_CTX_free((<cbc_key *> key).ctx)
        OPENSSL_clear_free(key, sizeof(cbc_key))


cdef inline void hmac(const cbc_key *key, const crypto_op *op, uint8_t *digest) noexcept nogil:
    cdef SHA256_CTX state = key.inner
    SHA256_Update(&state, op.aad, op.aad_length)
    if op.tail_length:
        SHA256_Update(&state, op.tail, op.tail_length)
    SHA256_Final(digest, &state)
    state = key.outer
    SHA256_Update(&state, digest, 32)
    SHA256_Final(digest, &state)


cdef void cbc_seal(crypto_op *ops, uint32_t n) noexcept nogil:
    cdef uint32_t i, j
    cdef int written
    cdef uint8_t digest[32]
    cdef crypto_op *op
    cdef cbc_key *key
    for i in range(n):
        op = &ops[i]
        key = <cbc_key *> op.key
        op.ok = (
            EVP_EncryptInit_ex2(key.ctx, NULL, NULL, op.nonce, NULL) > 0
            and EVP_EncryptUpdate(key.ctx, op.data, &written, op.data, <int> op.length) > 0
            and <uint32_t> written == op.length
        )
        hmac(key, op, digest)
        for j in range(16):
            op.icv[j] = digest[j]


cdef void cbc_open(crypto_op *ops, uint32_t n) noexcept nogil:
    # the MAC first: nothing that is not authentic is decrypted
    cdef uint32_t i
    cdef int written
    cdef uint8_t digest[32]
    cdef crypto_op *op
    cdef cbc_key *key
    for i in range(n):
        op = &ops[i]
        key = <cbc_key *> op.key
        hmac(key, op, digest)
        op.ok = (
            CRYPTO_memcmp(digest, op.icv, 16) == 0
            and EVP_DecryptInit_ex2(key.ctx, NULL, NULL, op.nonce, NULL) > 0
            and EVP_DecryptUpdate(key.ctx, op.data, &written, op.data, <int> op.length) > 0
            and <uint32_t> written == op.length
        )


# --- IVs -----------------------------------------------------------------------------------------------------------------------------------------

cdef struct iv_generator:
    EVP_CIPHER_CTX *ctx


cdef iv_generator *iv_generator_new() noexcept nogil:
    cdef uint8_t seed[48]
    cdef iv_generator *generator = <iv_generator *> OPENSSL_zalloc(sizeof(iv_generator))
    cdef int ok
    if generator == NULL:
        return NULL
    generator.ctx = EVP_CIPHER_CTX_new()
    ok = (
        generator.ctx != NULL
        and aes256_ctr != NULL
        and RAND_priv_bytes(seed, 48) > 0
        and EVP_EncryptInit_ex2(generator.ctx, aes256_ctr, seed, seed + 32, NULL) > 0
    )
    OPENSSL_cleanse(seed, 48)
    if not ok:
        iv_generator_free(generator)
        return NULL
    return generator


cdef void iv_generator_free(iv_generator *generator) noexcept nogil:
    if generator != NULL:
        EVP_CIPHER_CTX_free(generator.ctx)
        OPENSSL_clear_free(generator, sizeof(iv_generator))


cdef bint iv_generator_fill(iv_generator *generator, uint8_t *out, uint32_t length) noexcept nogil:
    cdef int written
    memset(out, 0, length)
    return EVP_EncryptUpdate(generator.ctx, out, &written, out, <int> length) > 0


# --- registration --------------------------------------------------------------------------------------------------------------------------------

cdef engine_suite suites[4]
_names = []  # keeps the C strings alive


cdef void fill_suite(engine_suite *suite, str name) except *:
    row = esp_suite(name)
    encoded = row.name.encode()
    _names.append(encoded)
    suite.engine = "openssl"
    suite.name = encoded
    suite.priority = 100
    suite.keymat_length = row.keymat_bytes
    suite.key_length = row.encryption.key_bytes
    suite.salt_length = row.encryption.salt_bytes
    suite.iv_length = row.encryption.iv_bytes
    suite.icv_length = row.icv_bytes
    suite.align = row.encryption.block_bytes
    suite.is_aead = row.encryption.is_aead


cdef void register_all() except *:
    cdef int i = 0
    for name, gcm, strong in (
        ("aes128gcm16", True, False), ("aes256gcm16", True, True), ("aes128-sha256", False, False), ("aes256-sha256", False, True),
    ):
        fill_suite(&suites[i], name)
        if gcm:
            suites[i].key_new = gcm256_key_new if strong else gcm128_key_new
            suites[i].key_free, suites[i].seal, suites[i].open = gcm_key_free, gcm_seal, gcm_open
        else:
            suites[i].key_new = cbc256_key_new if strong else cbc128_key_new
            suites[i].key_free, suites[i].seal, suites[i].open = cbc_key_free, cbc_seal, cbc_open
        register_suite(&suites[i])
        i += 1


register_all()


def library_version() -> str:
    """`OpenSSL 3.0.22 25 Aug 2026`, of the library that is loaded."""
    return OpenSSL_version(0).decode()
