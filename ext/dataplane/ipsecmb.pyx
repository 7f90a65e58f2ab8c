"""The optional engine: Intel ipsec-mb. AES-GCM, GMAC and ChaCha20-Poly1305 by its direct calls; CCM, and every cipher and MAC apart, by its jobs.

Where setup.py finds no library this module is not built, and where the library is gone it does not import; engine.pyx goes on without it. Jobs work
on many packets at once, so a batch of one costs them more than OpenSSL: the AEADs are preferred where the processor has VAES or AVX2, the others
run when they are asked for. A tag is computed aside and compared in constant time. Called by: the kernels, through engine.pyx.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from ipsec_fast.algorithms import Mode, esp_suite, esp_suite_names
from ipsec_fast.dataplane.engine cimport IV_NONE, IV_RANDOM, IV_SEQUENCE, crypto_op, engine_suite, register_suite


cdef extern from "imb_glue.h" nogil:
    struct IMB_MGR:
        uint64_t features
    struct IMB_JOB:
        pass
    struct gcm_key_data:
        pass
    enum:
        IMB_ARCH_AVX2
        IMB_FEATURE_VAES
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
    bint imb_start() noexcept
    IMB_MGR *imb_manager() noexcept
    void imb_gcm_key(IMB_MGR *m, uint32_t bytes, const uint8_t *key, gcm_key_data *expanded) noexcept
    void imb_gcm_seal(IMB_MGR *m, uint32_t bytes, const gcm_key_data *key, uint8_t *data, uint32_t length, const uint8_t *nonce,
                      const uint8_t *aad, uint32_t aad_length, uint8_t *tag, uint32_t tag_length) noexcept
    void imb_gcm_open(IMB_MGR *m, uint32_t bytes, const gcm_key_data *key, uint8_t *data, uint32_t length, const uint8_t *nonce,
                      const uint8_t *aad, uint32_t aad_length, uint8_t *tag, uint32_t tag_length) noexcept
    void imb_gmac(IMB_MGR *m, uint32_t bytes, const gcm_key_data *key, const uint8_t *nonce, const uint8_t *a, uint32_t a_length,
                  const uint8_t *b, uint32_t b_length, const uint8_t *c, uint32_t c_length, uint8_t *tag) noexcept
    void imb_chacha(IMB_MGR *m, const uint8_t *key, uint8_t *data, uint32_t length, const uint8_t *nonce, const uint8_t *aad,
                    uint32_t aad_length, uint8_t *tag, bint seal) noexcept
    struct imb_apart_key:
        uint8_t encrypt[1]
        uint8_t decrypt[1]
        uint32_t key_length
        uint32_t icv_length
        uint32_t mode
        uint32_t mac
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
    """
    uint8_t *imb_gathered

cdef extern from "stdlib.h" nogil:
    void *aligned_alloc(size_t alignment, size_t size) noexcept

cdef extern from "openssl/crypto.h" nogil:
    int CRYPTO_memcmp(const void *a, const void *b, size_t length) noexcept


cdef enum:
    GROUP = 64               # operations at once
    TAG = 32                 # the longest ICV

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
    cdef aead_key *key = <aead_key *> take(128 + sizeof(gcm_key_data))
    if key == NULL or m == NULL:
        free(key)
        return NULL
    key.size = 128 + sizeof(gcm_key_data)
    key.key_length = suite.key_length
    key.icv_length = suite.icv_length
    key.gcm = <gcm_key_data *> (<uint8_t *> key + 128)
    if suite.seal == chacha_seal:
        memcpy(key.chacha, keymat, 32)
    else:
        imb_gcm_key(m, suite.key_length, keymat, key.gcm)
    return key


cdef void aead_key_free(void *key) noexcept nogil:
    if key != NULL:
        imb_clear_mem(key, (<aead_key *> key).size)
        free(key)


cdef void gcm_seal(crypto_op *ops, uint32_t n) noexcept nogil:
    cdef IMB_MGR *m = imb_manager()
    cdef crypto_op *op
    cdef aead_key *key
    cdef uint32_t i
    for i in range(n):
        op = &ops[i]
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
    for i in range(n):
        op = &ops[i]
        key = <aead_key *> op.key
        op.ok = m != NULL
        if op.ok:
            imb_gcm_open(m, key.key_length, key.gcm, op.data, op.length, op.nonce, op.aad, op.aad_length, tag, key.icv_length)
            op.ok = CRYPTO_memcmp(tag, op.icv, key.icv_length) == 0


