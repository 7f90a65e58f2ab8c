"""Key exchange by EVP_PKEY: MODP groups 2, 5, 14, 15, 16, the curves P-256, P-384, P-521 (19 to 21), X25519 (31).

RFC 7296 section 3.4, RFC 2409 section 6.2, RFC 3526, RFC 5903, RFC 8031. Groups 2 and 5 are weak; who may use them is configuration.
Peer values are checked as RFC 6989 wants: the exact length, 1 < y < p-1, on the curve; and no all-zero X25519 result
(RFC 8031 section 2.3). The shared secret goes straight into the arena, leading zeros kept. The private value lives in
OpenSSL's key object, which wipes it on free. OpenSSL takes a short exponent for its named MODP groups (225 bits for 2048, SP 800-56A)
and one as long as the prime for group 2, which it has no name for.
Leaves out: other groups, ML-KEM and multiple exchanges (RFC 9370). Called by ike's key exchange provider.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

from ipsec_fast.crypto.secret cimport Secret, new_secret

from ipsec_fast.errors import AlgorithmError, NegotiationError, StateError

__all__ = ["KeyPair", "generate", "key_pair_for_test"]

cdef extern from "<openssl/crypto.h>" nogil:
    void OPENSSL_free(void *)

cdef extern from "<openssl/err.h>" nogil:
    void ERR_clear_error()

cdef extern from "<openssl/core.h>" nogil:
    ctypedef struct OSSL_PARAM:
        pass

cdef extern from "<openssl/params.h>" nogil:
    OSSL_PARAM OSSL_PARAM_construct_utf8_string(const char *, char *, size_t)
    OSSL_PARAM OSSL_PARAM_construct_end()
    void OSSL_PARAM_free(OSSL_PARAM *)

cdef extern from "<openssl/param_build.h>" nogil:
    ctypedef struct OSSL_PARAM_BLD:
        pass
    OSSL_PARAM_BLD *OSSL_PARAM_BLD_new()
    void OSSL_PARAM_BLD_free(OSSL_PARAM_BLD *)
    int OSSL_PARAM_BLD_push_utf8_string(OSSL_PARAM_BLD *, const char *, const char *, size_t)
    int OSSL_PARAM_BLD_push_octet_string(OSSL_PARAM_BLD *, const char *, const void *, size_t)
    int OSSL_PARAM_BLD_push_BN(OSSL_PARAM_BLD *, const char *, const BIGNUM *)
    OSSL_PARAM *OSSL_PARAM_BLD_to_param(OSSL_PARAM_BLD *)

cdef extern from "<openssl/bn.h>" nogil:
    ctypedef struct BIGNUM:
        pass
    ctypedef struct BN_CTX:
        pass
    BIGNUM *BN_new()
    BIGNUM *BN_bin2bn(const unsigned char *, int, BIGNUM *)
    BIGNUM *BN_get_rfc2409_prime_1024(BIGNUM *)
    BIGNUM *BN_get_rfc3526_prime_1536(BIGNUM *)
    BIGNUM *BN_get_rfc3526_prime_2048(BIGNUM *)
    BIGNUM *BN_get_rfc3526_prime_3072(BIGNUM *)
    BIGNUM *BN_get_rfc3526_prime_4096(BIGNUM *)
    void BN_clear_free(BIGNUM *)
    int BN_is_zero(const BIGNUM *)
    int BN_is_one(const BIGNUM *)
    int BN_cmp(const BIGNUM *, const BIGNUM *)
    int BN_sub_word(BIGNUM *, unsigned long)
    int BN_set_word(BIGNUM *, unsigned long)
    int BN_mod_exp(BIGNUM *, const BIGNUM *, const BIGNUM *, const BIGNUM *, BN_CTX *)
    BN_CTX *BN_CTX_new()
    void BN_CTX_free(BN_CTX *)

cdef extern from "<openssl/ec.h>" nogil:
    ctypedef struct EC_GROUP:
        pass
    ctypedef struct EC_POINT:
        pass
    EC_GROUP *EC_GROUP_new_by_curve_name(int)
    void EC_GROUP_free(EC_GROUP *)
    EC_POINT *EC_POINT_new(const EC_GROUP *)
    void EC_POINT_free(EC_POINT *)
    int EC_POINT_mul(const EC_GROUP *, EC_POINT *, const BIGNUM *, const EC_POINT *, const BIGNUM *, BN_CTX *)
    size_t EC_POINT_point2oct(const EC_GROUP *, const EC_POINT *, int, unsigned char *, size_t, BN_CTX *)
    int POINT_CONVERSION_UNCOMPRESSED

cdef extern from "<openssl/obj_mac.h>" nogil:
    int NID_X9_62_prime256v1, NID_secp384r1, NID_secp521r1

cdef extern from "<openssl/evp.h>" nogil:
    ctypedef struct EVP_PKEY:
        pass
    ctypedef struct EVP_PKEY_CTX:
        pass
    int EVP_PKEY_KEYPAIR, EVP_PKEY_KEY_PARAMETERS
    EVP_PKEY *EVP_PKEY_new()
    void EVP_PKEY_free(EVP_PKEY *)
    int EVP_PKEY_up_ref(EVP_PKEY *)
    int EVP_PKEY_copy_parameters(EVP_PKEY *, const EVP_PKEY *)
    int EVP_PKEY_set1_encoded_public_key(EVP_PKEY *, const unsigned char *, size_t)
    size_t EVP_PKEY_get1_encoded_public_key(EVP_PKEY *, unsigned char **)
    EVP_PKEY *EVP_PKEY_new_raw_private_key_ex(void *, const char *, const char *, const unsigned char *, size_t)
    EVP_PKEY_CTX *EVP_PKEY_CTX_new_from_name(void *, const char *, const char *)
    EVP_PKEY_CTX *EVP_PKEY_CTX_new_from_pkey(void *, EVP_PKEY *, const char *)
    void EVP_PKEY_CTX_free(EVP_PKEY_CTX *)
    int EVP_PKEY_CTX_set_params(EVP_PKEY_CTX *, const OSSL_PARAM *)
    int EVP_PKEY_keygen_init(EVP_PKEY_CTX *)
    int EVP_PKEY_generate(EVP_PKEY_CTX *, EVP_PKEY **)
    int EVP_PKEY_fromdata_init(EVP_PKEY_CTX *)
    int EVP_PKEY_fromdata(EVP_PKEY_CTX *, EVP_PKEY **, int, OSSL_PARAM *)
    int EVP_PKEY_derive_init(EVP_PKEY_CTX *)
    int EVP_PKEY_derive_set_peer_ex(EVP_PKEY_CTX *, EVP_PKEY *, int)
    int EVP_PKEY_derive(EVP_PKEY_CTX *, unsigned char *, size_t *)

cdef extern from "<openssl/dh.h>" nogil:
    int EVP_PKEY_CTX_set_dh_pad(EVP_PKEY_CTX *, int)

cdef enum:
    INVALID_SYNTAX = 7          # the notify RFC 6989 section 2.5 names
    GOOD = 1
    BAD_VALUE = 0               # the peer's value is refused
    BROKEN = -1                 # OpenSSL cannot do it at all
    GROUPS_CARRIED = 9
    POINT_BYTES = 133           # of the largest point: 0x04 | x | y of P-521

ctypedef BIGNUM *(*prime_getter)(BIGNUM *) noexcept nogil

cdef struct group_row:
    int id
    const char *type            # OpenSSL's key type and group
    const char *group           # NULL where OpenSSL has no name for it, or needs none
    Py_ssize_t public_bytes     # in the KE payload; for a curve x | y without OpenSSL's 0x04 before it
    Py_ssize_t shared_bytes
    int point                   # 1: that 0x04 is there
    int nid
    prime_getter prime          # of a MODP group, whose generator is 2

cdef group_row[GROUPS_CARRIED] GROUPS = [
    group_row(2, "DH", NULL, 128, 128, 0, 0, BN_get_rfc2409_prime_1024),
    group_row(5, "DH", "modp_1536", 192, 192, 0, 0, BN_get_rfc3526_prime_1536),
    group_row(14, "DH", "modp_2048", 256, 256, 0, 0, BN_get_rfc3526_prime_2048),
    group_row(15, "DH", "modp_3072", 384, 384, 0, 0, BN_get_rfc3526_prime_3072),
    group_row(16, "DH", "modp_4096", 512, 512, 0, 0, BN_get_rfc3526_prime_4096),
    group_row(19, "EC", "prime256v1", 64, 32, 1, NID_X9_62_prime256v1, NULL),
    group_row(20, "EC", "secp384r1", 96, 48, 1, NID_secp384r1, NULL),
    group_row(21, "EC", "secp521r1", 132, 66, 1, NID_secp521r1, NULL),
    group_row(31, "X25519", NULL, 32, 32, 0, 0, NULL),
]


cdef class KeyPair:
    """One ephemeral key pair; `public` is the data of the KE payload (RFC 7296 section 3.4)."""
    cdef EVP_PKEY *key
    cdef const group_row *row
    cdef readonly bytes public

    def __cinit__(self):
        self.key = NULL

    def __init__(self):
        raise TypeError("a KeyPair comes from generate()")

    def __dealloc__(self):
        EVP_PKEY_free(self.key)

    def __repr__(self):
        return f"<KeyPair of group {self.row.id if self.row != NULL else None}{', closed' if self.key == NULL else ''}>"

    def __reduce__(self):
        raise TypeError("a KeyPair cannot be pickled or copied")

    @property
    def group(self):
        """Its number of IANA's."""
        if self.row == NULL:
            raise TypeError("a KeyPair comes from generate()")
        return self.row.id

    @property
    def closed(self):
        """Whether the private value is gone."""
        return self.key == NULL

    def close(self):
        """Free the private value; twice is fine, any later use raises StateError."""
        EVP_PKEY_free(self.key)
        self.key = NULL

    def derive(self, bytes peer_public not None):
        """The shared secret, leading zeros kept; NegotiationError (INVALID_SYNTAX) for a public value that RFC 6989 refuses."""
        cdef Py_ssize_t got = PyBytes_GET_SIZE(peer_public)
        cdef const unsigned char *peer = <const unsigned char *> PyBytes_AS_STRING(peer_public)
        cdef EVP_PKEY *key = self.key
        cdef Secret shared
        cdef int outcome
        if key == NULL:
            raise StateError("this key pair was closed; its private value is gone")
        if got != self.row.public_bytes:
            raise NegotiationError(
                f"a KE payload of group {self.row.id} holds {self.row.public_bytes} bytes, the peer sent {got}", INVALID_SYNTAX
            )
        shared = new_secret(self.row.shared_bytes)
        EVP_PKEY_up_ref(key)        # another thread may close() us meanwhile
        with nogil:
            outcome = derive_shared(key, self.row, peer, shared.data)
            EVP_PKEY_free(key)
        if outcome == GOOD:
            return shared
        shared.close()
        if outcome == BROKEN:
            raise AlgorithmError(f"OpenSSL cannot do the key exchange of group {self.row.id}")
        raise NegotiationError(f"the peer's public value is not a valid one of group {self.row.id}", INVALID_SYNTAX)


