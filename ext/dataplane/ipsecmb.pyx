"""The optional engine: Intel ipsec-mb. AES-GCM and GMAC by its direct calls; ChaCha20-Poly1305 and CCM by its jobs; CBC, CTR and HMAC in bursts of a
cipher, then of a hash; XCBC and CMAC by its jobs.

Where setup.py finds no library this module is not built, and where the library is gone it does not import; engine.pyx goes on without it. The AEADs but
CCM win with every number of packets where the processor has AVX2. Hashes and CBC encryption need many packets at once: `auto` picks what stands here as
"ipsecmb+openssl", which goes by the number of packets of each call (imb_plan in imb_glue.h): ipsec-mb's wide manager for many, its narrow one for few,
libcrypto where one is left. A tag is computed aside and compared in constant time. Keys are only read, but the EVP context of a CBC key of that kind.
Called by: the kernels, through engine.pyx.
"""

import os

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from ipsec_fast.algorithms import Mode, esp_suite, esp_suite_names
from ipsec_fast.errors import UsageError
from ipsec_fast.dataplane.engine cimport IV_NONE, IV_RANDOM, IV_SEQUENCE, crypto_op, engine_suite, register_suite
from ipsec_fast.dataplane.libcrypto cimport (
    CRYPTO_memcmp, EVP_CIPHER, EVP_CIPHER_CTX, EVP_CIPHER_CTX_free, EVP_CIPHER_CTX_new, EVP_CIPHER_CTX_set_padding, EVP_CIPHER_fetch,
    EVP_EncryptInit_ex2, EVP_EncryptUpdate,
)