cdef inline void gmac(IMB_MGR *m, crypto_op *op, aead_key *key, uint8_t *tag) noexcept nogil:
    # the IV stands before the data, and is authenticated there
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
            imb_chacha(m, (<aead_key *> op.key).chacha, op.data, op.length, op.nonce, op.aad, op.aad_length, op.icv, True)


cdef void chacha_open(crypto_op *ops, uint32_t n) noexcept nogil:
    cdef IMB_MGR *m = imb_manager()
    cdef uint8_t tag[TAG]
    cdef crypto_op *op
    cdef uint32_t i
    for i in range(n):
        op = &ops[i]
        op.ok = m != NULL
        if op.ok:
            imb_chacha(m, (<aead_key *> op.key).chacha, op.data, op.length, op.nonce, op.aad, op.aad_length, tag, False)
            op.ok = CRYPTO_memcmp(tag, op.icv, 16) == 0


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


cdef void apart_key_free(void *key) noexcept nogil:
    if key != NULL:
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


cdef void mac_group(IMB_MGR *m, crypto_op *ops, uint32_t n, uint8_t (*tags)[TAG]) noexcept nogil:
    """The high half of ESN stands where the ICV is, until the tags are there; what stood there comes back."""
    cdef IMB_JOB jobs[GROUP]
    cdef uint8_t saved[GROUP][4]
    cdef imb_apart_key *key
    cdef crypto_op *op
    cdef uint32_t i, used = 0, completed = 0
    for i in range(n):
        op = &ops[i]
        key = <imb_apart_key *> op.key
        if not op.ok or not fits_a_job(op):
            continue
        if op.tail_length:
            memcpy(saved[i], op.icv, 4)
            memcpy(op.icv, op.tail, 4)
        if is_chain(key):
            imb_fill_mac_job(imb_next_job(m), key, op.aad, op.aad_length + op.tail_length, tags[i])
            imb_submit(m, &completed)
        else:
            memset(&jobs[used], 0, sizeof(IMB_JOB))
            imb_fill_hash(&jobs[used], key, op.aad, op.aad_length + op.tail_length, tags[i])
        used += 1
    if used and is_chain(<imb_apart_key *> ops[0].key):
        imb_flush(m, &completed)
    elif used:
        completed = imb_run_hashes(m, jobs, used, <imb_apart_key *> ops[0].key)
    for i in range(n):
        op = &ops[i]
        if not op.ok:
            continue
        if not fits_a_job(op):
            op.ok = mac_apart(m, op, tags[i])
            continue
        if op.tail_length:
            memcpy(op.icv, saved[i], 4)
        op.ok = completed == used


cdef void cipher_group(IMB_MGR *m, crypto_op *ops, uint32_t n, bint seal) noexcept nogil:
    cdef IMB_JOB jobs[GROUP]
    cdef imb_apart_key *key = <imb_apart_key *> ops[0].key
    cdef uint32_t i, used = 0
    if key.mode == IMB_CIPHER_NULL:
        return
    for i in range(n):
        ops[i].ok = ops[i].ok and ops[i].length <= IMB_LONGEST
        if not ops[i].ok or ops[i].length == 0:
            continue
        if key.mode == IMB_CIPHER_CNTR:  # nonce, IV, and a block counter that starts at 1 (RFC 3686 section 4)
            ops[i].nonce[12] = ops[i].nonce[13] = ops[i].nonce[14] = 0
            ops[i].nonce[15] = 1
        imb_fill_cipher(&jobs[used], <imb_apart_key *> ops[i].key, ops[i].data, ops[i].length, ops[i].nonce)
        used += 1
    if used and imb_run_ciphers(m, jobs, used, key, seal) != used:
        for i in range(n):
            ops[i].ok = 0


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


cdef void register_all() except *:
    names = esp_suite_names()
    if not imb_start():
        raise ImportError(f"ipsec-mb {library_version()} is of another version than this was built for, or this processor lacks AES-NI")
    cdef engine_suite *suites = <engine_suite *> calloc(len(names), sizeof(engine_suite))  # for good
    if suites == NULL:
        raise MemoryError
    for i, name in enumerate(names):
        if fill(&suites[<int> i], esp_suite(name)):
            register_suite(&suites[<int> i])


def library_version() -> str:
    """`1.3.0`, of the library that is loaded."""
    return imb_get_version_str().decode()


register_all()
