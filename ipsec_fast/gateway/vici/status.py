"""What a client of the control socket asks for most: a gateway's whole status, as `status --json` prints it.

Called by the command line and the demo.
"""

from __future__ import annotations

from typing import Any

from ... import __version__
from ...errors import HostError
from .client import ViciClient
from .codec import Decoded, to_text

# keys of list-sas whose values are numbers; SPIs are hex and stay text
NUMBERS = frozenset(
    (
        "uniqueid", "version", "local-port", "remote-port", "encr-keysize", "established", "rekey-time", "reqid", "esn",
        "bytes-in", "packets-in", "use-in", "bytes-out", "packets-out", "use-out", "life-time", "install-time", "reauth-time",
        "mtu", "mss_ipv4", "mss_ipv6", "path-mtu", "path-mtu-age", "workers", "worker", "cpu",
    )
)  # fmt: skip
Tree = dict[str, Any]


def read_status(client: ViciClient) -> Tree:
    """The document of `status --json`: list-sas with numbers as numbers, and the gateway's own line."""
    gateway = _with_numbers(to_text(client.request("stats").get("gateway", {})))
    ike_sas: list[Tree] = []
    for name, section in collect(client, "list-sas", "list-sa"):
        sa: Tree = {"name": name} | _with_numbers(section)
        sa["child-sas"] = [_with_numbers(child) for child in section.get("child-sas", {}).values()]
        ike_sas.append(sa)
    return {"version": __version__, "gateway": gateway, "ike_sas": ike_sas}


def collect(client: ViciClient, command: str, event: str) -> list[tuple[str, Tree]]:
    """The events that a command streams, each as (name, section)."""
    found: list[tuple[str, Tree]] = []
    response = client.stream(command, event, lambda message: found.extend(to_text(message).items()))
    refuse_failure(response)
    return found


def refuse_failure(response: Decoded) -> None:
    """HostError with the gateway's reason where `success` is not yes."""
    answer = to_text(response)
    if answer.get("success", "yes") != "yes":
        raise HostError(answer.get("errmsg") or "the gateway refused without a reason")


def _with_numbers(section: Tree) -> Tree:
    return {key: int(value) if key in NUMBERS and _is_number(value) else value for key, value in section.items()}


def _is_number(value: object) -> bool:
    return isinstance(value, str) and value.removeprefix("-").isdecimal()
