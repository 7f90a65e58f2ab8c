/* Intel ipsec-mb (1.x and 2.x) as ipsecmb.pyx uses it: a manager for each thread, job structs filled by name, macros made functions.
 *
 * A manager is not thread safe, so each thread makes its own at its first packet and loses it when it ends: the one allocation on that path. Compiled
 * only where setup.py found the library.
 */
#ifndef IPSEC_FAST_IMB_GLUE_H
#define IPSEC_FAST_IMB_GLUE_H

#define OPENSSL_SUPPRESS_DEPRECATED
#define NO_COMPAT_IMB_API_053 /* names of old, SHA1 among them */
#include <intel-ipsec-mb.h>
#include <openssl/sha.h>
#include <pthread.h>
#include <stdint.h>
#include <string.h>

static _Thread_local IMB_MGR *imb_thread_manager;
static pthread_key_t imb_thread_key;
static IMB_ARCH imb_architecture = IMB_ARCH_NONE;

static void imb_free_manager(void *manager)
{
    imb_clear_mem(manager, imb_get_mb_mgr_size()); /* one block; its lanes hold round keys and states, and free_mb_mgr wipes nothing */
    free_mb_mgr((IMB_MGR *)manager);
    imb_thread_manager = NULL;
}

/* Whether this processor can; and what it has. */
static int imb_start(void)
{
    IMB_MGR *probe;
    /* the minor version too: libIPSec_MB.so.1 is 1.3 with a gcm_key_data of 1008 bytes and jobs of 200, and 1.4 with 1264 and 240 */
    if (imb_get_version() >> 8 != IMB_VERSION_NUM >> 8)
        return 0;
    probe = alloc_mb_mgr(0);
    if (probe == NULL)
        return 0;
    init_mb_mgr_auto(probe, &imb_architecture);
    if (probe->imb_errno != 0 || !(probe->features & IMB_FEATURE_AESNI))
        imb_architecture = IMB_ARCH_NONE;
    free_mb_mgr(probe);
    return imb_architecture >= IMB_ARCH_SSE && pthread_key_create(&imb_thread_key, imb_free_manager) == 0;
}

static IMB_MGR *imb_make_manager(void)
{
    IMB_MGR *manager = alloc_mb_mgr(0);
    IMB_ARCH used;
    if (manager == NULL)
        return NULL;
    init_mb_mgr_auto(manager, &used);
    /* not imb_get_errno: in 1.x that gives any thread's last error too */
    if (manager->imb_errno != 0 || pthread_setspecific(imb_thread_key, manager) != 0) {
        free_mb_mgr(manager);
        return NULL;
    }
    return imb_thread_manager = manager;
}

static inline IMB_MGR *imb_manager(void)
{
    return imb_thread_manager != NULL ? imb_thread_manager : imb_make_manager();
}

/* --- GCM and GMAC: direct calls, the key as gcm_key_data ------------------------------------------------------------------------------------- */

#define IMB_BY_KEY(bytes, call, ...)                                                                                                                   \
    do {                                                                                                                                               \
        if ((bytes) == 16u)                                                                                                                            \
            IMB_AES128_##call(__VA_ARGS__);                                                                                                            \
        else if ((bytes) == 24u)                                                                                                                       \
            IMB_AES192_##call(__VA_ARGS__);                                                                                                            \
        else                                                                                                                                           \
            IMB_AES256_##call(__VA_ARGS__);                                                                                                            \
    } while (0)

static inline void imb_gcm_key(IMB_MGR *m, uint32_t bytes, const uint8_t *key, struct gcm_key_data *expanded)
{
    IMB_BY_KEY(bytes, GCM_PRE, m, key, expanded);
}

static inline void imb_gcm_seal(IMB_MGR *m, uint32_t bytes, const struct gcm_key_data *key, uint8_t *data, uint32_t length, const uint8_t *nonce,
                                const uint8_t *aad, uint32_t aad_length, uint8_t *tag, uint32_t tag_length)
{
    struct gcm_context_data context;
    IMB_BY_KEY(bytes, GCM_ENC, m, key, &context, data, data, length, nonce, aad, aad_length, tag, tag_length);
}

