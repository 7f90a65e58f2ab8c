"""No key pair, nonce or SPI comes twice, over many handshakes and over a fork (docs/attacks.md, row 30)."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from pair import Pair

from ipsec_fast.crypto.exchange import generate
from ipsec_fast.ike.v2.message import decode_message
from ipsec_fast.ike.v2.payloads import KePayload, NoncePayload


def test_over_many_handshakes_and_rekeys_nothing_is_shown_twice() -> None:
    """The random source is the gateway's own; each retransmission and retry of one attempt is one message."""
    shown: list[bytes] = []
    spis: list[int] = []
    for _ in range(150):
        pair = Pair()
        for shell in (pair.a, pair.b):
            shell.random.randbytes = os.urandom  # type: ignore[method-assign]
            shell.endpoint._core.random = os.urandom
        pair.up()
        pair.call("a", "rekey_ike", pair.a.view.ike_id)
        pair.run(2.0)
        for sent in pair.sent:
            if sent.data[18] == 34:
                message = decode_message(sent.data)
                shown += [one.data for one in message.payloads if isinstance(one, KePayload | NoncePayload)]
                shown.append(message.header.spi_i if sent.sender == "a" else message.header.spi_r)
        for view in (pair.a.view, pair.b.view):
            spis.append(int.from_bytes(view.spi_i + view.spi_r, "big"))
    assert len(shown) == len(set(shown)) == 150 * 6
    assert len(set(spis)) == 150


@pytest.mark.parametrize(("group", "count"), [(31, 20_000), (19, 3_000), (20, 300), (14, 50)])
def test_key_pairs_of_every_group_are_fresh(group: int, count: int) -> None:
    publics = set()
    for _ in range(count):
        pair = generate(group)
        publics.add(pair.public)
        pair.close()
    assert len(publics) == count


def _drawn() -> list[bytes]:
    """Of OpenSSL's generators, which are seeded in the process, and of the kernel's. (The
    arena of secrets refuses a child at all.)
    """
    values = []
    for group in (31, 19, 20, 31):
        pair = generate(group)
        values.append(pair.public)
        pair.close()
    return [*values, os.urandom(32)]


def in_child(work: Callable[[], list[bytes]]) -> list[bytes]:
    """What a forked child of this process gets."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.write(write, b"\n".join(value.hex().encode() for value in work()))
            status = 0
        finally:
            os._exit(status)
    os.close(write)
    with os.fdopen(read, "rb") as stream:
        text = stream.read()
    assert os.waitpid(child, 0)[1] == 0
    return [bytes.fromhex(line) for line in text.decode().split()]


def test_a_forked_child_draws_other_values_than_its_parent_and_its_siblings() -> None:
    _drawn()  # the generators are seeded before the fork
    children = [in_child(_drawn) for _ in range(4)]
    rows = [*children, _drawn()]
    assert all(len(row) == 5 for row in rows)
    values = [value for row in rows for value in row]
    assert len(set(values)) == len(values)
