"""Single sentences of RFC 7296, one after the other; each heading names the section. Rows are those of docs/attacks.md."""

from __future__ import annotations

import logging
from dataclasses import replace
from types import SimpleNamespace
from typing import ClassVar

import pytest
from pair import ADDRESS_A, ADDRESS_B, Pair, child, connection
from tampering import added, change_messages, change_one, replaced, without

from ipsec_fast.iana import ExchangeType, Group, IdType, NotifyType, PayloadType, ProtocolId, name_of
from ipsec_fast.ike.asks import Steps
from ipsec_fast.ike.events import ChildFailed, IkeDown, Progress
from ipsec_fast.ike.header import FLAG_RESPONSE, IkeHeader
from ipsec_fast.ike.v2 import dispatch, inbound, message_ids
from ipsec_fast.ike.v2.exchange import Exchange, Payloads, Reply
from ipsec_fast.ike.v2.ike_sa import IkeSA
from ipsec_fast.ike.v2.message import Message, encode_message
from ipsec_fast.ike.v2.outbound import submit
from ipsec_fast.ike.v2.payloads import (
    AuthPayload,
    DeletePayload,
    IdPayload,
    KePayload,
    NoncePayload,
    NotifyPayload,
    Payload,
    SaPayload,
    TsPayload,
    UnknownPayload,
)
from ipsec_fast.model import Identity, Path, TrafficSelector

INIT, AUTH = ExchangeType.IKE_SA_INIT, ExchangeType.IKE_AUTH
CREATE, INFO = ExchangeType.CREATE_CHILD_SA, ExchangeType.INFORMATIONAL
A_SEES_B = Path(ADDRESS_A, 500, ADDRESS_B, 500)


def sa_of(pair: Pair, side: str) -> IkeSA:
    (sa,) = pair.shell(side).endpoint._core.sas.values()
    return sa


# --- 1.3, 2.21.1: INVALID_KE_PAYLOAD


def clear_refusal(pair: Pair, data: bytes, notify: int = NotifyType.INVALID_KE_PAYLOAD) -> bytes:
    spi_i = next(sent.data[:8] for sent in pair.sent if sent.sender == "a")
    header = IkeHeader.make(spi_i, bytes(8), INIT, 0, initiator=False, response=True)
    return encode_message(header, (NotifyPayload(notify, data),))


@pytest.mark.parametrize("size", [0, 1, 3, 4, 8, 2000, 8000])
def test_an_invalid_ke_payload_in_clear_is_taken_with_two_bytes_only(size: int) -> None:
    """Whoever sees the SPI may send it; a good answer that comes later is believed."""
    pair = Pair(connection("a", ike=("aes128gcm16-prfsha256-x25519-ecp256",)), network=lambda sent: ())
    pair.initiate()
    for data in (b"\xff" * size, (bytes(size) + b"\x13")[-size:] if size else b""):
        pair.inject("a", clear_refusal(pair, data), A_SEES_B)
    pair.check()
    assert len(pair.sent) == 1, "nothing is sent again for it"
    assert f"INVALID_KE_PAYLOAD with {size} bytes of data, 2 name a group" in pair.a.log
    pair.network = lambda sent: (0.01,)
    pair.run(4.0)
    pair.check_one_pair()


@pytest.mark.parametrize("size", [0, 1, 3, 8, 2000, 60000])
@pytest.mark.parametrize("what", ["rekey_ike", "rekey_child"])
def test_one_of_an_authenticated_peer_fails_the_exchange_alone(
    monkeypatch: pytest.MonkeyPatch, size: int, what: str
) -> None:
    pfs = {"esp": ("aes128gcm16-x25519",)}
    mirrored = child(local="10.2.0.0/24", remote="10.1.0.0/24", **pfs)
    pair = Pair(connection("a", children=(child(**pfs),)), connection("b", children=(mirrored,))).up()
    answer = NotifyPayload(NotifyType.INVALID_KE_PAYLOAD, b"\xff" * size)
    refuse_with(monkeypatch, pair, answer)
    view = pair.a.view
    pair.call("a", what, view.ike_id if what == "rekey_ike" else view.children[0].child_id)
    pair.run(1.0)
    pair.check()
    assert f"INVALID_KE_PAYLOAD with {size} bytes of data" in pair.a.log
    assert [v.ike_id for v in pair.a.views("ESTABLISHED")] == [view.ike_id]


