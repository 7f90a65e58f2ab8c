"""The measurement of `ipsec-fast bench flood`: how a gateway serves good peers
and its operator while strangers flood it.

One namespace has a gateway. Another has a good peer, which sets up one IKE SA after the other and asks for the status
in between, and the flood, a process of its own (flood_source.py). Each kind of flood and the idle run have a gateway of
their own; the figures of a flood are ratios to the idle run. The library's row opens batches of packets with bad and
with good ICVs in turn. Called by flood_face.py.
"""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ..dataplane.packet import unprotect
from ..demo.gateways import DemoGateway, write_psk
from ..demo.namespaces import python_path
from ..demo.topology import Topology
from ..errors import HostError, IpsecFastError
from ..gateway.vici.codec import to_text
from .esp import EspCase
from .flood_source import KINDS, SOURCES
from .ike_gateways import Initiator
from .ike_side import CIPHER, Side, connection_of

IDLE = "idle"
LIBRARY = "bad-icv-library"
PROPOSAL = "aes128gcm16-prfsha256-x25519"
GATEWAY_ADDRESS = "192.0.2.2"
PATIENCE_S = 10.0  # for one handshake
WARM_S = 0.5
SAMPLES_LEAST = 2
BAD_ICV_COUNTER = "drop_bad_icv"  # the workers'
PAGE_KBYTES = 4
# a connection for any address, which a stranger may ask for and whose secret it lacks
ANYBODY = """
[connections.anybody]
local_addrs = ["192.0.2.2"]
proposals = ["aes256-sha256-ecp384", "{proposal}"]
local = {{ auth = "psk", id = "paris.example" }}
remote = {{ auth = "psk", id = "anybody.example" }}

[connections.anybody.children.net]
local_ts = ["10.2.0.0/24"]
remote_ts = ["10.66.0.0/24"]

[secrets.ike-anybody]
id = ["paris.example", "anybody.example"]
file = "{secret}"
"""


@dataclass(frozen=True, slots=True)
class Result:
    """One row; the field names are the JSON's. Times are medians and the longest;
    ratios are to the idle run, None in that one.
    """

    flood: str
    sent_per_s: float
    seconds: float
    setups: int
    setups_failed: int
    setup_ms: float
    setup_ms_max: float
    status_ms: float
    status_ms_max: float
    rss_kbytes_per_s: float
    cpu_percent: float
    setup_ratio: float | None = None
    status_ratio: float | None = None
    cpu_ratio: float | None = None
    counters: Mapping[str, int] | None = None


@dataclass(frozen=True, slots=True)
class LibraryResult:
    """Batches of one SA opened in turn: packets whose ICV is bad, and good ones."""

    flood: str
    packets: int
    mpps: float
    ns_per_packet: float
    good_ns_per_packet: float
    ratio: float
    rss_kbytes: int


# --- with a gateway


def run_floods(
    kinds: Sequence[str], rates: Mapping[str, float], seconds: float, begin: Callable[[str], None]
) -> list[Result]:
    """The idle run first; `rates` by kind, 0: as fast as a socket takes them.

    HostError where a gateway does not start, or no good peer comes up in the idle run.
    """
    rows: list[Result] = []
    for kind in (IDLE, *kinds):
        begin(kind)
        with Topology("flood") as net, _gateway(net) as (gateway, peer):
            rows.append(_measure(net, gateway, peer, kind, rates.get(kind, 0.0), seconds))
        if kind == IDLE and not rows[0].setups:
            raise HostError("no good peer came up without a flood; there is nothing to compare with")
    return [rows[0], *(_with_ratios(row, rows[0]) for row in rows[1:])]


def _measure(net: Topology, gateway: DemoGateway, peer: GoodPeer, kind: str, rate: float, seconds: float) -> Result:
    spi = peer.stay_up(gateway) if kind == "bad-icv" else 0
    flood = None if kind == IDLE else _start_flood(net, kind, rate, seconds + WARM_S, spi)
    time.sleep(WARM_S)
    rss, cpu, start = _rss_kbytes(gateway), gateway.cpu_seconds(), time.monotonic()
    setups, failed, looks = _look(gateway, peer, start + seconds)
    elapsed = time.monotonic() - start
    grown, used = _rss_kbytes(gateway) - rss, gateway.cpu_seconds() - cpu
    gateway.check_alive()
    return Result(
        flood=kind,
        sent_per_s=0.0 if flood is None else _sent(flood, seconds) / (seconds + WARM_S),
        seconds=elapsed,
        setups=len(setups),
        setups_failed=failed,
        setup_ms=_ms(statistics.median(setups)) if setups else 0.0,
        setup_ms_max=_ms(max(setups, default=0.0)),
        status_ms=_ms(statistics.median(looks)),
        status_ms_max=_ms(max(looks)),
        rss_kbytes_per_s=round(grown / elapsed, 1),
        cpu_percent=round(100 * used / elapsed, 1),
        counters=_counters(gateway),
    )


def _look(gateway: DemoGateway, peer: GoodPeer, end: float) -> tuple[list[float], int, list[float]]:
    """Seconds of each set-up, how many failed, seconds of each status."""
    setups: list[float] = []
    looks: list[float] = []
    failed = 0
    while time.monotonic() < end or len(looks) < SAMPLES_LEAST:
        taken = peer.set_up()
        if taken is None:
            failed += 1
        else:
            setups.append(taken)
        start = time.monotonic()
        gateway.status()
        looks.append(time.monotonic() - start)
    return setups, failed, looks


