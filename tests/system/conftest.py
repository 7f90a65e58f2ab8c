"""`private_net`: this test's thread in a network namespace of its own, left again afterwards."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Callable, Iterator

import pytest

CLONE_NEWNET = 0x40000000


@pytest.fixture
def private_net() -> Iterator[Callable[[str], str]]:
    """Yields a function that runs a shell line there and returns its output."""
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    try:
        if libc.unshare(CLONE_NEWNET):
            pytest.skip(f"no network namespace: {os.strerror(ctypes.get_errno())}")
        try:
            yield lambda line: subprocess.run(line, shell=True, check=True, capture_output=True, text=True).stdout
        finally:
            libc.setns(home, CLONE_NEWNET)
    finally:
        os.close(home)
