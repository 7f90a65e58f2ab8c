"""A cipher and a MAC apart, on OpenSSL: AES-CBC (RFC 3602), AES-CTR (RFC 3686) or NULL, with HMAC-SHA1/SHA2 (RFC 2404, 4868), AES-XCBC (RFC 3566)
or AES-CMAC (RFC 4494).

An HMAC starts from copies of two keyed hash states; XCBC and CMAC are one CBC chain whose last block is masked. The MAC is checked before anything is
decrypted. Left out: the AEAD modes (openssl_aead.pyx). Called by: openssl.pyx, which registers these for its suites.
"""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy, memset

from ipsec_fast.dataplane.engine cimport crypto_op, engine_suite
from ipsec_fast.dataplane.libcrypto cimport *


cdef enum:
    SCRATCH = 2048           # what a CBC chain puts out and nobody reads

cdef union hash_state:
    SHA_CTX sha1
    SHA256_CTX sha256
    SHA512_CTX sha512

cdef struct combined_key:
    EVP_CIPHER_CTX *cipher   # NULL for NULL encryption
    EVP_CIPHER_CTX *chain    # XCBC, CMAC
    uint32_t mode
    uint32_t mac
    uint32_t icv_length
    hash_state inner
    hash_state outer
    uint8_t whole[16]        # masks of the last block of a chain: where it is whole, where it was filled up
    uint8_t filled[16]


cdef void *combined_key_new(const engine_suite *suite, const uint8_t *keymat, bint seal) noexcept nogil:
    cdef combined_key *key = <combined_key *> OPENSSL_zalloc(sizeof(combined_key))
    cdef const uint8_t *mac_key = keymat + suite.key_length + suite.salt_length
    cdef int ok = 1
    if key == NULL:
        return NULL
    key.mode, key.mac, key.icv_length = suite.mode, suite.mac, suite.icv_length
    if key.mode != MODE_NULL:
        key.cipher = EVP_CIPHER_CTX_new()
        ok = key.cipher != NULL and suite.cipher != NULL
        if ok and (seal or key.mode == MODE_CTR):
            ok = EVP_EncryptInit_ex2(key.cipher, <const EVP_CIPHER *> suite.cipher, keymat, NULL, NULL)
        elif ok:
            ok = EVP_DecryptInit_ex2(key.cipher, <const EVP_CIPHER *> suite.cipher, keymat, NULL, NULL)
        ok = ok > 0 and EVP_CIPHER_CTX_set_padding(key.cipher, 0) > 0
    if ok and (key.mac == MAC_XCBC or key.mac == MAC_CMAC):
        ok = chain_key(key, <const EVP_CIPHER *> suite.mac_cipher, mac_key)
    elif ok:
        hmac_states(key, mac_key, suite.mac_key_length)
    if not ok:
        combined_key_free(key)
        return NULL
    return key


cdef void combined_key_free(void *p) noexcept nogil:
    cdef combined_key *key = <combined_key *> p
    if key != NULL:
        EVP_CIPHER_CTX_free(key.cipher)
        EVP_CIPHER_CTX_free(key.chain)
        OPENSSL_clear_free(key, sizeof(combined_key))


# --- HMAC (RFC 2104) ---------------------------------------------------------------------------------------------------------------------------------

cdef inline uint32_t hash_block(uint32_t mac) noexcept nogil:
    return 128 if mac == MAC_SHA384 or mac == MAC_SHA512 else 64


cdef inline uint32_t hash_length(uint32_t mac) noexcept nogil:
    if mac == MAC_SHA1:
        return 20
    return 32 if mac == MAC_SHA256 else 48 if mac == MAC_SHA384 else 64


cdef inline void hash_init(uint32_t mac, hash_state *state) noexcept nogil:
    if mac == MAC_SHA1:
        SHA1_Init(&state.sha1)
    elif mac == MAC_SHA256:
        SHA256_Init(&state.sha256)
    elif mac == MAC_SHA384:
        SHA384_Init(&state.sha512)
    else:
        SHA512_Init(&state.sha512)


cdef inline void hash_update(uint32_t mac, hash_state *state, const uint8_t *data, uint32_t length) noexcept nogil:
    if mac == MAC_SHA1:
        SHA1_Update(&state.sha1, data, length)
    elif mac == MAC_SHA256:
        SHA256_Update(&state.sha256, data, length)
    else:
        SHA512_Update(&state.sha512, data, length)