static inline void imb_gcm_open(IMB_MGR *m, uint32_t bytes, const struct gcm_key_data *key, uint8_t *data, uint32_t length, const uint8_t *nonce,
                                const uint8_t *aad, uint32_t aad_length, uint8_t *tag, uint32_t tag_length)
{
    struct gcm_context_data context;
    IMB_BY_KEY(bytes, GCM_DEC, m, key, &context, data, data, length, nonce, aad, aad_length, tag, tag_length);
}

/* Three stretches, one after the other. */
static inline void imb_gmac(IMB_MGR *m, uint32_t bytes, const struct gcm_key_data *key, const uint8_t *nonce, const uint8_t *a, uint32_t a_length,
                            const uint8_t *b, uint32_t b_length, const uint8_t *c, uint32_t c_length, uint8_t *tag)
{
    struct gcm_context_data context;
    IMB_BY_KEY(bytes, GMAC_INIT, m, key, &context, nonce, 12);
    IMB_BY_KEY(bytes, GMAC_UPDATE, m, key, &context, a, a_length);
    IMB_BY_KEY(bytes, GMAC_UPDATE, m, key, &context, b, b_length);
    if (c_length)
        IMB_BY_KEY(bytes, GMAC_UPDATE, m, key, &context, c, c_length);
    IMB_BY_KEY(bytes, GMAC_FINALIZE, m, key, &context, tag, 16);
}

/* --- ChaCha20-Poly1305 ----------------------------------------------------------------------------------------------------------------------- */

static inline void imb_chacha(IMB_MGR *m, const uint8_t *key, uint8_t *data, uint32_t length, const uint8_t *nonce, const uint8_t *aad,
                              uint32_t aad_length, uint8_t *tag, int seal)
{
    struct chacha20_poly1305_context_data context;
    IMB_CHACHA20_POLY1305_INIT(m, key, &context, nonce, aad, aad_length);
    if (seal) {
        IMB_CHACHA20_POLY1305_ENC_UPDATE(m, key, &context, data, data, length);
        IMB_CHACHA20_POLY1305_ENC_FINALIZE(m, &context, tag, 16);
    } else {
        IMB_CHACHA20_POLY1305_DEC_UPDATE(m, key, &context, data, data, length);
        IMB_CHACHA20_POLY1305_DEC_FINALIZE(m, &context, tag, 16);
    }
    imb_clear_mem(&context, sizeof context); /* the one-time key of Poly1305 */
}

/* --- keys of ciphers and MACs apart ------------------------------------------------------------------------------------------------------------ */

#define IMB_AES_SCHEDULE 240 /* 15 round keys */
#define IMB_HASH_STATE 64

/* One SA's keys for CBC, CTR, CCM and every MAC; schedules need 16-byte alignment. */
struct imb_apart_key {
    uint8_t encrypt[IMB_AES_SCHEDULE] __attribute__((aligned(16)));
    uint8_t decrypt[IMB_AES_SCHEDULE] __attribute__((aligned(16)));
    uint8_t inner[IMB_AES_SCHEDULE] __attribute__((aligned(16))); /* HMAC: state after the inner pad; XCBC, CMAC: schedule */
    uint8_t outer[IMB_HASH_STATE] __attribute__((aligned(16)));   /* HMAC: state after the outer pad; XCBC: k2; CMAC: first subkey */
    uint8_t other[16] __attribute__((aligned(16)));               /* XCBC: k3; CMAC: second subkey */
    uint32_t key_length;
    uint32_t icv_length;
    uint32_t mode;
    uint32_t mac;
};

static inline void imb_aes_key(IMB_MGR *m, uint32_t bytes, const uint8_t *key, uint8_t *encrypt, uint8_t *decrypt)
{
    if (bytes == 16u)
        IMB_AES_KEYEXP_128(m, key, encrypt, decrypt);
    else if (bytes == 24u)
        IMB_AES_KEYEXP_192(m, key, encrypt, decrypt);
    else
        IMB_AES_KEYEXP_256(m, key, encrypt, decrypt);
}

static inline void imb_one_block(IMB_MGR *m, IMB_HASH_ALG hash, const uint8_t *block, uint8_t *state)
{
    if (hash == IMB_AUTH_HMAC_SHA_1)
        IMB_SHA1_ONE_BLOCK(m, block, state);
    else if (hash == IMB_AUTH_HMAC_SHA_256)
        IMB_SHA256_ONE_BLOCK(m, block, state);
    else if (hash == IMB_AUTH_HMAC_SHA_384)
        IMB_SHA384_ONE_BLOCK(m, block, state);
    else
        IMB_SHA512_ONE_BLOCK(m, block, state);
}

/* RFC 2104; no key of IPsec is longer than a block. */
static inline void imb_hmac_key(IMB_MGR *m, IMB_HASH_ALG hash, const uint8_t *key, uint32_t length, struct imb_apart_key *to)
{
    uint8_t block[128];
    for (uint32_t i = 0; i < sizeof block; i++)
        block[i] = (i < length ? key[i] : 0) ^ 0x36u;
    imb_one_block(m, hash, block, to->inner);
    for (uint32_t i = 0; i < sizeof block; i++)
        block[i] ^= 0x36u ^ 0x5cu;
    imb_one_block(m, hash, block, to->outer);
    imb_clear_mem(block, sizeof block);
}

static inline void imb_chain_key(IMB_MGR *m, IMB_HASH_ALG hash, const uint8_t *key, struct imb_apart_key *to)
{
    uint8_t unused[IMB_AES_SCHEDULE] __attribute__((aligned(16)));
    if (hash == IMB_AUTH_AES_XCBC) {
        IMB_AES_XCBC_KEYEXP(m, key, to->inner, to->outer, to->other);
        return;
    }
    IMB_AES_KEYEXP_128(m, key, to->inner, unused);
    IMB_AES_CMAC_SUBKEY_GEN_128(m, to->inner, to->outer, to->other);
    imb_clear_mem(unused, sizeof unused);
}

/* --- jobs ------------------------------------------------------------------------------------------------------------------------------------ */

static inline void imb_fill_cipher(IMB_JOB *job, const struct imb_apart_key *key, uint8_t *data, uint32_t length, const uint8_t *iv)
{
    memset(job, 0, sizeof *job);
    job->enc_keys = key->encrypt;
    job->dec_keys = key->mode == IMB_CIPHER_CBC ? key->decrypt : key->encrypt;
    job->key_len_in_bytes = key->key_length;
    job->src = job->dst = data;
    job->msg_len_to_cipher_in_bytes = length;
    job->iv = iv;
    job->iv_len_in_bytes = 16;
}

static inline void imb_fill_hash(IMB_JOB *job, const struct imb_apart_key *key, const uint8_t *data, uint32_t length, uint8_t *tag)
{
    job->src = data;
    job->hash_start_src_offset_in_bytes = 0;
    job->msg_len_to_hash_in_bytes = length;
    job->auth_tag_output = tag;
    job->auth_tag_output_len_in_bytes = key->icv_length;
    job->hash_alg = (IMB_HASH_ALG)key->mac;
    if (key->mac == IMB_AUTH_AES_XCBC) {
        job->u.XCBC._k1_expanded = (const uint32_t *)key->inner;
        job->u.XCBC._k2 = key->outer;
        job->u.XCBC._k3 = key->other;
    } else if (key->mac == IMB_AUTH_AES_CMAC) {
        job->u.CMAC._key_expanded = key->inner;
        job->u.CMAC._skey1 = key->outer;
        job->u.CMAC._skey2 = key->other;
    } else {
        job->u.HMAC._hashed_auth_key_xor_ipad = key->inner;
        job->u.HMAC._hashed_auth_key_xor_opad = key->outer;
    }
}

