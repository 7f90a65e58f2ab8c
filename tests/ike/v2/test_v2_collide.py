"""Who gives way when exchanges cross (RFC 7296 sections 2.8.1, 2.25)."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipsec_fast.iana import NotifyType
from ipsec_fast.ike.v2.collide import (
    ChildDoing,
    Doing,
    Nonces,
    own_is_redundant,
    refuse_child_rekey,
    refuse_ike_rekey,
    refuse_new_child,
)

TEMPORARY, NOT_FOUND = NotifyType.TEMPORARY_FAILURE, NotifyType.CHILD_SA_NOT_FOUND
nonces = st.binary(min_size=16, max_size=64)


@given(nonces, nonces, nonces, nonces)
def test_exactly_one_of_two_crossing_sas_is_redundant(a: bytes, b: bytes, c: bytes, d: bytes) -> None:
    if len({a, b, c, d}) == 4:
        one, other = Nonces(a, b), Nonces(c, d)
        assert own_is_redundant(one, other) != own_is_redundant(other, one)
        assert own_is_redundant(one, other) == (min(a, b, c, d) in (a, b))


def test_a_nonce_that_begins_another_is_the_lower() -> None:
    assert own_is_redundant(Nonces(b"\x01" * 16, b"\xff" * 16), Nonces(b"\x01" * 17, b"\xff" * 16))


@pytest.mark.parametrize("doing", list(Doing))
def test_new_children_wait_for_a_change_of_the_ike_sa(doing: Doing) -> None:
    wanted = None if doing in (Doing.NOTHING, Doing.CHANGING_CHILDREN) else TEMPORARY
    assert refuse_new_child(doing) == wanted


@pytest.mark.parametrize(("doing", "child"), list(itertools.product(Doing, ChildDoing)))
def test_child_rekeys(doing: Doing, child: ChildDoing) -> None:
    refusal = refuse_child_rekey(doing, child)
    if child is ChildDoing.GONE:
        assert refusal == NOT_FOUND
    elif child in (ChildDoing.CLOSING, ChildDoing.REPLACED):
        assert refusal == TEMPORARY
    else:
        assert refusal == refuse_new_child(doing)


@pytest.mark.parametrize("doing", list(Doing))
def test_ike_rekeys_cross_each_other_but_nothing_else(doing: Doing) -> None:
    wanted = None if doing in (Doing.NOTHING, Doing.REKEYING_IKE) else TEMPORARY
    assert refuse_ike_rekey(doing, False) == wanted
    assert refuse_ike_rekey(doing, True) == TEMPORARY
