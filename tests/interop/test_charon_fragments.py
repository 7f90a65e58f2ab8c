"""IKE fragmentation with charon, small sizes on both sides: every exchange really crosses in fragments, and probes are answered."""

from __future__ import annotations

import json
import queue
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from interop.conftest import Peers
from interop.test_charon_tunnel import both_roles, by_both_sides, one_of_each
from netns.daemon import Charon
from netns.lab import Lab, Namespace, wait_for
from netns.site import LEFT, RIGHT, Site

import ipsec_fast

pytestmark = [pytest.mark.interop, pytest.mark.timeout(120)]
Connect = Callable[..., Peers]
SMALL = "fragment_size = 576"
PORTS = ("icmp", *(f"tcp/{port}" for port in range(1001, 1009)))


def long_id(letter: str) -> str:
    return f"{letter}." + ".".join(letter * 50 for _ in range(4)) + ".example"


def large(site: Site, own: str, peers: str) -> Site:
    """Long identities make IKE_AUTH large, selectors and a group of 256 bytes CREATE_CHILD_SA."""
    name, local, remote = site.children[0]
    children = ((name, _with_ports(local[0]), _with_ports(remote[0])),)
    return site.but(local_id=long_id(own), remote_id=long_id(peers), children=children)


def _with_ports(net: str) -> tuple[str, ...]:
    return tuple(f"{net}[{ports}]" for ports in PORTS)


def small_peers(connect: Connect, ike: str = "aes128gcm16-prfsha256-modp2048", **changes: Any) -> Peers:
    ours, charon = large(LEFT, "a", "b"), large(RIGHT, "b", "a")
    changes = {"esp": ("aes128gcm16-modp2048",)} | changes
    return connect(
        ours=ours, charon=charon, settings=SMALL, ike=(ike,), gateway=(("ike_fragment_bytes", 576),), **changes
    )


def up(peers: Peers, initiator: str) -> tuple[str, str]:
    """The first packet may be lost: charon is told to install 81 policies, one after the other."""
    peers.side(initiator).initiate()
    spis = one_of_each(peers)
    wait_for("pings pass", lambda: peers.lab.l.ping("10.2.0.10") == 3)
    return spis


def counters(peers: Peers) -> dict[str, int]:
    stats = peers.ours.call("stats")
    return {key: int(value) for key, value in stats["counters"].items() if key.startswith("ike_fragments")}


def charon_split(peers: Peers) -> int:
    """How many messages charon has sent in fragments."""
    return len(re.findall(r"splitting IKE message", peers.charon.log()))


def charon_joined(peers: Peers) -> int:
    return len(re.findall(r"reassembled fragmented IKE message", peers.charon.log()))


def seen(peers: Peers) -> tuple[int, int, int, int]:
    """Messages in fragments: that we sent (their fragments), that we joined, that charon sent, that it joined."""
    ours = counters(peers)
    return (
        ours.get("ike_fragments_sent", 0),
        ours.get("ike_fragments_reassembled", 0),
        charon_split(peers),
        charon_joined(peers),
    )


def check_grown(before: tuple[int, ...], after: tuple[int, ...]) -> None:
    assert all(new > old for old, new in zip(before, after, strict=True)), (before, after)


@both_roles
@pytest.mark.parametrize("ike", ["aes128gcm16-prfsha256-modp2048", "aes256-sha256-modp2048"], ids=["gcm", "cbc"])
def test_ike_auth_crosses_in_fragments_both_ways(connect: Connect, initiator: str, ike: str) -> None:
    peers = small_peers(connect, ike)
    up(peers, initiator)
    check_grown((0, 0, 0, 0), seen(peers))
    assert not [name for name in counters(peers) if name.endswith(("malformed", "not_negotiated", "too_long"))]


@both_roles
@by_both_sides
def test_a_child_rekey_crosses_in_fragments_both_ways(connect: Connect, initiator: str, who: str) -> None:
    peers = small_peers(connect)
    before_spis = up(peers, initiator)
    before = seen(peers)
    peers.side(who).swanctl("--rekey", "--child", "net")
    wait_for("new SPIs", lambda: set(one_of_each(peers)).isdisjoint(before_spis))
    check_grown(before, seen(peers))
    wait_for("pings pass", lambda: peers.lab.l.ping("10.2.0.10") == 3)


