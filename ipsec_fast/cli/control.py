"""`status`, `up` and `down`: clients of a running gateway's control socket.

Called by main.py. How the status looks is table.py's business.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

from ..errors import ConfigError, StateError, UsageError
from ..gateway.vici import DEFAULT_SOCKET
from ..gateway.vici.client import ViciClient
from ..gateway.vici.codec import Decoded, to_text
from ..gateway.vici.status import collect, read_status, refuse_failure
from . import table

Tree = dict[str, Any]


def add_status(parser: argparse.ArgumentParser) -> None:
    add_socket(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")


def add_up(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="a child, a connection, or CONNECTION/CHILD")
    parser.add_argument("--json", action="store_true", help="print one JSON document at the end instead of lines")
    _add_waiting(parser)


def add_down(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="a child, a connection, or CONNECTION/CHILD")
    parser.add_argument("--force", action="store_true", help="do not wait for the peer's answer")
    _add_waiting(parser)


def run_status(arguments: argparse.Namespace) -> int:
    with ViciClient(socket_path(arguments)) as client:
        status = read_status(client)
    print(json.dumps(status, indent=2) if arguments.json else table.render(status))
    return 0


def run_up(arguments: argparse.Namespace) -> int:
    with ViciClient(socket_path(arguments)) as client:
        connections = collect(client, "list-conns", "list-conn")
        known = {name: list(section.get("children", {})) for name, section in connections}
        request = choose(arguments.name, known, "no child or connection {!r} in the gateway's configuration")
        request["timeout"] = _timeout_ms(arguments)
        lines: list[Tree] = []
        began = time.monotonic()
        hear = (lambda message: lines.append(to_text(message))) if arguments.json else _print_log
        response = client.stream("initiate", "control-log", hear, request)
    if not arguments.json:
        return _finish(response, f"{arguments.name} is up")
    answer = to_text(response)
    is_up = answer.get("success", "yes") == "yes"
    log = [{"group": line.get("group", ""), "text": line.get("msg", "")} for line in lines]
    reason = None if is_up else answer.get("errmsg", "")
    document = {"name": arguments.name, "up": is_up, "reason": reason, "seconds": time.monotonic() - began, "log": log}
    print(json.dumps(document, indent=2))
    return 0 if is_up else 1


def run_down(arguments: argparse.Namespace) -> int:
    with ViciClient(socket_path(arguments)) as client:
        known: dict[str, list[str]] = {}
        for name, section in collect(client, "list-sas", "list-sa"):
            known.setdefault(name, []).extend(child["name"] for child in section.get("child-sas", {}).values())
        options = {"timeout": _timeout_ms(arguments), "force": arguments.force}
        try:
            request = choose(arguments.name, known, "nothing named {!r} is up")
        except StateError:  # then it may be one that is tried again and again
            if not _stop_trying(client, arguments.name, options):
                raise
            return _finish({"success": b"yes"}, f"{arguments.name} is down")
        response = client.stream("terminate", "control-log", _print_log, request | options)
    return _finish(response, f"{arguments.name} is down")


def _stop_trying(client: ViciClient, name: str, options: Tree) -> bool:
    configured = collect(client, "list-conns", "list-conn")
    known = {ike: list(section.get("children", {})) for ike, section in configured}
    request = choose(name, known, "nothing named {!r} is up")
    response = to_text(client.stream("terminate", "control-log", _print_log, request | options))
    return bool(response.get("success") == "yes")


def add_socket(parser: argparse.ArgumentParser) -> None:
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--socket", metavar="PATH", help=f"the gateway's control socket (default: {DEFAULT_SOCKET})")
    where.add_argument("--config", metavar="FILE", type=Path, help="take the socket from this configuration file")


def _add_waiting(parser: argparse.ArgumentParser) -> None:
    add_socket(parser)
    parser.add_argument(
        "--timeout", metavar="SECONDS", type=float, default=0.0, help="stop waiting after this time (default: never)"
    )


def _timeout_ms(arguments: argparse.Namespace) -> int:
    if not 0 <= arguments.timeout <= 1_000_000:
        raise UsageError("--timeout must be 0 (wait for ever) to 1000000 seconds")
    # a wish above 0 must not be rounded to 0, which means for ever
    return max(1, round(arguments.timeout * 1000)) if arguments.timeout else 0


def socket_path(arguments: argparse.Namespace) -> str:
    if arguments.socket is not None:
        return str(arguments.socket).removeprefix("unix://")
    if arguments.config is None:
        return DEFAULT_SOCKET
    try:
        gateway = tomllib.loads(arguments.config.read_text()).get("gateway", {})
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{arguments.config}: {reason}") from None
    path = gateway.get("socket", DEFAULT_SOCKET) if isinstance(gateway, dict) else None
    if not isinstance(path, str):
        raise ConfigError(f"{arguments.config}: gateway.socket: must be a path")
    return path.removeprefix("unix://")


def choose(name: str, known: dict[str, list[str]], unknown: str) -> Tree:
    """What NAME means: a child before a connection, CONNECTION/CHILD where both are given."""
    connection, slash, child = name.partition("/")
    if slash:
        if child in known.get(connection, []):
            return {"ike": connection, "child": child}
    elif any(name in children for children in known.values()):
        return {"ike": next(ike for ike, children in known.items() if name in children), "child": name}
    elif name in known:
        return {"ike": name}
    names = ", ".join(
        f"{ike} ({' '.join(dict.fromkeys(children))})" if children else ike for ike, children in known.items()
    )
    raise StateError(f"{unknown.format(name)}; there {'is' if len(known) < 2 else 'are'}: {names or 'nothing'}")


def _print_log(message: Decoded) -> None:
    line = to_text(message)
    print(f"[{line.get('group', '')}] {line.get('msg', '')}", file=sys.stderr, flush=True)


def _finish(response: Decoded, done: str) -> int:
    refuse_failure(response)
    print(done)
    return 0