cdef inline void hash_final(uint32_t mac, hash_state *state, uint8_t *digest) noexcept nogil:
    if mac == MAC_SHA1:
        SHA1_Final(digest, &state.sha1)
    elif mac == MAC_SHA256:
        SHA256_Final(digest, &state.sha256)
    else:
        SHA512_Final(digest, &state.sha512)


cdef void hmac_states(combined_key *key, const uint8_t *secret, uint32_t length) noexcept nogil:
    # the keys of ESP are as long as the digest, so none is longer than a block
    cdef uint8_t pad[128]
    cdef uint32_t i, block = hash_block(key.mac)
    for i in range(block):
        pad[i] = (secret[i] if i < length else 0) ^ 0x36
    hash_init(key.mac, &key.inner)
    hash_update(key.mac, &key.inner, pad, block)
    for i in range(block):
        pad[i] ^= 0x36 ^ 0x5c
    hash_init(key.mac, &key.outer)
    hash_update(key.mac, &key.outer, pad, block)
    OPENSSL_cleanse(pad, 128)


cdef inline void hmac(uint32_t mac, const combined_key *key, const crypto_op *op, uint8_t *digest) noexcept nogil:
    cdef hash_state state
    # only what the hash needs is copied: 96, 112 or 216 bytes
    copy_state(mac, &state, &key.inner)
    hash_update(mac, &state, op.aad, op.aad_length)
    if op.tail_length:
        hash_update(mac, &state, op.tail, op.tail_length)
    hash_final(mac, &state, digest)
    copy_state(mac, &state, &key.outer)
    hash_update(mac, &state, digest, hash_length(mac))
    hash_final(mac, &state, digest)


cdef inline void copy_state(uint32_t mac, hash_state *to, const hash_state *source) noexcept nogil:
    if mac == MAC_SHA1:
        to.sha1 = source.sha1
    elif mac == MAC_SHA256:
        to.sha256 = source.sha256
    else:
        to.sha512 = source.sha512


# --- AES-XCBC and AES-CMAC ---------------------------------------------------------------------------------------------------------------------------

cdef inline void double_block(const uint8_t *block, uint8_t *out) noexcept nogil:
    # multiplication by x in GF(2^128), RFC 4493 section 2.3, without a branch on the key
    cdef int i
    cdef uint8_t carry = block[0] >> 7
    for i in range(15):
        out[i] = <uint8_t> (block[i] << 1) | (block[i + 1] >> 7)
    out[15] = <uint8_t> (block[15] << 1) ^ <uint8_t> ((0 - carry) & 0x87)


cdef int encrypt_block(EVP_CIPHER_CTX *ctx, const EVP_CIPHER *cipher, const uint8_t *secret, uint8_t value, uint8_t *out) noexcept nogil:
    # one block of equal bytes, chained from zeros
    cdef uint8_t zeros[16]
    cdef int written
    memset(zeros, 0, 16)
    memset(out, value, 16)
    return (
        EVP_EncryptInit_ex2(ctx, cipher, secret, zeros, NULL) > 0
        and EVP_CIPHER_CTX_set_padding(ctx, 0) > 0
        and EVP_EncryptUpdate(ctx, out, &written, out, 16) > 0
    )


cdef int chain_key(combined_key *key, const EVP_CIPHER *cipher, const uint8_t *secret) noexcept nogil:
    cdef uint8_t first[16]
    cdef int ok
    key.chain = EVP_CIPHER_CTX_new()
    if key.chain == NULL or cipher == NULL:
        return 0
    if key.mac == MAC_XCBC:
        ok = (
            encrypt_block(key.chain, cipher, secret, 2, key.whole)
            and encrypt_block(key.chain, cipher, secret, 3, key.filled)
            and encrypt_block(key.chain, cipher, secret, 1, first)
            and EVP_EncryptInit_ex2(key.chain, cipher, first, NULL, NULL) > 0
        )
    else:
        ok = encrypt_block(key.chain, cipher, secret, 0, first)
        double_block(first, key.whole)
        double_block(key.whole, key.filled)
    OPENSSL_cleanse(first, 16)
    return ok and EVP_CIPHER_CTX_set_padding(key.chain, 0) > 0


