"""What crosses where a traffic has several Child SAs (RFC 9611): every two exchanges, before, while and after a message arrives."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
from agreement import come_to_rest
from crash_pair import used_twice
from pair import Pair
from resource_pair import fallback, served, sides, workers

GAPS_S = (0.0, 0.004, 0.0101, 0.0201, 0.0301)


def member(pair: Pair, side: str) -> int | None:
    """The Child SA of worker 1 at a, as this side numbers it."""
    spis = {s for v in pair.a.views() for c in v.children if c.resource == 1 for s in (c.spi_in, c.spi_out)}
    found = (c.child_id for v in pair.shell(side).views() for c in v.children if {c.spi_in, c.spi_out} <= spis)
    return next(found, None)


def on_member(verb: str) -> Callable[[Pair, str], None]:
    def act(pair: Pair, side: str) -> None:
        if (child_id := member(pair, side)) is not None:
            pair.call(side, verb, child_id)

    return act


def on_ike(verb: str) -> Callable[[Pair, str], None]:
    return lambda pair, side: pair.call(side, verb, pair.shell(side).views("ESTABLISHED", "REKEYING")[0].ike_id)


def one_more(pair: Pair, side: str) -> None:
    pair.call(side, "initiate_resource", fallback_id(pair, side), 2)


def fallback_id(pair: Pair, side: str) -> int:
    views = (c for v in pair.shell(side).views() for c in v.children)
    return next(c.child_id for c in views if c.resource is None and c.state in ("INSTALLED", "REKEYING"))


DOINGS: dict[str, Callable[[Pair, str], None]] = {
    "rekey of one": on_member("rekey_child"),
    "rekey of the fallback": lambda pair, side: pair.call(side, "rekey_child", fallback_id(pair, side)),
    "DELETE of one": on_member("terminate_child"),
    "one more": one_more,
    "rekey of the IKE SA": on_ike("rekey_ike"),
    "reauthentication": on_ike("reauthenticate"),
}


@pytest.mark.parametrize(("one", "other"), list(product(DOINGS, DOINGS)))
def test_both_sides_come_to_mean_the_same_group(one: str, other: str) -> None:
    for seed, gap_s in enumerate(GAPS_S):
        pair = Pair(*sides(), settings=workers(4), seed=seed).up()
        for resource in (0, 1):
            pair.call("a", "initiate_resource", fallback(pair.a).child_id, resource)
            pair.run(1)
        pair.run(15)  # nothing is deferred any more
        pair.start_traffic(0.004)
        DOINGS[one](pair, "a")
        pair.run(gap_s)
        DOINGS[other](pair, "b")
        log = f"{gap_s} s apart\n--- a\n{pair.a.log}\n--- b\n{pair.b.log}"
        assert come_to_rest(pair) == "", log
        pair.start_traffic(0.0)
        assert used_twice(pair.sent) == []
        both = {one, other}
        wanted = {None, 0} | ({1} if "DELETE of one" not in both else set()) | ({2} if one == "one more" else set())
        # a reauthentication makes anew what stood when it began, by the numbers of the side that began it
        if "reauthentication" not in both:
            assert wanted <= set(served(pair.a)), f"{served(pair.a)} {log}"
        for view in (*pair.a.views(), *pair.b.views()):
            found = [child.resource for child in view.children]
            assert found.count(None) == 1, f"{found} {log}"
            assert len(found) <= 5, f"{found} {log}"
        assert len(pair.a.views()) == 1 or one == other == "reauthentication"
        assert "DELETE of one" in both or (pair.a.gaps, pair.b.gaps) == ([], []), log