/* A job of the queue: what is not a burst of ciphers or of HMACs. */
static inline IMB_JOB *imb_next_job(IMB_MGR *m)
{
    IMB_JOB *job = IMB_GET_NEXT_JOB(m);
    memset(job, 0, sizeof *job);
    return job;
}

static inline void imb_fill_mac_job(IMB_JOB *job, const struct imb_apart_key *key, const uint8_t *data, uint32_t length, uint8_t *tag)
{
    imb_fill_hash(job, key, data, length, tag);
    job->cipher_mode = IMB_CIPHER_NULL;
    job->cipher_direction = IMB_DIR_ENCRYPT;
    job->chain_order = IMB_ORDER_HASH_CIPHER;
}

static inline void imb_fill_ccm_job(IMB_JOB *job, const struct imb_apart_key *key, uint8_t *data, uint32_t length, const uint8_t *nonce,
                                    const uint8_t *aad, uint32_t aad_length, uint8_t *tag, int seal)
{
    job->enc_keys = job->dec_keys = key->encrypt;
    job->key_len_in_bytes = key->key_length;
    job->src = job->dst = data;
    job->msg_len_to_cipher_in_bytes = job->msg_len_to_hash_in_bytes = length;
    job->iv = nonce;
    job->iv_len_in_bytes = 11;
    job->u.CCM.aad = aad;
    job->u.CCM.aad_len_in_bytes = aad_length;
    job->auth_tag_output = tag;
    job->auth_tag_output_len_in_bytes = key->icv_length;
    job->cipher_mode = IMB_CIPHER_CCM;
    job->hash_alg = IMB_AUTH_AES_CCM;
    job->cipher_direction = seal ? IMB_DIR_ENCRYPT : IMB_DIR_DECRYPT;
    job->chain_order = seal ? IMB_ORDER_HASH_CIPHER : IMB_ORDER_CIPHER_HASH;
}

static inline uint32_t imb_run_ciphers(IMB_MGR *m, IMB_JOB *jobs, uint32_t n, const struct imb_apart_key *key, int seal)
{
    return IMB_SUBMIT_CIPHER_BURST(m, jobs, n, (IMB_CIPHER_MODE)key->mode, seal ? IMB_DIR_ENCRYPT : IMB_DIR_DECRYPT,
                                   (IMB_KEY_SIZE_BYTES)key->key_length);
}

static inline uint32_t imb_run_hashes(IMB_MGR *m, IMB_JOB *jobs, uint32_t n, const struct imb_apart_key *key)
{
    return IMB_SUBMIT_HASH_BURST(m, jobs, n, (IMB_HASH_ALG)key->mac);
}

/* Submits the job that imb_next_job gave; `completed` counts those that came back well. */
static inline void imb_submit(IMB_MGR *m, uint32_t *completed)
{
    for (IMB_JOB *done = IMB_SUBMIT_JOB(m); done != NULL; done = IMB_GET_COMPLETED_JOB(m))
        *completed += done->status == IMB_STATUS_COMPLETED;
}

static inline void imb_flush(IMB_MGR *m, uint32_t *completed)
{
    for (IMB_JOB *done = IMB_FLUSH_JOB(m); done != NULL; done = IMB_FLUSH_JOB(m))
        *completed += done->status == IMB_STATUS_COMPLETED;
}

/* --- what no job takes: more bytes than a lane counts (AH has up to 65,579), or two stretches ---------------------------------------------------- */

#define IMB_LONGEST 65534u      /* of a job: MB_MAX_LEN16, in no header of theirs */
#define IMB_LONGEST_CCM_AAD 46u /* likewise */
#define IMB_FIRST_PART 32768u
#define IMB_SCRATCH (65536u + 64u)

