"""PRF, prf+ and all the keys of IKEv2 (RFC 7296 sections 2.13 to 2.18), with HMAC-SHA2 of OpenSSL.

Secrets are read from and written to the arena; what is on the stack on the way is wiped.
Leaves out: the PRFs with a fixed key length (AES-XCBC, AES-CMAC) and MD5/SHA-1; SK{} sealing is seal.
Called by ike/v2 (keymat, auth) and by seal.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memcpy, strcmp

from ipsec_fast.crypto.secret cimport Secret, borrow, new_secret, secret_from_pointer

from ipsec_fast.errors import AlgorithmError, IntegrityError, UsageError

__all__ = ["IkeKeys", "derive_child_keys", "derive_ike_keys", "derive_ike_rekey_keys", "prf", "prf_plus", "psk_auth",
           "verify"]

cdef extern from "<openssl/crypto.h>" nogil:
    void OPENSSL_cleanse(void *, size_t)
    int CRYPTO_memcmp(const void *, const void *, size_t)

cdef extern from "<openssl/core.h>" nogil:
    ctypedef struct OSSL_PARAM:
        pass

cdef extern from "<openssl/params.h>" nogil:
    OSSL_PARAM OSSL_PARAM_construct_utf8_string(const char *, char *, size_t)
    OSSL_PARAM OSSL_PARAM_construct_end()

cdef extern from "<openssl/err.h>" nogil:
    void ERR_clear_error()

cdef extern from "<openssl/evp.h>" nogil:
    ctypedef struct EVP_MAC:
        pass
    ctypedef struct EVP_MAC_CTX:
        pass
    EVP_MAC *EVP_MAC_fetch(void *, const char *, const char *)
    EVP_MAC_CTX *EVP_MAC_CTX_new(EVP_MAC *)
    void EVP_MAC_CTX_free(EVP_MAC_CTX *)
    int EVP_MAC_init(EVP_MAC_CTX *, const unsigned char *, size_t, const OSSL_PARAM *)
    int EVP_MAC_update(EVP_MAC_CTX *, const unsigned char *, size_t)
    int EVP_MAC_final(EVP_MAC_CTX *, unsigned char *, size_t *, size_t)

cdef enum:
    LARGEST_DIGEST = 64

cdef EVP_MAC *HMAC = EVP_MAC_fetch(NULL, "HMAC", NULL)
cdef bytes KEY_PAD = b"Key Pad for IKEv2"


class IkeKeys:
    """The seven keys of an IKE SA (RFC 7296 section 2.14): `sk_d`, `sk_ai`, `sk_ar`, `sk_ei`, `sk_er`, `sk_pi`, `sk_pr`.

    `sk_ai` and `sk_ar` have length 0 with an AEAD.
    """
    __slots__ = ("sk_ai", "sk_ar", "sk_d", "sk_ei", "sk_er", "sk_pi", "sk_pr")

    def __init__(self, sk_d, sk_ai, sk_ar, sk_ei, sk_er, sk_pi, sk_pr):
        self.sk_d, self.sk_ai, self.sk_ar = sk_d, sk_ai, sk_ar
        self.sk_ei, self.sk_er, self.sk_pi, self.sk_pr = sk_ei, sk_er, sk_pi, sk_pr

    def __repr__(self):
        return f"<IkeKeys, SK_d {len(self.sk_d)} bytes{', closed' if self.sk_d.closed else ''}>"

    def close(self):
        """Wipe and free all of them."""
        for name in self.__slots__:
            getattr(self, name).close()


def prf(int prf_id, key, bytes data not None):
    """prf(key, data), for output that is no secret: AUTH octets, cookies."""
    cdef octets part = octets_of(data)
    return hmac_bytes(digest_of_prf(prf_id), octets_of_key(key), &part, 1)


def prf_plus(int prf_id, Secret key not None, bytes seed not None, Py_ssize_t length):
    """prf+(key, seed), `length` bytes of it (RFC 7296 section 2.13); at most 255 blocks."""
    cdef octets part = octets_of(seed)
    return expand(prf_id, octets_of_secret(key), &part, 1, length)


def derive_ike_keys(int prf_id, Secret shared not None, bytes ni not None, bytes nr not None, bytes spi_i not None,
                    bytes spi_r not None, Py_ssize_t encr_keymat_bytes, Py_ssize_t integ_key_bytes):
    """The keys of the first IKE SA (RFC 7296 section 2.14). `encr_keymat_bytes` is cipher key plus salt."""
    # SKEYSEED = prf(Ni | Nr, g^ir); a PRF of HMAC takes the nonces as they are
    nonces = ni + nr
    cdef octets part = octets_of_secret(shared)
    cdef Secret skeyseed = hmac_secret(digest_of_prf(prf_id), octets_of(nonces), &part, 1)
    try:
        return ike_keys(prf_id, skeyseed, ni, nr, spi_i, spi_r, encr_keymat_bytes, integ_key_bytes)
    finally:
        skeyseed.close()


def derive_ike_rekey_keys(int prf_id, int old_prf_id, Secret old_sk_d not None, Secret shared not None,
                          bytes ni not None, bytes nr not None, bytes spi_i not None, bytes spi_r not None,
                          Py_ssize_t encr_keymat_bytes, Py_ssize_t integ_key_bytes):
    """The keys of a rekeyed IKE SA (RFC 7296 section 2.18): SKEYSEED by the old SA's PRF, the rest by the new one's."""
    # SKEYSEED = prf(SK_d (old), g^ir (new) | Ni | Nr), with the old SA's PRF
    cdef octets parts[3]
    parts[0], parts[1], parts[2] = octets_of_secret(shared), octets_of(ni), octets_of(nr)
    cdef Secret skeyseed = hmac_secret(digest_of_prf(old_prf_id), octets_of_secret(old_sk_d), parts, 3)
    try:
        return ike_keys(prf_id, skeyseed, ni, nr, spi_i, spi_r, encr_keymat_bytes, integ_key_bytes)
    finally:
        skeyseed.close()


def derive_child_keys(int prf_id, Secret sk_d not None, Secret shared, bytes ni not None, bytes nr not None,
                      Py_ssize_t bytes_per_direction):
    """KEYMAT of a Child SA (RFC 7296 section 2.17): (initiator to responder, responder to initiator)."""
    # KEYMAT = prf+(SK_d, [g^ir (new) |] Ni | Nr)
    cdef octets parts[3]
    parts[0].data, parts[0].bytes = b"", 0
    if shared is not None:
        parts[0] = octets_of_secret(shared)
    parts[1], parts[2] = octets_of(ni), octets_of(nr)
    cdef Secret keymat = expand(prf_id, octets_of_secret(sk_d), parts, 3, 2 * bytes_per_direction)
    try:
        return keymat.slice(0, bytes_per_direction), keymat.slice(bytes_per_direction, 2 * bytes_per_direction)
    finally:
        keymat.close()


def psk_auth(int prf_id, psk, bytes message not None, bytes nonce not None, Secret sk_p not None,
             bytes id_payload_body not None):
    """The AUTH data of a pre-shared key (RFC 7296 section 2.15). `nonce` is the other side's."""
    # AUTH = prf(prf(PSK, "Key Pad for IKEv2"), message | nonce | prf(SK_p, ID body))
    cdef const char *digest = digest_of_prf(prf_id)
    cdef octets parts[3]
    cdef Secret key
    maced_id = prf(prf_id, sk_p, id_payload_body)
    parts[0] = octets_of(KEY_PAD)
    key = hmac_secret(digest, octets_of_key(psk), parts, 1)
    parts[0], parts[1], parts[2] = octets_of(message), octets_of(nonce), octets_of(maced_id)
    try:
        return hmac_bytes(digest, octets_of_secret(key), parts, 3)
    finally:
        key.close()


