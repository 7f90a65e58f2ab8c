# Crypto engines: what a kernel asks of one, and the registry that picks it.

from libc.stdint cimport uint8_t, uint32_t


# One packet's crypto. The kernel fills every field but `ok` for a whole batch before the engine runs.
cdef struct crypto_op:
    uint8_t nonce[16]        # AEAD: salt and explicit IV, 12 bytes; CBC: the IV
    uint8_t aad_store[16]    # where an AAD lies that is not on the wire (ESN)
    uint8_t *data            # plaintext or ciphertext, in place
    uint8_t *icv             # seal writes it, open compares it
    const uint8_t *aad       # AEAD: the AAD. HMAC: first authenticated byte
    void *key
    uint32_t length          # of data
    uint32_t aad_length      # HMAC: of everything authenticated that is contiguous
    uint8_t tail[4]          # HMAC with ESN: high half, authenticated last, not on the wire
    uint32_t tail_length     # 0 or 4
    uint32_t ok              # 1: sealed, or opened and authentic
    uint32_t index           # the caller's own, of the packet

ctypedef void *(*key_new_fn)(const uint8_t *keymat, bint seal) noexcept nogil
ctypedef void (*key_free_fn)(void *key) noexcept nogil
ctypedef void (*crypto_fn)(crypto_op *ops, uint32_t n) noexcept nogil

# One algorithm on one engine. `seal` and `open` take ops of this suite only; keys may differ from op to op, each used by one thread at a time.
cdef struct engine_suite:
    const char *engine       # "openssl"
    const char *name         # as in strongSwan proposals
    int priority             # the highest wins where the engine is "auto"
    uint32_t keymat_length   # cipher key, salt, integrity key
    uint32_t key_length      # cipher key
    uint32_t salt_length
    uint32_t iv_length
    uint32_t icv_length
    uint32_t align           # of payload, padding and trailer together
    uint32_t is_aead
    key_new_fn key_new       # keymat in KEYMAT order; NULL where the library refuses
    key_free_fn key_free
    crypto_fn seal
    crypto_fn open

cdef void register_suite(const engine_suite *suite) noexcept
cdef const engine_suite *find_suite(str name, str engine) except NULL
