"""What anybody can send to an endpoint: nothing of it raises, ends an SA or makes one
(docs/attacks.md, rows 1-11, 14, 34, 45, 47).
"""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from pair import Pair, Sent, adverse, perfect

from ipsec_fast.iana import ExchangeType, NotifyType, ProtocolId
from ipsec_fast.ike.header import IkeHeader
from ipsec_fast.ike.v2.message import encode_message
from ipsec_fast.ike.v2.payloads import DeletePayload, NotifyPayload
from ipsec_fast.model import Path


def arrival(sent: Sent) -> Path:
    path = sent.path
    return Path(path.remote, path.remote_port, path.local, path.local_port, path.marker)


def whole_life() -> Pair:
    """A pair that has done one of everything, with its traffic recorded."""
    pair = Pair().up()
    for side, verb in (("a", "rekey_child"), ("b", "rekey_child"), ("a", "rekey_ike"), ("b", "rekey_ike")):
        view = pair.shell(side).view
        pair.call(side, verb, view.ike_id if "ike" in verb else view.children[0].child_id)
        pair.run(1)
    return pair


def other_side(sent: Sent) -> str:
    return "b" if sent.sender == "a" else "a"


def quiet(pair: Pair, before: tuple[object, object]) -> None:
    pair.run(1)
    assert (pair.a.view, pair.b.view) == before
    pair.check_one_pair()


def test_every_message_of_a_whole_life_replayed_changes_nothing() -> None:
    pair = whole_life()
    rng = random.Random(1)
    before = pair.a.view.children, pair.b.view.children
    for _ in range(2000):
        sent = rng.choice(pair.sent[: len(pair.sent)])
        shell = pair.shell(other_side(sent))
        shell.endpoint.receive_datagram(sent.data, arrival(sent), pair.now)
        shell.endpoint.datagrams_to_send(pair.now)
        shell.drain(pair.now)
    pair.check()
    assert (pair.a.views("ESTABLISHED")[0].children, pair.b.views("ESTABLISHED")[0].children) == before


def test_every_message_truncated_or_flipped_changes_nothing() -> None:
    pair = Pair().up()
    before = pair.a.view, pair.b.view
    rng = random.Random(2)
    for sent in list(pair.sent):
        if sent.data[18] == ExchangeType.IKE_SA_INIT and sent.sender == "a":
            continue  # a changed first request is a new one: it opens a half-open IKE SA
        for length in range(0, len(sent.data), 3):
            pair.inject(other_side(sent), sent.data[:length], arrival(sent))
        for _ in range(300):
            changed = bytearray(sent.data)
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
            pair.inject(other_side(sent), bytes(changed), arrival(sent))
    quiet(pair, before)


@pytest.mark.parametrize("side", ["a", "b"])
def test_noise_changes_nothing(side: str) -> None:
    pair = Pair().up()
    before = pair.a.view, pair.b.view
    rng = random.Random(3)
    path = arrival(pair.sent[-1] if pair.sent[-1].sender != side else pair.sent[-2])
    view = pair.shell(side).view
    for length in (0, 1, 27, 28, 29, 32, 60, 500, 3000):
        for _ in range(20):
            pair.inject(side, rng.randbytes(length), path)
            pair.inject(side, (view.spi_i + view.spi_r + rng.randbytes(length))[: max(length, 1)], path)
    quiet(pair, before)


def clear_message(view: object, exchange: int, message_id: int, flags: tuple[bool, bool], *payloads: object) -> bytes:
    header = IkeHeader.make(view.spi_i, view.spi_r, exchange, message_id, initiator=flags[0], response=flags[1])  # type: ignore[attr-defined]
    return encode_message(header, payloads)  # type: ignore[arg-type]


CLEAR = [
    NotifyPayload(NotifyType.INVALID_SPI),
    NotifyPayload(NotifyType.NO_PROPOSAL_CHOSEN),
    NotifyPayload(NotifyType.AUTHENTICATION_FAILED),
    NotifyPayload(NotifyType.INVALID_IKE_SPI),
    NotifyPayload(NotifyType.INVALID_SYNTAX),
    DeletePayload(ProtocolId.IKE),
]