def verify(bytes a not None, bytes b not None):
    """Constant-time comparison; IntegrityError unless both are equal."""
    cdef Py_ssize_t n = PyBytes_GET_SIZE(a)
    if n != PyBytes_GET_SIZE(b) or CRYPTO_memcmp(PyBytes_AS_STRING(a), PyBytes_AS_STRING(b), n) != 0:
        raise IntegrityError("the value does not verify")


cdef object ike_keys(int prf_id, Secret skeyseed, bytes ni, bytes nr, bytes spi_i, bytes spi_r, Py_ssize_t encr,
                     Py_ssize_t integ):
    """{SK_d | SK_ai | SK_ar | SK_ei | SK_er | SK_pi | SK_pr} = prf+(SKEYSEED, Ni | Nr | SPIi | SPIr)."""
    cdef Py_ssize_t own = digest_bytes(digest_of_prf(prf_id)), at = 0, n
    if len(spi_i) != 8 or len(spi_r) != 8:
        raise UsageError(f"IKE SPIs have 8 bytes, these {len(spi_i)} and {len(spi_r)}")
    if encr < 0 or integ < 0:
        raise UsageError("a key length is negative")
    seed = ni + nr + spi_i + spi_r
    cdef octets part = octets_of(seed)
    cdef Secret dkm = expand(prf_id, octets_of_secret(skeyseed), &part, 1, 3 * own + 2 * encr + 2 * integ)
    keys = []
    try:
        for n in (own, integ, integ, encr, encr, own, own):
            keys.append(dkm.slice(at, at + n))
            at += n
    finally:
        dkm.close()
    return IkeKeys(*keys)


