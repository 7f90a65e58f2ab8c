"""Objects made by __new__ alone, made twice, or half made: every use raises or is harmless, none crashes."""

from __future__ import annotations

import os
import subprocess
import sys
from ipaddress import ip_address

import numpy as np
import pytest

from ipsec_fast import SA, SAD, PacketBatch, protect_packet
from ipsec_fast.dataplane.spd import Policy, Tables, set_selectors
from ipsec_fast.dataplane.udp import UdpSocket, set_endpoint
from ipsec_fast.dataplane.worker import Worker
from ipsec_fast.errors import StateError, UsageError
from ipsec_fast.model import TrafficSelector

ANY = TrafficSelector.parse("0.0.0.0/0")

# every class of every compiled module, unmade: each attribute is read, each method called with what may fit
PROBE = """
import faulthandler, importlib, inspect, pkgutil, sys
import ipsec_fast
faulthandler.enable()
faulthandler.dump_traceback_later(60, exit=True)

def compiled():
    for part in ("bench", "crypto", "dataplane"):
        package = importlib.import_module(f"ipsec_fast.{part}")
        for found in pkgutil.iter_modules(package.__path__):
            module = importlib.import_module(f"ipsec_fast.{part}.{found.name}")
            if not (module.__file__ or "").endswith(".py"):
                yield module

def unmade(cls):
    for arguments in ((), (1,), (64,), (b"",), (4, 0)):
        try:
            return cls.__new__(cls, *arguments)
        except Exception:
            pass

classes = {cls for module in compiled() for cls in vars(module).values() if inspect.isclass(cls) and cls.__module__ == module.__name__}
count = 0
for cls in sorted(classes, key=lambda cls: cls.__qualname__):
    one = unmade(cls)
    if one is None:
        continue
    special = ["__repr__", "__len__", "__iter__", "__enter__", "__exit__", "__reduce__", "__del__"]
    for name in sorted(set(dir(one)) - set(dir(object))) + special:
        for arguments in ((), (one,), (b"x" * 40,), (1,), (b"x" * 40, 1.0), (b"a", b"b"), (b"a", b"b", b"c"), (one, b"x" * 40, 1.0)):
            print(cls.__qualname__, name, len(arguments), flush=True)
            count += 1
            try:
                found = getattr(one, name)
                if callable(found):
                    found(*arguments)
            except Exception:
                pass
    try:
        del one
    except Exception:
        pass
print("through", count, len(classes))
"""


def test_no_method_of_an_unmade_object_ends_the_interpreter() -> None:
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, timeout=120)
    last = done.stdout.splitlines()[-1:]
    assert done.returncode == 0, (last, done.stderr[-2000:])
    word, count, classes = last[0].split()
    assert word == "through"
    assert int(classes) >= 20
    assert int(count) >= 500


def half_made() -> SA:
    """It has a key, but __init__ failed after that."""
    sa = SA.__new__(SA)
    with pytest.raises(UsageError, match="TFC"):
        sa.__init__("in", 0x1001, key=bytes(20), tfc=100)  # type: ignore[misc]
    return sa


def endless(sa: SA) -> SA:
    set_selectors(sa, [ANY], [ANY])
    set_endpoint(sa, 0, None, ip_address("192.0.2.1"), 4500)
    return sa


@pytest.mark.parametrize("make", [lambda: SA.__new__(SA), half_made], ids=["unmade", "half made"])
def test_an_sa_that_was_not_made_is_refused_wherever_it_goes(make) -> None:
    numbers = np.zeros(1, np.uint32)
    for use in (
        lambda: protect_packet(make(), bytes(20)),
        lambda: PacketBatch(bytearray(64), numbers, numbers.copy(), make(), bytearray(1)),
        lambda: SAD().add(make()),
        lambda: Tables([endless(make())], []),
        lambda: Tables([], [Policy("protect", ANY, ANY, endless(make()))]),
        lambda: make().engine,
    ):
        with pytest.raises(UsageError, match=r"never made|its SA is <SA"):
            use()


def test_what_a_worker_reads_is_not_made_twice() -> None:
    rule = Policy("discard", ANY, ANY)
    tables = Tables([], [rule])
    for again in (
        lambda: rule.__init__("bypass", ANY, ANY),  # type: ignore[misc]
        lambda: tables.__init__([], []),  # type: ignore[misc]
    ):
        with pytest.raises(StateError, match="made already"):
            again()
    assert rule.action == "discard"


def test_a_socket_is_not_made_twice() -> None:
    sock = UdpSocket(ip_address("127.0.0.1"), 0)
    fd = sock.fd
    with pytest.raises(StateError, match="made already"):
        sock.__init__(ip_address("127.0.0.1"), 0)  # type: ignore[misc]
    assert sock.fd == fd
    os.fstat(fd)
    sock.close()


def test_tables_and_policies_that_were_not_made_are_refused() -> None:
    with pytest.raises(UsageError, match="policy 0 was never made"):
        Tables([], [Policy.__new__(Policy)])
    for use in (Worker.__new__(Worker).stop, Worker.__new__(Worker).take_notices, Worker.__new__(Worker).start):
        with pytest.raises(UsageError, match="never made"):
            use()


@pytest.mark.netns
def test_a_worker_takes_no_tables_that_were_not_made() -> None:
    from ipsec_fast.dataplane.tun import Tun  # the others need no device

    tun, sock = Tun("oc%d"), UdpSocket(ip_address("127.0.0.1"), 0)
    worker = Worker(tun, [sock])
    half = Tables.__new__(Tables)
    with pytest.raises(UsageError):
        half.__init__([], [Policy.__new__(Policy)])  # type: ignore[misc]
    for tables in (Tables.__new__(Tables), half):
        with pytest.raises(UsageError, match="never made"):
            worker.publish(tables)
    with pytest.raises(StateError, match="made already"):
        worker.__init__(tun, [sock])  # type: ignore[misc]
    with pytest.raises(UsageError, match="never made"):
        worker.receive_from(Worker.__new__(Worker))
    worker.stop()
    sock.close()
    tun.close()
