"""The random search of test_interleavings where every child is a group of RFC 9611 and both sides ask for their workers."""

from __future__ import annotations

import random

import pytest
from agreement import Fates
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, run_state_machine_as_test
from pair import child, connection
from resource_pair import NET_B, ResourcePair, workers
from test_interleavings import ASKED_FOR, MORE_A, MORE_B, STEPS, Interleavings

from ipsec_fast.crypto.secret import arena_report

EXAMPLES_USUAL = 25
LIMIT = 16  # of per-resource SAs in a group, beside what a rekey has not closed yet


class GroupInterleavings(Interleavings):
    @initialize(seed=st.integers(0, 1 << 16), count_b=st.sampled_from((2, 3)))
    def set_up(self, seed: int, count_b: int) -> None:
        self.secrets_before = arena_report()["used_bytes"]
        self.pair = ResourcePair(
            connection("a", children=(child(), child("more", **MORE_A))),
            connection("b", children=(child(**NET_B), child("more", **MORE_B))),
            settings=workers(2),
            settings_b=workers(count_b),
            seed=seed,
        )
        self.fates = Fates()
        self.pair.network = self.fates
        delays = random.Random(seed)
        self.pair.transit_s = lambda: delays.choice((0.0, 0.005, 0.02, 0.3))
        self.made = 0
        self.begin()

    def begin(self) -> None:
        self.pair.up_group()
        self.take_stock()

    def take_stock(self) -> None:
        super().take_stock()
        stands = self.expects["net"][0] > 0
        self.expects = {"net": (int(stands), 2 * LIMIT), "more": (0, 4 * LIMIT)}

    @invariant()
    def a_group_is_bounded_and_each_is_whose_spi_says_so(self) -> None:
        for shell in (self.pair.a, self.pair.b):
            for view in shell.views():
                extra = [c for c in view.children if c.resource is not None]
                standing = [c for c in extra if c.state in ("INSTALLED", "REKEYING")]
                assert len([c for c in standing if c.name == "net"]) <= LIMIT
                assert all(c.in_group and c.resource == c.spi_in % shell.resources for c in extra)


@pytest.mark.timeout(7200 if ASKED_FOR else 300)
def test_whatever_crosses_both_sides_come_to_mean_the_same_groups() -> None:
    run_state_machine_as_test(
        GroupInterleavings,
        settings=settings(
            max_examples=int(ASKED_FOR) if ASKED_FOR else EXAMPLES_USUAL,
            stateful_step_count=STEPS,
            derandomize=not ASKED_FOR,
            deadline=None,
            database=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
