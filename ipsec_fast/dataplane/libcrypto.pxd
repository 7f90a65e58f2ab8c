# What we call of libcrypto, declared once for the files of the OpenSSL engine.

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t


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
    int EVP_CIPHER_CTX_set_params(EVP_CIPHER_CTX *ctx, const OSSL_PARAM *params) noexcept
    int EVP_EncryptInit_ex2(EVP_CIPHER_CTX *ctx, const EVP_CIPHER *c, const uint8_t *k, const uint8_t *iv, const OSSL_PARAM *p) noexcept
    int EVP_EncryptUpdate(EVP_CIPHER_CTX *ctx, uint8_t *out, int *written, const uint8_t *data, int length) noexcept
    int EVP_EncryptFinal_ex(EVP_CIPHER_CTX *ctx, uint8_t *out, int *written) noexcept
    int EVP_DecryptInit_ex2(EVP_CIPHER_CTX *ctx, const EVP_CIPHER *c, const uint8_t *k, const uint8_t *iv, const OSSL_PARAM *p) noexcept
    int EVP_DecryptUpdate(EVP_CIPHER_CTX *ctx, uint8_t *out, int *written, const uint8_t *data, int length) noexcept
    int EVP_DecryptFinal_ex(EVP_CIPHER_CTX *ctx, uint8_t *out, int *written) noexcept

cdef extern from "openssl/params.h" nogil:
    OSSL_PARAM OSSL_PARAM_construct_octet_string(const char *key, void *data, size_t size) noexcept
    OSSL_PARAM OSSL_PARAM_construct_size_t(const char *key, size_t *value) noexcept
    OSSL_PARAM OSSL_PARAM_construct_end() noexcept

# the low-level hashes: deprecated, and a fifth faster than anything else for an HMAC from two kept states
cdef extern from "openssl/sha.h" nogil:
    ctypedef struct SHA_CTX:
        pass
    ctypedef struct SHA256_CTX:
        pass
    ctypedef struct SHA512_CTX:
        pass
    int SHA1_Init(SHA_CTX *ctx) noexcept
    int SHA1_Update(SHA_CTX *ctx, const void *data, size_t length) noexcept
    int SHA1_Final(uint8_t *digest, SHA_CTX *ctx) noexcept
    int SHA256_Init(SHA256_CTX *ctx) noexcept
    int SHA256_Update(SHA256_CTX *ctx, const void *data, size_t length) noexcept
    int SHA256_Final(uint8_t *digest, SHA256_CTX *ctx) noexcept
    int SHA384_Init(SHA512_CTX *ctx) noexcept
    int SHA512_Init(SHA512_CTX *ctx) noexcept
    int SHA512_Update(SHA512_CTX *ctx, const void *data, size_t length) noexcept
    int SHA512_Final(uint8_t *digest, SHA512_CTX *ctx) noexcept

cdef extern from "openssl/crypto.h" nogil:
    void *OPENSSL_zalloc(size_t length) noexcept
    void OPENSSL_clear_free(void *p, size_t length) noexcept
    void OPENSSL_cleanse(void *p, size_t length) noexcept
    const char *OpenSSL_version(int what) noexcept
    int CRYPTO_memcmp(const void *a, const void *b, size_t length) noexcept

cdef extern from "openssl/rand.h" nogil:
    int RAND_priv_bytes(uint8_t *out, int length) noexcept