cdef inline int chained_mac(combined_key *key, const crypto_op *op, uint8_t *digest) noexcept nogil:
    cdef uint8_t scratch[SCRATCH]
    cdef uint8_t rest[48]
    cdef uint8_t zeros[16]
    cdef uint32_t head = op.aad_length & ~<uint32_t> 15, done = 0, count, left, i
    cdef const uint8_t *mask
    cdef int written
    if head == op.aad_length and op.tail_length == 0 and head:
        head -= 16  # the last block is masked, so it is kept back
    memset(zeros, 0, 16)
    if EVP_EncryptInit_ex2(key.chain, NULL, NULL, zeros, NULL) <= 0:
        return 0
    while done < head:
        count = head - done if head - done < SCRATCH else SCRATCH
        if EVP_EncryptUpdate(key.chain, scratch, &written, op.aad + done, <int> count) <= 0:
            return 0
        done += count
    left = op.aad_length - head
    memcpy(rest, op.aad + head, left)
    memcpy(rest + left, op.tail, op.tail_length)
    left += op.tail_length
    if left > 16:
        if EVP_EncryptUpdate(key.chain, scratch, &written, rest, 16) <= 0:
            return 0
        left -= 16
        memcpy(rest, rest + 16, left)
    mask = key.whole
    if left < 16:
        rest[left] = 0x80
        memset(rest + left + 1, 0, 15 - left)
        mask = key.filled
    for i in range(16):
        rest[i] ^= mask[i]
    return EVP_EncryptUpdate(key.chain, digest, &written, rest, 16) > 0


# --- cipher and MAC --------------------------------------------------------------------------------------------------------------------------------

cdef inline int make_mac(combined_key *key, const crypto_op *op, uint8_t *digest) noexcept nogil:
    # a constant in each branch, so that each hash gets a body of its own
    if key.mac == MAC_SHA256:
        hmac(MAC_SHA256, key, op, digest)
    elif key.mac == MAC_SHA1:
        hmac(MAC_SHA1, key, op, digest)
    elif key.mac == MAC_SHA384:
        hmac(MAC_SHA384, key, op, digest)
    elif key.mac == MAC_SHA512:
        hmac(MAC_SHA512, key, op, digest)
    else:
        return chained_mac(key, op, digest)
    return 1


cdef inline void counter_block(crypto_op *op) noexcept nogil:
    # nonce, IV, and a block counter that starts at 1 (RFC 3686 section 4)
    op.nonce[12] = op.nonce[13] = op.nonce[14] = 0
    op.nonce[15] = 1


cdef void combined_seal(crypto_op *ops, uint32_t n) noexcept nogil:
    cdef uint32_t i
    cdef int written
    cdef uint8_t digest[64]
    cdef crypto_op *op
    cdef combined_key *key
    for i in range(n):
        op = &ops[i]
        key = <combined_key *> op.key
        op.ok = 1
        if key.mode != MODE_NULL:
            if key.mode == MODE_CTR:
                counter_block(op)
            op.ok = (
                EVP_EncryptInit_ex2(key.cipher, NULL, NULL, op.nonce, NULL) > 0
                and EVP_EncryptUpdate(key.cipher, op.data, &written, op.data, <int> op.length) > 0
                and <uint32_t> written == op.length
            )
        op.ok = op.ok and make_mac(key, op, digest)
        memcpy(op.icv, digest, key.icv_length)


cdef void combined_open(crypto_op *ops, uint32_t n) noexcept nogil:
    # the MAC first: nothing that is not authentic is decrypted
    cdef uint32_t i
    cdef int written
    cdef uint8_t digest[64]
    cdef crypto_op *op
    cdef combined_key *key
    for i in range(n):
        op = &ops[i]
        key = <combined_key *> op.key
        op.ok = make_mac(key, op, digest) and CRYPTO_memcmp(digest, op.icv, key.icv_length) == 0
        if not op.ok or key.mode == MODE_NULL:
            continue
        if key.mode == MODE_CTR:
            counter_block(op)
            op.ok = EVP_EncryptInit_ex2(key.cipher, NULL, NULL, op.nonce, NULL) > 0 and (
                EVP_EncryptUpdate(key.cipher, op.data, &written, op.data, <int> op.length) > 0
            )
        else:
            op.ok = EVP_DecryptInit_ex2(key.cipher, NULL, NULL, op.nonce, NULL) > 0 and (
                EVP_DecryptUpdate(key.cipher, op.data, &written, op.data, <int> op.length) > 0
            )
        op.ok = op.ok and <uint32_t> written == op.length
