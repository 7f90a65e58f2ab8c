"""Crossing rekeys with charon, the sudden death of either side, and configurations that cannot agree."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from interop.conftest import Peers
from interop.test_charon_tunnel import both_roles, one_of_each, up
from netns.daemon import pause
from netns.lab import wait_for
from netns.site import LEFT, RIGHT, Site

pytestmark = [pytest.mark.interop, pytest.mark.timeout(90)]
Connect = Callable[..., Peers]


def cross(peers: Peers, *what: str) -> None:
    """The same rekey from both sides at once; one of them may be told that it came too late."""
    gate = threading.Barrier(2)

    def rekey(side: str) -> None:
        gate.wait()
        peers.side(side).swanctl("--rekey", *what, check=False)

    threads = [threading.Thread(target=rekey, args=(side,)) for side in ("ours", "charon")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@both_roles
def test_crossing_child_rekeys_leave_one_pair(connect: Connect, initiator: str) -> None:
    peers = connect()
    before = up(peers, initiator)
    for _ in range(3):
        cross(peers, "--child", "net")
        pause(0.5)  # nothing more may come
        after = one_of_each(peers)
        assert set(after).isdisjoint(before), peers.logs()
        assert peers.lab.l.ping("10.2.0.10") == 3
        before = after


@both_roles
def test_crossing_ike_rekeys_leave_one_ike_sa(connect: Connect, initiator: str) -> None:
    peers = connect()
    child = up(peers, initiator)
    for _ in range(3):
        before = peers.ours.established()[0].spis
        cross(peers, "--ike", "t")
        pause(0.5)
        assert one_of_each(peers) == child
        assert peers.ours.established()[0].spis != before
        assert peers.lab.l.ping("10.2.0.10") == 3


@pytest.mark.parametrize("victim", ["ours", "charon"])
def test_initial_contact_after_kill_9_replaces_the_old_sas(connect: Connect, victim: str) -> None:
    peers = connect()
    before = up(peers, "ours")
    peers.side(victim).kill()
    peers.side(victim).start()
    assert len(peers.other(victim).established()) == 1, "the other side knows nothing yet"
    after = up(peers, victim)
    assert set(after).isdisjoint(before)
    assert len(peers.other(victim).sas()) == 1


def failed(peers: Peers, initiator: str) -> str:
    """The attempt fails, the gateway lives, no Child SA is left; returns our log."""
    peers.side(initiator).initiate(check=False)
    peers.ours.call("version")
    assert not any(ike.installed for ike in peers.ours.sas() + peers.charon.sas()), peers.logs()
    return peers.ours.log()


def logged(peers: Peers, *words: str) -> None:
    def line() -> bool:
        return any(all(word in line for word in words) for line in peers.ours.log().splitlines())

    wait_for(f"a line of our log with {words}", line, 7)


@both_roles
def test_wrong_psk_is_named(connect: Connect, initiator: str) -> None:
    peers = connect(charon=RIGHT.but(psk="quite another secret, just as long"))
    failed(peers, initiator)
    logged(peers, "a.example", "b.example")
    wait_for("no IKE SA", lambda: not peers.ours.established())


@both_roles
def test_wrong_identity_is_named(connect: Connect, initiator: str) -> None:
    stranger: Site = RIGHT.but(local_id="stranger.example")
    peers = connect(charon=stranger)
    failed(peers, initiator)
    if initiator == "charon":
        logged(peers, "stranger.example", "b.example")
    wait_for("no IKE SA", lambda: not peers.ours.established())


@both_roles
def test_no_common_ike_proposal_names_both(connect: Connect, initiator: str) -> None:
    peers = connect(LEFT.but(ike=("aes256gcm16-prfsha384-ecp384",)), RIGHT.but(ike=("aes128-sha256-modp2048",)))
    failed(peers, initiator)
    logged(peers, "NO_PROPOSAL_CHOSEN", "AES_GCM_16_256")  # the peer does not say what it wanted
    if initiator == "charon":
        logged(peers, "AES_GCM_16_256", "AES_CBC_128")
    wait_for("no IKE SA", lambda: not peers.ours.sas())


@both_roles
def test_no_common_esp_proposal_names_both(connect: Connect, initiator: str) -> None:
    peers = connect(LEFT.but(esp=("aes256gcm16",)), RIGHT.but(esp=("aes128-sha256",)))
    failed(peers, initiator)
    logged(peers, "NO_PROPOSAL_CHOSEN", "AES_GCM_16_256")
    if initiator == "ours":
        wait_for("our initiator deletes the IKE SA without a Child", lambda: not peers.charon.established())


@both_roles
def test_no_common_selectors_names_both(connect: Connect, initiator: str) -> None:
    peers = connect(
        LEFT.but(children=(("net", ("10.1.0.0/24",), ("10.9.0.0/24",)),)),
        RIGHT.but(children=(("net", ("10.2.0.0/24",), ("10.1.0.0/24",)),)),
    )
    failed(peers, initiator)
    logged(peers, "TS_UNACCEPTABLE", "10.9.0.0/24")
    if initiator == "charon":
        logged(peers, "10.9.0.0/24", "10.2.0.0/24")
    else:
        wait_for("our initiator deletes the IKE SA without a Child", lambda: not peers.charon.established())