cdef Secret expand(int prf_id, octets key, const octets *seed, int n, Py_ssize_t length):
    """T1 = prf(K, S | 1), Ti = prf(K, Ti-1 | S | i); at most 255 blocks, the counter is one byte."""
    cdef const char *digest = digest_of_prf(prf_id)
    cdef Py_ssize_t block = digest_bytes(digest), done = 0
    cdef unsigned char last[LARGEST_DIGEST]
    cdef unsigned char counter = 1
    cdef octets parts[6]
    if length < 0 or length > 255 * block:
        raise UsageError(f"prf+ gives 0 to {255 * block} bytes here, not {length}")
    if n > 4:
        raise UsageError("prf+ takes four seed parts at most")
    cdef Secret out = new_secret(length)
    memcpy(parts + 1, seed, n * sizeof(octets))
    parts[n + 1].data, parts[n + 1].bytes = &counter, 1
    parts[0].data, parts[0].bytes = last, 0
    try:
        while done < length:
            hmac(digest, key, parts, n + 2, last)
            parts[0].bytes = block
            memcpy(out.data + done, last, min(block, length - done))
            done += block
            counter += 1
    finally:
        OPENSSL_cleanse(last, sizeof(last))
    return out


cdef Secret hmac_secret(const char *digest, octets key, const octets *parts, int n):
    cdef Secret out = new_secret(digest_bytes(digest))
    hmac(digest, key, parts, n, out.data)
    return out


cdef bytes hmac_bytes(const char *digest, octets key, const octets *parts, int n):
    cdef unsigned char out[LARGEST_DIGEST]
    hmac(digest, key, parts, n, out)
    return PyBytes_FromStringAndSize(<char *> out, digest_bytes(digest))


cdef int hmac(const char *digest, octets key, const octets *parts, int n, unsigned char *out) except -1:
    cdef EVP_MAC_CTX *context = EVP_MAC_CTX_new(HMAC)
    cdef OSSL_PARAM params[2]
    cdef size_t got = 0
    cdef int at, ok
    params[0] = OSSL_PARAM_construct_utf8_string("digest", <char *> digest, 0)
    params[1] = OSSL_PARAM_construct_end()
    ok = context != NULL and EVP_MAC_init(context, key.data, key.bytes, params) == 1
    for at in range(n):
        ok = ok and EVP_MAC_update(context, parts[at].data, parts[at].bytes) == 1
    ok = ok and EVP_MAC_final(context, out, &got, LARGEST_DIGEST) == 1
    EVP_MAC_CTX_free(context)
    if not ok:
        ERR_clear_error()
        raise AlgorithmError(f"OpenSSL refuses HMAC with {digest.decode()} and a key of {key.bytes} bytes")
    return 0


cdef const char *digest_of_prf(int prf_id) except NULL:
    if prf_id == 5:
        return "SHA256"
    if prf_id == 6:
        return "SHA384"
    if prf_id == 7:
        return "SHA512"
    raise AlgorithmError(f"PRF {prf_id} is not carried; 5, 6 and 7 are (HMAC-SHA2-256, -384, -512)")


cdef Py_ssize_t digest_bytes(const char *digest) noexcept nogil:
    return 32 if strcmp(digest, "SHA256") == 0 else 48 if strcmp(digest, "SHA384") == 0 else 64


cdef octets octets_of_secret(Secret secret) except *:
    cdef octets result
    result.data, result.bytes = borrow(secret), secret.size
    return result


cdef octets octets_of(bytes data) except *:
    cdef octets result
    result.data, result.bytes = <const unsigned char *> PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data)
    return result


cdef octets octets_of_key(object key) except *:
    if isinstance(key, Secret):
        return octets_of_secret(key)
    if isinstance(key, bytes):
        return octets_of(key)
    raise UsageError(f"a key is a Secret or bytes, not {type(key).__name__}")