@pytest.mark.parametrize("exchange", [34, 35, 36, 37, 43, 240])
@pytest.mark.parametrize("payload", CLEAR, ids=str)
def test_no_message_in_clear_touches_an_established_ike_sa(exchange: int, payload: object) -> None:
    pair = Pair().up()
    pair.network = lambda sent: ()
    pair.call("a", "check_liveness", pair.a.view.ike_id)  # something is outstanding
    before = pair.a.view, pair.b.view
    for side, shell in (("a", pair.a), ("b", pair.b)):
        path = shell.view.path
        for message_id in range(4):
            for flags in ((True, False), (True, True), (False, False), (False, True)):
                pair.inject(side, clear_message(shell.view, exchange, message_id, flags, payload), path)
        assert pair.sent[-1].sender != "b", "nobody answers"
    assert (pair.a.view, pair.b.view) == before
    pair.network = perfect
    pair.run(2)
    pair.check_one_pair()


def test_three_forged_messages_make_a_half_open_sa_deaf_for_a_second() -> None:
    pair = Pair(network=lambda sent: perfect(sent) if sent.data[18] == ExchangeType.IKE_SA_INIT else ())
    pair.initiate()
    pair.run(0.1)
    auth = pair.sent[-1]
    assert auth.data[18] == ExchangeType.IKE_AUTH
    for count in range(10):
        forged = auth.data[:-1] + bytes([auth.data[-1] ^ (count + 1)])
        pair.inject("b", forged, arrival(auth))
    assert pair.b.endpoint.counters["bad_icv"] == 3
    assert pair.b.endpoint.counters["deaf"] == 7
    assert pair.b.view.state == "CONNECTING", "a bad ICV deletes nothing"
    pair.network = perfect
    pair.run(3)
    pair.check_one_pair()


def test_a_request_with_an_id_used_already_but_other_bytes_is_dropped() -> None:
    pair = Pair().up()
    pair.call("a", "check_liveness", pair.a.view.ike_id)
    pair.run(1)
    request = next(sent for sent in reversed(pair.sent) if sent.sender == "a")
    before = len(pair.sent)
    pair.inject("b", request.data[:-1] + bytes([request.data[-1] ^ 1]), arrival(request))
    assert len(pair.sent) == before
    pair.inject("b", request.data, replace(arrival(request), remote_port=31337))
    assert pair.sent[-1].path.remote_port == 31337, "the stored response goes to where the request came from"
    assert pair.b.view.path.remote_port == 4500, "but nothing else moves"


def test_an_endpoint_speaks_of_its_version_to_requests_only() -> None:
    pair = Pair()
    pair.initiate()
    request = bytearray(pair.sent[0].data)
    request[17] = 0x30
    before = len(pair.sent)
    pair.inject("b", bytes(request), arrival(pair.sent[0]))
    reply = pair.sent[-1].data
    assert len(pair.sent) == before + 1
    assert len(reply) <= len(request)
    assert int.from_bytes(reply[34:36], "big") == NotifyType.INVALID_MAJOR_VERSION
    request[19] |= 0x20
    pair.inject("b", bytes(request), arrival(pair.sent[0]))
    assert len(pair.sent) == before + 1


@pytest.mark.parametrize("seed", range(5))
def test_thousands_of_duplicates_run_each_handler_once(seed: int) -> None:
    pair = Pair(seed=seed).up()
    pair.network = adverse(seed, duplicate=0.9, jitter_s=2.0)
    for _ in range(20):
        pair.call("a", "check_liveness", pair.a.views()[0].ike_id)
        pair.call("b", "check_liveness", pair.b.views()[0].ike_id)
        pair.run(4)
    pair.network = perfect
    pair.run(5)
    pair.check_one_pair()


def test_a_lost_peer_is_noticed_and_everything_of_it_goes() -> None:
    pair = Pair().up()
    pair.network = lambda sent: ()
    pair.run(140)
    pair.check_nothing_left()
    assert "does not answer" in pair.a.events[-1].reason
