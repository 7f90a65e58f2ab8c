"""Fuzzing the reassembly of IKE fragments: sealed ones with any numbers, content, type and message ID, in any order, and spoilt ones.

The peer's keys are right, so everything behind the ICV is reached. Whatever comes, nothing raises, and what is kept stays in its bounds.
Seeded, so a failure can be run again. IPSEC_FAST_FUZZ=N sets how many datagrams there are.
"""

from __future__ import annotations

import os
import random

from ike_samples import messages
from pair import ADDRESS_A, ADDRESS_B, Pair, connection

from ipsec_fast.iana import ExchangeType, PayloadType
from ipsec_fast.ike.header import IkeHeader
from ipsec_fast.ike.v2.fragments import MAX_FRAGMENTS
from ipsec_fast.ike.v2.message import MAX_MESSAGE_BYTES
from ipsec_fast.ike.v2.protect import seal_fragment
from ipsec_fast.ike.v2.reassembly import HELD_S, PIECE_OVERHEAD_BYTES
from ipsec_fast.model import Path

ROUNDS = int(os.environ.get("IPSEC_FAST_FUZZ", "4000"))
PATH = Path(ADDRESS_B, 4500, ADDRESS_A, 4500, marker=True)
TOTALS = (1, 2, 2, 2, 3, 3, 4, 5)
ODD_NUMBERS = (0, 1, 2, 3, 63, 64, 65, 65535)
EXCHANGES = (ExchangeType.INFORMATIONAL,) * 20 + (ExchangeType.CREATE_CHILD_SA,) * 4 + (ExchangeType.IKE_AUTH, 34, 240)
CHAINS = [data[28:] for data in messages().values()]


def make(seed: int) -> Pair:
    return Pair(connection("a", dpd_delay_s=0), connection("b", dpd_delay_s=0), seed=seed).up()


def content(rng: random.Random) -> bytes:
    chain = rng.choice(CHAINS)
    at = rng.randrange(len(chain) + 1)
    return rng.choice((chain, chain[:at], chain[at:], b"", rng.randbytes(rng.choice((1, 300, 1400)))))


def datagram(pair: Pair, rng: random.Random) -> bytes:
    sender, receiver = (next(iter(shell.endpoint._core.sas.values())) for shell in (pair.a, pair.b))
    wanted = receiver.window.expected
    message_id = rng.choice((wanted,) * 12 + (wanted - 1, wanted + 1)) % 2**32
    header = IkeHeader.make(
        sender.spi_i, sender.spi_r, rng.choice(EXCHANGES), message_id, initiator=True, response=rng.random() < 0.05
    )
    held = receiver.reassemblies.get(False)
    total = held.total if held is not None and rng.random() < 0.8 else rng.choice(TOTALS)
    number = rng.randint(1, total)
    if rng.random() < 0.05:
        number, total = (rng.choice(ODD_NUMBERS) for _ in range(2))
    first = PayloadType.NONE
    if number == 1 or rng.random() < 0.05:
        first = rng.choice((PayloadType.NOTIFY, PayloadType.DELETE, PayloadType.SA, PayloadType.SKF, 200))
    keys = sender.keys
    data = bytearray(seal_fragment(header, first, number, total, content(rng), keys.outbound, keys.next_iv()))
    if rng.random() < 0.2:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    if rng.random() < 0.05:
        del data[rng.randrange(len(data)) :]
        data[24:28] = len(data).to_bytes(4, "big")
    return bytes(data)


def check_bounds(pair: Pair) -> None:
    core = pair.b.endpoint._core
    for sa in core.sas.values():
        for held in sa.reassemblies.values():
            assert len(held.parts) < held.total <= MAX_FRAGMENTS
            assert sum(map(len, held.parts.values())) == held.held_bytes <= MAX_MESSAGE_BYTES
    pieces = [held for sa in core.sas.values() for held in sa.reassemblies.values()]
    kept = sum(held.held_bytes + len(held.parts) * PIECE_OVERHEAD_BYTES for held in pieces)
    assert core.fragments.bytes + core.half_open_fragments.bytes == kept


def test_any_fragments() -> None:
    """A new pair whenever the old one has ended: INVALID_SYNTAX behind a good ICV is the end of an IKE SA."""
    joined, pair = 0, make(0)
    for seed in range(ROUNDS):
        rng = random.Random(seed)
        if not pair.b.views() or not pair.a.views():
            joined += pair.b.endpoint.counters["fragments_reassembled"]
            pair = make(seed)
        pair.inject("b", datagram(pair, rng), PATH)
        pair.check()
        check_bounds(pair)
        if rng.random() < 0.01:
            pair.run(HELD_S + 1)
            assert not any(sa.reassemblies for sa in pair.b.endpoint._core.sas.values())
    joined += pair.b.endpoint.counters["fragments_reassembled"]
    assert joined > ROUNDS // 100, "or nothing is ever whole"