def generate(int group):
    """A fresh key pair of group 2, 5, 14, 15, 16, 19, 20, 21 or 31; AlgorithmError for any other."""
    cdef KeyPair pair = new_pair(group)
    with nogil:
        pair.key = make_key(pair.row)
    return finish(pair)


def key_pair_for_test(int group, bytes private not None):
    """The key pair of a known private value, for vectors."""
    cdef KeyPair pair = new_pair(group)
    cdef const unsigned char *data = <const unsigned char *> PyBytes_AS_STRING(private)
    if pair.row.prime == NULL and not pair.row.point:
        pair.key = EVP_PKEY_new_raw_private_key_ex(NULL, pair.row.type, NULL, data, PyBytes_GET_SIZE(private))
    else:
        pair.key = key_of_number(pair.row, data, <int> PyBytes_GET_SIZE(private))
    return finish(pair)


cdef KeyPair new_pair(int group):
    cdef KeyPair pair = KeyPair.__new__(KeyPair)
    cdef int at
    for at in range(GROUPS_CARRIED):
        if GROUPS[at].id == group:
            pair.row = &GROUPS[at]
            return pair
    raise AlgorithmError(f"key exchange group {group} is not carried; 2, 5, 14, 15, 16, 19, 20, 21 and 31 are")


cdef KeyPair finish(KeyPair pair):
    cdef unsigned char *encoded = NULL
    cdef size_t n = 0
    if pair.key != NULL:
        n = EVP_PKEY_get1_encoded_public_key(pair.key, &encoded)
    if n != <size_t> (pair.row.public_bytes + pair.row.point):
        OPENSSL_free(encoded)
        ERR_clear_error()
        raise AlgorithmError(f"OpenSSL makes no key pair of group {pair.row.id}")
    pair.public = PyBytes_FromStringAndSize(<char *> encoded + pair.row.point, pair.row.public_bytes)
    OPENSSL_free(encoded)
    return pair


