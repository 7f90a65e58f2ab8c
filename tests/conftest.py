"""Who may run: tests marked `netns` or `interop` are skipped, with the reason and the remedy, where the system does not let them.

`./run test` starts pytest in network and mount namespaces of its own, as root or, for an ordinary user, by `unshare -Urnm`; each worker of
pytest-xdist enters some of its own again, so that tests side by side are as far from one another as two runs. One marked `alone` has no
other beside it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import tally
from own_namespaces import enter_own_namespaces
from secret_scan import pytest_runtest_makereport  # noqa: F401  # a hook: no secret of a test in its output
from turns import turn

# programs such as charon and ip stand where an ordinary user's PATH does not look
os.environ["PATH"] += ":/usr/local/sbin:/usr/sbin:/sbin"

CHARON_PACKAGES = "charon-systemd strongswan-swanctl libcharon-extra-plugins libstrongswan-extra-plugins libstrongswan-standard-plugins"


@functools.cache
def no_namespaces() -> str:
    """Why network namespaces with a TUN device cannot be made here; empty if they can. Probed by making one."""
    if shutil.which("ip") is None:
        return "no `ip`: apt-get install iproute2"
    name = f"probe{os.getpid()}"
    try:
        for command in (
            f"ip netns add {name}",
            f"ip -n {name} link add v0 type veth peer name v1",
            f"ip netns exec {name} ip tuntap add mode tun name t0",
        ):
            done = subprocess.run(command.split(), capture_output=True, text=True)
            if done.returncode:
                return f"no rights for network namespaces or TUN (root, or ./run test): `{command}` says {done.stderr.strip()}"
    finally:
        subprocess.run(["ip", "netns", "del", name], capture_output=True)
    return ""


@functools.cache
def no_charon() -> str:
    """Why charon cannot be a peer here; empty if it can."""
    plugin = Path("/usr/lib/ipsec/plugins/libstrongswan-kernel-libipsec.so")
    missing = [name for name in ("charon-systemd", "swanctl") if shutil.which(name) is None]
    if not plugin.exists():
        missing.append("the plugin kernel-libipsec")
    return f"no {', no '.join(missing)}: apt-get install --no-install-recommends {CHARON_PACKAGES}" if missing else ""


def pytest_report_header() -> str:
    reason = no_charon()
    if reason:
        return f"interop: {reason}"
    # swanctl says its version with a complaint that there is no daemon
    said = subprocess.run(["swanctl", "--version"], capture_output=True, text=True)
    version = re.search(r"strongSwan (\S+)", said.stdout + said.stderr)
    return f"interop: charon {version[1] if version else 'of unknown version'}"


def is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


def pytest_configure(config: pytest.Config) -> None:
    if is_worker(config):
        with contextlib.suppress(OSError):  # no rights to: then the tests that need them are skipped, see below
            enter_own_namespaces()


def pytest_collection_finish(session: pytest.Session) -> None:
    # every worker collects, and so counts, the same
    if is_worker(session.config) and session.config.workerinput["workerid"] != "gw0":
        tally.forget()


@pytest.hookimpl(wrapper=True, tryfirst=True)  # outside of pytest-timeout: a test's time does not run while it waits
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    if not is_worker(item.config):
        return (yield)
    with turn(alone=item.get_closest_marker("alone") is not None):
        return (yield)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if is_worker(session.config):
        session.config.workeroutput["tally"] = tally.counted()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node) -> None:
    tally.add(getattr(node, "workeroutput", {}).get("tally", {}))


def pytest_terminal_summary(terminalreporter) -> None:
    for line in tally.lines():
        terminalreporter.write_line(line)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        reason = ""
        if item.get_closest_marker("interop"):
            reason = no_charon()
        if not reason and (item.get_closest_marker("netns") or item.get_closest_marker("interop")):
            reason = no_namespaces()
        if reason:
            item.add_marker(pytest.mark.skip(reason=reason))