def _start_flood(net: Topology, kind: str, rate: float, seconds: float, spi: int) -> subprocess.Popen[bytes]:
    words = ("-m", "ipsec_fast.bench.flood_source", kind, GATEWAY_ADDRESS, f"{rate:g}", f"{seconds:g}", str(spi))
    return net.start(
        "gw1", sys.executable, *words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={"PYTHONPATH": python_path()}
    )


def _sent(flood: subprocess.Popen[bytes], seconds: float) -> int:
    try:
        out, errors = flood.communicate(timeout=seconds + PATIENCE_S)
    except subprocess.TimeoutExpired:
        raise HostError("the flood does not end") from None
    if flood.returncode:
        lines = errors.decode(errors="replace").strip().splitlines()
        raise HostError(f"the flood failed: {lines[-1] if lines else flood.returncode}")
    return int(out)


def _with_ratios(row: Result, idle: Result) -> Result:
    def ratio(value: float, of: float) -> float | None:
        return round(value / of, 2) if of and value else None

    found = {
        "setup_ratio": ratio(row.setup_ms, idle.setup_ms),
        "status_ratio": ratio(row.status_ms, idle.status_ms),
        "cpu_ratio": ratio(row.cpu_percent, idle.cpu_percent),
    }
    return Result(**(asdict(row) | found))


def _counters(gateway: DemoGateway) -> dict[str, int]:
    """The counters that say what became of the flood."""
    with gateway.client() as client:
        counters = to_text(client.request("stats"))["counters"]
    return {name: int(count) for name, count in counters.items() if name.startswith("ike_") or name == BAD_ICV_COUNTER}


def _rss_kbytes(gateway: DemoGateway) -> int:
    return int(Path(f"/proc/{gateway.process.pid}/statm").read_text().split()[1]) * PAGE_KBYTES


def _ms(seconds: float) -> float:
    return round(1e3 * seconds, 2)


@contextlib.contextmanager
def _gateway(net: Topology) -> Iterator[tuple[DemoGateway, GoodPeer]]:
    """The gateway and its good peer; both namespaces have a route to the network of the flood."""
    for address in SOURCES:
        net.run("gw1", "ip", "addr", "add", f"{address}/32", "dev", "lo")
    net.run("gw2", "ip", "route", "add", "198.18.0.0/15", "via", "192.0.2.1")
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="flood-", dir="/run")))
        stack.callback(net.close_processes)  # before its folder is removed
        psk = write_psk(folder)
        (folder / "anybody").mkdir(mode=0o700)
        other = ANYBODY.format(proposal=PROPOSAL, secret=write_psk(folder / "anybody"))
        gateway = DemoGateway(net, "gw2", folder / "gw2", psk, cipher=CIPHER, proposals=[PROPOSAL], gateway=other)
        gateway.wait_until_listening()
        peer = GoodPeer(net, gateway, psk.read_bytes().strip(), 1)
        stack.callback(peer.close)
        yield gateway, peer


class GoodPeer(Initiator):
    """Sets up one IKE SA after the other, with a Child SA, and deletes it."""

    def set_up(self) -> float | None:
        """Seconds from its first datagram until its Child SA is installed; None if that took too long or failed."""
        side = Side(connection_of(True, [PROPOSAL]), self._psk)
        start = time.monotonic()
        ike_id = side.begin(start)
        if not self._talk(side, start + PATIENCE_S, until_up=True):
            return None
        taken = time.monotonic() - start
        side.endpoint.terminate_ike(ike_id, time.monotonic())
        self._talk(side, time.monotonic() + 1.0, until_up=False)
        return taken

    def stay_up(self, gateway: DemoGateway) -> int:
        """Sets up a Child SA that stays, and returns the SPI on which the gateway receives."""
        side = Side(connection_of(True, [PROPOSAL]), self._psk)
        side.begin(time.monotonic())
        if not self._talk(side, time.monotonic() + PATIENCE_S, until_up=True):
            raise HostError(f"no tunnel to flood; {self._words()}")
        children = [child for sa in gateway.status()["ike_sas"] for child in sa["child-sas"]]
        return int(children[0]["spi-in"], 16)

    def _talk(self, side: Side, end: float, *, until_up: bool) -> bool:
        """Whether it came up, or went, in time."""
        while (now := time.monotonic()) < end:
            heard = side.drain(now)
            self._send(side, now)
            if heard.failures:
                return False
            if heard.up if until_up else heard.down:
                return True
            self._receive(side, now)
        return False


# --- the library


def measure_library(seconds: float, packet_bytes: int = 256, batch: int = 64) -> LibraryResult:
    """IpsecFastError if a bad packet is accepted or a good one is not."""
    case = EspCase(CIPHER, packet_bytes, batch, "auto")
    bad_ns = good_ns = packets = 0
    begun = _own_rss_kbytes()
    end = time.monotonic() + seconds
    while time.monotonic() < end or packets < 10 * batch:
        case.fill_sealed()
        good_ns += case.unprotect_timed()
        case.fill_sealed()
        case.buffer[case.offsets + case.lengths - 1] ^= 1
        start = time.perf_counter_ns()
        taken = unprotect(case.opening)
        bad_ns += time.perf_counter_ns() - start
        if taken:
            raise IpsecFastError(f"{taken} packets with a bad ICV were taken")
        packets += batch
    ns, good = bad_ns / packets, good_ns / packets
    return LibraryResult(
        LIBRARY,
        packets,
        round(1e3 / ns, 2),
        round(ns, 1),
        round(good, 1),
        round(ns / good, 2),
        _own_rss_kbytes() - begun,
    )


def _own_rss_kbytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_KBYTES


__all__ = ["IDLE", "KINDS", "LIBRARY", "LibraryResult", "Result", "measure_library", "run_floods"]
