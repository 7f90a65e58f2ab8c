"""A random search over what two gateways may do to each other at once (RFC 7296 sections 2.8.1, 2.8.2, 2.25).

Either side rekeys, deletes, makes; datagrams are lost, late, doubled, as Hypothesis lays it out; time goes on by as
little as between two crossing requests. Whenever the network lets them, both sides must come to mean the same, nothing
may be left over, and no packet may have been without an SA unless somebody asked for the end of it. A failure is shrunk
to the few steps that matter. IPSEC_FAST_INTERLEAVINGS=5000 searches longer, and elsewhere each time.
"""

from __future__ import annotations

import os
import random

import pytest
from agreement import FATES, QUIET_S, Fates, come_to_rest, left_over, names_of
from crash_pair import used_twice
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from pair import Pair, child, connection

from ipsec_fast.crypto.secret import arena_report

ASKED_FOR = os.environ.get("IPSEC_FAST_INTERLEAVINGS")
EXAMPLES_USUAL, STEPS = 120, 25
FATES_AHEAD_MAX = 10  # fewer than the sends of a request, so that it comes through
# a latency is 10 ms: the same moment, before, while and after the first request arrives, its answer, a retransmission, the grace
WAITS_S = (0.0, 0.004, 0.0101, 0.0201, 0.0301, 0.1, 0.6, 2.0, 6.0)
VERBS = ("rekey_child", "rekey_ike", "terminate_child", "terminate_ike", "initiate_child")
NET_B = {"local": "10.2.0.0/24", "remote": "10.1.0.0/24"}
MORE_A, MORE_B = {"local": "10.3.0.0/24", "remote": "10.4.0.0/24"}, {"local": "10.4.0.0/24", "remote": "10.3.0.0/24"}

SIDES = st.sampled_from("ab")
WHICH = st.integers(0, 3)


class Interleavings(RuleBasedStateMachine):
    @initialize(seed=st.integers(0, 1 << 16), pfs=st.booleans())
    def set_up(self, seed: int, pfs: bool) -> None:
        self.secrets_before = arena_report()["used_bytes"]
        esp = ("aes128gcm16-x25519",) if pfs else ("aes128gcm16",)
        self.pair = Pair(
            connection("a", children=(child(esp=esp), child("more", esp=esp, **MORE_A))),
            connection("b", children=(child(esp=esp, **NET_B), child("more", esp=esp, **MORE_B))),
            seed=seed,
        )
        self.fates = Fates()
        self.pair.network = self.fates
        delays = random.Random(seed)
        self.pair.transit_s = lambda: delays.choice((0.0, 0.005, 0.02, 0.3))
        self.made = 0
        self.begin()

    def begin(self) -> None:
        self.pair.initiate("a", "net")
        self.pair.run(2.0)
        self.take_stock()
        assert self.expects == {"net": (1, 1), "more": (0, 0)}

    def take_stock(self) -> None:
        """From here on what stands must stay, until somebody asks for something else."""
        names = names_of(self.pair.a)
        self.expects = {name: (names.count(name), names.count(name)) for name in ("net", "more")}  # at least, at most
        self.may_end = self.may_gap = not names
        for shell in (self.pair.a, self.pair.b):
            shell.had_outbound = "net" in names
            shell.gaps.clear()
        self.pair.start_traffic(0.004)

    # --- what happens

    @rule(side=SIDES, verb=st.sampled_from(VERBS), which=WHICH)
    def act(self, side: str, verb: str, which: int) -> None:
        views = self.pair.shell(side).views("ESTABLISHED", "REKEYING")
        if not views:
            return
        view = views[which % len(views)]
        if verb == "initiate_child":
            if self.made < 3:
                self.made += 1
                least, most = self.expects["more"]
                self.expects["more"] = (least, most + 1)
                self.pair.call(side, verb, view.ike_id, self.pair.shell(side).configs[0].children[1])
        elif verb.endswith("ike"):
            self.may_end = self.may_end or verb == "terminate_ike"
            self.pair.call(side, verb, view.ike_id)
        elif view.children:
            target = view.children[which % len(view.children)]
            if verb == "terminate_child":
                self.expects[target.name] = (0, self.expects[target.name][1])
                self.may_gap = True
            self.pair.call(side, verb, target.child_id)

    @rule(fates=st.lists(st.sampled_from(sorted(FATES)), min_size=1, max_size=6))
    def disturb(self, fates: list[str]) -> None:
        room = FATES_AHEAD_MAX - len(self.fates.ahead)
        self.fates.ahead.extend(fates[:room])

    @rule(seconds=st.sampled_from(WAITS_S))
    def wait(self, seconds: float) -> None:
        self.pair.run(seconds)

    @precondition(lambda self: self.pair.a.views() or self.pair.b.views())
    @rule()
    def come_to_rest(self) -> None:
        self.rest()

    @precondition(lambda self: not self.pair.a.views() and not self.pair.b.views())
    @rule()
    def begin_anew(self) -> None:
        self.rest()
        self.made = 0
        self.begin()

    # --- what must hold

    def rest(self) -> None:
        self.fates.ahead.clear()
        text = come_to_rest(self.pair)
        assert not text, f"{text}\n--- a\n{self.pair.a.log}\n--- b\n{self.pair.b.log}"
        assert len(self.pair.a.views()) <= 1
        names = names_of(self.pair.a)
        assert self.may_end or self.pair.a.views(), (
            f"nobody asked for the end\n{self.pair.a.log}\n---\n{self.pair.b.log}"
        )
        for name, (least, most) in self.expects.items():
            found = names.count(name)
            assert found <= most, f"{found} times {name}\n{self.pair.a.log}\n---\n{self.pair.b.log}"
            assert self.may_end or found >= least, f"{name} is gone\n{self.pair.a.log}\n---\n{self.pair.b.log}"
        self.no_packet_is_without_an_sa()
        self.take_stock()

    @invariant()
    def no_packet_is_without_an_sa(self) -> None:
        if not self.may_gap and not self.may_end:
            gaps = [*self.pair.a.gaps, *self.pair.b.gaps]
            assert not gaps, f"{gaps}\n--- a\n{self.pair.a.log}\n--- b\n{self.pair.b.log}"

    @invariant()
    def what_is_kept_is_bounded(self) -> None:
        for shell in (self.pair.a, self.pair.b):
            assert shell.endpoint.counters["internal_errors"] == 0, shell.log
            assert len(shell.views()) <= 12

    def teardown(self) -> None:
        if not hasattr(self, "fates"):
            return
        self.rest()
        assert used_twice(self.pair.sent) == []
        self.pair.start_traffic(0.0)
        for shell in (self.pair.a, self.pair.b):
            for view in shell.views():
                shell.endpoint.terminate_ike(view.ike_id, self.pair.now, True)
        self.pair.run(QUIET_S)
        self.pair.check_nothing_left()
        assert [left_over(shell) for shell in (self.pair.a, self.pair.b)] == ["", ""]
        for shell in (self.pair.a, self.pair.b):
            shell.events.clear()
            shell.records.clear()
            shell.children.clear()
        assert arena_report()["used_bytes"] <= self.secrets_before


@pytest.mark.timeout(7200 if ASKED_FOR else 120)
def test_whatever_crosses_both_sides_come_to_mean_the_same() -> None:
    run_state_machine_as_test(
        Interleavings,
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
