"""The tables of states agree with each other and with what RFC 7296 lets a peer say when."""

from __future__ import annotations

import itertools

import pytest

from ipsec_fast.iana import ExchangeType
from ipsec_fast.ike.v2.dispatch import TABLE
from ipsec_fast.ike.v2.states import (
    AUTHENTICATED,
    CHILD_TRANSITIONS,
    TRANSITIONS,
    ChildState,
    State,
    check_child_transition,
    check_transition,
)

KEYED = (ExchangeType.CREATE_CHILD_SA, ExchangeType.INFORMATIONAL)


def test_every_row_leads_only_where_a_transition_leads() -> None:
    for (_, state, exchange, response), row in TABLE.items():
        allowed = TRANSITIONS[state] | {state}
        for following in row.next:
            through = {state for first in allowed for state in TRANSITIONS[first]}
            assert following in allowed | through, f"{state} {exchange.name} {response} -> {following}"


def test_nothing_but_ike_sa_init_and_ike_auth_is_heard_before_authentication() -> None:
    early = {(exchange, state) for (_, state, exchange, _) in TABLE if state not in AUTHENTICATED}
    assert {exchange for exchange, _ in early} == {ExchangeType.IKE_SA_INIT, ExchangeType.IKE_AUTH}


def test_every_authenticated_state_answers_every_request() -> None:
    for state, exchange, initiator in itertools.product(AUTHENTICATED, KEYED, (True, False)):
        row = TABLE[(initiator, state, exchange, False)]
        assert row.handler is not None


def test_established_comes_from_authentication_or_a_rekey_only() -> None:
    before = {old for old, new in TRANSITIONS.items() if State.ESTABLISHED in new}
    assert before == {State.CREATED, State.CONNECTING, State.REKEYING}
    rows = [key for key, row in TABLE.items() if State.ESTABLISHED in row.next and key[1] not in AUTHENTICATED]
    assert {exchange for (_, _, exchange, _) in rows} == {ExchangeType.IKE_AUTH}


def test_the_end_is_the_end() -> None:
    assert not TRANSITIONS[State.DELETED]
    assert not CHILD_TRANSITIONS[ChildState.DELETED]
    with pytest.raises(AssertionError):
        check_transition(State.DELETED, State.ESTABLISHED)
    with pytest.raises(AssertionError):
        check_child_transition(ChildState.DELETING, ChildState.INSTALLED)