cdef extern from "imb_glue.h" nogil:
    struct IMB_MGR:
        uint64_t features
    struct IMB_JOB:
        pass
    struct gcm_key_data:
        pass
    enum:
        IMB_ARCH_SSE
        IMB_ARCH_AVX2
        IMB_ARCH_AVX512
        IMB_CIPHER_CBC
        IMB_CIPHER_CNTR
        IMB_CIPHER_NULL
        IMB_CIPHER_CCM
        IMB_AUTH_HMAC_SHA_1
        IMB_AUTH_HMAC_SHA_256
        IMB_AUTH_HMAC_SHA_384
        IMB_AUTH_HMAC_SHA_512
        IMB_AUTH_AES_XCBC
        IMB_AUTH_AES_CMAC
        IMB_AUTH_NULL
    const char *imb_get_version_str() noexcept
    void imb_clear_mem(void *memory, size_t size) noexcept
    int imb_architecture
    bint imb_has_sha
    struct imb_plan:
        uint32_t narrow_from
    const imb_plan imb_plan_cbc
    const imb_plan *imb_hash_plan(uint32_t mac) noexcept
    uint32_t imb_wide_part(const imb_plan *plan, uint32_t n) noexcept
    bint imb_start(int most) noexcept
    IMB_MGR *imb_manager() noexcept
    IMB_MGR *imb_narrow_manager() noexcept
    void imb_gcm_key(IMB_MGR *m, uint32_t bytes, const uint8_t *key, gcm_key_data *expanded) noexcept
    void imb_gcm_seal(IMB_MGR *m, uint32_t bytes, const gcm_key_data *key, uint8_t *data, uint32_t length, const uint8_t *nonce,
                      const uint8_t *aad, uint32_t aad_length, uint8_t *tag, uint32_t tag_length) noexcept
    void imb_gcm_open(IMB_MGR *m, uint32_t bytes, const gcm_key_data *key, uint8_t *data, uint32_t length, const uint8_t *nonce,
                      const uint8_t *aad, uint32_t aad_length, uint8_t *tag, uint32_t tag_length) noexcept
    void imb_gmac(IMB_MGR *m, uint32_t bytes, const gcm_key_data *key, const uint8_t *nonce, const uint8_t *a, uint32_t a_length,
                  const uint8_t *b, uint32_t b_length, const uint8_t *c, uint32_t c_length, uint8_t *tag) noexcept
    void imb_gmac_whole(IMB_MGR *m, uint32_t bytes, const gcm_key_data *key, const uint8_t *nonce, const uint8_t *a, uint32_t a_length,
                        uint8_t *tag) noexcept
    bint imb_chacha(IMB_MGR *m, const uint8_t *key, uint8_t *data, uint32_t length, const uint8_t *nonce, const uint8_t *aad,
                    uint32_t aad_length, uint8_t *tag, bint seal) noexcept
    struct imb_apart_key:
        uint8_t encrypt[1]
        uint8_t decrypt[1]
        uint32_t key_length
        uint32_t icv_length
        uint32_t mode
        uint32_t mac
        uint32_t with_libcrypto
        void *one
    void imb_aes_key(IMB_MGR *m, uint32_t bytes, const uint8_t *key, uint8_t *encrypt, uint8_t *decrypt) noexcept
    void imb_hmac_key(IMB_MGR *m, int hash, const uint8_t *key, uint32_t length, imb_apart_key *to) noexcept
    void imb_chain_key(IMB_MGR *m, int hash, const uint8_t *key, imb_apart_key *to) noexcept
    void imb_fill_cipher(IMB_JOB *job, const imb_apart_key *key, uint8_t *data, uint32_t length, const uint8_t *iv) noexcept
    void imb_fill_hash(IMB_JOB *job, const imb_apart_key *key, const uint8_t *data, uint32_t length, uint8_t *tag) noexcept
    IMB_JOB *imb_next_job(IMB_MGR *m) noexcept
    void imb_fill_mac_job(IMB_JOB *job, const imb_apart_key *key, const uint8_t *data, uint32_t length, uint8_t *tag) noexcept
    void imb_fill_ccm_job(IMB_JOB *job, const imb_apart_key *key, uint8_t *data, uint32_t length, const uint8_t *nonce,
                          const uint8_t *aad, uint32_t aad_length, uint8_t *tag, bint seal) noexcept
    enum:
        IMB_LONGEST
        IMB_LONGEST_CCM_AAD
        IMB_SCRATCH
    bint imb_hmac_apart(const imb_apart_key *key, const uint8_t *a, uint32_t a_length, const uint8_t *b, uint32_t b_length,
                        uint8_t *tag) noexcept
    bint imb_chain_apart(IMB_MGR *m, const imb_apart_key *key, const uint8_t *a, uint32_t a_length, const uint8_t *b, uint32_t b_length,
                         uint8_t *scratch, uint8_t *tag) noexcept
    uint32_t imb_run_ciphers(IMB_MGR *m, IMB_JOB *jobs, uint32_t n, const imb_apart_key *key, bint seal) noexcept
    uint32_t imb_run_hashes(IMB_MGR *m, IMB_JOB *jobs, uint32_t n, const imb_apart_key *key) noexcept
    void imb_submit(IMB_MGR *m, uint32_t *completed) noexcept
    void imb_flush(IMB_MGR *m, uint32_t *completed) noexcept

cdef extern from *:
    """
    #include <stdlib.h>
    /* what is authenticated is contiguous with what is not on the wire only in a copy, where AH has ESN; one thread, one such packet at a time */
    static _Thread_local uint8_t imb_gathered[IMB_SCRATCH];
    static inline void imb_prefetch(const void *p) { __builtin_prefetch(p, 0, 3); }
    """
    uint8_t *imb_gathered
    void imb_prefetch(const void *p) noexcept nogil

cdef extern from "stdlib.h" nogil:
    void *aligned_alloc(size_t alignment, size_t size) noexcept


cdef enum:
    GROUP = 64               # operations at once
    TAG = 32                 # the longest ICV
    AHEAD = 3                # operations whose keys are on their way from memory
    OWN_CACHE = 1 << 21
    ROUND_KEYS = 240
    GCM_AT = 128             # of a gcm_key_data in an aead_key

cdef struct aead_key:
    gcm_key_data *gcm        # behind this struct, 64-byte aligned
    uint32_t size
    uint32_t key_length
    uint32_t icv_length
    uint8_t chacha[32]


cdef inline void *take(size_t size) noexcept nogil:
    cdef void *block = aligned_alloc(64, (size + 63) & ~<size_t> 63)
    if block != NULL:
        memset(block, 0, size)
    return block


# --- GCM, GMAC, ChaCha20-Poly1305 ---------------------------------------------------------------------------------------------------------------