cdef EVP_PKEY *make_key(const group_row *row) noexcept nogil:
    cdef EVP_PKEY *key = NULL
    cdef EVP_PKEY *parameters = NULL
    cdef EVP_PKEY_CTX *context
    if row.prime != NULL and row.group == NULL:
        parameters = parameters_of_prime(row)
        context = EVP_PKEY_CTX_new_from_pkey(NULL, parameters, NULL) if parameters != NULL else NULL
        if context != NULL and EVP_PKEY_keygen_init(context) == 1:
            EVP_PKEY_generate(context, &key)
        EVP_PKEY_CTX_free(context)
        EVP_PKEY_free(parameters)
        return key
    return make_named_key(row)


cdef EVP_PKEY *parameters_of_prime(const group_row *row) noexcept nogil:
    """The group of a prime and the generator 2, for which OpenSSL has no name."""
    cdef BIGNUM *prime = row.prime(NULL)
    cdef BIGNUM *generator = BN_new()
    cdef OSSL_PARAM_BLD *build = OSSL_PARAM_BLD_new()
    cdef OSSL_PARAM *params = NULL
    cdef EVP_PKEY_CTX *context = EVP_PKEY_CTX_new_from_name(NULL, row.type, NULL)
    cdef EVP_PKEY *key = NULL
    cdef bint ok = prime != NULL and generator != NULL and build != NULL and context != NULL
    ok = ok and BN_set_word(generator, 2) == 1 and push_prime(build, prime, generator)
    if ok:
        params = OSSL_PARAM_BLD_to_param(build)
        if params != NULL and EVP_PKEY_fromdata_init(context) == 1:
            EVP_PKEY_fromdata(context, &key, EVP_PKEY_KEY_PARAMETERS, params)
    OSSL_PARAM_free(params)
    OSSL_PARAM_BLD_free(build)
    EVP_PKEY_CTX_free(context)
    BN_clear_free(generator)
    BN_clear_free(prime)
    return key


