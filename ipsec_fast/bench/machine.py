"""Where a figure comes from: the machine, and the versions of what did the work. Called by every face of bench and by the reports."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import Any

from ..dataplane.openssl import library_version


def machine() -> dict[str, Any]:
    """{cpu, cores, kernel, python, openssl, ipsecmb}; `ipsecmb` is None where the engine is not built."""
    found = re.search(r"^model name\s*:\s*(.+)$", _read("/proc/cpuinfo"), re.MULTILINE)
    return {
        "cpu": found[1].strip() if found else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "openssl": library_version(),
        "ipsecmb": _ipsecmb_version(),
    }


def describe(where: dict[str, Any]) -> str:
    """The head of every table: one line."""
    cores = f"{where['cores']} core{'' if where['cores'] == 1 else 's'}"
    return (
        f"{where['cpu']}, {cores}, Linux {where['kernel']}, Python {where['python']}, {where['openssl']}, "
        f"ipsec-mb {where['ipsecmb'] or 'absent'}"
    )


def _ipsecmb_version() -> str | None:
    try:
        from ..dataplane.ipsecmb import library_version  # late: optional, not built everywhere
    except ImportError:
        return None
    return library_version()


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
