"""A wrong answer to an ask is the caller's mistake: one clear error at `Endpoint.answer`, and the ask still waits."""

from __future__ import annotations

from typing import Any

import pytest
from pair import Pair, connection

from ipsec_fast.crypto.exchange import generate
from ipsec_fast.crypto.secret import secret_from_buffer
from ipsec_fast.errors import NegotiationError, SecretError, UsageError
from ipsec_fast.ike import answer_types, events
from ipsec_fast.ike.events import (
    AskConfig,
    AskConnection,
    AskCredential,
    AskInstallChild,
    AskKeyPair,
    AskSharedSecret,
    AskSpi,
    IkeDown,
)

B = connection("b")
WRONG: dict[type, list[tuple[Any, str]]] = {
    AskConfig: [
        (B, "Sequence[ConnectionConfig], not ConnectionConfig"),
        (None, "Sequence[ConnectionConfig], not NoneType"),
        ("to-a", "Sequence[ConnectionConfig], not str"),
        ([B, "to-a"], "Sequence[ConnectionConfig], not list[ConnectionConfig, str]"),
        ({B.name: B}, "Sequence[ConnectionConfig], not dict"),
        ((one for one in (B,)), "Sequence[ConnectionConfig], not generator"),
    ],
    AskConnection: [([B], "ConnectionConfig, not list[ConnectionConfig]"), ("to-a", "ConnectionConfig, not str")],
    AskCredential: [
        (b"swordfish swordfish", "Secret, not bytes"),
        (None, "Secret, not NoneType"),
        (SecretError, "Secret, not the class SecretError"),
    ],
    AskKeyPair: [
        (31, "KeyPair, not int"),
        (b"", "KeyPair, not bytes"),
        (generate(19), "a KeyPair of group 31, not of group 19"),
    ],
    AskSharedSecret: [(bytes(32), "Secret, not bytes")],
    AskSpi: [
        (b"\0\0\1\0", "int (256 to 4294967295), not bytes"),
        (255, "int (256 to 4294967295), not 255"),
        (1 << 32, "int (256 to 4294967295), not 4294967296"),
        (True, "int (256 to 4294967295), not bool"),
        (300.0, "int (256 to 4294967295), not float"),
    ],
    AskInstallChild: [(True, "None, not bool"), (7, "None, not int")],
}


def test_every_ask_has_a_type_of_answer() -> None:
    assert set(WRONG) == set(events.Ask.__args__) == set(answer_types._WANTED)


@pytest.mark.parametrize("kind", WRONG, ids=lambda kind: kind.__name__)
def test_a_wrong_type_is_one_clear_error_and_the_right_answer_is_still_taken(kind: type) -> None:
    pair = Pair()
    pair.b.rest.add(kind)
    pair.initiate()
    pair.run(0.2)
    (ask, *_) = pair.b.resting
    for answer, text in WRONG[kind]:
        with pytest.raises(UsageError) as caught:
            pair.b.endpoint.answer(ask.ticket, answer, pair.now)
        assert str(caught.value) == f"{kind.__name__} wants {text}"
    pair.b.rest.clear()
    pair.b.reply(ask, pair.now)
    pair.flush()
    pair.run(2.0)
    pair.check_one_pair()
    assert pair.b.endpoint.counters["internal_errors"] == 0


@pytest.mark.parametrize("error", [SecretError("no PSK"), NegotiationError("no", 24)])
def test_an_error_answers_every_ask(error: Exception) -> None:
    for kind in WRONG:
        pair = Pair()
        pair.b.refuse[kind] = error
        pair.initiate()
        pair.run(2.0)
        assert not pair.b.live


def test_an_answer_for_a_vanished_sa_is_ignored_whatever_it_is() -> None:
    pair = Pair()
    pair.a.rest.add(AskKeyPair)
    ike_id = pair.initiate()
    (ask,) = pair.a.resting
    pair.call("a", "terminate_ike", ike_id)
    assert pair.a.of(IkeDown)
    for answer in (None, "odd", secret_from_buffer(bytes(32))):
        pair.a.endpoint.answer(ask.ticket, answer, pair.now)
    assert pair.a.endpoint.counters["answers_ignored"] == 3
