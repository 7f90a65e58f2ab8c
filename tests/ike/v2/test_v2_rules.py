"""What each message may hold: every payload of every message left out, doubled, or put where it does not belong."""

from __future__ import annotations

import pytest
from ike_samples import create_child, ike_auth, ike_rekey, informational, sa_init

from ipsec_fast.errors import RemoteError
from ipsec_fast.iana import ExchangeType, NotifyType, PayloadType
from ipsec_fast.ike.v2.payloads import (
    AuthPayload,
    EncryptedPayload,
    IdPayload,
    NotifyPayload,
    Payload,
    UnknownPayload,
    VendorPayload,
)
from ipsec_fast.ike.v2.rules import IKE_REKEY, RULES, check_payloads

INIT, AUTH, CHILD, INFO = 34, 35, 36, 37
CASES: dict[str, tuple[int, bool, tuple[Payload, ...]]] = {
    "sa_init request": (INIT, False, sa_init()),
    "sa_init response": (INIT, True, sa_init()),
    "auth request": (AUTH, False, ike_auth()),
    "auth response": (AUTH, True, tuple(p for p in ike_auth() if p.type != PayloadType.IDI)),
    "child request": (CHILD, False, create_child()),
    "child response": (CHILD, True, create_child()),
    "ike rekey request": (CHILD, False, ike_rekey()),
    "ike rekey response": (CHILD, True, ike_rekey()),
    "informational request": (INFO, False, informational()),
    "informational response": (INFO, True, informational()),
}
OPTIONAL = {PayloadType.NOTIFY, PayloadType.VENDOR, PayloadType.DELETE}


def check(exchange: int, response: bool, payloads: tuple[Payload, ...]) -> None:
    check_payloads(exchange, response, payloads, encrypted=exchange != INIT)


def refused_with(exchange: int, response: bool, payloads: tuple[Payload, ...]) -> int | None:
    with pytest.raises(RemoteError) as caught:
        check(exchange, response, payloads)
    return caught.value.notify


@pytest.mark.parametrize("name", CASES)
def test_complete_messages_pass_in_any_order(name: str) -> None:
    exchange, response, payloads = CASES[name]
    check(exchange, response, payloads)
    check(exchange, response, payloads[::-1])


@pytest.mark.parametrize("name", CASES)
def test_each_payload_left_out(name: str) -> None:
    exchange, response, payloads = CASES[name]
    for i, payload in enumerate(payloads):
        less = payloads[:i] + payloads[i + 1 :]
        optional = payload.type in OPTIONAL or ((exchange, payload.type) == (AUTH, PayloadType.IDR) and not response)
        optional = optional or (payload.type == PayloadType.KE and name.startswith("child"))
        optional = optional or (name, payload.type) == (
            "auth request",
            PayloadType.AUTH,
        )  # it wants EAP, and is told so
        if optional:
            check(exchange, response, less)
        else:
            assert refused_with(exchange, response, less) == NotifyType.INVALID_SYNTAX


@pytest.mark.parametrize("name", CASES)
def test_each_payload_doubled(name: str) -> None:
    exchange, response, payloads = CASES[name]
    for payload in payloads:
        if payload.type in OPTIONAL:
            check(exchange, response, (*payloads, payload))
        else:
            assert refused_with(exchange, response, (*payloads, payload)) == NotifyType.INVALID_SYNTAX


@pytest.mark.parametrize("name", CASES)
def test_each_payload_that_does_not_belong_is_ignored_however_often(name: str) -> None:
    exchange, response, payloads = CASES[name]
    strangers = {p.type: p for p in (*sa_init(), *ike_auth(), *create_child(), *informational())}
    for payload_type, stranger in strangers.items():
        if payload_type in {p.type for p in payloads} or payload_type in OPTIONAL - {PayloadType.DELETE}:
            continue
        if (name, payload_type) == ("informational request", PayloadType.DELETE):
            continue
        check(exchange, response, (*payloads, stranger))
        check(exchange, response, (stranger, *payloads, stranger))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("critical", [False, True])
def test_every_unknown_type_is_ignored_or_answered_by_its_number(name: str, critical: bool) -> None:
    exchange, response, payloads = CASES[name]
    for type_ in {*range(1, 33), *range(49, 53), *range(54, 256)}:
        mixed = (*payloads, UnknownPayload(type_, critical, b""))
        if not critical:
            check(exchange, response, mixed)
            continue
        with pytest.raises(RemoteError) as caught:
            check(exchange, response, mixed)
        wanted = None if response else NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD
        assert (caught.value.notify, caught.value.data) == (wanted, bytes([type_]))


