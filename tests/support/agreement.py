"""What must hold of a Pair whatever crossed, got lost, came late or twice; and a network whose every datagram can be given a fate."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from pair import LATENCY_S, Pair, Sent, Shell

from ipsec_fast.ike.header import FLAG_RESPONSE
from ipsec_fast.ike.timers import TimerKey, TimerKind

CREATE_CHILD_SA, INFORMATIONAL = 36, 37
QUIET_S = 260.0  # a full schedule of retransmissions, then what waits for a peer that forgot something
REQUEST, RESPONSE = False, True

# of one datagram: the delays of the copies that arrive
FATES: dict[str, tuple[float, ...]] = {
    "passes": (LATENCY_S,),
    "lost": (),
    "late": (0.3,),  # before a retransmission
    "overtaken": (1.2,),  # by a retransmission
    "very late": (12.0,),  # when everything is over
    "twice": (LATENCY_S, LATENCY_S),
    "twice, once late": (LATENCY_S, 2.0),
}


class Fates:
    """A network: the next datagrams get the fates that were laid out for them, all others pass."""

    def __init__(self) -> None:
        self.ahead: deque[str] = deque()

    def __call__(self, sent: Sent) -> Sequence[float]:
        return FATES[self.ahead.popleft() if self.ahead else "passes"]


class Holding:
    """A network that keeps what `wants` until it is let go, so that a test says which message arrives when."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self._wants: list[Callable[[Sent], bool]] = []
        self.held: list[Sent] = []
        pair.network = self

    def __call__(self, sent: Sent) -> Sequence[float]:
        if any(wants(sent) for wants in self._wants):
            self.held.append(sent)
            return ()
        return (LATENCY_S,)

    def hold(self, sender: str, exchange: int, is_response: bool) -> None:
        """All messages of that kind that `sender` sends from now on; their retransmissions too."""
        kind = (sender, exchange, is_response)
        self._wants.append(lambda sent: kind_of(sent) == kind)

    def let_go(self, *, only_first: bool = True) -> None:
        """What was kept arrives now, and nothing is kept any more."""
        held, self.held, self._wants = self.held, [], []
        assert held, "nothing of that kind was sent"
        for sent in held[:1] if only_first else held:
            arrival = self._pair._arrival(sent.sender, sent.path)
            self._pair.inject("b" if sent.sender == "a" else "a", sent.data, arrival)

    def lose(self) -> None:
        assert self.held, "nothing of that kind was sent"
        self.held, self._wants = [], []


def kind_of(sent: Sent) -> tuple[str, int, bool]:
    return sent.sender, sent.data[18], bool(sent.data[19] & FLAG_RESPONSE)


def picture(shell: Shell) -> dict[tuple[bytes, bytes], set[tuple[str, int, int]]]:
    """Of each IKE SA its Child SAs: name, inbound and outbound SPI."""
    views = shell.views()
    return {(v.spi_i, v.spi_r): {(c.name, c.spi_in, c.spi_out) for c in v.children} for v in views}


def come_to_rest(pair: Pair) -> str:
    """Lets everything end that has begun; what `disagreement` says then."""
    pair.start_traffic(1.0)
    pair.run(QUIET_S)
    pair.run(1.0, until=lambda: not disagreement(pair))  # a liveness check may be under way
    return disagreement(pair)


def disagreement(pair: Pair) -> str:
    """Empty where both sides mean the same and nothing is on its way any more."""
    for shell in (pair.a, pair.b):
        for view in shell.views():
            if view.state != "ESTABLISHED" or view.tasks_active or view.tasks_queued or view.tasks_passive:
                return f"{shell.side}: IKE SA {view.ike_id} is {view.state}, {view.tasks_active} {view.tasks_queued}"
            if any(child.state != "INSTALLED" for child in view.children):
                return f"{shell.side}: {[(c.child_id, c.state) for c in view.children]}"
    mirrored = {ike: {(n, o, i) for n, i, o in children} for ike, children in picture(pair.b).items()}
    if picture(pair.a) != mirrored:
        return f"a has {picture(pair.a)}, b mirrored {mirrored}"
    for shell in (pair.a, pair.b):
        if found := left_over(shell):
            return f"{shell.side}: {found}"
    return ""


def left_over(shell: Shell) -> str:
    """What belongs to nothing that stands: Child SAs in the dataplane, entries of tables, timers."""
    core = shell.endpoint._core
    ids = {view.ike_id for view in shell.views()}
    children = {c.child_id for view in shell.views() for c in view.children}
    installed = {one.ask.child_id for one in shell.live}
    if installed != children:
        return f"in the dataplane {installed}, in the IKE SAs {children}"
    if set(core.owners) != children:
        return f"owners of {set(core.owners)}, Child SAs {children}"
    if len(core.by_spi) != len(ids):
        return f"{len(core.by_spi)} SPIs for {len(ids)} IKE SAs"
    if core._resting:
        return f"{len(core._resting)} asks that rest"
    strangers = [key for key in core.timers._deadlines if is_stranger(key, ids, children)]
    if strangers:
        return f"timers of nobody: {strangers}"
    if shell.endpoint.counters["internal_errors"]:
        return "an internal error"
    return ""


def is_stranger(key: TimerKey, ike_ids: set[int], child_ids: set[int]) -> bool:
    if key.kind in (TimerKind.TOMBSTONE, TimerKind.ASK):
        return False
    return key.owner not in ike_ids or (key.kind.name.startswith("CHILD_") and key.child not in child_ids)


def names_of(shell: Shell) -> list[str]:
    return sorted(child.name for view in shell.views() for child in view.children)