cdef bint push_prime(OSSL_PARAM_BLD *build, const BIGNUM *prime, const BIGNUM *generator) noexcept nogil:
    return OSSL_PARAM_BLD_push_BN(build, "p", prime) == 1 and OSSL_PARAM_BLD_push_BN(build, "g", generator) == 1


cdef EVP_PKEY *make_named_key(const group_row *row) noexcept nogil:
    cdef EVP_PKEY_CTX *context = EVP_PKEY_CTX_new_from_name(NULL, row.type, NULL)
    cdef EVP_PKEY *key = NULL
    cdef OSSL_PARAM params[2]
    cdef bint ok = context != NULL and EVP_PKEY_keygen_init(context) == 1
    if ok and row.group != NULL:
        params[0] = OSSL_PARAM_construct_utf8_string("group", <char *> row.group, 0)
        params[1] = OSSL_PARAM_construct_end()
        ok = EVP_PKEY_CTX_set_params(context, params) == 1
    if ok:
        EVP_PKEY_generate(context, &key)
    EVP_PKEY_CTX_free(context)
    return key


cdef int derive_shared(EVP_PKEY *key, const group_row *row, const unsigned char *peer, unsigned char *shared) noexcept nogil:
    cdef EVP_PKEY *peer_key = EVP_PKEY_new()
    cdef EVP_PKEY_CTX *context = EVP_PKEY_CTX_new_from_pkey(NULL, key, NULL)
    cdef int outcome = BROKEN
    if peer_key != NULL and context != NULL and EVP_PKEY_copy_parameters(peer_key, key) == 1 and EVP_PKEY_derive_init(context) == 1:
        outcome = BAD_VALUE
        if set_peer(peer_key, row, peer) and EVP_PKEY_derive_set_peer_ex(context, peer_key, 0) == 1:
            outcome = derive_into(context, row, shared)
    EVP_PKEY_CTX_free(context)
    EVP_PKEY_free(peer_key)
    ERR_clear_error()
    return outcome


cdef bint set_peer(EVP_PKEY *key, const group_row *row, const unsigned char *peer) noexcept nogil:
    """The peer's value into `key`, where it belongs to the group (OpenSSL checks that a point is on its curve)."""
    cdef unsigned char point[POINT_BYTES]
    cdef Py_ssize_t at
    if row.prime != NULL and not is_inside_modp(peer, row):
        return False
    if not row.point:
        return EVP_PKEY_set1_encoded_public_key(key, peer, row.public_bytes) == 1
    point[0] = 4
    for at in range(row.public_bytes):
        point[at + 1] = peer[at]
    return EVP_PKEY_set1_encoded_public_key(key, point, row.public_bytes + 1) == 1


