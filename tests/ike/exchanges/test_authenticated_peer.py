"""What an authenticated peer must not achieve; every message here has a good ICV
(docs/attacks.md, rows 4, 6, 7, 10, 11, 15, 20).
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import pytest
from pair import Pair, perfect

from ipsec_fast.crypto.exchange import generate
from ipsec_fast.iana import ExchangeType, NotifyType, PayloadType, ProtocolId
from ipsec_fast.ike.asks import Steps
from ipsec_fast.ike.events import ChildDown, IkeDown
from ipsec_fast.ike.v2.exchange import Exchange, Payloads
from ipsec_fast.ike.v2.ike_sa import IkeSA
from ipsec_fast.ike.v2.message import Message
from ipsec_fast.ike.v2.outbound import send_request, submit
from ipsec_fast.ike.v2.payloads import (
    DeletePayload,
    KePayload,
    NoncePayload,
    NotifyPayload,
    Payload,
    SaPayload,
    TsPayload,
    UnknownPayload,
)


class Raw(Exchange):
    """A request with the payloads that a test wants, and what came back."""

    name: ClassVar[str] = "RAW"

    def __init__(self, exchange: int, *payloads: Payload) -> None:
        self.type = exchange  # type: ignore[misc,assignment]
        self._payloads = payloads
        self.answer: Message | None = None

    def request(self, sa: IkeSA) -> Steps[Payloads]:
        return self._payloads
        yield

    def response(self, sa: IkeSA, message: Message) -> Steps[None]:
        self.answer = message
        return
        yield


def ask(pair: Pair, exchange: int, *payloads: Payload) -> Message | None:
    """Side a sends it inside SK{}; the answer of side b."""
    raw = Raw(exchange, *payloads)
    sa = pair.a.endpoint._core.sas[pair.a.views()[0].ike_id]
    submit(sa, raw)
    pair.flush()
    pair.run(0.4)
    return raw.answer


def errors(answer: Message | None) -> list[int]:
    assert answer is not None, "every valid request is answered"
    return [p.notify for p in answer.all(NotifyPayload) if p.is_error]


INFO, CREATE = ExchangeType.INFORMATIONAL, ExchangeType.CREATE_CHILD_SA
NONCE = NoncePayload(bytes(32))


def child_request(pair: Pair) -> dict[str, Payload]:
    """The payloads of a good request for a new Child SA."""
    config = pair.a.configs[0].children[0]
    proposals = tuple(type(p)(1, p.protocol, b"\x00\x00\x10\x00", p.transforms) for p in config.proposals)
    return {
        "SA": SaPayload(proposals),
        "Ni": NONCE,
        "TSi": TsPayload(PayloadType.TSI, config.local_ts),
        "TSr": TsPayload(PayloadType.TSR, config.remote_ts),
    }


def test_the_good_request_is_good() -> None:
    pair = Pair().up()
    assert errors(ask(pair, CREATE, *child_request(pair).values())) == []
    assert len(pair.b.view.children) == 2


@pytest.mark.parametrize("missing", ["SA", "Ni", "TSi", "TSr"])
def test_a_missing_payload_is_invalid_syntax_and_ends_the_ike_sa(missing: str) -> None:
    pair = Pair().up()
    payloads = child_request(pair)
    del payloads[missing]
    assert errors(ask(pair, CREATE, *payloads.values())) == [NotifyType.INVALID_SYNTAX]
    assert not pair.b.views()
    assert not pair.b.live


@pytest.mark.parametrize("doubled", ["SA", "Ni", "TSi", "TSr"])
def test_a_doubled_payload_too(doubled: str) -> None:
    pair = Pair().up()
    payloads = child_request(pair)
    assert errors(ask(pair, CREATE, *payloads.values(), payloads[doubled])) == [NotifyType.INVALID_SYNTAX]


def test_an_unknown_critical_payload_is_refused_and_nothing_else_happens() -> None:
    pair = Pair().up()
    answer = ask(pair, INFO, UnknownPayload(200, True, b"x"), DeletePayload(ProtocolId.IKE))
    assert errors(answer) == [NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD]
    assert answer is not None
    assert answer.notify(NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD).data == bytes([200])  # type: ignore[union-attr]
    pair.check_one_pair()


@pytest.mark.parametrize("exchange", [INFO, CREATE])
@pytest.mark.parametrize("count", [1, 40])
def test_unknown_payloads_that_are_not_critical_mean_nothing(exchange: int, count: int) -> None:
    pair = Pair().up()
    rest = child_request(pair).values() if exchange == CREATE else ()
    assert errors(ask(pair, exchange, *[UnknownPayload(201, False, b"")] * count, *rest)) == []


@pytest.mark.parametrize("notify", [16384, 16391, 16394, 30000, 40960, 65535, *range(16385, 16440)])
def test_status_notifies_of_every_kind_are_answered_and_mean_nothing(notify: int) -> None:
    pair = Pair().up()
    before = pair.a.view.children
    assert errors(ask(pair, INFO, NotifyPayload(notify, b"abc"))) == []
    assert pair.a.view.children == before
    pair.check_one_pair()


def test_transport_mode_is_not_echoed() -> None:
    pair = Pair().up()
    answer = ask(pair, CREATE, NotifyPayload(NotifyType.USE_TRANSPORT_MODE), *child_request(pair).values())
    assert errors(answer) == []
    assert answer is not None
    assert answer.notify(NotifyType.USE_TRANSPORT_MODE) is None


@pytest.mark.parametrize("protocol", [0, 2, 3, 4, 255])
def test_a_delete_of_any_protocol_is_answered(protocol: int) -> None:
    pair = Pair().up()
    answer = ask(pair, INFO, DeletePayload(protocol, (b"\x12\x34\x56\x78",) * 3), DeletePayload(protocol))
    assert errors(answer) == []
    pair.check_one_pair()


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 255])
@pytest.mark.parametrize("spi", [b"", b"\x01", bytes(4), bytes(8), bytes(255)], ids=len)
def test_a_rekey_of_what_is_not_there(protocol: int, spi: bytes) -> None:
    pair = Pair().up()
    rekey = NotifyPayload(NotifyType.REKEY_SA, b"", protocol, spi)
    assert errors(ask(pair, CREATE, rekey, *child_request(pair).values())) == [NotifyType.CHILD_SA_NOT_FOUND]
    pair.check_one_pair()


def test_two_deletes_of_one_child_and_a_notify_behind() -> None:
    pair = Pair().up()
    spi = pair.a.view.children[0].spi_in.to_bytes(4, "big")
    delete = DeletePayload(ProtocolId.ESP, (spi, spi))
    answer = ask(pair, INFO, delete, delete, NotifyPayload(NotifyType.INVALID_SELECTORS))
    assert answer is not None
    (deleted,) = answer.all(DeletePayload)
    assert len(deleted.spis) == 1
    assert len(pair.b.of(ChildDown)) == 1
    assert pair.b.view.state == "ESTABLISHED"


def test_a_delete_of_the_ike_sa_with_anything_behind_is_a_delete() -> None:
    pair = Pair().up()
    answer = ask(pair, INFO, DeletePayload(ProtocolId.IKE), DeletePayload(ProtocolId.ESP, (bytes(4),)))
    assert errors(answer) == []
    assert not pair.b.views()
    assert not pair.b.of(IkeDown)[0].failed


@pytest.mark.parametrize("group", [0, 1, 14, 31, 35, 1025, 65535])
def test_a_key_exchange_that_nobody_asked_for_is_not_used(group: int) -> None:
    pair = Pair().up()
    assert errors(ask(pair, CREATE, *child_request(pair).values(), KePayload(group, bytes(32)))) == []
    assert pair.b.view.children[-1].group == 0


def test_an_ike_rekey_with_a_bad_public_value_is_refused() -> None:
    pair = Pair().up()
    proposal = pair.a.configs[0].proposals[0]
    sa = SaPayload((type(proposal)(1, ProtocolId.IKE, bytes(7) + b"\x01", proposal.transforms),))
    answer = ask(pair, CREATE, sa, NONCE, KePayload(31, bytes(32)))  # a low-order point
    assert len(errors(answer)) == 1


@pytest.mark.parametrize("exchange", [ExchangeType.IKE_AUTH, 43, 240])
def test_an_exchange_that_does_not_belong_here_is_dropped(exchange: int) -> None:
    pair = Pair().up()
    sa = pair.a.endpoint._core.sas[1]
    raw = Raw(exchange, *child_request(pair).values())
    sa.active = raw

    send_request(sa, exchange, tuple(child_request(pair).values()))  # type: ignore[arg-type]
    pair.run(2)
    assert raw.answer is None
    assert pair.b.view.state == "ESTABLISHED"
    assert len(pair.b.view.children) == 1


def test_nothing_but_ike_auth_is_heard_before_authentication() -> None:
    """Row 20: no rekey and no Child SA on an IKE SA that nobody has authenticated."""

    for exchange in (CREATE, INFO):
        pair = Pair(network=lambda sent: (0.01,) if sent.data[18] == ExchangeType.IKE_SA_INIT else ())
        pair.initiate()
        pair.run(0.2)
        sa = pair.a.endpoint._core.sas[1]
        sa.window.outstanding = None
        pair.network = lambda sent: (0.01,)
        send_request(sa, exchange, tuple(child_request(pair).values()))
        pair.run(3)
        assert pair.b.view.state == "CONNECTING"
        assert not pair.b.children
        assert pair.b.endpoint.counters["wrong_state"] >= 1


@pytest.mark.parametrize("spi", [0, 1, 255])
def test_a_child_with_a_reserved_spi_is_refused(spi: int) -> None:
    pair = Pair().up()
    request = child_request(pair)
    (proposal,) = request["SA"].proposals
    request["SA"] = SaPayload((replace(proposal, spi=spi.to_bytes(4, "big")),))
    assert errors(ask(pair, CREATE, *request.values())) == [NotifyType.NO_PROPOSAL_CHOSEN]
    pair.check_one_pair()


def ike_rekey(pair: Pair, spi: bytes) -> tuple[Payload, ...]:
    (proposal,) = pair.a.configs[0].proposals
    return SaPayload((replace(proposal, number=1, spi=spi),)), NONCE, KePayload(31, generate(31).public)


def test_an_ike_rekey_with_an_spi_of_zero_is_refused() -> None:
    pair = Pair().up()
    assert errors(ask(pair, CREATE, *ike_rekey(pair, bytes(8)))) == [NotifyType.NO_PROPOSAL_CHOSEN]
    pair.check_one_pair()


def test_a_peer_that_rekeys_the_ike_sa_without_end_and_closes_nothing_gets_no_further() -> None:
    pair = Pair(network=lambda sent: perfect(sent) if sent.data[18] != ExchangeType.INFORMATIONAL else ())
    pair.up()
    for _ in range(20):
        last = max((v for v in pair.a.views("ESTABLISHED")), key=lambda v: v.ike_id)
        pair.call("a", "rekey_ike", last.ike_id)
        pair.run(0.2)
    assert len(pair.b.views()) <= 10
    pair.run(300)
    pair.network = perfect
    pair.run(300)
    assert len(pair.b.views()) == len(pair.a.views())