cdef void *aead_key_new(const engine_suite *suite, const uint8_t *keymat, bint seal) noexcept nogil:
    cdef IMB_MGR *m = imb_manager()
    cdef aead_key *key = <aead_key *> take(GCM_AT + sizeof(gcm_key_data))
    if key == NULL or m == NULL:
        free(key)
        return NULL
    key.size = GCM_AT + sizeof(gcm_key_data)
    key.key_length = suite.key_length
    key.icv_length = suite.icv_length
    key.gcm = <gcm_key_data *> (<uint8_t *> key + GCM_AT)
    if suite.seal == chacha_seal:
        memcpy(key.chacha, keymat, 32)
    else:
        imb_gcm_key(m, suite.key_length, keymat, key.gcm)
    return key


cdef void aead_key_free(void *key) noexcept nogil:
    if key != NULL:
        imb_clear_mem(key, (<aead_key *> key).size)
        free(key)


cdef inline bint are_many(const crypto_op *ops, uint32_t n) noexcept nogil:
    """Whether keys come from memory: most operations have another one than their neighbour, and they lie further apart than a core's own cache is large.
    Then the keys of the next operations are asked for while this one runs; with few SAs that would cost more than it gains."""
    cdef size_t low = <size_t> ops[0].key, high = low, at
    cdef uint32_t i, changes = 0
    for i in range(1, n):
        at = <size_t> ops[i].key
        changes += at != <size_t> ops[i - 1].key
        low = at if at < low else low
        high = at if at > high else high
    return n >= AHEAD and changes > n // 2 and high - low > OWN_CACHE


cdef inline void ask_for_key(const crypto_op *op) noexcept nogil:
    """Round keys, and of the powers of H as many as the packet has use for: they stand behind the round keys, the first powers last."""
    cdef const uint8_t *key = <const uint8_t *> op.key
    cdef uint32_t at = GCM_AT, end = GCM_AT + sizeof(gcm_key_data), powers = op.length + 64
    imb_prefetch(key)
    while at < GCM_AT + ROUND_KEYS:
        imb_prefetch(key + at)
        at += 64
    if powers < end - at:
        at = (end - powers) & ~<uint32_t> 63
    while at < end:
        imb_prefetch(key + at)
        at += 64


cdef void gcm_seal(crypto_op *ops, uint32_t n) noexcept nogil:
    cdef IMB_MGR *m = imb_manager()
    cdef crypto_op *op
    cdef aead_key *key
    cdef uint32_t i
    cdef bint many = are_many(ops, n)
    for i in range(n):
        op = &ops[i]
        if many and i + AHEAD < n:
            ask_for_key(&ops[i + AHEAD])
        key = <aead_key *> op.key
        op.ok = m != NULL
        if op.ok:
            imb_gcm_seal(m, key.key_length, key.gcm, op.data, op.length, op.nonce, op.aad, op.aad_length, op.icv, key.icv_length)


cdef void gcm_open(crypto_op *ops, uint32_t n) noexcept nogil:
    cdef IMB_MGR *m = imb_manager()
    cdef crypto_op *op
    cdef aead_key *key
    cdef uint8_t tag[TAG]
    cdef uint32_t i
    cdef bint many = are_many(ops, n)
    for i in range(n):
        op = &ops[i]
        if many and i + AHEAD < n:
            ask_for_key(&ops[i + AHEAD])
        key = <aead_key *> op.key
        op.ok = m != NULL
        if op.ok:
            imb_gcm_open(m, key.key_length, key.gcm, op.data, op.length, op.nonce, op.aad, op.aad_length, tag, key.icv_length)
            op.ok = CRYPTO_memcmp(tag, op.icv, key.icv_length) == 0


cdef inline void gmac(IMB_MGR *m, crypto_op *op, aead_key *key, uint8_t *tag) noexcept nogil:
    # the IV stands before the data, and is authenticated there
    if op.tail_length == 0 and op.aad + op.aad_length == op.data - 8:
        imb_gmac_whole(m, key.key_length, key.gcm, op.nonce, op.aad, op.aad_length + 8 + op.length, tag)
        return
    imb_gmac(
        m, key.key_length, key.gcm, op.nonce, op.aad, op.aad_length, op.data - 8, op.length + 8, op.tail, op.tail_length, tag
    )


