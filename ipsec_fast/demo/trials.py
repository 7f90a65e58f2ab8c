"""What the demo does to its gateways while numbered packets pass both ways: rekeys of both SAs, and a `kill -9`.

Called by main.py and the tests.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from ..errors import HostError
from .gateways import DemoGateway, Tree, newest, wait_for_rekey
from .stamped import FlowResult, StampedFlow
from .topology import Topology

HOST1, HOST2 = "10.1.0.10", "10.2.0.10"
PACKETS_PER_S = 1000
SETTLE_S = 1.0  # traffic before, between and after
BACK_S = 20.0


@dataclass(frozen=True)
class Trial:
    """Both directions together; `silence_s` is the longest of either."""

    count: int
    sent: int
    lost: int
    duplicated: int
    silence_s: float


def rekey_under_traffic(net: Topology, gateways: Sequence[DemoGateway], shown: Callable[[], None]) -> Trial:
    """A rekey of the child by the first gateway, then of the IKE SA by the second."""
    plan = (("child", gateways[0]), ("ike", gateways[1]))
    with _flows(net) as flows:
        for what, gateway in plan:
            time.sleep(SETTLE_S)
            old = {each.node: _number(each.status(), what) for each in gateways}
            gateway.rekey(what)
            wait_for_rekey(list(gateways), what, old)
            shown()
        time.sleep(SETTLE_S)
        results = [flow.stop() for flow in flows]
    if any(flow.lost == flow.sent for flow in results):
        raise HostError("no UDP packet passed the tunnel while it was rekeyed")
    return _sum(results, len(plan))


def kill_under_traffic(net: Topology, gateways: Sequence[DemoGateway], on_log: Callable[[str], None]) -> Trial:
    """`kill -9` of the first gateway and its start; over when packets pass both ways again. HostError where they do not."""
    victim = gateways[0]
    with _flows(net) as flows:
        time.sleep(SETTLE_S)
        victim.kill()
        sent = [flow.sent for flow in flows]
        victim.start()
        victim.wait_until_listening()
        if newest(victim.status(), "ike") is None:  # nothing was kept, or it could not be used
            victim.initiate(on_log)
        _wait_until_back(gateways, flows, sent)
        time.sleep(SETTLE_S)
        results = [flow.stop() for flow in flows]
    return _sum(results, 1)


def _wait_until_back(gateways: Sequence[DemoGateway], flows: Sequence[StampedFlow], sent: Sequence[int]) -> None:
    """Until both flows received something that was sent after the kill."""
    deadline = time.monotonic() + BACK_S
    while any(flow.highest < number for flow, number in zip(flows, sent, strict=True)):
        for gateway in gateways:
            gateway.check_alive()
        if time.monotonic() > deadline:
            words = "; ".join(gateway.last_words(2) for gateway in gateways)
            raise HostError(f"the tunnel is not back {BACK_S:.0f} s after the kill: {words}")
        time.sleep(0.02)


@contextmanager
def _flows(net: Topology) -> Iterator[list[StampedFlow]]:
    flows = [
        StampedFlow(net, "host1", "host2", HOST2, packets_per_s=PACKETS_PER_S).start(),
        StampedFlow(net, "host2", "host1", HOST1, packets_per_s=PACKETS_PER_S).start(),
    ]
    try:
        yield flows
    finally:
        for flow in flows:
            flow.stop()


def _sum(results: Sequence[FlowResult], count: int) -> Trial:
    return Trial(
        count,
        sum(flow.sent for flow in results),
        sum(flow.lost for flow in results),
        sum(flow.duplicated for flow in results),
        max(flow.longest_silence_s for flow in results),
    )


def _number(status: Tree, what: str) -> int:
    sa = newest(status, what)
    return int(sa["uniqueid"]) if sa else 0
