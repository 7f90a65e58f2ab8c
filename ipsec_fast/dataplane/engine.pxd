# Crypto engines: what a kernel asks of one, and the registry that picks it.

from libc.stdint cimport uint8_t, uint32_t


# One packet's crypto. The kernel fills every field but `ok` for a whole batch before the engine runs.
cdef struct crypto_op:
    uint8_t nonce[16]        # AEAD and CTR: salt and IV, 11 (CCM) or 12 bytes; CBC: the IV
    uint8_t aad_store[16]    # where an AAD lies that is not on the wire (ESN)
    uint8_t *data            # plaintext or ciphertext, in place
    uint8_t *icv             # seal writes it, open compares it
    const uint8_t *aad       # AEAD: the AAD. HMAC: first authenticated byte
    void *key
    uint32_t length          # of data
    uint32_t aad_length      # HMAC: of everything authenticated that is contiguous
    uint8_t tail[4]          # MACs and GMAC with ESN: high half, authenticated last, not on the wire
    uint32_t tail_length     # 0 or 4
    uint32_t ok              # 1: sealed, or opened and authentic
    uint32_t index           # the caller's own, of the packet
    void **spares            # the same key once more for each thread of a crew; set only where one works

cdef enum:
    IV_SEQUENCE = 0          # 8 bytes: the 64-bit sequence number (RFC 4106 section 3.1 leaves the choice to us); in the packet or implicit
    IV_RANDOM = 1            # 16 bytes that nobody can predict
    IV_NONE = 2

cdef struct engine_suite
ctypedef void *(*key_new_fn)(const engine_suite *suite, const uint8_t *keymat, bint seal) noexcept nogil
ctypedef void (*key_free_fn)(void *key) noexcept nogil
ctypedef void (*crypto_fn)(crypto_op *ops, uint32_t n) noexcept nogil

# One algorithm on one engine. `seal` and `open` take ops of this suite only; keys may differ from op to op. Any thread may make, use and free a key; only
# where `keys_are_shared` may several use one key at the same time (each with ops of its own): the others hold a context that each packet re-arms.
cdef struct engine_suite:
    const char *engine       # "openssl"; what SA.engine says
    const char *name         # as in strongSwan proposals
    int priority             # the highest wins where the engine is "auto"
    uint32_t keymat_length   # cipher key, salt, integrity key
    uint32_t key_length      # cipher key
    uint32_t salt_length
    uint32_t iv_length       # in the packet: 0 too where the IV is implicit (RFC 8750)
    uint32_t iv_kind         # IV_*
    uint32_t icv_length
    uint32_t align           # of payload, padding and trailer together
    uint32_t is_aead         # the AAD is the ESP header; otherwise header, IV and data are authenticated as they stand
    uint32_t iv_in_place     # the IV is authenticated where it stands, right before the data (not by GCM, CCM, ChaCha20: it is in their nonce)
    uint32_t keys_are_shared # seal and open only read them
    uint32_t is_choice       # goes by the number of packets; found by "auto" alone, and no engine of its own
    const void *cipher       # the engine's own, as are the next four
    const void *mac_cipher
    uint32_t mode
    uint32_t mac
    uint32_t mac_key_length
    key_new_fn key_new       # keymat in KEYMAT order; NULL where the library refuses
    key_free_fn key_free
    crypto_fn seal
    crypto_fn open

cdef void register_suite(const engine_suite *suite) noexcept
cdef const engine_suite *find_suite(str name, str engine) except NULL
