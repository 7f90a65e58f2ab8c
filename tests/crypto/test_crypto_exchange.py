"""Key exchange: public values that must be refused first, then vectors."""

from __future__ import annotations

import pickle
import threading

import crypto_vectors
import pytest

from ipsec_fast.crypto.exchange import KeyPair, generate, key_pair_for_test
from ipsec_fast.crypto.secret import reveal_for_test
from ipsec_fast.errors import AlgorithmError, NegotiationError, StateError

PUBLIC_BYTES = {2: 128, 5: 192, 14: 256, 15: 384, 16: 512, 19: 64, 20: 96, 21: 132, 31: 32}
SHARED_BYTES = {2: 128, 5: 192, 14: 256, 15: 384, 16: 512, 19: 32, 20: 48, 21: 66, 31: 32}
# RFC 2409 section 6.2, RFC 3526: 2^n - 2^(n-64) - 1 + 2^64 * ([2^(n-130) pi] + k)
MODP_BITS_AND_K = {2: (1024, 129093), 5: (1536, 741804), 14: (2048, 124476), 15: (3072, 1690314), 16: (4096, 240904)}
P2048 = int(
    "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74020BBEA63B139B22514A08798E3404DDEF9519B3CD3A431B"
    "302B0A6DF25F14374FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7EDEE386BFB5A899FA5AE9F24117C4B1FE6"
    "49286651ECE45B3DC2007CB8A163BF0598DA48361C55D39A69163FA8FD24CF5F83655D23DCA3AD961C62F356208552BB9ED529077096966D"
    "670C354E4ABC9804F1746C08CA18217C32905E462E36CE3BE39E772C180E86039B2783A2EC07A28FB5C55DF06F4C52C9DE2BCBF695581718"
    "3995497CEA956AE515D2261898FA051015728E5A8AACAA68FFFFFFFFFFFFFFFF",
    16,
)
# the low-order points of Curve25519 and its twist; RFC 7748 has the highest bit ignored, so each comes twice
LOW_ORDER = [
    bytes.fromhex(point)[:31] + bytes([bytes.fromhex(point)[31] | high])
    for high in (0, 0x80)
    for point in (
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    )
]


def floor_of_pi(bits):
    """[2^bits * pi], by Machin's formula with bits to spare."""
    one = 1 << (bits + 64)

    def arctan_of_inverse(x):
        term = total = one // x
        for n in range(3, 2 * bits, 2):
            term //= -x * x
            total += term // n
            if not term // n:
                break
        return total

    return (4 * (4 * arctan_of_inverse(5) - arctan_of_inverse(239))) >> 64


def modp_prime(group):
    bits, k = MODP_BITS_AND_K[group]
    return 2**bits - 2 ** (bits - 64) - 1 + 2**64 * (floor_of_pi(bits - 130) + k)


def test_the_primes_of_the_tests_are_the_rfcs():
    assert modp_prime(14) == P2048


def refused(pair, public):
    with pytest.raises(NegotiationError) as caught:
        pair.derive(public)
    assert caught.value.notify == 7
    return str(caught.value)


@pytest.mark.parametrize("group", PUBLIC_BYTES)
def test_a_public_value_of_another_length_is_refused(group):
    pair, right = generate(group), PUBLIC_BYTES[group]
    for length in (0, 1, right - 1, right + 1, 2 * right, 4096):
        assert f"holds {right} bytes, the peer sent {length}" in refused(pair, b"\x02" * length)


@pytest.mark.parametrize("y", [0, 1, P2048 - 1, P2048, P2048 + 1, 2**2048 - 1])
def test_modp_2048_refuses_public_values_outside_1_and_p_minus_1(y):
    refused(generate(14), y.to_bytes(256, "big"))


@pytest.mark.parametrize("y", [2, P2048 - 2])
def test_modp_2048_takes_the_edges(y):
    assert len(generate(14).derive(y.to_bytes(256, "big"))) == 256


