"""In a child of fork no SA, batch or crew of the parent works; what the child makes itself does."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from kernel_packets import KINDS, Slots, ipv4, key_of, pair, seal

from ipsec_fast import (
    SA,
    SAD,
    PacketBatch,
    open_for_test,
    protect,
    protect_dummies,
    protect_packet,
    seal_with_iv_for_test,
    unprotect,
    unprotect_packet,
)
from ipsec_fast.dataplane.crew import Crew
from ipsec_fast.dataplane.epoch import retire, retired
from ipsec_fast.dataplane.forks import forks
from ipsec_fast.errors import StateError


def in_child(work: Callable[[], Any]) -> Any:
    """What `work` gives in a child of fork; its exceptions come as `TypeName: text`."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            answer = work()
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}"
        os.write(writing, pickle.dumps(answer))
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        answer = pickle.loads(file.read())
    os.waitpid(child, 0)
    return answer


def refusal(work: Callable[[], Any]) -> str:
    try:
        return f"done: {work()!r}"
    except StateError as error:
        return str(error)


def ways_of(out: SA, into: SA) -> dict[str, Callable[[], Any]]:
    """Every call that numbers a packet or moves a window; batches are bound here."""
    sealed = seal([ipv4(60)], out)[0]
    sealing = Slots([ipv4(60)], out, out.headroom, out.tailroom)
    opening = Slots([sealed], into)
    return {
        "protect": lambda: protect(sealing.batch),
        "protect_packet": lambda: protect_packet(out, ipv4(60)),
        "seal_with_iv_for_test": lambda: seal_with_iv_for_test(out, ipv4(60), 9, bytes(len(sealed) and iv_bytes(out))),
        "unprotect": lambda: unprotect(opening.batch),
        "unprotect_packet": lambda: unprotect_packet(into, sealed),
        "open_for_test": lambda: open_for_test(into, sealed),
    }


def iv_bytes(sa: SA) -> int:
    return sa.sealed_length(100) - 100 - 8 - 2 - 2 - 16 if sa.algorithm == "aes128gcm16" else 0


@pytest.mark.parametrize("algorithm", KINDS)
def test_no_call_uses_an_sa_of_the_parent(algorithm: str) -> None:
    out, into = pair(algorithm)
    ways = ways_of(out, into)
    if iv_bytes(out) == 0:
        del ways["seal_with_iv_for_test"]
    said = in_child(lambda: {name: refusal(way) for name, way in ways.items()})
    assert set(said) == set(ways)
    for name, text in said.items():
        assert "made before a fork" in text, (name, text)
    assert out.seq == 1
    assert protect_packet(out, ipv4(60))[4:8] == (2).to_bytes(4, "big"), "the parent goes on"


@pytest.mark.parametrize("algorithm", ["sha256", "aes128gmac"])
def test_no_call_uses_an_ah_sa_of_the_parent(algorithm: str) -> None:
    ends = {"src": "192.0.2.1", "dst": "192.0.2.2"}
    key = bytes(32 if algorithm == "sha256" else 20)
    out, into = (SA(way, 300, algorithm, key, protocol="ah", **ends) for way in ("out", "in"))  # type: ignore[arg-type]
    sealed = protect_packet(out, ipv4(60))
    said = in_child(
        lambda: [refusal(lambda: protect_packet(out, ipv4(60))), refusal(lambda: unprotect_packet(into, sealed))]
    )
    assert all("made before a fork" in text for text in said), said


def test_no_dummies_are_made_with_an_sa_of_the_parent() -> None:
    out, _ = pair()
    slots = Slots([bytes(60)], out, out.headroom, out.tailroom)
    assert "made before a fork" in in_child(lambda: refusal(lambda: protect_dummies(slots.batch)))


def test_a_batch_of_a_sad_refuses_sas_of_the_parent_and_opens_those_of_the_child() -> None:
    out, into = pair()
    sad = SAD(bare=True)
    sad.add(into)
    slots = Slots([seal([ipv4(60)], out)[0]], sad)

    def work() -> list[Any]:
        first = refusal(lambda: unprotect(slots.batch))
        sad.remove(into)
        sad.add(SA("in", 0x1001, key=key_of("aes128gcm16")))
        return [first, unprotect(slots.batch), slots.packets[0] == ipv4(60)]

    first, opened, same = in_child(work)
    assert "made before a fork" in first
    assert (opened, same) == (1, True)
    assert unprotect(slots.batch) == 1, "the parent's batch and window are its own"


def test_what_a_child_makes_works_there_and_in_no_child_of_its_own() -> None:
    old, _ = pair()

    def work() -> list[Any]:
        out, into = pair(spi=0x2002)
        slots = Slots([ipv4(60)], out, out.headroom, out.tailroom)
        good = protect(slots.batch), unprotect_packet(into, protect_packet(out, ipv4(80))) == ipv4(80)
        below = in_child(lambda: [refusal(partial(protect_packet, sa, ipv4(60))) for sa in (old, out)])
        return [forks(), good, below, protect_packet(out, ipv4(60))[4:8]]

    before = forks()
    depth, good, below, number = in_child(work)
    assert depth == before + 1
    assert good == (1, True)
    assert all("made before a fork" in text for text in below), below
    assert number == (3).to_bytes(4, "big")
    assert forks() == before


SHARED = SA("out", 0x5005, key=bytes(20))


def seal_shared(number: int) -> str:
    return refusal(lambda: protect_packet(SHARED, ipv4(60 + number)))


def test_a_pool_of_multiprocessing_is_refused_too() -> None:
    with multiprocessing.get_context("fork").Pool(2) as pool:
        for text in pool.map(seal_shared, range(4)):
            assert "SA 0x00005005 was made before a fork" in text


def test_a_crew_of_the_parent_is_refused() -> None:
    crew = Crew(2)
    crew.start()
    numbers = np.zeros(1, np.uint32)

    def work() -> list[str]:
        out = SA("out", 0x1001, "aes128-sha256", bytes(48), crew=2, engine="openssl")
        bind = lambda: PacketBatch(bytearray(256), numbers, numbers.copy(), out, bytearray(1), crew=crew)  # noqa: E731
        crew.stop()  # nothing is there to stop, and nothing fails
        return [refusal(crew.start), refusal(bind), refusal(Crew(2).start)]

    said = in_child(work)
    crew.stop()
    assert "made before a fork" in said[0]
    assert "made before a fork" in said[1]
    assert said[2] == "done: None"


def test_a_batch_with_a_crew_of_the_parent_is_refused() -> None:
    crew = Crew(2)
    sad = SAD(bare=True)
    offsets, lengths = np.zeros(1, np.uint32), np.zeros(1, np.uint32)
    batch = PacketBatch(bytearray(256), offsets, lengths, sad, bytearray(1), crew=crew)
    assert "crew was made before a fork" in in_child(lambda: refusal(lambda: unprotect(batch)))
    assert unprotect(batch) == 0


def test_objects_retired_in_a_child_are_freed_there() -> None:
    """No worker of the parent holds them there, however far it was when the fork came."""

    def work() -> int:
        for _ in range(100):
            retire(object())
        return retired()

    assert in_child(work) == 0
