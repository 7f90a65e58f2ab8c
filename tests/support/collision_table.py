"""Every two exchanges that can cross, at every distance in time, with each of their messages lost, late and doubled: what comes of it.

`./run shell python tests/support/collision_table.py` plays it on a Pair and prints the table that docs/collisions.md shows;
tests/ike/exchanges/test_collision_table.py holds the two together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from agreement import FATES, come_to_rest, names_of
from pair import LATENCY_S, Pair, Sent, child, connection

# from the same moment to one after the other: before, while and after a request, and its response, arrives
GAPS_S = (0.0, 0.004, 0.0101, 0.0201, 0.0301)
SEEDS = (1, 2, 3)  # the nonces, hence who loses a crossing
MESSAGES = 6  # of those behind the first request, each meets each fate
DISTURBED = ("lost", "late", "overtaken", "very late", "twice, once late")

VERBS = {
    "rekey_child": "rekey of the Child SA",
    "rekey_ike": "rekey of the IKE SA",
    "initiate_child": "another Child SA",
    "terminate_child": "DELETE of the Child SA",
    "terminate_ike": "DELETE of the IKE SA",
}
CROSSINGS = [(one, other) for i, one in enumerate(VERBS) for other in list(VERBS)[i:]]


@dataclass
class Row:
    one: str
    other: str
    played: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    disagree: list[str] = field(default_factory=list)
    gaps: int = 0  # packets that had no SA, counted where nobody asked for an end

    @property
    def text(self) -> str:
        outcomes = "; ".join(f"{what}: {count}" for what, count in sorted(self.outcomes.items()))
        gaps = "–" if "terminate" in self.one + self.other else str(self.gaps)
        return (
            f"| {VERBS[self.one]} | {VERBS[self.other]} | {self.played} | {outcomes} | {len(self.disagree)} | {gaps} |"
        )


HEAD = "| one side | the other | played | what stands at the end | sides disagree | packets without an SA |\n|---|---|---|---|---|---|"


class OneDisturbed:
    """All pass, but message number `which` from now on has this fate."""

    def __init__(self, which: int, fate: str) -> None:
        self._left, self._fate = which, fate

    def __call__(self, sent: Sent) -> Sequence[float]:
        self._left -= 1
        return FATES[self._fate] if self._left == -1 else (LATENCY_S,)


def plays() -> Iterator[tuple[int, float, int, str]]:
    for seed in SEEDS:
        for gap_s in GAPS_S:
            yield seed, gap_s, 0, "passes"
    for gap_s in GAPS_S[::2]:
        for which in range(MESSAGES):
            for fate in DISTURBED:
                yield 1 + which % 2, gap_s, which, fate


def play(row: Row, order: str, seed: int, gap_s: float, which: int, fate: str) -> None:
    more_a = child("more", local="10.3.0.0/24", remote="10.4.0.0/24")
    more_b = child("more", local="10.4.0.0/24", remote="10.3.0.0/24")
    net_b = child(local="10.2.0.0/24", remote="10.1.0.0/24")
    a, b = connection("a", children=(child(), more_a)), connection("b", children=(net_b, more_b))
    pair = Pair(a, b, seed=seed)
    pair.initiate("a", "net")
    pair.run(2.0)
    first = pair.a.view.spi_i, pair.a.view.children[0].spi_in
    pair.start_traffic(0.004)
    pair.network = OneDisturbed(which, fate)
    act(pair, order[0], row.one)
    pair.run(gap_s)
    act(pair, order[1], row.other)
    pair.run(0.3)
    pair.start_traffic(0.05)
    pair.run(1.0)
    text = come_to_rest(pair)
    row.played += 1
    row.gaps += len(pair.a.gaps) + len(pair.b.gaps)
    if text:
        row.disagree.append(f"{order} {seed} {gap_s} {which} {fate}: {text}\n{pair.a.log}\n---\n{pair.b.log}")
    row.outcomes[outcome(pair, first)] += 1


def act(pair: Pair, side: str, verb: str) -> None:
    shell = pair.shell(side)
    views = shell.views("ESTABLISHED", "REKEYING")
    if not views:
        return
    view = views[-1]
    if verb == "initiate_child":
        pair.call(side, verb, view.ike_id, shell.configs[0].children[1])
    elif verb.endswith("ike"):
        pair.call(side, verb, view.ike_id)
    elif view.children:
        pair.call(side, verb, view.children[0].child_id)


def outcome(pair: Pair, first: tuple[bytes, int]) -> str:
    views = pair.a.views()
    if not views:
        return "nothing"
    ike = "new IKE SA" if views[0].spi_i != first[0] else "old IKE SA"
    children = []
    for name in names_of(pair.a):
        (one, *_) = (c for c in views[0].children if c.name == name)
        is_old = one.spi_in == first[1]
        children.append(name if name == "more" else f"{'old' if is_old else 'new'} Child SA")
    named = ", ".join("another" if one == "more" else one for one in sorted(children, reverse=True))
    return f"{len(views)} × {ike}, {named or 'no Child SA'}".removeprefix("1 × ")


def row_of(one: str, other: str) -> Row:
    row = Row(one, other)
    for order in ("ab", "ba"):
        for seed, gap_s, which, fate in plays():
            play(row, order, seed, gap_s, which, fate)
    return row


if __name__ == "__main__":
    print(HEAD)
    for crossing in CROSSINGS:
        print(row_of(*crossing).text, flush=True)
