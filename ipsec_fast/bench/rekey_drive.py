"""Rekeys on command, one after the other: from one side, from the other, from both at once.

Each is over when both sides hold one SA, the same new one. Called by rekey.py.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from ..demo.gateways import CHILD, DemoGateway
from ..errors import HostError
from ..gateway.vici.client import ViciClient
from ..gateway.vici.status import collect

Tree = dict[str, Any]
TAKES_S = 90.0  # a rekey that was refused is tried again with back-off
TURNS = ((0,), (1,), (0, 1))  # who begins: one side, the other, both at once
PAUSE_S = 0.03


@dataclass(frozen=True)
class Pair:
    """What both sides agree on: the IKE SA's SPIs, and the child's, of gw1 and gw2."""

    ike: tuple[str, str]
    child: tuple[str, str]


class Driver:
    """Two gateways' control sockets, kept open; `with Driver(gateways) as driver:`."""

    def __init__(self, gateways: Sequence[DemoGateway]) -> None:
        self._gateways = gateways
        self._stack = ExitStack()
        self._clients: list[ViciClient] = []

    def __enter__(self) -> Driver:
        self._clients = [self._stack.enter_context(gateway.client()) for gateway in self._gateways]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def run(self, child: int, ike: int) -> None:
        """So many rekeys of each kind, the IKE SA's spread evenly among the child's."""
        turns = {"child": 0, "ike": 0}
        for number in range(child + ike):
            what = "ike" if (number + 1) * ike // (child + ike) > number * ike // (child + ike) else "child"
            self.rekey(what, TURNS[turns[what] % len(TURNS)])
            turns[what] += 1

    def rekey(self, what: str, sides: Sequence[int]) -> Pair:
        """One rekey of the `child` or the `ike` SA, begun by these sides; the pair that stands afterwards."""
        before = self.wait_for_pair()
        selectors = [{"child": CHILD} if what == "child" else {"ike": gateway.connection} for gateway in self._gateways]
        askers = [
            threading.Thread(target=self._clients[side].request, args=("rekey", selectors[side])) for side in sides
        ]
        for asker in askers:
            asker.start()
        for asker in askers:
            asker.join()
        after = self.wait_for_pair(what, before)
        time.sleep(PAUSE_S)
        return after

    def wait_for_pair(self, what: str = "", before: Pair | None = None) -> Pair:
        """Until both sides show one IKE SA and one child, the same ones, and of `what` no SPI that `before` had."""
        deadline = time.monotonic() + TAKES_S
        while True:
            pair = self.pair()
            if pair and (before is None or set(getattr(pair, what)).isdisjoint(getattr(before, what))):
                return pair
            for gateway in self._gateways:
                gateway.check_alive()
            if time.monotonic() > deadline:
                words = "; ".join(gateway.last_words(2) for gateway in self._gateways)
                raise HostError(f"the two gateways do not agree after {TAKES_S:.0f} s ({what or 'set up'}): {words}")
            time.sleep(0.02)

    def pair(self) -> Pair | None:
        first, second = (_alone(client) for client in self._clients)
        if first is None or second is None:
            return None
        ike = [(sa["initiator-spi"], sa["responder-spi"]) for sa, _ in (first, second)]
        child = [(child["spi-in"], child["spi-out"]) for _, child in (first, second)]
        return Pair(ike[0], child[0]) if ike[0] == ike[1] and child[0] == child[1][::-1] else None


def _alone(client: ViciClient) -> tuple[Tree, Tree] | None:
    """The only IKE SA and the only child that live; None where there are none or more."""
    sas = [sa for _, sa in collect(client, "list-sas", "list-sa")]
    living = [sa for sa in sas if sa["state"] == "ESTABLISHED"]
    if len(living) != 1 or any(sa["state"] == "REKEYING" for sa in sas):
        return None
    children = [one for sa in sas for one in sa.get("child-sas", {}).values() if one["state"] != "REKEYED"]
    children = [one for one in children if one["state"] not in ("DELETED", "DELETING")]
    if len(children) != 1 or children[0]["state"] != "INSTALLED":
        return None
    return living[0], children[0]