def refuse_with(monkeypatch: pytest.MonkeyPatch, pair: Pair, *payloads: Payload) -> None:
    """Both sides answer CREATE_CHILD_SA with these."""

    def answer(sa: IkeSA, message: Message, path: Path) -> Steps[Reply]:
        return Reply(payloads)
        yield

    for key, row in tuple(dispatch.TABLE.items()):
        if key[2] is CREATE and key[3] is dispatch.REQUEST:
            monkeypatch.setitem(dispatch.TABLE, key, replace(row, handler=answer))


def test_every_group_in_an_invalid_ke_payload_is_ours_or_ends_the_attempt() -> None:
    """Row 5: of the 65,536 groups only those that we offered make us send again, and each once."""
    pair = Pair(connection("a", ike=("aes128gcm16-prfsha256-x25519-ecp256-ecp384",)), network=lambda sent: ())
    pair.initiate()
    for group in range(65536):
        pair.inject("a", clear_refusal(pair, group.to_bytes(2, "big")), A_SEES_B)
    pair.check()
    assert len([sent for sent in pair.sent if sent.sender == "a"]) == 3


@pytest.mark.parametrize("bits", [0, 16, 63, 64, 65, 16_000, 100_000])
@pytest.mark.parametrize("table", [Group, NotifyType, PayloadType, IdType])
def test_a_name_never_raises(table: type, bits: int) -> None:
    for value in (1 << bits, -(1 << bits), (1 << bits) - 1):
        assert len(name_of(table, value)) < 60


# --- row 9: what a notify holds never breaks a text


@pytest.mark.parametrize("exchange", [INIT, AUTH, CREATE, INFO])
def test_notifies_with_odd_data_in_every_answer_and_request(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, exchange: int
) -> None:
    """Every type of notify, with data that is empty, short, long, or no text, in both directions; all texts are made."""
    caplog.set_level(1, "ipsec_fast")
    known = [n for n in NotifyType if n >= 16384 and n not in (NotifyType.COOKIE, NotifyType.REKEY_SA)]
    sizes = (0, 1, 2, 3, 4, 5, 8, 16, 20, 64, 2000)
    for shift, types in enumerate(([*NotifyType][::2], known, [8192, 16383, 40000, 65535], known)):
        for response in (True, False):
            pair = Pair() if exchange in (INIT, AUTH) else Pair().up()
            pair.network = lambda sent: (0.01,)
            notifies = [
                NotifyPayload(n, bytes([255 - i]) * sizes[(i + 5 * shift) % len(sizes)]) for i, n in enumerate(types)
            ]
            side = "b" if response else "a"
            change_one(monkeypatch, pair, side, exchange, response=response, change=added(*notifies))
            if exchange in (INIT, AUTH):
                pair.initiate()
            elif exchange == CREATE:
                pair.call("a", "rekey_child", pair.a.view.children[0].child_id)
            else:
                pair.call("a", "check_liveness", pair.a.view.ike_id)
            pair.run(3.0)  # checks that there was no internal error
            monkeypatch.undo()
            assert all(len(e.text) < 4000 for shell in (pair.a, pair.b) for e in shell.of(Progress))
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


# --- 2.2: message IDs


def wind(pair: Pair, own: int, peers: int = 0) -> None:
    """Both sides of the IKE SA as they are after so many messages of side a, and of side b."""
    a, b = sa_of(pair, "a").window, sa_of(pair, "b").window
    a.next_own, b.expected = own, own
    b.next_own, a.expected = peers, peers


@pytest.mark.parametrize("who", ["own", "peers"])
def test_an_ike_sa_is_rekeyed_before_its_message_ids_end(who: str) -> None:
    pair = Pair().up()
    old = pair.a.view.ike_id
    soon = message_ids.REKEY_FROM - 1
    wind(pair, *((soon, 2) if who == "own" else (2, soon)))
    pair.call("a" if who == "own" else "b", "check_liveness", pair.shell("a" if who == "own" else "b").view.ike_id)
    pair.run(5.0)
    pair.check_one_pair()
    assert pair.a.view.ike_id != old
    assert max(sa_of(pair, s).window.next_own for s in "ab") < 100, "they begin at 0 again"
    assert "few message IDs are left" in pair.a.log + pair.b.log


