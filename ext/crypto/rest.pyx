"""Records at rest: AES-256-GCM under a subkey of this process, so that nothing is sealed twice with one (key, nonce).

A RestKey draws 32 random bytes when it is made; the subkey is prf+(key of the file, label | salt) with HMAC-SHA2-256
(RFC 7296 section 2.13), the nonce a counter. A crash, a copy of the files and a second process each mean another salt.
A sealed record is salt | counter | ciphertext | ICV. The parts of a plaintext that are Secrets are read where they lie;
an opened record is a Secret, handed out piece by piece as bytes or, inside the arena, as Secrets.
Leaves out: what a record means (control/store_codec), older records put back (control/store_mark). Called by control/store.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint64_t
from libc.string cimport memcpy, memset

from ipsec_fast.crypto.prf cimport octets
from ipsec_fast.crypto.secret cimport Secret, borrow, new_secret, secret_from_pointer

import os

from ipsec_fast.crypto.prf import prf, prf_plus
from ipsec_fast.errors import AlgorithmError, StateError, UsageError

__all__ = ["MIN_KEY_BYTES", "SEALED_EXTRA_BYTES", "OpenedRecord", "RestKey"]

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
    int EVP_CipherInit_ex2(EVP_CIPHER_CTX *, const EVP_CIPHER *, const unsigned char *, const unsigned char *, int, const void *)
    int EVP_CipherUpdate(EVP_CIPHER_CTX *, unsigned char *, int *, const unsigned char *, int)
    int EVP_CipherFinal_ex(EVP_CIPHER_CTX *, unsigned char *, int *)

cdef enum:
    SALT = 32
    COUNTER = 8
    ICV = 16
    LONGEST = 1 << 22               # of a plaintext and of its aad; an IKE SA with a thousand children stays below

MIN_KEY_BYTES = 32
SEALED_EXTRA_BYTES = SALT + COUNTER + ICV
cdef int HMAC_SHA2_256 = 5
cdef bytes SUBKEY = b"ipsec-fast record at rest"
cdef bytes TAG = b"ipsec-fast tag at rest"
cdef EVP_CIPHER *GCM_256 = EVP_CIPHER_fetch(NULL, "AES-256-GCM", NULL)


cdef class RestKey:
    """Seals records at rest under a subkey of this process; opens those of any process that had the same key. Copies the key."""
    cdef Secret key, subkey, tag_key
    cdef bytes salt
    cdef uint64_t counter
    cdef bytes other_salt           # of the process before us, whose records we open one after the other
    cdef Secret other_subkey

    def __init__(self, Secret key not None):
        borrow(key)
        if key.size < MIN_KEY_BYTES:
            raise UsageError(f"a key for records at rest has at least {MIN_KEY_BYTES} bytes, this one {key.size}")
        self.key = key.slice(0, key.size)
        self.tag_key = prf_plus(HMAC_SHA2_256, self.key, TAG, 32)
        self.salt = os.urandom(SALT)
        self.subkey = prf_plus(HMAC_SHA2_256, self.key, SUBKEY + self.salt, 32)
        self.counter = 0

    def __repr__(self):
        return f"<RestKey, {self.counter} sealed{', closed' if self.closed else ''}>"

    def __reduce__(self):
        raise TypeError("a RestKey cannot be pickled or copied: its nonces would be used twice")

    @property
    def closed(self):
        """Whether the key is gone."""
        return self.key is None or self.key.data == NULL

    def close(self):
        """Wipe the keys; any later use raises StateError."""
        for secret in (self.key, self.subkey, self.tag_key, self.other_subkey):
            if secret is not None:
                secret.close()

    def tag(self, bytes data not None):
        """32 bytes that only a holder of the key can make: for marks that are readable but not to be forged."""
        return prf(HMAC_SHA2_256, self.tag_key, data)

    def seal(self, bytes aad not None, parts):
        """The parts one behind the other, sealed; `aad` is bound to them and not in the result."""
        cdef Py_ssize_t n = 0
        cdef bytes sealed
        cdef unsigned char *out
        cdef int i
        borrow(self.subkey)
        parts = list(parts)                             # held here while their memory is read
        for part in parts:
            n += piece_of(part).bytes
        if n == 0 or n > LONGEST or PyBytes_GET_SIZE(aad) > LONGEST:
            raise UsageError(f"a record of {n} bytes; 1 to {LONGEST} can be sealed")
        if self.counter == <uint64_t> -1:
            raise StateError("this process has sealed 2^64 records; restart it for another subkey")
        self.counter += 1                               # first, so that whatever fails below has used its nonce up
        sealed = PyBytes_FromStringAndSize(NULL, SALT + COUNTER + n + ICV)
        out = <unsigned char *> PyBytes_AS_STRING(sealed)
        memset(out, 0, PyBytes_GET_SIZE(sealed))
        memcpy(out, PyBytes_AS_STRING(self.salt), SALT)
        for i in range(COUNTER):
            out[SALT + i] = <unsigned char> (self.counter >> (8 * (COUNTER - 1 - i)))
        if not self.encrypt(aad, out, parts, n):
            raise AlgorithmError("OpenSSL refuses to seal a record")
        return sealed

    def open(self, bytes aad not None, bytes sealed not None):
        """StateError, one text for every cause, unless `sealed` was made with this `aad` under this key."""
        cdef Py_ssize_t n = PyBytes_GET_SIZE(sealed) - SALT - COUNTER - ICV
        cdef const unsigned char *data = <const unsigned char *> PyBytes_AS_STRING(sealed)
        cdef Secret subkey, plaintext
        borrow(self.subkey)
        if n < 1 or n > LONGEST or PyBytes_GET_SIZE(aad) > LONGEST:
            raise StateError("a record at rest that does not verify")
        subkey = self.subkey_of(sealed[:SALT])
        plaintext = new_secret(n)
        if not decrypt(subkey, aad, data + SALT, data + SALT + COUNTER, plaintext.data, n):
            plaintext.close()
            raise StateError("a record at rest that does not verify")
        return opened(plaintext)

    cdef Secret subkey_of(self, bytes salt):
        if salt == self.salt:
            return self.subkey
        if salt != self.other_salt:
            self.other_subkey = prf_plus(HMAC_SHA2_256, self.key, SUBKEY + salt, 32)
            self.other_salt = salt
        return self.other_subkey

    cdef bint encrypt(self, bytes aad, unsigned char *out, list parts, Py_ssize_t n) except -1:
        """From each part straight into `out`, which begins with salt and counter."""
        cdef EVP_CIPHER_CTX *context = begin(self.subkey, aad, out + SALT, 1)
        cdef unsigned char *at = out + SALT + COUNTER
        cdef unsigned char last[16]
        cdef int got = 0
        cdef octets piece
        cdef bint ok = context != NULL
        for part in parts:
            piece = piece_of(part)
            if not ok or piece.bytes == 0:
                continue
            ok = EVP_CipherUpdate(context, at, &got, piece.data, <int> piece.bytes) == 1 and got == <int> piece.bytes
            at += piece.bytes
        ok = ok and EVP_CipherFinal_ex(context, last, &got) == 1
        ok = ok and EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, ICV, at) == 1
        EVP_CIPHER_CTX_free(context)
        if not ok:
            ERR_clear_error()
        return ok


cdef class OpenedRecord:
    """A plaintext inside the arena, taken from front to back; a piece beyond its end is a StateError."""
    cdef Secret plaintext
    cdef Py_ssize_t at

    def __init__(self):
        raise TypeError("an OpenedRecord comes from RestKey.open()")

    def __repr__(self):
        return f"<OpenedRecord, {self.left} bytes left>"

    def __reduce__(self):
        raise TypeError("an OpenedRecord cannot be pickled or copied")

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    @property
    def left(self):
        """Bytes that were not taken yet."""
        return 0 if self.plaintext is None else self.plaintext.size - self.at

    def take(self, Py_ssize_t n):
        """The next bytes, which must not be a secret."""
        return PyBytes_FromStringAndSize(<char *> self.advance(n), n)

    def take_secret(self, Py_ssize_t n):
        """The next bytes as a secret of their own."""
        return secret_from_pointer(self.advance(n), n)

    def close(self):
        """Wipe the plaintext; what was taken stays."""
        if self.plaintext is not None:
            self.plaintext.close()

    cdef const unsigned char *advance(self, Py_ssize_t n) except NULL:
        cdef const unsigned char *data = borrow(self.plaintext) + self.at
        if n < 0 or n > self.plaintext.size - self.at:
            raise StateError(f"{n} bytes are wanted where {self.left} are left")
        self.at += n
        return data


cdef OpenedRecord opened(Secret plaintext):
    cdef OpenedRecord record = OpenedRecord.__new__(OpenedRecord)
    record.plaintext, record.at = plaintext, 0
    return record


cdef octets piece_of(object part) except *:
    cdef octets piece
    if isinstance(part, Secret):
        piece.data, piece.bytes = borrow(part), (<Secret> part).size
    elif isinstance(part, bytes):
        piece.data, piece.bytes = <const unsigned char *> PyBytes_AS_STRING(part), PyBytes_GET_SIZE(part)
    else:
        raise UsageError(f"a part of a record is bytes or a Secret, not {type(part).__name__}")
    return piece


cdef EVP_CIPHER_CTX *begin(Secret key, bytes aad, const unsigned char *counter, int encrypt) noexcept:
    """A context that has seen key, nonce (the counter behind four zero bytes) and aad; NULL where OpenSSL refuses."""
    cdef EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new()
    cdef unsigned char nonce[12]
    cdef int got = 0
    memset(nonce, 0, 4)
    memcpy(nonce + 4, counter, COUNTER)
    if (context != NULL and EVP_CipherInit_ex2(context, GCM_256, key.data, nonce, encrypt, NULL) == 1
            and EVP_CipherUpdate(context, NULL, &got, <const unsigned char *> PyBytes_AS_STRING(aad),
                                 <int> PyBytes_GET_SIZE(aad)) == 1):
        return context
    EVP_CIPHER_CTX_free(context)
    return NULL


cdef bint decrypt(Secret key, bytes aad, const unsigned char *counter, const unsigned char *source,
                  unsigned char *target, Py_ssize_t n) noexcept:
    """True where the ICV behind the n bytes of `source` verifies."""
    cdef EVP_CIPHER_CTX *context = begin(key, aad, counter, 0)
    cdef unsigned char last[16]
    cdef int got = 0
    cdef bint ok = context != NULL
    ok = ok and EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, ICV, <void *> (source + n)) == 1
    ok = ok and EVP_CipherUpdate(context, target, &got, source, <int> n) == 1 and got == n
    ok = ok and EVP_CipherFinal_ex(context, last, &got) == 1
    EVP_CIPHER_CTX_free(context)
    if not ok:
        ERR_clear_error()
    return ok