@pytest.mark.parametrize("group", MODP_BITS_AND_K)
def test_every_modp_group_takes_what_lies_inside_it_and_nothing_else(group):
    p, size = modp_prime(group), PUBLIC_BYTES[group]
    for y in (0, 1, p - 1, p, p + 1, 2 ** (8 * size) - 1):
        refused(generate(group), y.to_bytes(size, "big"))
    for y in (2, p - 2):
        assert len(generate(group).derive(y.to_bytes(size, "big"))) == size


@pytest.mark.parametrize("group", MODP_BITS_AND_K)
def test_modp_is_the_power_that_the_rfcs_mean(group):
    p, size = modp_prime(group), PUBLIC_BYTES[group]
    peer = generate(group)
    number = int.from_bytes(bytes(range(1, 33)), "big")
    pair = key_pair_for_test(group, number.to_bytes(32, "big"))
    assert int.from_bytes(pair.public, "big") == pow(2, number, p)
    shared = pow(int.from_bytes(peer.public, "big"), number, p).to_bytes(size, "big")
    assert reveal_for_test(pair.derive(peer.public)) == shared == reveal_for_test(peer.derive(pair.public))


def test_p521_is_rfc_5903_section_8_3():
    i = bytes.fromhex(
        "0037ADE9319A89F4DABDB3EF411AACCCA5123C61ACAB57B5393DCE47608172A095AA85A30FE1C2952C6771D937BA9777F5957B2639BAB072"
        "462F68C27A57382D4A52"
    )
    ix_iy = bytes.fromhex(
        "0015417E84DBF28C0AD3C278713349DC7DF153C897A1891BD98BAB4357C9ECBEE1E3BF42E00B8E380AEAE57C2D107564941885942AF5A7F4"
        "601723C4195D176CED3E"
        "017CAE20B6641D2EEB695786D8C946146239D099E18E1D5A514C739D7CB4A10AD8A788015AC405D7799DC75E7B7D5B6CF2261A6A7F150743"
        "8BF01BEB6CA3926F9582"
    )
    rx_ry = bytes.fromhex(
        "00D0B3975AC4B799F5BEA16D5E13E9AF971D5E9B984C9F39728B5E5739735A219B97C356436ADC6E95BB0352F6BE64A6C2912D4EF2D0433C"
        "ED2B6171640012D9460F"
        "015C68226383956E3BD066E797B623C27CE0EAC2F551A10C2C724D9852077B87220B6536C5C408A1D2AEBB8E86D678AE49CB57091F473229"
        "6579AB44FCD17F0FC56A"
    )
    shared = bytes.fromhex(
        "01144C7D79AE6956BC8EDB8E7C787C4521CB086FA64407F97894E5E6B2D79B04D1427E73CA4BAA240A34786859810C06B3C715A3A8CC3151"
        "F2BEE417996D19F3DDEA"
    )
    pair = key_pair_for_test(21, i)
    assert pair.public == ix_iy
    assert reveal_for_test(pair.derive(rx_ry)) == shared


@pytest.mark.parametrize("group", [19, 20, 21])
def test_a_point_off_its_curve_is_refused(group):
    pair, peer = generate(group), generate(group)
    half = PUBLIC_BYTES[group] // 2
    x, y = peer.public[:half], peer.public[half:]
    for wrong in (bytes(2 * half), b"\xff" * (2 * half), x + bytes(half), bytes(half) + y, y + x,
                  x + y[:-1] + bytes([y[-1] ^ 1])):  # fmt: skip
        refused(pair, wrong)


@pytest.mark.parametrize("point", LOW_ORDER, ids=bytes.hex)
def test_x25519_refuses_low_order_points(point):
    refused(generate(31), point)


@pytest.mark.parametrize("group", [0, 1, 3, 17, 18, 22, 32, 36])
def test_other_groups_are_not_carried(group):
    with pytest.raises(AlgorithmError, match="14, 15, 16, 19, 20, 21 and 31"):
        generate(group)


def test_close_twice_is_fine_and_use_after_close_is_not():
    pair, peer = generate(31), generate(31)
    pair.close()
    pair.close()
    assert pair.closed
    with pytest.raises(StateError):
        pair.derive(peer.public)


