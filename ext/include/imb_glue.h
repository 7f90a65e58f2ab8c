/* Intel ipsec-mb (1.x and 2.x) as ipsecmb.pyx uses it: a manager for each thread, job structs filled by name, macros made functions.
 *
 * A manager is not thread safe, so each thread makes its own at its first packet and loses it when it ends: the one allocation on that path. There are
 * two kinds. The wide one is the best that the processor has; its hashes and its CBC encryption work on 4 to 16 packets at once and cost the same with
 * one. The narrow one is the SSE kind, whose SHA-1 and SHA-256 are the processor's own instructions on two packets. Compiled only where setup.py
 * found the library.
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

enum { IMB_WIDE, IMB_NARROW, IMB_MANAGERS };

static _Thread_local IMB_MGR *imb_thread_managers[IMB_MANAGERS];
static pthread_key_t imb_thread_keys[IMB_MANAGERS];
static IMB_ARCH imb_architecture = IMB_ARCH_NONE;
static int imb_is_capped; /* the caller wants less than the processor has */
static int imb_has_sha;   /* instructions for SHA-1 and SHA-256: there is a narrow manager */

static void imb_free_manager(void *manager)
{
    imb_clear_mem(manager, imb_get_mb_mgr_size()); /* one block; its lanes hold round keys and states, and free_mb_mgr wipes nothing */
    free_mb_mgr((IMB_MGR *)manager);
    for (int i = 0; i < IMB_MANAGERS; i++)
        if (imb_thread_managers[i] == manager)
            imb_thread_managers[i] = NULL;
}

static void imb_init_manager(IMB_MGR *manager, int kind)
{
    IMB_ARCH unused;
    if (kind == IMB_NARROW || (imb_is_capped && imb_architecture == IMB_ARCH_SSE))
        init_mb_mgr_sse(manager);
    else if (imb_is_capped)
        init_mb_mgr_avx2(manager);
    else
        init_mb_mgr_auto(manager, &unused);
}

/* --- which manager for how many ------------------------------------------------------------------------------------------------------------------- */

#define IMB_NEVER 0xFFFFFFFFu

/* What so many packets of one call run on. Whole groups of `lanes` go to the wide manager, and of the rest as many as `wide_from` or more; with fewer
   it costs less elsewhere: on the narrow manager from `narrow_from`, below that on libcrypto. Measured with 80, 600 and 1440 bytes a packet on a
   processor that has everything, and with parts of it switched off (docs/engines.md). */
struct imb_plan {
    uint32_t lanes;
    uint32_t wide_from;
    uint32_t narrow_from;
};

static struct imb_plan imb_plan_sha1, imb_plan_sha256, imb_plan_sha512, imb_plan_cbc;

static void imb_make_plans(uint64_t features)
{
    const int is_512 = imb_architecture > IMB_ARCH_AVX2, with_sha = imb_has_sha;
    const uint32_t narrow_from = with_sha ? 2u : IMB_NEVER;
    /* 16 packets in 512 bits, 8 in 256; SHA-512 has half as many */
    imb_plan_sha1 = (struct imb_plan){is_512 ? 16u : 8u, with_sha ? 6u : 3u, narrow_from};
    if (with_sha)
        imb_plan_sha256 = (struct imb_plan){16u, is_512 ? 12u : IMB_NEVER, narrow_from};
    else
        imb_plan_sha256 = (struct imb_plan){is_512 ? 16u : 8u, 3u, IMB_NEVER};
    imb_plan_sha512 = (struct imb_plan){is_512 ? 8u : 4u, is_512 ? 2u : 3u, IMB_NEVER};
    imb_plan_cbc = (struct imb_plan){is_512 && (features & IMB_FEATURE_VAES) ? 16u : 8u, 2u, IMB_NEVER};
}

static inline const struct imb_plan *imb_hash_plan(uint32_t mac)
{
    if (mac == IMB_AUTH_HMAC_SHA_1)
        return &imb_plan_sha1;
    return mac == IMB_AUTH_HMAC_SHA_256 ? &imb_plan_sha256 : &imb_plan_sha512;
}

/* How many of n go to the wide manager: the first so many. */
static inline uint32_t imb_wide_part(const struct imb_plan *plan, uint32_t n)
{
    uint32_t rest = n % plan->lanes;
    if (plan->wide_from == IMB_NEVER)
        return 0;
    return rest >= plan->wide_from ? n : n - rest;
}

/* --- managers -------------------------------------------------------------------------------------------------------------------------------------- */

/* Whether this processor can; and what it has. With `most` below that, as if it had no more. */
static int imb_start(IMB_ARCH most)
{
    IMB_MGR *probe;
    uint64_t features;
    /* the minor version too: libIPSec_MB.so.1 is 1.3 with a gcm_key_data of 1008 bytes and jobs of 200, and 1.4 with 1264 and 240 */
    if (imb_get_version() >> 8 != IMB_VERSION_NUM >> 8)
        return 0;
    probe = alloc_mb_mgr(0);
    if (probe == NULL)
        return 0;
    init_mb_mgr_auto(probe, &imb_architecture);
    features = probe->features;
    if (probe->imb_errno != 0 || !(features & IMB_FEATURE_AESNI))
        imb_architecture = IMB_ARCH_NONE;
    free_mb_mgr(probe);
    if (imb_architecture < IMB_ARCH_SSE)
        return 0;
    imb_is_capped = most < imb_architecture;
    if (imb_is_capped)
        imb_architecture = most;
    imb_has_sha = (features & IMB_FEATURE_SHANI) != 0;
    imb_make_plans(features);
    for (int i = 0; i < IMB_MANAGERS; i++)
        if (pthread_key_create(&imb_thread_keys[i], imb_free_manager) != 0)
            return 0;
    return 1;
}

static IMB_MGR *imb_make_manager(int kind)
{
    IMB_MGR *manager = alloc_mb_mgr(0);
    if (manager == NULL)
        return NULL;
    imb_init_manager(manager, kind);
    /* not imb_get_errno: in 1.x that gives any thread's last error too */
    if (manager->imb_errno != 0 || pthread_setspecific(imb_thread_keys[kind], manager) != 0) {
        free_mb_mgr(manager);
        return NULL;
    }
    return imb_thread_managers[kind] = manager;
}

static inline IMB_MGR *imb_manager(void)
{
    return imb_thread_managers[IMB_WIDE] != NULL ? imb_thread_managers[IMB_WIDE] : imb_make_manager(IMB_WIDE);
}

static inline IMB_MGR *imb_narrow_manager(void)
{
    return imb_thread_managers[IMB_NARROW] != NULL ? imb_thread_managers[IMB_NARROW] : imb_make_manager(IMB_NARROW);
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

/* All as AAD of one call, which is faster than a GMAC in stretches. */
static inline void imb_gmac_whole(IMB_MGR *m, uint32_t bytes, const struct gcm_key_data *key, const uint8_t *nonce, const uint8_t *a,
                                  uint32_t a_length, uint8_t *tag)
{
    struct gcm_context_data context;
    uint8_t nothing[16];
    IMB_BY_KEY(bytes, GCM_ENC, m, key, &context, nothing, nothing, 0, nonce, a, a_length, tag, 16);
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

/* A job, which comes back at once; nothing else may be in the queue. Twice as fast as the direct calls. */
static inline int imb_chacha(IMB_MGR *m, const uint8_t *key, uint8_t *data, uint32_t length, const uint8_t *nonce, const uint8_t *aad,
                             uint32_t aad_length, uint8_t *tag, int seal)
{
    IMB_JOB *job = IMB_GET_NEXT_JOB(m);
    memset(job, 0, sizeof *job);
    job->enc_keys = job->dec_keys = key;
    job->key_len_in_bytes = 32;
    job->src = job->dst = data;
    job->msg_len_to_cipher_in_bytes = job->msg_len_to_hash_in_bytes = length;
    job->iv = nonce;
    job->iv_len_in_bytes = 12;
    job->u.CHACHA20_POLY1305.aad = aad;
    job->u.CHACHA20_POLY1305.aad_len_in_bytes = aad_length;
    job->auth_tag_output = tag;
    job->auth_tag_output_len_in_bytes = 16;
    job->cipher_mode = IMB_CIPHER_CHACHA20_POLY1305;
    job->hash_alg = IMB_AUTH_CHACHA20_POLY1305;
    job->cipher_direction = seal ? IMB_DIR_ENCRYPT : IMB_DIR_DECRYPT;
    job->chain_order = seal ? IMB_ORDER_CIPHER_HASH : IMB_ORDER_HASH_CIPHER;
    job = IMB_SUBMIT_JOB_NOCHECK(m);
    return job != NULL && job->status == IMB_STATUS_COMPLETED;
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
    uint32_t with_libcrypto; /* few packets may run there */
    void *one;               /* out, CBC: an EVP_CIPHER_CTX for a packet alone */
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

/* Without the library's own checks: whoever fills the jobs keeps to what it takes. */
static inline uint32_t imb_run_ciphers(IMB_MGR *m, IMB_JOB *jobs, uint32_t n, const struct imb_apart_key *key, int seal)
{
    return IMB_SUBMIT_CIPHER_BURST_NOCHECK(m, jobs, n, (IMB_CIPHER_MODE)key->mode, seal ? IMB_DIR_ENCRYPT : IMB_DIR_DECRYPT,
                                           (IMB_KEY_SIZE_BYTES)key->key_length);
}

static inline uint32_t imb_run_hashes(IMB_MGR *m, IMB_JOB *jobs, uint32_t n, const struct imb_apart_key *key)
{
    return IMB_SUBMIT_HASH_BURST_NOCHECK(m, jobs, n, (IMB_HASH_ALG)key->mac);
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