cdef void gmac_seal(crypto_op *ops, uint32_t n) noexcept nogil:
    cdef IMB_MGR *m = imb_manager()
    cdef uint8_t tag[TAG]
    cdef uint32_t i
    for i in range(n):
        ops[i].ok = m != NULL
        if ops[i].ok:
            gmac(m, &ops[i], <aead_key *> ops[i].key, tag)
            memcpy(ops[i].icv, tag, 16)


cdef void gmac_open(crypto_op *ops, uint32_t n) noexcept nogil:
    cdef IMB_MGR *m = imb_manager()
    cdef uint8_t tag[TAG]
    cdef uint32_t i
    for i in range(n):
        ops[i].ok = m != NULL
        if ops[i].ok:
            gmac(m, &ops[i], <aead_key *> ops[i].key, tag)
            ops[i].ok = CRYPTO_memcmp(tag, ops[i].icv, 16) == 0


cdef void chacha_seal(crypto_op *ops, uint32_t n) noexcept nogil:
    cdef IMB_MGR *m = imb_manager()
    cdef crypto_op *op
    cdef uint32_t i
    for i in range(n):
        op = &ops[i]
        op.ok = m != NULL
        if op.ok:
            op.ok = imb_chacha(m, (<aead_key *> op.key).chacha, op.data, op.length, op.nonce, op.aad, op.aad_length, op.icv, True)


cdef void chacha_open(crypto_op *ops, uint32_t n) noexcept nogil:
    cdef IMB_MGR *m = imb_manager()
    cdef uint8_t tag[TAG]
    cdef crypto_op *op
    cdef uint32_t i
    for i in range(n):
        op = &ops[i]
        op.ok = m != NULL
        if op.ok:
            op.ok = imb_chacha(m, (<aead_key *> op.key).chacha, op.data, op.length, op.nonce, op.aad, op.aad_length, tag, False)
            op.ok = op.ok and CRYPTO_memcmp(tag, op.icv, 16) == 0


# --- keys of the rest ---------------------------------------------------------------------------------------------------------------------------

cdef void *apart_key_new(const engine_suite *suite, const uint8_t *keymat, bint seal) noexcept nogil:
    cdef IMB_MGR *m = imb_manager()
    cdef imb_apart_key *key = <imb_apart_key *> take(sizeof(imb_apart_key))
    cdef const uint8_t *mac_key = keymat + suite.key_length + suite.salt_length
    if key == NULL or m == NULL:
        free(key)
        return NULL
    key.key_length, key.icv_length, key.mode, key.mac = suite.key_length, suite.icv_length, suite.mode, suite.mac
    if suite.mode != IMB_CIPHER_NULL:
        imb_aes_key(m, suite.key_length, keymat, key.encrypt, key.decrypt)
    if suite.mac == IMB_AUTH_AES_XCBC or suite.mac == IMB_AUTH_AES_CMAC:
        imb_chain_key(m, <int> suite.mac, mac_key, key)
    elif suite.mac != IMB_AUTH_NULL:
        imb_hmac_key(m, <int> suite.mac, mac_key, suite.mac_key_length, key)
    return key


cdef void *mixed_key_new(const engine_suite *suite, const uint8_t *keymat, bint seal) noexcept nogil:
    """As apart_key_new; and what libcrypto needs of a key where it has one packet to encrypt. Its hashes start from the same states as the jobs'."""
    cdef imb_apart_key *key = <imb_apart_key *> apart_key_new(suite, keymat, seal)
    cdef EVP_CIPHER_CTX *one
    if key == NULL:
        return NULL
    key.with_libcrypto = 1
    if not seal or suite.mode != IMB_CIPHER_CBC:
        return key
    key.one = one = EVP_CIPHER_CTX_new()
    if (
        one == NULL
        or EVP_EncryptInit_ex2(one, <const EVP_CIPHER *> suite.cipher, keymat, NULL, NULL) <= 0
        or EVP_CIPHER_CTX_set_padding(one, 0) <= 0
    ):
        apart_key_free(key)
        return NULL
    return key