@pytest.mark.parametrize("type_", [PayloadType.CERT, PayloadType.CERTREQ, PayloadType.CP, PayloadType.EAP])
def test_rfc_7296_payloads_that_we_do_not_read_are_let_through_critical_bit_or_not(type_: int) -> None:
    for name in ("sa_init response", "auth request"):
        exchange, response, payloads = CASES[name]
        check(exchange, response, (*payloads, UnknownPayload(type_, True, b"x")))


def test_the_critical_bit_comes_before_everything_else() -> None:
    critical = UnknownPayload(200, True, b"")
    assert refused_with(INIT, False, (critical,)) == NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD
    assert refused_with(99, False, (critical,)) == NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD


@pytest.mark.parametrize("exchange", [0, 1, 33, 38, 43, 240, 255])
def test_an_exchange_of_others_is_invalid_syntax(exchange: int) -> None:
    for response in (False, True):
        with pytest.raises(RemoteError) as caught:
            check_payloads(exchange, response, ())
        assert caught.value.notify == NotifyType.INVALID_SYNTAX


@pytest.mark.parametrize("exchange", [AUTH, CHILD, INFO])
def test_what_must_be_encrypted_is_not_answered_in_clear(exchange: int) -> None:
    with pytest.raises(RemoteError) as caught:
        check_payloads(exchange, False, ike_auth(), encrypted=False)
    assert caught.value.notify is None


def test_ike_sa_init_stands_in_clear() -> None:
    assert refused_with(INIT, False, (EncryptedPayload(33, b"", 32),)) is None
    with pytest.raises(RemoteError) as caught:
        check_payloads(INIT, False, sa_init(), encrypted=True)
    assert caught.value.notify is None


@pytest.mark.parametrize("encrypted", [False, True])
def test_skf_is_refused_and_not_answered(encrypted: bool) -> None:
    with pytest.raises(RemoteError, match="SKF") as caught:
        check_payloads(AUTH, False, (UnknownPayload(PayloadType.SKF, True, b""),), encrypted=encrypted)
    assert caught.value.notify is None


@pytest.mark.parametrize(
    "notify", [NotifyType.NO_PROPOSAL_CHOSEN, NotifyType.INVALID_KE_PAYLOAD, 8191, NotifyType.COOKIE]
)
def test_a_response_that_refuses_may_hold_less(notify: int) -> None:
    for exchange in (INIT, AUTH, CHILD):
        check(exchange, True, (NotifyPayload(notify),))
        assert refused_with(exchange, False, (NotifyPayload(notify),)) == NotifyType.INVALID_SYNTAX


def test_a_refused_child_leaves_the_authenticated_part() -> None:
    idr = next(p for p in ike_auth() if isinstance(p, IdPayload) and p.type == PayloadType.IDR)
    check(AUTH, True, (idr, AuthPayload(2, bytes(32)), NotifyPayload(NotifyType.TS_UNACCEPTABLE)))


def test_a_status_notify_excuses_nothing() -> None:
    assert refused_with(CHILD, True, (NotifyPayload(40000),)) == NotifyType.INVALID_SYNTAX


def test_an_empty_informational_is_a_liveness_check() -> None:
    check(INFO, False, ())
    check(INFO, True, (VendorPayload(b"x"), NotifyPayload(40000)))


def test_an_ike_rekey_needs_a_key_exchange_and_no_selectors() -> None:
    assert set(IKE_REKEY.counts) == {PayloadType.SA, PayloadType.NONCE, PayloadType.KE}
    check(CHILD, False, (*ike_rekey(), *create_child()[-2:]))


@pytest.mark.parametrize("less", [(), (PayloadType.SA,), (PayloadType.SA, PayloadType.TSI, PayloadType.TSR)])
def test_an_initiator_that_wants_eap_has_no_auth_payload_and_perhaps_no_child(less: tuple[int, ...]) -> None:
    without = (PayloadType.AUTH, *less)
    check(AUTH, False, tuple(p for p in ike_auth() if p.type not in without))
    no_id = tuple(p for p in ike_auth() if p.type not in (*without, PayloadType.IDI))
    assert refused_with(AUTH, False, no_id) == NotifyType.INVALID_SYNTAX


def test_table_has_a_row_for_each_message_and_only_ike_sa_init_is_in_clear() -> None:
    ours = {
        ExchangeType.IKE_SA_INIT, ExchangeType.IKE_AUTH, ExchangeType.CREATE_CHILD_SA, ExchangeType.INFORMATIONAL
    }  # fmt: skip
    assert set(RULES) == {(exchange, response) for exchange in ours for response in (False, True)}
    assert {exchange for (exchange, _), rule in RULES.items() if not rule.encrypted} == {ExchangeType.IKE_SA_INIT}
