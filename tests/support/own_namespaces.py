"""Network and mount namespaces for one worker process of several, so that names of namespaces and interfaces, addresses and the sockets in
/run of its tests meet nobody else's: the same that `./run` gives to pytest. Called by tests/conftest.py before the worker runs anything."""

from __future__ import annotations

import ctypes
import os
import subprocess

CLONE_NEWNS, CLONE_NEWNET = 0x20000, 0x40000000
MS_REC, MS_PRIVATE = 0x4000, 0x40000


def enter_own_namespaces() -> None:
    """Move this thread, and what it starts from now on, into new ones; OSError where the system does not let us.

    Main thread only: that is where tests run, and what /proc/self shows.
    """
    libc = ctypes.CDLL(None, use_errno=True)

    def call(name: str, *arguments: object) -> None:
        if getattr(libc, name)(*arguments):
            number = ctypes.get_errno()
            raise OSError(number, f"{name}: {os.strerror(number)}")

    call("unshare", CLONE_NEWNS | CLONE_NEWNET)
    call("mount", b"none", b"/", None, ctypes.c_ulong(MS_REC | MS_PRIVATE), None)
    call("mount", b"tmpfs", b"/run", b"tmpfs", ctypes.c_ulong(0), b"mode=755")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