cdef void apart_key_free(void *p) noexcept nogil:
    cdef imb_apart_key *key = <imb_apart_key *> p
    if key != NULL:
        EVP_CIPHER_CTX_free(<EVP_CIPHER_CTX *> key.one)  # wipes the expanded key
        imb_clear_mem(key, sizeof(imb_apart_key))
        free(key)


cdef inline bint is_chain(const imb_apart_key *key) noexcept nogil:
    return key.mac == IMB_AUTH_AES_XCBC or key.mac == IMB_AUTH_AES_CMAC


# --- CCM: jobs of its own -------------------------------------------------------------------------------------------------------------------------

cdef inline void ccm_group(crypto_op *ops, uint32_t n, uint8_t (*tags)[TAG], bint seal) noexcept nogil:
    """A tag for each, and `ok` where there is one."""
    cdef IMB_MGR *m = imb_manager()
    cdef crypto_op *op
    cdef uint32_t i, used = 0, completed = 0
    for i in range(n):
        op = &ops[i]
        # a job that the library refuses would cost its neighbours theirs
        op.ok = m != NULL and op.length <= IMB_LONGEST and op.aad_length <= IMB_LONGEST_CCM_AAD
        if op.ok:
            imb_fill_ccm_job(imb_next_job(m), <imb_apart_key *> op.key, op.data, op.length, op.nonce, op.aad, op.aad_length, tags[i], seal)
            imb_submit(m, &completed)
            used += 1
    if used:
        imb_flush(m, &completed)
    if completed != used:
        for i in range(n):
            ops[i].ok = 0


cdef void ccm_seal(crypto_op *ops, uint32_t n) noexcept nogil:
    cdef uint8_t tags[GROUP][TAG]
    cdef uint32_t start = 0, count, i
    while start < n:
        count = GROUP if n - start > GROUP else n - start
        ccm_group(ops + start, count, tags, True)
        write_tags(ops + start, count, tags)
        start += count


cdef void ccm_open(crypto_op *ops, uint32_t n) noexcept nogil:
    cdef uint8_t tags[GROUP][TAG]
    cdef uint32_t start = 0, count, i
    while start < n:
        count = GROUP if n - start > GROUP else n - start
        ccm_group(ops + start, count, tags, False)
        compare_tags(ops + start, count, tags)
        start += count


cdef inline void write_tags(crypto_op *ops, uint32_t n, uint8_t (*tags)[TAG]) noexcept nogil:
    cdef uint32_t i
    for i in range(n):
        if ops[i].ok:
            memcpy(ops[i].icv, tags[i], (<imb_apart_key *> ops[i].key).icv_length)


cdef inline void compare_tags(crypto_op *ops, uint32_t n, uint8_t (*tags)[TAG]) noexcept nogil:
    cdef uint32_t i
    for i in range(n):
        if ops[i].ok:
            ops[i].ok = CRYPTO_memcmp(tags[i], ops[i].icv, (<imb_apart_key *> ops[i].key).icv_length) == 0


# --- a cipher and a MAC apart: each works on those with `ok` set, and clears it where it fails ---------------------------------------------------

cdef inline bint fits_a_job(const crypto_op *op) noexcept nogil:
    """Whether what is authenticated can stand in one stretch: not with AH and ESN, where nothing of ours is behind the packet. CMAC's jobs read all
    16 bytes of a last block that is not whole (in every release up to 2.0.2), so those 16 must be the packet's own."""
    cdef const imb_apart_key *key = <const imb_apart_key *> op.key
    cdef bint has_icv = op.icv == op.aad + op.aad_length
    cdef uint32_t ours = key.icv_length if has_icv else 0
    if op.aad_length > IMB_LONGEST - op.tail_length or (op.tail_length and not has_icv):
        return False
    return key.mac != IMB_AUTH_AES_CMAC or ((op.aad_length + op.tail_length + 15) & ~<uint32_t> 15) <= op.aad_length + ours


cdef inline bint mac_apart(IMB_MGR *m, const crypto_op *op, uint8_t *tag) noexcept nogil:
    cdef imb_apart_key *key = <imb_apart_key *> op.key
    if is_chain(key):
        return imb_chain_apart(m, key, op.aad, op.aad_length, op.tail, op.tail_length, imb_gathered, tag)
    return imb_hmac_apart(key, op.aad, op.aad_length, op.tail, op.tail_length, tag)


