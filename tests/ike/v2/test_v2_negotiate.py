"""Proposals: what must never be chosen, what is, and whether an operator can read why not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ike_samples import transforms as any_transform

from ipsec_fast.algorithms import (
    default_esp_proposals,
    default_ike_proposals,
    encryption_by_id,
    parse_esp_proposal,
    parse_ike_proposal,
    suite_of,
)
from ipsec_fast.errors import AlgorithmError, NegotiationError
from ipsec_fast.iana import Encr, Esn, Group, Integ, NotifyType, Prf, ProtocolId, TransformType
from ipsec_fast.ike.v2.keymat import ike_suite_of
from ipsec_fast.ike.v2.negotiate import check_chosen, choose_proposal, numbered, uses_esn, wanted_group, without_ke
from ipsec_fast.model import Proposal, Transform

SPI = b"\xc0\x01\x02\x03"
NO_INTEG, NO_KE = Transform(3, 0), Transform(4, 0)


def ike(*texts: str) -> tuple[Proposal, ...]:
    return numbered(parse_ike_proposal(text) for text in texts)


def esp(*texts: str) -> tuple[Proposal, ...]:
    return numbered((parse_esp_proposal(text) for text in texts), SPI)


def changed(proposal: Proposal, add: tuple[Transform, ...] = (), drop: int = -1) -> Proposal:
    kept = tuple(t for t in proposal.transforms if t.type != drop)
    return replace(proposal, transforms=(*add, *kept))


def refusal(offered: tuple[Proposal, ...], configured: tuple[Proposal, ...], **options: int) -> str:
    with pytest.raises(NegotiationError) as caught:
        choose_proposal(offered, configured, **options)  # type: ignore[arg-type]
    assert caught.value.notify == NotifyType.NO_PROPOSAL_CHOSEN
    return str(caught.value)


GCM_IKE = "aes128gcm16-prfsha256-x25519"


# --- what is never chosen


@pytest.mark.parametrize(
    ("offered", "configured", "why"),
    [
        (GCM_IKE, "aes256gcm16-prfsha256-x25519", "no common ENCR: they offered AES_GCM_16_128, we allow AES_GCM_16_256"),
        (GCM_IKE, "aes128gcm16-prfsha512-x25519", "no common PRF: they offered PRF_HMAC_SHA2_256, we allow PRF_HMAC_SHA2_512"),
        (GCM_IKE, "aes128gcm16-prfsha256-ecp256", "no common KE: they offered CURVE_25519, we allow ECP_256"),
        (
            "aes128-sha256-prfsha256-x25519", "aes128-sha512-prfsha256-x25519",
            "no common INTEG: they offered HMAC_SHA2_256_128, we allow HMAC_SHA2_512_256",
        ),
    ],
)  # fmt: skip
def test_refusal_says_what_is_not_common_and_shows_both_lists(offered: str, configured: str, why: str) -> None:
    text = refusal(ike(offered), ike(configured))
    assert text.startswith("no common IKE proposal: they offered [1] IKE:")
    assert "we allow [1] IKE:" in text
    assert text.endswith(why)


def test_refusal_names_the_nearest_miss_of_each_proposal() -> None:
    text = refusal(ike(GCM_IKE, "aes256-sha512-modp2048"), ike("aes128-sha256-x25519", "aes128gcm16-prfsha256-ecp256"))
    assert "proposal 1: no common KE" in text
    assert "proposal 2: no common ENCR" in text


def test_refusal_of_an_endless_offer_stays_short() -> None:
    wide = Proposal(1, 1, b"", tuple(Transform(1, i) for i in range(128)))
    assert len(refusal((wide,) * 64, ike(GCM_IKE))) < 12000


@pytest.mark.parametrize("key_bits", [None, 0, 1, 64, 127, 129, 160, 191, 224, 512, 65535])
@pytest.mark.parametrize("encr", [Encr.AES_GCM_16, Encr.AES_CBC])
def test_only_whitelisted_key_lengths_are_chosen(encr: int, key_bits: int | None) -> None:
    odd = Transform(1, encr, key_bits)
    offered = changed(ike("aes128-sha256-x25519")[0], (odd,), drop=1)
    refusal((offered,), ike(GCM_IKE, "aes128-aes256-sha256-x25519"))
    # and a configuration that asks for it does not get it either
    refusal((offered,), (offered,))


@pytest.mark.parametrize(
    ("encr", "key_bits", "integ"),
    [
        (Encr.AES_CTR, 128, Integ.HMAC_SHA2_256_128),
        (Encr.AES_CTR, 192, Integ.HMAC_SHA2_256_128),
        (Encr.NULL, None, Integ.HMAC_SHA2_256_128),
        (Encr.AES_CBC, 128, Integ.AES_XCBC_96),
        (Encr.AES_CBC, 128, Integ.AES_CMAC_96),
    ],
)
def test_what_only_esp_carries_is_no_choice_for_an_ike_sa(encr: int, key_bits: int | None, integ: int) -> None:
    base = changed(ike("aes128-sha256-x25519")[0], (Transform(1, encr, key_bits),), drop=1)
    offered = (changed(base, (Transform(3, integ),), drop=3),)
    refusal(offered, offered)
    with pytest.raises(AlgorithmError, match="not an IKE proposal"):
        ike_suite_of(offered[0])


@pytest.mark.parametrize("encr", [*Encr, 0, 1, 1025, 65535])
def test_no_cipher_that_we_do_not_carry_is_chosen_even_if_configured(encr: int) -> None:
    for key_bits in (None, 128, 256):
        offered = (changed(esp("aes128-sha256")[0], (Transform(1, encr, key_bits),), drop=1),)
        if encryption_by_id(encr, key_bits) is None:
            refusal(offered, offered)


def test_every_group_that_we_do_not_carry_is_refused() -> None:
    carried = {2, 5, 14, 15, 16, 19, 20, 21, 31}
    base = ike(GCM_IKE)[0]
    for group in {*range(0, 65536, 97), *range(64), 1025} - carried:
        offered = (changed(base, (Transform(4, group),), drop=4),)
        refusal(offered, offered)


def test_null_cipher_without_integrity_is_impossible() -> None:
    for encr in (Encr.NULL, Encr.AES_CBC):
        for integ in ((), (NO_INTEG,)):
            offered = (
                Proposal(
                    1, 3, SPI, (Transform(1, encr, 128 if encr == Encr.AES_CBC else None), *integ, Transform(5, 0))
                ),
            )
            refusal(offered, offered)
            refusal(offered, esp("aes128-sha256"))


def test_aead_with_an_integrity_algorithm_is_refused() -> None:
    offered = changed(esp("aes128gcm16")[0], (Transform(3, Integ.HMAC_SHA2_256_128),))
    assert "brings its own ICV" in refusal((offered,), esp("aes128gcm16"))
    refusal((offered,), (offered,))


def test_an_unknown_transform_type_loses_its_proposal_alone() -> None:
    strange = changed(ike(GCM_IKE)[0], (Transform(6, 36),))
    assert "transform type" in refusal((strange,), ike(GCM_IKE))
    chosen = choose_proposal((strange, replace(ike(GCM_IKE)[0], number=2)), ike(GCM_IKE))
    assert chosen.number == 2


def test_a_transform_type_of_another_protocol_loses_its_proposal() -> None:
    refusal((changed(esp("aes128gcm16")[0], (Transform(2, Prf.PRF_HMAC_SHA2_256),)),), esp("aes128gcm16"))
    refusal((changed(ike(GCM_IKE)[0], (Transform(5, 0),)),), ike(GCM_IKE))


@pytest.mark.parametrize(
    "strange", [Transform(1, 1025), Transform(1, 20, 128, True), Transform(4, 1025), Transform(2, 5, 128)]
)
def test_an_unknown_transform_id_or_attribute_loses_that_transform_alone(strange: Transform) -> None:
    chosen = choose_proposal((changed(ike(GCM_IKE)[0], (strange,)),), ike(GCM_IKE))
    assert strange not in chosen.transforms
    assert chosen.transforms == ike(GCM_IKE)[0].transforms


@pytest.mark.parametrize("drop", [1, 2, 4])
def test_a_type_that_is_missing_loses_the_proposal(drop: int) -> None:
    refusal((changed(ike(GCM_IKE)[0], drop=drop),), ike(GCM_IKE))
    refusal((replace(ike(GCM_IKE)[0], transforms=()),), ike(GCM_IKE))


@pytest.mark.parametrize("spi", [b"", b"abc", b"abcde", b"abcdefgh"])
def test_esp_spi_has_4_bytes(spi: bytes) -> None:
    assert "SPI has" in refusal((replace(esp("aes128gcm16")[0], spi=spi),), esp("aes128gcm16"))


def test_ike_spi_size_follows_the_exchange() -> None:
    rekey = numbered(ike(GCM_IKE), b"responde")
    refusal(rekey, ike(GCM_IKE))
    refusal(ike(GCM_IKE), ike(GCM_IKE), spi_bytes=8)
    assert choose_proposal(rekey, ike(GCM_IKE), spi_bytes=8).spi == b"responde"


@pytest.mark.parametrize("protocol", [0, 1, 2, 4, 255])
def test_another_protocol_is_refused(protocol: int) -> None:
    refusal((replace(esp("aes128gcm16")[0], protocol=protocol),), esp("aes128gcm16"))


def test_nothing_offered_or_nothing_configured_is_refused() -> None:
    assert "they offered nothing" in refusal((), esp("aes128gcm16"))
    assert "we allow nothing" in refusal(esp("aes128gcm16"), ())


# --- what is chosen


def test_our_order_decides() -> None:
    theirs = ike("aes128gcm16-prfsha256-modp2048-x25519", "aes256gcm16-prfsha256-prfsha512-ecp256-x25519")
    chosen = choose_proposal(theirs, default_ike_proposals())
    assert chosen.number == 1  # our first proposal takes their first: proposals of theirs are tried in their order
    assert str(chosen) == "IKE:AES_GCM_16_128/PRF_HMAC_SHA2_256/CURVE_25519"
    chosen = choose_proposal(theirs, ike("aes256gcm16-prfsha512-prfsha256-x25519-ecp256", GCM_IKE))
    assert (chosen.number, str(chosen)) == (2, "IKE:AES_GCM_16_256/PRF_HMAC_SHA2_512/CURVE_25519")


def test_defaults_agree_on_the_strongest_of_everything() -> None:
    chosen = choose_proposal(numbered(default_ike_proposals()), default_ike_proposals())
    assert str(chosen) == "IKE:AES_GCM_16_256/PRF_HMAC_SHA2_512/CURVE_25519"
    child = choose_proposal(numbered(default_esp_proposals(), SPI), default_esp_proposals())
    assert suite_of(child).name == "aes256gcm16"
    assert child.spi == SPI
    assert uses_esn(child)


def test_groups_allowed_narrows_ours() -> None:
    offered = ike("aes128gcm16-prfsha256-x25519-ecp256")
    chosen = choose_proposal(offered, offered, groups_allowed=[Group.ECP_256])
    assert chosen.of(4) == (Transform(4, Group.ECP_256),)
    with pytest.raises(NegotiationError):
        choose_proposal(offered, offered, groups_allowed=[])


def test_integ_none_beside_an_aead_is_echoed() -> None:
    chosen = choose_proposal((changed(esp("aes128gcm16")[0], (NO_INTEG,)),), esp("aes128gcm16"))
    assert NO_INTEG in chosen.transforms
    assert suite_of(chosen).name == "aes128gcm16"


def test_a_proposal_that_mixes_aead_and_others_is_used_where_it_makes_sense() -> None:
    cbc, sha = Transform(1, Encr.AES_CBC, 128), Transform(3, Integ.HMAC_SHA2_256_128)
    mixed = changed(esp("aes128gcm16")[0], (cbc, sha))
    assert suite_of(choose_proposal((mixed,), esp("aes128-sha256"))).name == "aes128-sha256"
    both = changed(mixed, (NO_INTEG,))
    assert suite_of(choose_proposal((both,), esp("aes128gcm16", "aes128-sha256"))).name == "aes128gcm16"


@pytest.mark.parametrize(
    ("offered", "configured", "esn"),
    [
        ("aes128gcm16", "aes128gcm16", True),
        ("aes128gcm16-noesn", "aes128gcm16", False),
        ("aes128gcm16", "aes128gcm16-noesn", False),
        ("aes128gcm16-esn", "aes128gcm16", True),
        ("aes128gcm16-noesn-esn", "aes128gcm16-noesn-esn", False),
    ],
)
def test_esn_and_no_esn_in_one_proposal(offered: str, configured: str, esn: bool) -> None:
    assert uses_esn(choose_proposal(esp(offered), esp(configured))) is esn


def test_no_common_esn_is_refused() -> None:
    assert "no common ESN" in refusal(esp("aes128gcm16-esn"), esp("aes128gcm16-noesn"))


def test_an_offer_without_esn_transform_means_no_esn_and_nothing_is_echoed() -> None:
    offered = (changed(esp("aes128gcm16")[0], drop=5),)
    chosen = choose_proposal(offered, esp("aes128gcm16"))
    assert chosen.of(TransformType.ESN) == ()
    assert not uses_esn(chosen)
    assert "no common ESN" in refusal(offered, esp("aes128gcm16-esn"))


# --- PFS


def test_pfs_must_be_wanted_by_both() -> None:
    assert "no common KE: they offered none" in refusal(esp("aes128gcm16"), esp("aes128gcm16-x25519"))
    assert "PFS" in refusal(esp("aes128gcm16-x25519"), esp("aes128gcm16"))
    chosen = choose_proposal(esp("aes128gcm16-ecp256-x25519"), esp("aes128gcm16-x25519"))
    assert chosen.of(4) == (Transform(4, Group.CURVE_25519),)


def test_a_peer_that_can_do_without_pfs_does() -> None:
    offered = (changed(esp("aes128gcm16-x25519")[0], (NO_KE,)),)
    assert choose_proposal(offered, esp("aes128gcm16")).of(4) == (NO_KE,)
    assert choose_proposal(offered, esp("aes128gcm16-x25519")).of(4) == (Transform(4, 31),)


def test_ike_sa_without_key_exchange_is_impossible() -> None:
    offered = (changed(ike(GCM_IKE)[0], (NO_KE,), drop=4),)
    refusal(offered, ike(GCM_IKE))
    refusal(offered, offered)


def test_child_proposals_of_ike_auth_have_no_ke() -> None:
    stripped = without_ke(esp("aes128gcm16-x25519", "aes128-sha256-modp2048"))
    assert [p.of(4) for p in stripped] == [(), ()]
    assert [len(p.transforms) for p in stripped] == [3, 4]


@pytest.mark.parametrize(
    ("text", "ke_group", "wanted"),
    [("aes128gcm16-x25519", 31, None), ("aes128gcm16-x25519", 14, 31), ("aes128gcm16-x25519", None, 31),
     ("aes128gcm16", None, None), ("aes128gcm16", 14, None)],
)  # fmt: skip
def test_wanted_group(text: str, ke_group: int | None, wanted: int | None) -> None:
    assert wanted_group(choose_proposal(esp(text), esp(text)), ke_group) == wanted


# --- the initiator's check

OFFERED = esp("aes256gcm16-aes128gcm16-x25519-ecp256", "aes128-sha256-x25519")
CHOSEN = choose_proposal(OFFERED, esp("aes128gcm16-ecp256"))


def complaint(*chosen: Proposal, offered: tuple[Proposal, ...] = OFFERED) -> str:
    with pytest.raises(NegotiationError) as caught:
        check_chosen(offered, chosen)
    text = str(caught.value)
    assert "it chose" in text
    assert "we offered [1] ESP:" in text
    return text


def test_a_sound_choice_is_taken() -> None:
    assert check_chosen(OFFERED, [replace(CHOSEN, spi=b"\xc0\0\0\1")]).spi == b"\xc0\0\0\1"


def test_exactly_one_proposal_is_chosen() -> None:
    complaint()
    complaint(CHOSEN, CHOSEN)


@pytest.mark.parametrize("number", [0, 2, 3, 255])
def test_the_chosen_number_must_be_the_proposals(number: int) -> None:
    complaint(replace(CHOSEN, number=number))


@pytest.mark.parametrize("place", range(3))
def test_each_transform_left_out_or_doubled_is_refused(place: int) -> None:
    transforms = CHOSEN.transforms
    assert len(transforms) == 3
    doubled = replace(CHOSEN, transforms=(*transforms, transforms[place]))
    complaint(doubled)
    less = replace(CHOSEN, transforms=transforms[:place] + transforms[place + 1 :])
    if transforms[place].type == TransformType.ESN:
        assert not uses_esn(check_chosen(OFFERED, [less]))
    else:
        complaint(less)


@given(any_transform)
@settings(max_examples=300)
def test_a_transform_that_we_did_not_offer_is_refused(transform: Transform) -> None:
    others = tuple(t for t in CHOSEN.transforms if t.type != transform.type)
    chosen = replace(CHOSEN, transforms=(*others, transform))
    if transform in OFFERED[0].transforms or transform == NO_INTEG:
        check_chosen(OFFERED, [chosen])
    else:
        complaint(chosen)


def test_a_transform_of_another_proposal_is_refused() -> None:
    complaint(changed(CHOSEN, (Transform(1, Encr.AES_CBC, 128),), drop=1))
    complaint(changed(CHOSEN, (Transform(3, Integ.HMAC_SHA2_256_128),)))


@pytest.mark.parametrize("spi", [b"", b"abc", b"abcdefgh"])
def test_the_chosen_spi_has_its_protocols_size(spi: bytes) -> None:
    complaint(replace(CHOSEN, spi=spi))


def test_a_missing_esn_is_refused_where_we_insist_on_it() -> None:
    offered = esp("aes128gcm16-esn")
    complaint(changed(offered[0], drop=5), offered=offered)


def test_integ_missing_for_cbc_is_refused() -> None:
    offered = esp("aes128-sha256-noesn")
    complaint(changed(offered[0], drop=3), offered=offered)
    complaint(changed(offered[0], (NO_INTEG,), drop=3), offered=offered)


# --- both together

_words = st.lists(
    st.sampled_from(["aes128gcm16", "aes256gcm16"]), min_size=1, max_size=2, unique=True
).flatmap(lambda c: st.lists(st.sampled_from(["x25519", "ecp256", "ecp384", "modp2048"]), min_size=1, unique=True).map(
    lambda g: "-".join([*c, "prfsha256", "prfsha384", *g])
)) | st.lists(st.sampled_from(["sha256", "sha384", "sha512"]), min_size=1, unique=True).map(
    lambda i: "-".join(["aes128", "aes256", *i, "x25519"])
)  # fmt: skip
_configs = st.lists(_words, min_size=1, max_size=4).map(lambda texts: ike(*texts))


@given(_configs, _configs)
def test_what_one_side_chooses_the_other_side_takes(
    initiator: tuple[Proposal, ...], responder: tuple[Proposal, ...]
) -> None:
    def common(ours: Proposal, theirs: Proposal) -> bool:
        types = {t.type for t in ours.transforms} | {t.type for t in theirs.transforms}
        return all(set(ours.of(t)) & set(theirs.of(t)) for t in types)

    try:
        chosen = choose_proposal(initiator, responder)
    except NegotiationError:
        assert not any(common(ours, theirs) for ours in responder for theirs in initiator)
        return
    assert check_chosen(initiator, [chosen]) == chosen
    assert any(set(chosen.transforms) <= set(p.transforms) for p in responder)


@given(st.lists(st.builds(Proposal, st.integers(0, 255), st.sampled_from([1, 2, 3]), st.sampled_from([b"", SPI]),
                          st.lists(any_transform, max_size=12).map(tuple)), max_size=6))  # fmt: skip
@settings(max_examples=300)
def test_any_offer_gives_a_configured_choice_or_no_proposal_chosen(offered: list[Proposal]) -> None:
    for configured in (default_ike_proposals(), default_esp_proposals()):
        try:
            chosen = choose_proposal(offered, configured)
        except NegotiationError as error:
            assert error.notify == NotifyType.NO_PROPOSAL_CHOSEN  # noqa: PT017
        else:
            assert any(set(chosen.transforms) <= set(p.transforms) | {NO_INTEG, NO_KE} for p in configured)


def test_protocol_and_esn_numbers_are_what_the_tests_above_assume() -> None:
    assert (ProtocolId.IKE, ProtocolId.ESP, Esn.NO_ESN, Esn.ESN) == (1, 3, 0, 1)