@pytest.mark.parametrize("who", ["a", "b"])
def test_an_ike_sa_that_cannot_be_rekeyed_is_deleted_before_its_message_ids_wrap(
    monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    """The peer wants no rekey; liveness checks use up what is left."""
    pair = Pair().up()
    refuse_with(monkeypatch, pair, NotifyPayload(NotifyType.NO_ADDITIONAL_SAS))
    wind(pair, *((message_ids.LAST_ID - 40, 2) if who == "a" else (2, message_ids.LAST_ID - 40)))
    used: list[int] = []
    monkeypatch.setattr(IkeHeader, "encode", counting(IkeHeader.encode, used))
    for _ in range(60):
        if not pair.a.views() or not pair.b.views():
            break
        pair.call(who, "check_liveness", pair.shell(who).view.ike_id)
        pair.run(0.2)
    pair.run(2.0)
    pair.check_nothing_left()
    assert max(used) <= message_ids.LAST_ID
    assert f"deleting IKE SA to-b[1]: {message_ids.REASON}" in pair.a.log


def counting(encode, used: list[int]):
    def counted(header: IkeHeader) -> bytes:
        used.append(header.message_id)
        return encode(header)

    return counted


def test_a_peer_that_uses_up_the_ids_and_does_not_hear_our_delete_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair().up()
    wind(pair, 2, message_ids.LAST_ID - 3)
    mine = pair.a.endpoint._core
    monkeypatch.setattr(inbound, "watch", lambda sa: message_ids.watch(sa) if sa.core is mine else None)
    pair.network = lambda sent: (0.01,) if sent.sender == "b" or sent.data[19] & FLAG_RESPONSE else ()
    for _ in range(6):
        if not pair.a.views():
            break
        pair.call("b", "check_liveness", pair.b.view.ike_id)
        pair.run(0.1)
    assert not pair.a.views()
    assert pair.a.of(IkeDown)[0].reason == message_ids.REASON


# --- 2.10: nonces


def nonce_of(size: int) -> NoncePayload:
    return NoncePayload(bytes(range(size)))


@pytest.mark.parametrize(("prf", "least"), [("prfsha256", 16), ("prfsha384", 24), ("prfsha512", 32)])
@pytest.mark.parametrize("side", ["a", "b"])
def test_a_nonce_has_at_least_half_the_key_size_of_the_prf(
    monkeypatch: pytest.MonkeyPatch, prf: str, least: int, side: str
) -> None:
    ike = (f"aes128gcm16-{prf}-x25519",)
    for size in {16, least - 1, least}:
        if size < 16:
            continue
        pair = Pair(connection("a", ike=ike), connection("b", ike=ike))
        change_one(monkeypatch, pair, side, INIT, response=side == "b", change=replaced(nonce_of(size)))
        pair.initiate()
        pair.run(2.0)
        monkeypatch.undo()
        other = pair.shell("b" if side == "a" else "a")
        refused = f"a nonce of {size} bytes; with {prf} at least {least} are wanted"
        assert (refused in other.log) == (size < least)


@pytest.mark.parametrize("what", ["rekey_ike", "rekey_child"])
@pytest.mark.parametrize("side", ["a", "b"])
def test_so_has_that_of_a_rekey(monkeypatch: pytest.MonkeyPatch, what: str, side: str) -> None:
    ike = ("aes128gcm16-prfsha512-x25519",)
    pair = Pair(connection("a", ike=ike), connection("b", ike=ike)).up()
    change_one(monkeypatch, pair, side, CREATE, response=side == "b", change=replaced(nonce_of(31)))
    view = pair.a.view
    pair.call("a", what, view.ike_id if what == "rekey_ike" else view.children[0].child_id)
    pair.run(1.0)
    assert "a nonce of 31 bytes; with prfsha512 at least 32 are wanted" in pair.shell("b" if side == "a" else "a").log
    assert not any(one.ask.replaces for one in pair.a.live), "nothing was made of it"


# --- 2.5: payloads that nobody has use for

STRANGERS: dict[str, Payload] = {
    "SA": SaPayload(connection("a").proposals),
    "KE": KePayload(31, bytes(32)),
    "IDi": IdPayload(PayloadType.IDI, Identity.parse("mallory.example")),
    "IDr": IdPayload(PayloadType.IDR, Identity.parse("mallory.example")),
    "AUTH": AuthPayload(2, bytes(32)),
    "Ni": NoncePayload(bytes(32)),
    "D": DeletePayload(ProtocolId.IKE),
    "TSi": TsPayload(PayloadType.TSI, (TrafficSelector.parse("0.0.0.0/0"),)),
    "TSr": TsPayload(PayloadType.TSR, (TrafficSelector.parse("0.0.0.0/0"),)),
    "CP": UnknownPayload(PayloadType.CP, False, bytes(4)),
    "private": UnknownPayload(200, False, b"x"),
}
BELONGS = {
    INIT: {"SA", "KE", "Ni"},
    AUTH: {"SA", "IDi", "IDr", "AUTH", "TSi", "TSr"},
    CREATE: {"SA", "KE", "Ni", "TSi", "TSr"},
    INFO: {"D"},
}


@pytest.mark.parametrize("response", [False, True])
@pytest.mark.parametrize(("exchange", "stranger"), [(e, s) for e in BELONGS for s in STRANGERS if s not in BELONGS[e]])
def test_an_extra_payload_that_is_not_critical_is_ignored_in_every_exchange(
    monkeypatch: pytest.MonkeyPatch, exchange: int, response: bool, stranger: str
) -> None:
    pair = Pair()
    side = "b" if response else "a"
    change_one(monkeypatch, pair, side, exchange, response=response, change=added(*[STRANGERS[stranger]] * 2))
    pair.up()
    pair.call("a", "rekey_child", pair.a.view.children[0].child_id)
    pair.run(3.0)
    pair.call("a", "rekey_ike", pair.a.view.ike_id)
    pair.run(3.0)
    pair.check_one_pair()
    assert (str(pair.a.view.remote_id), str(pair.b.view.remote_id)) == ("b.example", "a.example")


# --- 2.16: EAP


@pytest.mark.parametrize("less", [(), (PayloadType.SA, PayloadType.TSI, PayloadType.TSR)])
def test_an_initiator_that_wants_eap_is_told_authentication_failed_and_the_log_says_why(
    monkeypatch: pytest.MonkeyPatch, less: tuple[int, ...]
) -> None:
    pair = Pair()
    change_one(monkeypatch, pair, "a", AUTH, response=False, change=without(PayloadType.AUTH, *less))
    pair.initiate()
    pair.run(2.0)
    assert "refused with AUTHENTICATION_FAILED: a.example wants EAP" in pair.b.log
    assert "AUTHENTICATION_FAILED" in pair.a.of(IkeDown)[0].reason
    pair.check_nothing_left()
    assert all(e.level == 0 for e in pair.b.of(Progress) if "wants EAP" in e.text)


# --- 2.21.2: a response that breaks the protocol


BROKEN = {
    "no AUTH": without(PayloadType.AUTH),
    "no IDr": without(PayloadType.IDR),
    "no SA": without(PayloadType.SA),
    "no TSi": without(PayloadType.TSI),
    "two AUTH": lambda payloads: (*payloads, next(p for p in payloads if p.type == PayloadType.AUTH)),
    "nothing": lambda payloads: (),
    "critical": added(UnknownPayload(200, True, b"")),
    "bad AUTH": replaced(AuthPayload(2, bytes(32))),
    "another method": replaced(AuthPayload(1, bytes(32))),
    "another identity": replaced(IdPayload(PayloadType.IDR, Identity.parse("mallory.example"))),
    "malformed": added(SimpleNamespace(type=PayloadType.NOTIFY, encode=lambda: b"\x01\xff\x00")),
}


@pytest.mark.parametrize("how", BROKEN)
def test_the_responder_keeps_no_ike_sa_that_its_initiator_has_thrown_away(
    monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    pair = Pair()
    change_one(monkeypatch, pair, "b", AUTH, response=True, change=BROKEN[how])
    pair.initiate()
    pair.run(2.0)
    pair.check_nothing_left()
    assert "AUTHENTICATION_FAILED" in pair.b.of(IkeDown)[0].reason
    assert pair.a.of(ChildFailed)
    assert pair.a.of(IkeDown)[0].failed


@pytest.mark.parametrize("how", ["no SA", "nothing", "critical", "malformed"])
@pytest.mark.parametrize("what", ["rekey_ike", "rekey_child", "initiate_child"])
def test_a_broken_answer_to_create_child_sa_ends_the_ike_sa_on_both_sides(
    monkeypatch: pytest.MonkeyPatch, how: str, what: str
) -> None:
    pair = Pair().up()
    change_one(monkeypatch, pair, "b", CREATE, response=True, change=BROKEN[how])
    view = pair.a.view
    if what == "initiate_child":
        pair.call("a", what, view.ike_id, pair.a.configs[0].children[0])
    else:
        pair.call("a", what, view.ike_id if what == "rekey_ike" else view.children[0].child_id)
    pair.run(2.0)
    assert not pair.a.views()
    assert not [v for v in pair.b.views() if v.ike_id == 1], "the one that both sides had"
    assert pair.a.of(IkeDown)[0].failed


@pytest.mark.parametrize("bad", [NoncePayload(bytes(16)), KePayload(31, bytes(32)), KePayload(19, bytes(64))])
def test_an_ike_rekey_whose_answer_cannot_be_used_ends_the_old_one_too(
    monkeypatch: pytest.MonkeyPatch, bad: Payload
) -> None:
    """The peer has moved the children to an IKE SA that we do not have."""
    ike = ("aes128gcm16-prfsha512-x25519",)
    pair = Pair(connection("a", ike=ike), connection("b", ike=ike)).up()
    change_one(monkeypatch, pair, "b", CREATE, response=True, change=replaced(bad))
    pair.call("a", "rekey_ike", pair.a.view.ike_id)
    pair.run(2.0)
    assert not pair.a.views()
    assert "the answer to its rekey cannot be used" in pair.a.of(IkeDown)[0].reason
    assert pair.a.of(IkeDown)[0].failed, "so that it is begun anew"


# --- a failure is told once


def test_a_refused_child_is_told_once_with_all_that_was_offered() -> None:
    """The line of the IKE SA does not repeat the reason of its Child SA, and the reason names every proposal."""
    offered = ("aes256-sha512", "aes192-sha256")
    pair = Pair(connection("a", children=(child(esp=offered),)))
    pair.initiate()
    pair.run(2.0)
    reason = pair.a.of(ChildFailed)[0].reason
    for words in ("AES_CBC_256/HMAC_SHA2_512_256", "AES_CBC_192/HMAC_SHA2_256_128", "10.1.0.0/24 === 10.2.0.0/24"):
        assert words in reason
    assert pair.a.of(IkeDown)[0].reason == "its only Child SA, net, failed"


# --- row 50: who has no SA is told so, seldom, and no token is given away


class Tokens(Exchange):
    """QUICK_CRASH_DETECTION of RFC 6290, which we never announced."""

    name: ClassVar[str] = "QCD"
    type: ClassVar[ExchangeType] = INFO

    def request(self, sa: IkeSA) -> Steps[Payloads]:
        return (NotifyPayload(16419, b"token" * 8),)
        yield

    def response(self, sa: IkeSA, message: Message) -> Steps[None]:
        return
        yield


def test_a_storm_of_unknown_spis_is_told_of_once_a_second_to_the_known_peer_alone() -> None:
    pair = Pair().up()
    pair.sent.clear()
    for i in range(2000):
        remote = ADDRESS_B if i % 4 == 0 else ADDRESS_B + 1 + i
        pair.a.endpoint.note_unknown_spi(0x1000 + i, remote, pair.now)
        if i % 200 == 0:
            pair.run(0.1)
    pair.flush()
    told = [sent for sent in pair.sent if sent.sender == "a" and not sent.data[19] & 0x20]
    assert {sent.path.remote for sent in told} == {ADDRESS_B}
    assert 1 <= len(told) <= 3, "in about one second"
    assert pair.a.endpoint.counters["invalid_spi_sent"] == len(told)
    pair.run(2.0)
    pair.check_one_pair()


def test_a_quick_crash_detection_token_is_neither_kept_nor_answered_nor_believed() -> None:
    pair = Pair().up()
    submit(sa_of(pair, "a"), Tokens())
    pair.flush()
    pair.run(1.0)
    spi_i, spi_r = pair.a.view.spi_i, pair.a.view.spi_r
    header = IkeHeader.make(spi_i, spi_r, INFO, 3, initiator=False, response=True)
    forged = (NotifyPayload(16419, b"token" * 8), NotifyPayload(NotifyType.INVALID_IKE_SPI))
    pair.inject("a", encode_message(header, forged), Path(ADDRESS_A, 4500, ADDRESS_B, 4500, True))
    pair.run(1.0)
    pair.check_one_pair()
    seen: list[bool] = []  # of each message of side b: there is nothing in it
    with pytest.MonkeyPatch.context() as patch:
        change_messages(patch, pair, "b", lambda header, payloads: seen.append(not payloads) or payloads)
        pair.call("a", "check_liveness", pair.a.view.ike_id)
        pair.run(1.0)
    assert seen == [True]