@by_both_sides
def test_after_an_ike_rekey_fragments_still_cross(connect: Connect, who: str) -> None:
    peers = small_peers(connect)
    child = up(peers, "ours")
    old = peers.ours.established()[0].spis
    peers.side(who).swanctl("--rekey", "--ike", "t")
    wait_for("a new IKE SA", lambda: one_of_each(peers) and peers.ours.established()[0].spis != old)
    before = seen(peers)
    peers.side(who).swanctl("--rekey", "--child", "net")
    wait_for("new SPIs", lambda: set(one_of_each(peers)).isdisjoint(child))
    check_grown(before, seen(peers))


@both_roles
@pytest.mark.parametrize("ours_says", ["accept", "no"])
def test_where_we_do_not_send_fragments_our_messages_leave_whole(
    connect: Connect, initiator: str, ours_says: str
) -> None:
    ours = large(LEFT, "a", "b").but(options=(("fragmentation", ours_says),))
    peers = connect(ours=ours, charon=large(RIGHT, "b", "a"), settings=SMALL)
    up(peers, initiator)
    sent, joined, split, charon_got = seen(peers)
    assert (sent, charon_got) == (0, 0)
    assert (joined > 0, split > 0) == ((True, True) if ours_says == "accept" else (False, False))


# --- probes


class Hand:
    """tests/interop/hand_endpoint.py in a namespace."""

    def __init__(self, namespace: Namespace) -> None:
        script, tests = Path(__file__).with_name("hand_endpoint.py"), Path(__file__).parents[1]
        search = ":".join(map(str, (Path(ipsec_fast.__file__).parents[1], tests, tests / "support")))
        words = ("env", f"PYTHONPATH={search}", sys.executable, str(script), "192.0.2.1", "192.0.2.2")
        self.process = subprocess.Popen(
            namespace.command(*words), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.put(line)

    def do(self, **command: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()

    def hears(self, what: str, limit_s: float = 8.0) -> dict[str, Any]:
        """The next thing that the endpoint tells, which must be this."""
        told: dict[str, Any] = json.loads(self.lines.get(timeout=limit_s))
        assert told["what"] == what, told
        return told

    def probe(self, *sizes: int, wait_s: float = 1.0) -> dict[str, Any]:
        self.do(do="probe", sizes=sizes, wait_s=wait_s)
        assert self.hears("probing")["bytes"] == sizes[0]
        return self.hears("ProbeAnswered")


@pytest.fixture
def hand(lab: Lab, tmp_path: Path) -> Iterator[Hand]:
    with Charon(lab.b, tmp_path / "c", RIGHT) as charon:
        hand = Hand(lab.a)
        try:
            hand.do(do="initiate")
            hand.hears("ChildUp")
            yield hand
        finally:
            assert hand.process.stdin is not None
            hand.process.stdin.close()
            hand.process.wait(5)
            print(charon.log()[-4000:])


@pytest.mark.parametrize("size", [576, 1280, 1400, 1500])
def test_charon_answers_a_padded_informational_whole(hand: Hand, size: int) -> None:
    answered = hand.probe(size)
    assert answered["is_whole"]
    assert answered["answered_bytes"] == size


def test_charon_answers_a_probe_whose_whole_is_lost(lab: Lab, hand: Hand) -> None:
    for rule in (
        "add table ip narrow",
        "add chain ip narrow c { type filter hook prerouting priority -450 ; }",  # before IP fragments are joined
        "add rule ip narrow c meta length > 1300 drop",
    ):
        lab.b.run("nft", rule)
    try:
        answered = hand.probe(1400, 1350, 1280, wait_s=0.3)
    finally:
        lab.b.run("nft", "delete table ip narrow")
    assert not answered["is_whole"]
    # the packages of Debian have charon's mediation extension, which takes an INFORMATIONAL in fragments for something of its own
    assert answered["answered_bytes"] in (0, 1280)
    assert hand.probe(1500)["is_whole"], "and the window goes on"


def test_a_probe_longer_than_the_interface_takes_is_lost_not_cut(hand: Hand) -> None:
    answered = hand.probe(1600, 1500, wait_s=0.3)
    assert not answered["is_whole"]
    assert answered["answered_bytes"] in (0, 1500)
