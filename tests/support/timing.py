"""How long a call computes: CPU time of this thread, the garbage collector paused.

Wall time measures the neighbours on a shared machine, and a full collection of pytest's own heap (130 ms were seen) may
fall into any call that makes objects; neither says anything of a parser.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    seconds = 0.0


@contextmanager
def cpu_time() -> Iterator[Stopwatch]:
    watch, was_enabled = Stopwatch(), gc.isenabled()
    gc.disable()
    begun = time.thread_time()
    try:
        yield watch
    finally:
        watch.seconds = time.thread_time() - begun
        if was_enabled:
            gc.enable()
