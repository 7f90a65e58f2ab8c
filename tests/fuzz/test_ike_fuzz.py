"""Fuzzing the IKEv2 codecs: whatever comes, a value, ParseError or RemoteError comes out, in time.

Every value is also printed, judged by the rules and negotiated, because these are the next to see it. The corpus is
replayed first; mutations are seeded, so a failure can be run again. IPSEC_FAST_FUZZ=N sets how many there are.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ike_captures import ike_frames
from ike_samples import NET_1, NET_2, messages
from third_party import FOLDER, load
from timing import cpu_time

from ipsec_fast.algorithms import default_esp_proposals, default_ike_proposals
from ipsec_fast.errors import NegotiationError, RemoteError
from ipsec_fast.ike.v2.message import Message, decode_message, encode_message, parse_chain
from ipsec_fast.ike.v2.negotiate import check_chosen, choose_proposal, narrow
from ipsec_fast.ike.v2.payloads import IdPayload, NotifyPayload, Payload, SaPayload, TsPayload
from ipsec_fast.ike.v2.rules import check_payloads

ROUNDS = int(os.environ.get("IPSEC_FAST_FUZZ", "4000"))
CORPUS = sorted((Path(__file__).parent / "corpus" / "ike").glob("*.hex"))
CONFIGURED = (*default_ike_proposals(), *default_esp_proposals())
EXCHANGES = (34, 35, 36, 37, 240)
INTERESTING = (0, 1, 2, 3, 4, 5, 7, 8, 15, 16, 0x20, 0x7F, 0x80, 0xFE, 0xFF)
SLOWEST_S = 0.1  # for one datagram, in CPU time


def corpus_bytes(path: Path) -> bytes:
    return bytes.fromhex("".join(line for line in path.read_text().splitlines() if not line.startswith("#")))


def use(payload: Payload) -> None:
    """What the exchanges and the log would do with it."""
    repr(payload)
    if isinstance(payload, IdPayload):
        assert str(payload.identity).isprintable()
        assert len(payload.body) == 4 + len(payload.identity.data)
    elif isinstance(payload, NotifyPayload):
        str(payload)
    elif isinstance(payload, SaPayload):
        negotiate(payload)
    elif isinstance(payload, TsPayload):
        try:
            narrow(payload.selectors, (NET_1, NET_2))
        except NegotiationError as error:
            assert len(str(error)) < 4000  # noqa: PT017


def negotiate(payload: SaPayload) -> None:
    for spi_bytes in (None, 8):
        for choose in (choose_proposal, check_chosen):
            try:
                choose(payload.proposals, CONFIGURED, spi_bytes=spi_bytes)  # type: ignore[operator]
            except NegotiationError as error:
                assert len(str(error)) < 20000  # noqa: PT017


def judge(payloads: tuple[Payload, ...], exchange: int, response: bool, encrypted: bool) -> None:
    try:
        check_payloads(exchange, response, payloads, encrypted=encrypted)
    except RemoteError:
        return


def run(data: bytes) -> Message | None:
    with cpu_time() as watch:
        try:
            message = decode_message(data)
        except RemoteError:
            message = None
    assert watch.seconds < SLOWEST_S
    if message is None:
        return None
    judge(message.payloads, message.header.exchange, message.header.response, encrypted=False)
    for payload in message.payloads:
        use(payload)
    return message


def run_inside(first: int, data: bytes) -> None:
    try:
        payloads = parse_chain(first, data)
    except RemoteError:
        return
    for exchange in EXCHANGES:
        for response in (False, True):
            judge(payloads, exchange, response, encrypted=True)
    for payload in payloads:
        use(payload)


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_corpus(path: Path) -> None:
    data = corpus_bytes(path)
    assert int.from_bytes(data[24:28], "big") == len(data)
    run(data)
    run_inside(data[16], data[28:])


@given(st.binary(max_size=400))
@settings(max_examples=300)
def test_any_bytes(data: bytes) -> None:
    run(data)


@given(st.integers(0, 255), st.binary(max_size=400), st.integers(0, 255), st.integers(0, 255))
@settings(max_examples=500)
def test_any_bytes_behind_a_sound_header(first: int, chain: bytes, exchange: int, flags: int) -> None:
    head = bytes(range(1, 17)) + bytes([first, 0x20, exchange, flags, 0, 0, 0, 1])
    run(head + (28 + len(chain)).to_bytes(4, "big") + chain)
    run_inside(first, chain)


# --- mutation


def flip_bits(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.randint(1, 8)):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def set_octet(data: bytearray, rng: random.Random) -> None:
    data[rng.randrange(len(data))] = rng.choice(INTERESTING)


def set_length(data: bytearray, rng: random.Random) -> None:
    place = rng.randrange(len(data) - 1)
    value = rng.choice((0, 1, 3, 4, len(data) - place, len(data) - 1, len(data) + 1, 0xFFFF))
    data[place : place + 2] = (value & 0xFFFF).to_bytes(2, "big")


def cut(data: bytearray, rng: random.Random) -> None:
    place = rng.randrange(len(data))
    del data[place : place + rng.randint(1, 40)]


def repeat(data: bytearray, rng: random.Random) -> None:
    place = rng.randrange(len(data))
    chunk = data[place : place + rng.choice((4, 8, 12, 16, 40))]
    data[place:place] = chunk * rng.choice((1, 2, 10, 100))


def insert(data: bytearray, rng: random.Random) -> None:
    place = rng.randrange(len(data))
    data[place:place] = rng.randbytes(rng.randint(1, 16))


MUTATORS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    flip_bits, set_octet, set_length, cut, repeat, insert
)  # fmt: skip


def mutated(data: bytes, rng: random.Random) -> bytes:
    """A few mutations; three times of four the header's length is made true again, so that the inside is reached."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        if len(out) > 2:
            rng.choice(MUTATORS)(out, rng)
    if len(out) >= 28 and rng.random() < 0.75:
        out[24:28] = len(out).to_bytes(4, "big")
        out[17] = 0x20
    return bytes(out[:65507])


def seeds() -> list[bytes]:
    found = [*messages().values(), *(corpus_bytes(path) for path in CORPUS)]
    if FOLDER.is_dir():
        found += [frame.data for frame in ike_frames()]
        found += [bytes.fromhex(vector["data"]) for vector in load("ike_malformed.json")["vectors"]]
    return found


def test_mutations() -> None:
    sources, read = seeds(), 0
    for seed in range(ROUNDS):
        rng = random.Random(seed)
        data = mutated(rng.choice(sources), rng)
        try:
            message = run(data)
            run_inside(data[16] if len(data) > 16 else 0, data[28:])
        except Exception as error:
            raise AssertionError(f"seed {seed}, datagram {data.hex()}") from error
        if message is not None:
            read += 1
            encode_message(message.header, message.payloads)
    assert read > ROUNDS // 50  # or the mutations are too wild to test anything