cdef uint32_t run_hashes(IMB_MGR *m, crypto_op *ops, const uint8_t *which, uint32_t n, uint8_t (*tags)[TAG]) noexcept nogil:
    """One burst; how many of it have their tag."""
    cdef IMB_JOB jobs[GROUP]
    cdef crypto_op *op
    cdef uint32_t i
    if n == 0:
        return 0
    for i in range(n):
        op = &ops[which[i]]
        memset(&jobs[i], 0, sizeof(IMB_JOB))
        imb_fill_hash(&jobs[i], <imb_apart_key *> op.key, op.aad, op.aad_length + op.tail_length, tags[which[i]])
    return imb_run_hashes(m, jobs, n, <imb_apart_key *> ops[which[0]].key)


cdef uint32_t run_few_hashes(IMB_MGR *m, crypto_op *ops, const uint8_t *which, uint32_t n, uint8_t (*tags)[TAG]) noexcept nogil:
    """Too few for the wide manager `m`."""
    cdef const imb_apart_key *key = <imb_apart_key *> ops[which[0]].key
    cdef const imb_plan *plan = imb_hash_plan(key.mac)
    cdef IMB_MGR *narrow = NULL
    cdef crypto_op *op
    cdef uint32_t i
    if n >= plan.narrow_from or (not key.with_libcrypto and plan.narrow_from <= GROUP):
        narrow = imb_narrow_manager()
    if narrow != NULL or not key.with_libcrypto:
        return run_hashes(narrow if narrow != NULL else m, ops, which, n, tags)
    for i in range(n):
        op = &ops[which[i]]
        imb_hmac_apart(<imb_apart_key *> op.key, op.aad, op.aad_length + op.tail_length, NULL, 0, tags[which[i]])
    return n


cdef uint32_t run_macs(IMB_MGR *m, crypto_op *ops, const uint8_t *which, uint32_t n, uint8_t (*tags)[TAG]) noexcept nogil:
    """As run_hashes, for every kind of MAC and wherever it is fastest."""
    cdef const imb_apart_key *key = <imb_apart_key *> ops[which[0]].key
    cdef crypto_op *op
    cdef uint32_t i, wide, completed = 0
    if is_chain(key):
        for i in range(n):
            op = &ops[which[i]]
            imb_fill_mac_job(imb_next_job(m), <imb_apart_key *> op.key, op.aad, op.aad_length + op.tail_length, tags[which[i]])
            imb_submit(m, &completed)
        imb_flush(m, &completed)
        return completed
    wide = imb_wide_part(imb_hash_plan(key.mac), n)
    completed = run_hashes(m, ops, which, wide, tags)
    if wide < n:
        completed += run_few_hashes(m, ops, which + wide, n - wide, tags)
    return completed


cdef void mac_group(IMB_MGR *m, crypto_op *ops, uint32_t n, uint8_t (*tags)[TAG]) noexcept nogil:
    """The high half of ESN stands where the ICV is, until the tags are there; what stood there comes back."""
    cdef uint8_t which[GROUP]
    cdef uint8_t saved[GROUP][4]
    cdef crypto_op *op
    cdef uint32_t i, used = 0
    cdef bint all_there = True
    for i in range(n):
        op = &ops[i]
        if not op.ok or not fits_a_job(op):
            continue
        if op.tail_length:
            memcpy(saved[i], op.icv, 4)
            memcpy(op.icv, op.tail, 4)
        which[used] = <uint8_t> i
        used += 1
    if used:
        all_there = run_macs(m, ops, which, used, tags) == used
    for i in range(used):
        op = &ops[which[i]]
        if op.tail_length:
            memcpy(op.icv, saved[which[i]], 4)
        op.ok = all_there
    if used == n:
        return
    for i in range(n):
        if ops[i].ok and not fits_a_job(&ops[i]):
            ops[i].ok = mac_apart(m, &ops[i], tags[i])