cdef bint is_inside_modp(const unsigned char *peer, const group_row *row) noexcept nogil:
    """1 < y < p-1 (RFC 6989 section 2.1: enough where p is a safe prime)."""
    cdef BIGNUM *y = BN_bin2bn(peer, <int> row.public_bytes, NULL)
    cdef BIGNUM *p = row.prime(NULL)
    cdef bint inside = False
    if y != NULL and p != NULL:
        BN_sub_word(p, 1)
        inside = not BN_is_zero(y) and not BN_is_one(y) and BN_cmp(y, p) < 0
    BN_clear_free(y)
    BN_clear_free(p)
    return inside


cdef int derive_into(EVP_PKEY_CTX *context, const group_row *row, unsigned char *shared) noexcept nogil:
    cdef size_t n = row.shared_bytes
    cdef unsigned char any_bit = 0
    cdef Py_ssize_t at
    if row.prime != NULL and EVP_PKEY_CTX_set_dh_pad(context, 1) != 1:
        return BROKEN
    if EVP_PKEY_derive(context, shared, &n) != 1 or n != <size_t> row.shared_bytes:
        return BAD_VALUE
    if row.id != 31:
        return GOOD             # a point of P-256 with x = 0 is a sound one
    for at in range(row.shared_bytes):
        any_bit |= shared[at]
    return GOOD if any_bit else BAD_VALUE


cdef EVP_PKEY *key_of_number(const group_row *row, const unsigned char *private, int n) noexcept:
    """The MODP or EC key of a known private number; only vectors need it."""
    cdef BIGNUM *number = BN_bin2bn(private, n, NULL)
    cdef BIGNUM *public = BN_new()
    cdef BN_CTX *scratch = BN_CTX_new()
    cdef OSSL_PARAM_BLD *build = OSSL_PARAM_BLD_new()
    cdef OSSL_PARAM *params = NULL
    cdef EVP_PKEY_CTX *context = EVP_PKEY_CTX_new_from_name(NULL, row.type, NULL)
    cdef EVP_PKEY *key = NULL
    cdef BIGNUM *prime = row.prime(NULL) if row.prime != NULL else NULL
    cdef BIGNUM *generator = BN_new()
    cdef unsigned char point[POINT_BYTES]
    cdef bint ok = BN_set_word(generator, 2) == 1
    if row.group != NULL:
        ok = ok and OSSL_PARAM_BLD_push_utf8_string(build, "group", row.group, 0) == 1
    else:
        ok = ok and push_prime(build, prime, generator)
    if row.point:
        ok = ok and point_of_number(row, number, point, scratch)
        ok = ok and OSSL_PARAM_BLD_push_octet_string(build, "pub", point, row.public_bytes + 1) == 1
    else:
        ok = ok and BN_mod_exp(public, generator, number, prime, scratch) == 1
        ok = ok and OSSL_PARAM_BLD_push_BN(build, "pub", public) == 1
    ok = ok and OSSL_PARAM_BLD_push_BN(build, "priv", number) == 1
    if ok:
        params = OSSL_PARAM_BLD_to_param(build)
        if EVP_PKEY_fromdata_init(context) == 1:
            EVP_PKEY_fromdata(context, &key, EVP_PKEY_KEYPAIR, params)
    OSSL_PARAM_free(params)
    OSSL_PARAM_BLD_free(build)
    EVP_PKEY_CTX_free(context)
    BN_CTX_free(scratch)
    BN_clear_free(public)
    BN_clear_free(number)
    BN_clear_free(generator)
    BN_clear_free(prime)
    return key


cdef bint point_of_number(const group_row *row, const BIGNUM *number, unsigned char *point, BN_CTX *scratch) noexcept:
    """0x04 | x | y of number times the base point."""
    cdef EC_GROUP *curve = EC_GROUP_new_by_curve_name(row.nid)
    cdef EC_POINT *result = EC_POINT_new(curve)
    cdef size_t n = row.public_bytes + 1
    cdef bint ok = EC_POINT_mul(curve, result, number, NULL, NULL, scratch) == 1
    ok = ok and EC_POINT_point2oct(curve, result, POINT_CONVERSION_UNCOMPRESSED, point, n, scratch) == n
    EC_POINT_free(result)
    EC_GROUP_free(curve)
    return ok
