"""SK{} payloads: AES-GCM with a 16-byte ICV (RFC 5282), AES-CBC with HMAC-SHA2 (RFC 7296 section 3.14).

One Sealer is one direction of one IKE SA. Its keys are its own copies in the arena; OpenSSL's contexts live for one
call and are wiped by it. CBC is encrypt-then-MAC over aad | IV | ciphertext, verified before anything is decrypted; an
AEAD's plaintext is wiped where its tag is wrong. Every cause of a refusal has the same text.
Leaves out: padding (the caller's), IV choice (the caller's: a counter for GCM, random for CBC), other ciphers.
Called by ike/v2/protect.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memcpy

from ipsec_fast.crypto.prf cimport digest_bytes, hmac, octets
from ipsec_fast.crypto.secret cimport Secret, borrow

from ipsec_fast.errors import AlgorithmError, IntegrityError, UsageError

__all__ = ["Sealer"]

cdef extern from "<openssl/crypto.h>" nogil:
    void OPENSSL_cleanse(void *, size_t)
    int CRYPTO_memcmp(const void *, const void *, size_t)

cdef extern from "<openssl/err.h>" nogil:
    void ERR_clear_error()

cdef extern from "<openssl/evp.h>" nogil:
    ctypedef struct EVP_CIPHER:
        pass
    ctypedef struct EVP_CIPHER_CTX:
        pass
    int EVP_CTRL_AEAD_GET_TAG, EVP_CTRL_AEAD_SET_TAG
    EVP_CIPHER *EVP_CIPHER_fetch(void *, const char *, const char *)
    EVP_CIPHER_CTX *EVP_CIPHER_CTX_new()
    void EVP_CIPHER_CTX_free(EVP_CIPHER_CTX *)
    int EVP_CIPHER_CTX_ctrl(EVP_CIPHER_CTX *, int, int, void *)
    int EVP_CIPHER_CTX_set_padding(EVP_CIPHER_CTX *, int)
    int EVP_CipherInit_ex2(EVP_CIPHER_CTX *, const EVP_CIPHER *, const unsigned char *, const unsigned char *, int, const void *)
    int EVP_CipherUpdate(EVP_CIPHER_CTX *, unsigned char *, int *, const unsigned char *, int)
    int EVP_CipherFinal_ex(EVP_CIPHER_CTX *, unsigned char *, int *)

cdef enum:
    AES_CBC = 12
    AES_GCM_16 = 20
    LONGEST = 65536             # no IKE message is longer; and every length fits an int
    LARGEST_DIGEST = 64

cdef EVP_CIPHER *GCM_128 = EVP_CIPHER_fetch(NULL, "AES-128-GCM", NULL)
cdef EVP_CIPHER *GCM_256 = EVP_CIPHER_fetch(NULL, "AES-256-GCM", NULL)
cdef EVP_CIPHER *CBC_128 = EVP_CIPHER_fetch(NULL, "AES-128-CBC", NULL)
cdef EVP_CIPHER *CBC_256 = EVP_CIPHER_fetch(NULL, "AES-256-CBC", NULL)

REFUSED = "an SK payload that does not verify"


cdef class Sealer:
    """Seals or opens the SK{} payloads of one direction of one IKE SA. Copies its keys inside the arena.

    An IV has `iv_bytes`, an ICV `icv_bytes`; the padded plaintext is a multiple of `block_bytes` (1 for AEADs, RFC 5282 section 3).
    """
    cdef bint aead
    cdef const EVP_CIPHER *cipher
    cdef const char *digest
    cdef Secret sk_e, sk_a
    cdef readonly int iv_bytes, icv_bytes, block_bytes
    cdef int key_bytes

    def __init__(self, int encr_id, int key_bits, Secret sk_e not None, integ_id=None, Secret sk_a=None):
        if key_bits not in (128, 256) or encr_id not in (AES_CBC, AES_GCM_16):
            raise AlgorithmError(f"no SK cipher of ours: {encr_id} with {key_bits} bits; AES-GCM-16 (20) and AES-CBC (12) have 128 or 256")
        self.aead = encr_id == AES_GCM_16
        self.key_bytes = key_bits // 8
        if self.aead:
            self.cipher = GCM_128 if key_bits == 128 else GCM_256
            self.iv_bytes, self.icv_bytes, self.block_bytes = 8, 16, 1
            check_length("SK_e", sk_e, self.key_bytes + 4)
            if integ_id:
                raise AlgorithmError(f"AES-GCM brings its own ICV; integrity algorithm {integ_id} does not go with it")
        else:
            self.cipher = CBC_128 if key_bits == 128 else CBC_256
            self.iv_bytes, self.block_bytes = 16, 16
            check_length("SK_e", sk_e, self.key_bytes)
            self.set_integrity(integ_id, sk_a)
        self.sk_e = sk_e.slice(0, len(sk_e))

    cdef int set_integrity(self, integ_id, Secret sk_a) except -1:
        if integ_id not in (12, 13, 14):
            raise AlgorithmError(f"AES-CBC needs integrity algorithm 12, 13 or 14 (HMAC-SHA2), not {integ_id}")
        self.digest = "SHA256" if integ_id == 12 else "SHA384" if integ_id == 13 else "SHA512"
        self.icv_bytes = digest_bytes(self.digest) // 2
        if sk_a is None:
            raise UsageError("AES-CBC needs SK_a")
        check_length("SK_a", sk_a, digest_bytes(self.digest))
        self.sk_a = sk_a.slice(0, len(sk_a))
        return 0

    def __repr__(self):
        return f"<Sealer {'AES-GCM-16' if self.aead else 'AES-CBC'} {self.key_bytes * 8} bits{', closed' if self.closed else ''}>"

    def __reduce__(self):
        raise TypeError("a Sealer cannot be pickled or copied")

    @property
    def closed(self):
        """Whether the keys are gone."""
        return self.sk_e is None or self.sk_e.data == NULL

    def close(self):
        """Wipe the keys; any later use raises StateError."""
        if self.sk_e is not None:
            self.sk_e.close()
        if self.sk_a is not None:
            self.sk_a.close()

    def seal(self, bytes aad not None, bytes plaintext not None, bytes iv not None):
        """IV | ciphertext | ICV. `aad` is the message up to and including the SK payload's generic header."""
        cdef Py_ssize_t n = PyBytes_GET_SIZE(plaintext)
        cdef bytes body
        cdef unsigned char *out
        borrow(self.sk_e)
        if PyBytes_GET_SIZE(iv) != self.iv_bytes:
            raise UsageError(f"the IV has {self.iv_bytes} bytes here, not {PyBytes_GET_SIZE(iv)}")
        if n == 0 or n % self.block_bytes or n > LONGEST or PyBytes_GET_SIZE(aad) > LONGEST:
            raise UsageError(f"a plaintext of {n} bytes; 1 to {LONGEST} in multiples of {self.block_bytes} can be sealed")
        body = PyBytes_FromStringAndSize(NULL, self.iv_bytes + n + self.icv_bytes)
        out = <unsigned char *> PyBytes_AS_STRING(body)
        memcpy(out, PyBytes_AS_STRING(iv), self.iv_bytes)
        if not self.crypt(1, aad, out, <const unsigned char *> PyBytes_AS_STRING(plaintext), out + self.iv_bytes, n,
                          out + self.iv_bytes + n):
            raise AlgorithmError("OpenSSL refuses to seal an SK payload")
        if not self.aead:
            self.mac(aad, out, self.iv_bytes + n, out + self.iv_bytes + n)
        return body

    def open(self, bytes aad not None, bytes body not None):
        """The plaintext with its padding; IntegrityError, one text for every cause; the ICV is verified before anything is used."""
        cdef Py_ssize_t n = PyBytes_GET_SIZE(body) - self.iv_bytes - self.icv_bytes
        cdef const unsigned char *data = <const unsigned char *> PyBytes_AS_STRING(body)
        cdef const unsigned char *icv = data + self.iv_bytes + n
        cdef unsigned char expected[LARGEST_DIGEST]
        cdef bytes plaintext
        borrow(self.sk_e)
        if n < 1 or n % self.block_bytes or n > LONGEST or PyBytes_GET_SIZE(aad) > LONGEST:
            raise IntegrityError(REFUSED)
        if not self.aead:
            self.mac(aad, data, self.iv_bytes + n, expected)
            if CRYPTO_memcmp(expected, icv, self.icv_bytes) != 0:
                raise IntegrityError(REFUSED)
        plaintext = PyBytes_FromStringAndSize(NULL, n)
        if not self.crypt(0, aad, data, data + self.iv_bytes, <unsigned char *> PyBytes_AS_STRING(plaintext), n,
                          <unsigned char *> icv):
            OPENSSL_cleanse(PyBytes_AS_STRING(plaintext), n)
            raise IntegrityError(REFUSED)
        return plaintext

    cdef int mac(self, bytes aad, const unsigned char *data, Py_ssize_t n, unsigned char *icv) except -1:
        """The truncated HMAC over aad | data."""
        cdef unsigned char full[LARGEST_DIGEST]
        cdef octets key
        cdef octets parts[2]
        key.data, key.bytes = borrow(self.sk_a), self.sk_a.size
        parts[0].data, parts[0].bytes = <const unsigned char *> PyBytes_AS_STRING(aad), PyBytes_GET_SIZE(aad)
        parts[1].data, parts[1].bytes = data, n
        hmac(self.digest, key, parts, 2, full)
        memcpy(icv, full, self.icv_bytes)
        return 0

    cdef bint crypt(self, int encrypt, bytes aad, const unsigned char *iv, const unsigned char *source,
                    unsigned char *target, Py_ssize_t n, unsigned char *icv) noexcept:
        """The cipher over n bytes; with an AEAD the tag is written to, or checked against, `icv`."""
        cdef EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new()
        cdef unsigned char nonce[16]
        cdef unsigned char last[16]
        cdef int got = 0
        cdef bint ok
        if self.aead:
            memcpy(nonce, self.sk_e.data + self.key_bytes, 4)
            memcpy(nonce + 4, iv, 8)
        else:
            memcpy(nonce, iv, 16)
        ok = context != NULL and EVP_CipherInit_ex2(context, self.cipher, self.sk_e.data, nonce, encrypt, NULL) == 1
        if self.aead:
            if not encrypt:
                ok = ok and EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, self.icv_bytes, icv) == 1
            ok = ok and EVP_CipherUpdate(context, NULL, &got, <const unsigned char *> PyBytes_AS_STRING(aad),
                                         <int> PyBytes_GET_SIZE(aad)) == 1
        else:
            ok = ok and EVP_CIPHER_CTX_set_padding(context, 0) == 1
        ok = ok and EVP_CipherUpdate(context, target, &got, source, <int> n) == 1 and got == n
        ok = ok and EVP_CipherFinal_ex(context, last, &got) == 1
        if self.aead and encrypt:
            ok = ok and EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, self.icv_bytes, icv) == 1
        EVP_CIPHER_CTX_free(context)
        OPENSSL_cleanse(nonce, sizeof(nonce))
        if not ok:
            ERR_clear_error()
        return ok


cdef int check_length(str name, Secret secret, int wanted) except -1:
    borrow(secret)
    if secret.size != wanted:
        raise UsageError(f"{name} has {wanted} bytes here, not {secret.size}")
    return 0
