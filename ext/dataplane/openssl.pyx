"""The required engine: every suite of algorithms.py that this OpenSSL 3 carries, and the IVs for CBC.

The work is in openssl_aead.pyx and openssl_combined.pyx; here each row of the algorithm table gets its functions. A key belongs to one SA and one
thread at a time. Called by: the kernels, through engine.pyx.
"""

from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport calloc
from libc.string cimport memset

from ipsec_fast.algorithms import Mode, esp_suite, esp_suite_names
from ipsec_fast.dataplane.engine cimport IV_NONE, IV_RANDOM, IV_SEQUENCE, engine_suite, register_suite
from ipsec_fast.dataplane.forks cimport fork_count
from ipsec_fast.dataplane.libcrypto cimport *
from ipsec_fast.dataplane.openssl_aead cimport *
from ipsec_fast.dataplane.openssl_combined cimport *


cdef EVP_CIPHER *aes256_ctr = EVP_CIPHER_fetch(NULL, "AES-256-CTR", NULL)


# --- IVs -----------------------------------------------------------------------------------------------------------------------------------------

cdef struct iv_generator:
    EVP_CIPHER_CTX *ctx
    uint32_t forks           # when its key was made


cdef int take_key(iv_generator *generator) noexcept nogil:
    cdef uint8_t seed[48]
    cdef int ok
    generator.forks = fork_count[0]
    ok = (
        generator.ctx != NULL
        and aes256_ctr != NULL
        and RAND_priv_bytes(seed, 48) > 0
        and EVP_EncryptInit_ex2(generator.ctx, aes256_ctr, seed, seed + 32, NULL) > 0
    )
    OPENSSL_cleanse(seed, 48)
    return ok


cdef iv_generator *iv_generator_new() noexcept nogil:
    cdef iv_generator *generator = <iv_generator *> OPENSSL_zalloc(sizeof(iv_generator))
    if generator == NULL:
        return NULL
    generator.ctx = EVP_CIPHER_CTX_new()
    if not take_key(generator):
        iv_generator_free(generator)
        return NULL
    return generator


cdef void iv_generator_free(iv_generator *generator) noexcept nogil:
    if generator != NULL:
        EVP_CIPHER_CTX_free(generator.ctx)
        OPENSSL_clear_free(generator, sizeof(iv_generator))


cdef bint iv_generator_fill(iv_generator *generator, uint8_t *out, uint32_t length) noexcept nogil:
    cdef int written
    if generator.forks != fork_count[0] and not take_key(generator):
        return False
    memset(out, 0, length)
    return EVP_EncryptUpdate(generator.ctx, out, &written, out, <int> length) > 0


# --- registration --------------------------------------------------------------------------------------------------------------------------------

MODES = {Mode.CBC: MODE_CBC, Mode.CTR: MODE_CTR, Mode.NULL: MODE_NULL}
MACS = {"sha1": MAC_SHA1, "sha256": MAC_SHA256, "sha384": MAC_SHA384, "sha512": MAC_SHA512, "xcbc": MAC_XCBC, "cmac": MAC_CMAC}

_names = []  # keeps the C strings alive
_ciphers = {}  # OpenSSL's name -> address of the EVP_CIPHER, kept for good


cdef const void *fetched(str name):
    if name not in _ciphers:
        _ciphers[name] = <size_t> EVP_CIPHER_fetch(NULL, name.encode(), NULL)
    return <const void *> <size_t> _ciphers[name]


cdef str cipher_name(row):
    if row.mode is Mode.CHACHA20:
        return "ChaCha20-Poly1305"
    mode = {Mode.GMAC: "GCM", Mode.GCM: "GCM", Mode.CCM: "CCM", Mode.CBC: "CBC", Mode.CTR: "CTR"}[row.mode]
    return f"AES-{row.key_bytes * 8}-{mode}"


cdef void fill_sizes(engine_suite *suite, row) except *:
    cipher = row.encryption
    encoded = row.name.encode()
    _names.append(encoded)
    suite.engine = "openssl"
    suite.name = encoded
    suite.priority = 100
    suite.keymat_length = row.keymat_bytes
    suite.key_length = cipher.key_bytes
    suite.salt_length = cipher.salt_bytes
    suite.iv_length = cipher.iv_bytes
    suite.iv_kind = IV_RANDOM if cipher.mode is Mode.CBC else IV_NONE if cipher.mode is Mode.NULL else IV_SEQUENCE
    suite.icv_length = row.icv_bytes
    suite.align = cipher.block_bytes
    suite.is_aead = cipher.is_aead
    suite.iv_in_place = not cipher.is_aead or cipher.mode is Mode.GMAC


cdef bint fill_work(engine_suite *suite, row) except -1:
    """False where this OpenSSL lacks the cipher (a FIPS provider has no ChaCha20)."""
    cipher = row.encryption
    suite.cipher = NULL if cipher.mode is Mode.NULL else fetched(cipher_name(cipher))
    if suite.cipher == NULL and cipher.mode is not Mode.NULL:
        return False
    if cipher.is_aead:
        suite.key_new, suite.key_free = ccm_key_new if cipher.mode is Mode.CCM else aead_key_new, aead_key_free
        suite.seal = ccm_seal if cipher.mode is Mode.CCM else gmac_seal if cipher.mode is Mode.GMAC else aead_seal
        suite.open = ccm_open if cipher.mode is Mode.CCM else gmac_open if cipher.mode is Mode.GMAC else aead_open
        return True
    suite.mode, suite.mac = MODES[cipher.mode], MACS[row.integrity.digest]
    suite.mac_key_length = row.integrity.key_bytes
    suite.keys_are_shared = cipher.mode is Mode.NULL and row.integrity.digest not in ("xcbc", "cmac")  # states that are copied
    suite.mac_cipher = fetched("AES-128-CBC")
    suite.key_new, suite.key_free, suite.seal, suite.open = combined_key_new, combined_key_free, combined_seal, combined_open
    return suite.mac_cipher != NULL


cdef void register_all() except *:
    names = esp_suite_names()
    cdef engine_suite *suites = <engine_suite *> calloc(len(names), sizeof(engine_suite))  # for good
    if suites == NULL:
        raise MemoryError
    for i, name in enumerate(names):
        row = esp_suite(name)
        fill_sizes(&suites[<int> i], row)
        if fill_work(&suites[<int> i], row):
            register_suite(&suites[<int> i])


register_all()


def library_version() -> str:
    """`OpenSSL 3.0.22 25 Aug 2026`, of the library that is loaded."""
    return OpenSSL_version(0).decode()
