"""Whether this host lets us have network namespaces, and how we get into them.

The demo runs in network and mount namespaces of its own, with a tmpfs on /run, as root or in a user namespace
(`unshare -Urnm`): whatever it makes ends with it, even after kill -9. What a host allows is found out by using a
capability (Ubuntu 24.04 grants an ordinary user the namespace and denies what it is for). Called by main.py.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import stat
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from ..errors import HostError

CLONE_NEWNET = 0x40000000
TUN_DEVICE = "/dev/net/tun"
FLAGS = {"root": "-nm", "userns": "-Urnm"}
PROBE = ("ip", "link", "add", "probe0", "type", "veth", "peer", "name", "probe1")
# in a private /run, `ip netns add` needs no right on the host's
ENTER = 'mount -t tmpfs -o mode=755 tmpfs /run && ip link set lo up && exec "$@"'
PACKAGES = {
    "ip": "iproute2",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "ping": "iputils-ping",
    "iperf3": "iperf3",
}
T = TypeVar("T")


def find_mode() -> str:
    """`root` or `userns`, by making a veth pair in each; HostError with what refused and what would help."""
    add_sbin_to_path()
    missing = [name for name in PACKAGES if shutil.which(name) is None]
    if missing:
        packages = sorted({PACKAGES[name] for name in missing})
        raise HostError(f"no {', '.join(missing)} here: apt-get install {' '.join(packages)}")
    refusals = []
    for mode in ("root", "userns") if os.geteuid() == 0 else ("userns",):
        done = subprocess.run(["unshare", FLAGS[mode], *PROBE], capture_output=True, text=True)
        if done.returncode == 0:
            return mode
        refusals.append(f"`unshare {FLAGS[mode]} ip link add` says {first_line(done.stderr)}")
    raise HostError(
        f"no network namespaces here: {'; '.join(refusals)}; run it as root, or let users have user namespaces "
        "(sysctl kernel.unprivileged_userns_clone=1 or kernel.apparmor_restrict_unprivileged_userns=0)"
    )


def describe(mode: str) -> str:
    """The one line that says what was chosen."""
    if mode == "root":
        return "running in network namespaces of its own, as root"
    return "running in network namespaces of its own, unprivileged, in a user namespace (unshare -Urnm)"


def enter(mode: str, command: Sequence[str]) -> None:
    """Become `command` inside the namespaces of `mode`; does not return."""
    os.execvp("unshare", ["unshare", FLAGS[mode], "sh", "-c", ENTER, "sh", *command])


def check_tun() -> None:
    """HostError where /dev/net/tun is missing or closed to us: no namespace helps against either."""
    try:
        os.close(os.open(TUN_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        raise HostError(
            f"no {TUN_DEVICE} here; as root: modprobe tun, or mkdir -p /dev/net && mknod -m 0666 {TUN_DEVICE} c 10 200"
        ) from None
    except PermissionError:
        if os.geteuid() == 0:
            raise HostError(
                f"{TUN_DEVICE} is closed even to root here; a container needs the device (--device {TUN_DEVICE})"
            ) from None
        raise HostError(
            f"an ordinary user cannot open {TUN_DEVICE} here ({_owner(TUN_DEVICE)}); {_TUN_REMEDY}"
        ) from None
    except OSError as error:
        raise HostError(f"{TUN_DEVICE} cannot be opened: {error.strerror}; as root: modprobe tun") from None


_TUN_REMEDY = (
    f"as root: chmod 0666 {TUN_DEVICE}, the usual mode (the kernel still asks CAP_NET_ADMIN for every interface), "
    "or run the demo as root"
)


def _owner(path: str) -> str:
    status = os.stat(path)
    return f"mode {stat.S_IMODE(status.st_mode):04o}, uid {status.st_uid}, gid {status.st_gid}"


def in_namespace(path: str, function: Callable[[], T]) -> T:
    """What `function` returns when it runs in the network namespace of `path`, in a thread of its own.

    A socket made there stays there; files of /proc/sys/net opened there are that namespace's.
    """
    outcome: list[T] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            enter_namespace(path)
            outcome.append(function())
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=run, name="namespace")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]


def enter_namespace(path: str) -> None:
    """Move the calling thread, for good, into a network namespace."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        # os.setns() is there from Python 3.12 only
        if _LIBC.setns(descriptor, CLONE_NEWNET) != 0:
            raise HostError(f"cannot enter the network namespace {path}: {os.strerror(ctypes.get_errno())}")
    finally:
        os.close(descriptor)


_LIBC = ctypes.CDLL(None, use_errno=True)


def add_sbin_to_path() -> None:
    """`ip` and others stand where an ordinary user's PATH does not look."""
    os.environ["PATH"] = os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/local/sbin:/usr/sbin:/sbin"


def python_path() -> str:
    """PYTHONPATH for a child that must find this very package, wherever it starts."""
    return os.pathsep.join(filter(None, (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH"))))


def first_line(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else "nothing"