cdef inline bint encrypt_alone(crypto_op *op) noexcept nogil:
    cdef EVP_CIPHER_CTX *ctx = <EVP_CIPHER_CTX *> (<imb_apart_key *> op.key).one
    cdef int written = 0
    return (
        EVP_EncryptInit_ex2(ctx, NULL, NULL, op.nonce, NULL) > 0
        and EVP_EncryptUpdate(ctx, op.data, &written, op.data, <int> op.length) > 0
        and <uint32_t> written == op.length
    )


cdef void cipher_group(IMB_MGR *m, crypto_op *ops, uint32_t n, bint seal) noexcept nogil:
    cdef IMB_JOB jobs[GROUP]
    cdef uint8_t which[GROUP]
    cdef imb_apart_key *key = <imb_apart_key *> ops[0].key
    cdef crypto_op *op
    cdef uint32_t i, used = 0, alone = 0
    cdef bint all_there = True
    if key.mode == IMB_CIPHER_NULL:
        return
    for i in range(n):
        op = &ops[i]
        op.ok = op.ok and op.length <= IMB_LONGEST
        if not op.ok or op.length == 0:
            continue
        if key.mode == IMB_CIPHER_CNTR:  # nonce, IV, and a block counter that starts at 1 (RFC 3686 section 4)
            op.nonce[12] = op.nonce[13] = op.nonce[14] = 0
            op.nonce[15] = 1
        imb_fill_cipher(&jobs[used], <imb_apart_key *> op.key, op.data, op.length, op.nonce)
        which[used] = <uint8_t> i
        used += 1
    if key.one != NULL:  # CBC encryption alone is a chain of each packet's own
        alone = used - imb_wide_part(&imb_plan_cbc, used)
        used -= alone
    if used:
        all_there = imb_run_ciphers(m, jobs, used, key, seal) == used
    for i in range(used, used + alone):
        ops[which[i]].ok = encrypt_alone(&ops[which[i]])
    for i in range(used):
        ops[which[i]].ok = all_there


cdef void apart_seal(crypto_op *ops, uint32_t n) noexcept nogil:
    cdef IMB_MGR *m = imb_manager()
    cdef uint8_t tags[GROUP][TAG]
    cdef uint32_t start = 0, count, i
    while start < n:
        count = GROUP if n - start > GROUP else n - start
        for i in range(count):
            ops[start + i].ok = m != NULL
        cipher_group(m, ops + start, count, True)
        mac_group(m, ops + start, count, tags)
        write_tags(ops + start, count, tags)
        start += count


cdef void apart_open(crypto_op *ops, uint32_t n) noexcept nogil:
    # the MAC first: nothing that is not authentic is decrypted
    cdef IMB_MGR *m = imb_manager()
    cdef uint8_t tags[GROUP][TAG]
    cdef uint32_t start = 0, count, i
    while start < n:
        count = GROUP if n - start > GROUP else n - start
        for i in range(count):
            ops[start + i].ok = m != NULL
        mac_group(m, ops + start, count, tags)
        compare_tags(ops + start, count, tags)
        cipher_group(m, ops + start, count, False)
        start += count


# --- registration --------------------------------------------------------------------------------------------------------------------------------

MACS = {
    "sha1": IMB_AUTH_HMAC_SHA_1, "sha256": IMB_AUTH_HMAC_SHA_256, "sha384": IMB_AUTH_HMAC_SHA_384, "sha512": IMB_AUTH_HMAC_SHA_512,
    "xcbc": IMB_AUTH_AES_XCBC, "cmac": IMB_AUTH_AES_CMAC,
}
MODES = {Mode.CBC: IMB_CIPHER_CBC, Mode.CTR: IMB_CIPHER_CNTR, Mode.NULL: IMB_CIPHER_NULL, Mode.CCM: IMB_CIPHER_CCM}

ARCHITECTURES = {"": 1 << 16, "sse": IMB_ARCH_SSE, "avx2": IMB_ARCH_AVX2, "avx512": IMB_ARCH_AVX512}

_names = []  # keeps the C strings alive