def test_a_key_pair_shows_nothing_and_cannot_be_pickled_or_made():
    pair = generate(19)
    assert repr(pair) == "<KeyPair of group 19>"
    with pytest.raises(TypeError):
        pickle.dumps(pair)
    with pytest.raises(TypeError):
        KeyPair()


@pytest.mark.parametrize("group", PUBLIC_BYTES)
def test_both_sides_agree(group):
    ours, theirs = generate(group), generate(group)
    assert (ours.group, len(ours.public)) == (group, PUBLIC_BYTES[group])
    a, b = ours.derive(theirs.public), theirs.derive(ours.public)
    assert len(a) == SHARED_BYTES[group]
    assert reveal_for_test(a) == reveal_for_test(b)
    assert generate(group).public != ours.public


@pytest.mark.parametrize("group", [14, 19])
def test_leading_zeros_of_the_shared_secret_are_kept(group):
    peer = generate(group)
    for number in range(2, 5000):
        pair = key_pair_for_test(group, number.to_bytes(32, "big"))
        shared = reveal_for_test(pair.derive(peer.public))
        assert len(shared) == SHARED_BYTES[group]
        if shared[0] == 0:
            assert reveal_for_test(peer.derive(pair.public)) == shared
            if group == 14:
                assert int.from_bytes(shared, "big") == pow(int.from_bytes(peer.public, "big"), number, P2048)
            return
    pytest.fail("5000 tries gave no leading zero")


def test_dh_vectors():
    for vector in crypto_vectors.load("dh_vectors.json")["vectors"]:
        group = vector["ike_group"]
        if group not in PUBLIC_BYTES:
            crypto_vectors.SKIPPED[f"dh_vectors group {group} (not carried)"] += 1
            continue
        priv_i, priv_r, pub_i, pub_r, shared = (
            bytes.fromhex(vector[field]) for field in ("priv_i", "priv_r", "pub_i", "pub_r", "shared")
        )
        for private, own, other in ((priv_i, pub_i, pub_r), (priv_r, pub_r, pub_i)):
            pair = key_pair_for_test(group, private)
            assert pair.public == own, vector["id"]
            assert reveal_for_test(pair.derive(other)) == shared, vector["id"]
        crypto_vectors.RAN["dh_vectors"] += 1


def test_x25519_wycheproof():
    for test in crypto_vectors.wycheproof("x25519"):
        pair = key_pair_for_test(31, bytes.fromhex(test["private"]))
        public = bytes.fromhex(test["public"])
        if "ZeroSharedSecret" in test["flags"]:
            refused(pair, public)
        else:
            assert reveal_for_test(pair.derive(public)).hex() == test["shared"], test["tcId"]
        crypto_vectors.RAN["wycheproof/x25519"] += 1


def test_ecdh_p256_wycheproof():
    for test in crypto_vectors.wycheproof("ecdh_secp256r1_ecpoint"):
        private, public = bytes.fromhex(test["private"]), bytes.fromhex(test["public"])
        pair = key_pair_for_test(19, private)
        # the KE payload has no 0x04 before x | y; a compressed point keeps its length, which is refused
        public = public[1:] if public[:1] == b"\x04" else public
        if test["result"] == "valid":
            assert reveal_for_test(pair.derive(public)).hex() == test["shared"], test["tcId"]
        else:
            refused(pair, public)
        crypto_vectors.RAN["wycheproof/ecdh_secp256r1_ecpoint"] += 1


def test_key_pairs_work_in_threads_while_another_closes_them():
    peer = generate(14)
    pairs = [generate(14) for _ in range(8)]
    outcomes = []

    def derive(pair):
        try:
            outcomes.append(len(pair.derive(peer.public)))
        except StateError:
            outcomes.append(0)

    threads = [threading.Thread(target=derive, args=(pair,)) for pair in pairs]
    for thread, pair in zip(threads, pairs, strict=True):
        thread.start()
        pair.close()
    for thread in threads:
        thread.join()
    assert set(outcomes) <= {0, 256}
    assert len(outcomes) == 8
