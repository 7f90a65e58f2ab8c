"""Retired objects are freed after no worker can use them, whatever runs while they are freed."""

from __future__ import annotations

import gc
import threading
import weakref

from kernel_packets import Slots, ipv4, pair, seal

from ipsec_fast import SAD, unprotect
from ipsec_fast.dataplane.epoch import retire, retired


class Old:
    def __init__(self, at_the_end=None) -> None:
        self.at_the_end = at_the_end

    def __del__(self) -> None:
        if self.at_the_end is not None:
            self.at_the_end()


def test_without_a_worker_it_goes_at_once() -> None:
    gone: list[int] = []
    retire(Old(lambda: gone.append(1)))
    assert gone == [1]
    assert retired() == 0


def test_finalizers_may_retire_too() -> None:
    gone: list[int] = []
    retire(Old(lambda: [retire(Old(lambda: gone.append(2))), gone.append(1)]))
    assert sorted(gone) == [1, 2]
    assert retired() == 0


def test_no_garbage_is_collected_between_the_look_at_the_workers_and_the_verdict() -> None:
    """A finalizer that ran there could let another thread retire what a worker has just begun to use."""
    gone: list[int] = []
    cycle = Old(lambda: gone.append(1))
    cycle.itself = cycle  # type: ignore[attr-defined]
    before = gc.get_threshold()
    gc.collect()
    gc.disable()
    del cycle
    gc.set_threshold(1)
    try:
        gc.enable()
        retire(None)
        ran = list.__len__(gone)
    finally:
        gc.disable()
        gc.set_threshold(*before)
        gc.enable()
    gc.collect()
    assert (ran, len(gone)) == (0, 1)


def test_what_is_retired_while_others_are_freed_waits_for_who_uses_it() -> None:
    """The SA is removed by a finalizer, in the midst of another retire(), while a batch opens packets on it."""
    out, into = pair("aes128-sha256", engine="openssl")
    packets = seal([ipv4(1400)] * 2000, out)
    sad = SAD(bare=True)
    sad.add(into)
    slots = Slots(packets, sad)
    alive = weakref.ref(into)
    thread = threading.Thread(target=unprotect, args=(slots.batch,))
    held: list[bool] = []

    def remove_while_it_is_used() -> None:
        nonlocal into
        thread.start()
        while not into.seq and thread.is_alive():
            pass  # until the first packets are open
        sad.remove(into)
        del into
        retire(None)
        held.append(alive() is not None or not thread.is_alive())

    retire(Old(remove_while_it_is_used))
    thread.join()
    assert held == [True]
    assert retired() == 0
    assert alive() is None
