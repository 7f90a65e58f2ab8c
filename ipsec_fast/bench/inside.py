"""Benchmarks that need namespaces run as a copy of themselves inside of them. `say` is their word on stderr.

Called by the faces of gateway, ike, rekey, crash and mtu."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

from ..demo.namespaces import check_tun, enter, find_mode, python_path

INSIDE = "IPSEC_FAST_BENCH_INSIDE"  # set for the copy of us that runs inside the namespaces


def go_inside(words: Sequence[str]) -> None:
    """Returns in the copy alone; `words` are the arguments of `ipsec-fast bench` that it gets."""
    if INSIDE not in os.environ:
        mode = find_mode()
        check_tun()
        os.environ[INSIDE] = mode
        os.environ["PYTHONPATH"] = python_path()
        enter(mode, [sys.executable, "-m", "ipsec_fast", "bench", *words])
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)


def say(text: str) -> None:
    """Progress, to stderr."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt
