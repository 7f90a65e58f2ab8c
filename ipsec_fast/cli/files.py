"""`gateway FILE` and `check-config FILE`: the two commands that read a whole configuration.

Called by main.py.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigError, Problem

if TYPE_CHECKING:
    from ..gateway.config import LoadedConfig


def add_gateway(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", type=Path, help="configuration, swanctl.conf's tree written in TOML")


def add_check_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", type=Path, help="the file to check; nothing is started")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of lines")


def run_gateway(arguments: argparse.Namespace) -> int:
    loaded = _load(arguments.file)  # the daemon's log shows its warnings
    from ..gateway.daemon import run  # late: asyncio and the compiled dataplane, which a bad file should not wait for

    return run(loaded)


def check_config(arguments: argparse.Namespace) -> int:
    if not arguments.json:
        loaded = _load(arguments.file)
        for warning in loaded.warnings:
            print(f"{arguments.file}: warning: {warning}", file=sys.stderr)
        print(f"{arguments.file}: ok, {_summary(loaded)}")
        return 0
    report: dict[str, object] = {"file": str(arguments.file), "ok": True, "errors": [], "warnings": []}
    try:
        loaded = _load(arguments.file, name_file=False)
        report["warnings"] = list(loaded.warnings)
        report["connections"] = {c.name: [child.name for child in c.children] for c in loaded.connections}
    except ConfigError as error:
        report["ok"] = False
        report["errors"] = [{"path": problem.path, "message": problem.message} for problem in error.problems]
    print(json.dumps(report, indent=2))
    return 0 if report["ok"] else 2


def _load(file: Path, name_file: bool = True) -> LoadedConfig:
    from ..gateway.config import load_config  # late: pydantic, which status, up and down do without

    try:
        return load_config(file)
    except ConfigError as error:
        if not name_file:
            raise
        raise ConfigError([Problem("", f"{file}: {problem}") for problem in error.problems]) from None


def _summary(loaded: LoadedConfig) -> str:
    children = sum(len(connection.children) for connection in loaded.connections)
    counts = (
        (len(loaded.connections), "connection", "connections"),
        (children, "child", "children"),
        (len(loaded.secrets), "secret", "secrets"),
    )
    return ", ".join(f"{count} {one if count == 1 else many}" for count, one, many in counts)
