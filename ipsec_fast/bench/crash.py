"""`bench crash`: one of two gateways is killed (`kill -9`) at a random moment under traffic and started again, many times.

Every packet between them is captured and looked at (wiretap.py): no sequence number, no SK{} IV and no message ID twice, nothing in clear.
A kill that met a request of the victim's own may cost a new IKE_AUTH, no other may. Before half of the kills a rekey is asked for, so that
many of them fall into an exchange. Called by crash_face.py and the tests.
"""

from __future__ import annotations

import contextlib
import random
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

from ..demo.gateways import DemoGateway, Tree, write_psk
from ..demo.stamped import StampedFlow
from ..demo.topology import Topology
from ..errors import HostError, IpsecFastError
from .wiretap import Wiretap

CIPHER = "aes128gcm16"
INNER = (IPv4Network("10.1.0.0/24"), IPv4Network("10.2.0.0/24"))
PACKETS_PER_S = 400
CALM_S = (0.05, 0.8)  # between a recovery and the next kill
INTO_REKEY_S = 0.03
BACK_S, SETTLED_S = 20.0, 120.0
OUTSTANDING, RESTORED = "a request of ours was outstanding", " restored (IKE SA "
Say = Callable[[str], None]


@dataclass(frozen=True)
class Result:
    """A row of the JSON document. `recovery_s`: from the kill until a later packet has come through, both ways."""

    kills: int
    kills_with_own_request: int
    esp_packets: int
    repeated_numbers: int
    repeated_ike_ivs: int
    repeated_message_ids: int
    clear_packets: int
    capture_drops: int
    new_ike_auths: int
    restored: int
    recovery_s_median: float
    recovery_s_max: float
    packets_sent: int
    packets_lost: int

    @property
    def is_clean(self) -> bool:
        bad = (self.repeated_numbers, self.repeated_ike_ivs, self.repeated_message_ids, self.clear_packets)
        return not any(bad) and not self.capture_drops and self.new_ike_auths <= self.kills_with_own_request


def run_crash(kills: int, say: Say, seed: int = 0) -> Result:
    """In namespaces of its own; `seed` 0 draws one. HostError where the tunnel does not come back, or not as one IKE SA."""
    chance = random.Random(seed or None)
    with Topology("crash") as net, _gateways(net) as both:
        raw = net.socket("gw1", socket.AF_PACKET, socket.SOCK_RAW)
        tap = Wiretap(raw, "wan", INNER)
        try:
            both[0].initiate(lambda line: None)
            flows = [
                StampedFlow(net, "host1", "host2", "10.2.0.10", packets_per_s=PACKETS_PER_S).start(),
                StampedFlow(net, "host2", "host1", "10.1.0.10", packets_per_s=PACKETS_PER_S).start(),
            ]
            recoveries, outstanding = [], 0
            for number in range(kills):
                time.sleep(chance.uniform(*CALM_S))
                victim = chance.choice(both)
                recovery_s, met = _kill(victim, both, flows, chance)
                recoveries.append(recovery_s)
                outstanding += met
                if (number + 1) % max(1, kills // 10) == 0:
                    say(f"{number + 1} kills, the tunnel was back after {statistics.median(recoveries):.2f} s (median)")
            _wait_for_one_pair(both)
            time.sleep(0.3)
            counts = [flow.stop() for flow in flows]
        finally:
            tap.close()
        found = tap.findings
        return Result(
            kills=kills,
            kills_with_own_request=outstanding,
            esp_packets=found.esp_packets,
            repeated_numbers=found.repeated_numbers,
            repeated_ike_ivs=found.repeated_ike_ivs,
            repeated_message_ids=found.repeated_message_ids,
            clear_packets=found.clear_packets,
            capture_drops=tap.dropped,
            new_ike_auths=len(found.ike_auths) - 1,
            restored=sum(RESTORED in line for gateway in both for line in _lines(gateway)),
            recovery_s_median=round(statistics.median(recoveries), 3),
            recovery_s_max=round(max(recoveries), 3),
            packets_sent=sum(count.sent for count in counts),
            packets_lost=sum(count.lost for count in counts),
        )


def _kill(
    victim: DemoGateway, both: Sequence[DemoGateway], flows: Sequence[StampedFlow], chance: random.Random
) -> tuple[float, bool]:
    """(seconds until it is back, whether a request of its own was outstanding)"""
    before = len(_lines(victim))
    if chance.random() < 0.5:
        with contextlib.suppress(IpsecFastError):  # what is being rekeyed or begun anew has no such SA just now
            chance.choice(both).rekey(chance.choice(("child", "ike")))
        time.sleep(chance.uniform(0, INTO_REKEY_S))
    began = time.monotonic()
    victim.kill()
    sent = [flow.sent for flow in flows]
    victim.start()
    deadline = began + BACK_S
    while any(flow.highest < number for flow, number in zip(flows, sent, strict=True)):
        for gateway in both:
            gateway.check_alive()
        if time.monotonic() > deadline:
            words = "; ".join(f"{gateway.node}: {gateway.last_words(3)}" for gateway in both)
            raise HostError(f"the tunnel is not back {BACK_S:.0f} s after a kill of {victim.node}: {words}")
        time.sleep(0.01)
    return time.monotonic() - began, any(OUTSTANDING in line for line in _lines(victim)[before:])


def _wait_for_one_pair(both: Sequence[DemoGateway]) -> None:
    """Until each has one IKE SA with one child, and it is the same; what was replaced and forgotten takes its time."""
    deadline = time.monotonic() + SETTLED_S
    while True:
        views = [gateway.status()["ike_sas"] for gateway in both]
        alive = [[sa for sa in sas if sa["state"] == "ESTABLISHED"] for sas in views]
        if all(_is_one(sas) for sas in alive) and len({sas[0]["initiator-spi"] for sas in alive}) == 1:
            return
        if time.monotonic() > deadline:
            raise HostError(f"not one IKE SA with one child {SETTLED_S:.0f} s after the last kill: {views}")
        time.sleep(0.2)


def _is_one(sas: Sequence[Tree]) -> bool:
    return len(sas) == 1 and len([one for one in sas[0]["child-sas"] if one["state"] == "INSTALLED"]) == 1


def _lines(gateway: DemoGateway) -> list[str]:
    return gateway.log.read_text(errors="replace").splitlines()


@contextmanager
def _gateways(net: Topology) -> Iterator[list[DemoGateway]]:
    """Their state lies on a tmpfs where there is one, as it does by default."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="crash-", dir=memory if memory.is_dir() else "/run") as name:
        folder = Path(name)
        psk = write_psk(folder)
        try:
            both = [DemoGateway(net, node, folder / node, psk, cipher=CIPHER) for node in ("gw1", "gw2")]
            for gateway in both:
                gateway.wait_until_listening()
            yield both
        finally:
            net.close_processes()