cdef bint fill(engine_suite *suite, row) except -1:
    """False where the library lacks it: CCM has no 192-bit keys. What this module does not know yet is OpenSSL's work."""
    cipher = row.encryption
    is_direct = cipher.mode in (Mode.GCM, Mode.GMAC, Mode.CHACHA20)
    if (cipher.mode is Mode.CCM and cipher.key_bytes == 24) or (not is_direct and cipher.mode not in MODES):
        return False
    if row.integrity and row.integrity.digest not in MACS:
        return False
    encoded = row.name.encode()
    _names.append(encoded)
    suite.name = encoded
    suite.engine = "ipsecmb"
    suite.keymat_length, suite.key_length, suite.salt_length = row.keymat_bytes, cipher.key_bytes, cipher.salt_bytes
    suite.iv_length, suite.icv_length, suite.align = cipher.iv_bytes, row.icv_bytes, cipher.block_bytes
    suite.iv_kind = IV_RANDOM if cipher.mode is Mode.CBC else IV_NONE if cipher.mode is Mode.NULL else IV_SEQUENCE
    suite.is_aead = cipher.is_aead
    suite.iv_in_place = not cipher.is_aead or cipher.mode is Mode.GMAC
    suite.keys_are_shared = 1
    # direct calls win at every batch size from AVX2 on; jobs need many packets at once, and lose to OpenSSL with few
    suite.priority = 200 if is_direct and imb_architecture >= IMB_ARCH_AVX2 else 50
    if is_direct:
        suite.key_new, suite.key_free = aead_key_new, aead_key_free
        suite.seal = gcm_seal if cipher.mode is Mode.GCM else gmac_seal if cipher.mode is Mode.GMAC else chacha_seal
        suite.open = gcm_open if cipher.mode is Mode.GCM else gmac_open if cipher.mode is Mode.GMAC else chacha_open
        return True
    suite.key_new, suite.key_free = apart_key_new, apart_key_free
    suite.mode = MODES[cipher.mode]
    suite.mac = MACS[row.integrity.digest] if row.integrity else IMB_AUTH_NULL
    suite.mac_key_length = row.integrity.key_bytes if row.integrity else 0
    suite.seal = ccm_seal if cipher.mode is Mode.CCM else apart_seal
    suite.open = ccm_open if cipher.mode is Mode.CCM else apart_open
    return True


cdef bint fill_mixed(engine_suite *suite, const engine_suite *alone, row) except -1:
    """The same by the number of packets, where that is worth it: with 256 bits or more, and an HMAC."""
    if imb_architecture < IMB_ARCH_AVX2 or row.integrity is None or row.integrity.digest not in ("sha1", "sha256", "sha384", "sha512"):
        return False
    suite[0] = alone[0]
    suite.engine = "ipsecmb+openssl"
    suite.priority = 150
    suite.is_choice = 1
    suite.key_new = mixed_key_new
    if row.encryption.mode is Mode.CBC:
        suite.keys_are_shared = 0
        suite.cipher = EVP_CIPHER_fetch(NULL, f"AES-{row.encryption.key_bytes * 8}-CBC".encode(), NULL)  # for good
        return suite.cipher != NULL
    return True


cdef int most_architecture() except -1:
    """What IPSEC_FAST_IPSECMB_ARCH allows; everything where it is not set."""
    wanted = os.environ.get("IPSEC_FAST_IPSECMB_ARCH", "")
    if wanted not in ARCHITECTURES:
        raise UsageError(f"IPSEC_FAST_IPSECMB_ARCH={wanted}: it is {', '.join(filter(None, ARCHITECTURES))}, or not set")
    return ARCHITECTURES[wanted]


cdef void register_all() except *:
    names = esp_suite_names()
    if not imb_start(most_architecture()):
        raise ImportError(f"ipsec-mb {library_version()} is of another version than this was built for, or this processor lacks AES-NI")
    cdef engine_suite *suites = <engine_suite *> calloc(2 * len(names), sizeof(engine_suite))  # for good
    cdef engine_suite *free_one = suites
    if suites == NULL:
        raise MemoryError
    for name in names:
        row = esp_suite(name)
        if not fill(free_one, row):
            continue
        register_suite(free_one)
        free_one += 1
        if fill_mixed(free_one, free_one - 1, row):
            register_suite(free_one)
            free_one += 1


def library_version() -> str:
    """`1.3.0`, of the library that is loaded."""
    return imb_get_version_str().decode()


register_all()