/* HMAC by libcrypto, from the states that the jobs start from. The states are words in the processor's order in both libraries. */
static inline int imb_hmac_apart(const struct imb_apart_key *key, const uint8_t *a, uint32_t a_length, const uint8_t *b, uint32_t b_length,
                                 uint8_t *tag)
{
    uint8_t digest[64];
    if (key->mac == IMB_AUTH_HMAC_SHA_1) {
        SHA_CTX inner, outer;
        SHA1_Init(&inner);
        SHA1_Init(&outer);
        memcpy(&inner.h0, key->inner, 20);
        memcpy(&outer.h0, key->outer, 20);
        inner.Nl = outer.Nl = 512;
        SHA1_Update(&inner, a, a_length);
        SHA1_Update(&inner, b, b_length);
        SHA1_Final(digest, &inner);
        SHA1_Update(&outer, digest, 20);
        SHA1_Final(digest, &outer);
    } else if (key->mac == IMB_AUTH_HMAC_SHA_256) {
        SHA256_CTX inner, outer;
        SHA256_Init(&inner);
        SHA256_Init(&outer);
        memcpy(inner.h, key->inner, 32);
        memcpy(outer.h, key->outer, 32);
        inner.Nl = outer.Nl = 512;
        SHA256_Update(&inner, a, a_length);
        SHA256_Update(&inner, b, b_length);
        SHA256_Final(digest, &inner);
        SHA256_Update(&outer, digest, 32);
        SHA256_Final(digest, &outer);
    } else {
        SHA512_CTX inner, outer;
        int is_384 = key->mac == IMB_AUTH_HMAC_SHA_384;
        is_384 ? SHA384_Init(&inner) : SHA512_Init(&inner);
        is_384 ? SHA384_Init(&outer) : SHA512_Init(&outer);
        memcpy(inner.h, key->inner, 64);
        memcpy(outer.h, key->outer, 64);
        inner.Nl = outer.Nl = 1024;
        SHA512_Update(&inner, a, a_length);
        SHA512_Update(&inner, b, b_length);
        SHA512_Final(digest, &inner);
        SHA512_Update(&outer, digest, is_384 ? 48 : 64);
        SHA512_Final(digest, &outer);
    }
    memcpy(tag, digest, key->icv_length);
    return 1;
}

/* XCBC or CMAC of both stretches, from a copy in `scratch`; nothing may be in the queue. A first part beyond one job goes through CBC: XCBC and CMAC
   are that chain, so what is left starts from its last block. */
static inline int imb_chain_apart(IMB_MGR *m, const struct imb_apart_key *key, const uint8_t *a, uint32_t a_length, const uint8_t *b,
                                  uint32_t b_length, uint8_t *scratch, uint8_t *tag)
{
    static const uint8_t zeros[16] = {0};
    uint8_t chain[16] = {0};
    uint32_t completed = 0;
    IMB_JOB *job;
    if (a_length > IMB_LONGEST + IMB_FIRST_PART - b_length)
        return 0;
    if (a_length + b_length > IMB_LONGEST) {
        IMB_JOB first;
        memset(&first, 0, sizeof first);
        first.enc_keys = first.dec_keys = key->inner;
        first.key_len_in_bytes = 16;
        first.src = a;
        first.dst = scratch;
        first.msg_len_to_cipher_in_bytes = IMB_FIRST_PART;
        first.iv = zeros;
        first.iv_len_in_bytes = 16;
        if (IMB_SUBMIT_CIPHER_BURST(m, &first, 1, IMB_CIPHER_CBC, IMB_DIR_ENCRYPT, IMB_KEY_128_BYTES) != 1)
            return 0;
        memcpy(chain, scratch + IMB_FIRST_PART - 16, 16);
        a += IMB_FIRST_PART;
        a_length -= IMB_FIRST_PART;
    }
    memcpy(scratch, a, a_length);
    memcpy(scratch + a_length, b, b_length);
    for (uint32_t i = 0; i < 16; i++)
        scratch[i] ^= chain[i];
    job = imb_next_job(m);
    imb_fill_mac_job(job, key, scratch, a_length + b_length, tag);
    imb_submit(m, &completed);
    imb_flush(m, &completed);
    return completed == 1;
}

#endif
