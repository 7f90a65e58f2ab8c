"""Tunnels with charon, either side as the initiator: algorithms, traffic, rekeys and deletes from both sides, selectors, group retries."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from interop.conftest import Peers
from netns.lab import wait_for
from netns.site import LEFT, RIGHT

pytestmark = [pytest.mark.interop, pytest.mark.timeout(90)]
Connect = Callable[..., Peers]
SIDES = ("ours", "charon")
both_roles = pytest.mark.parametrize("initiator", SIDES)
by_both_sides = pytest.mark.parametrize("who", SIDES)
SUITES = {
    "aes128gcm16": ("aes128gcm16-prfsha256-x25519", "aes128gcm16"),
    "aes256gcm16": ("aes256gcm16-prfsha384-ecp384", "aes256gcm16"),
    "aes128-sha256": ("aes128-sha256-modp2048", "aes128-sha256"),
    "aes256-sha256": ("aes256-sha512-ecp256", "aes256-sha256"),
}
# more that both carry; charon's userland ESP has no GMAC, no implicit IVs and no ESN
IKE_USUAL = "aes128gcm16-prfsha256-x25519"
MORE_IKE = (
    *(f"aes128gcm16-prfsha256-{group}" for group in ("modp3072", "modp4096", "ecp521", "modp1536", "modp1024")),
    "aes192gcm16-prfsha384-x25519",
    "aes192-sha256-x25519",
    "chacha20poly1305-prfsha256-x25519",
    "aes128-sha1-modp2048",
)
AS_STRONGSWAN_READS_THEM = (
    ("aes256gcm16-sha384-modp2048", "aes256gcm16-sha256-modp2048"),
    ("aes256gcm16-sha256-prfsha384-ecp256", "aes128gcm16-prfsha256-ecp256"),
)
MORE_ESP = (
    "aes192gcm16",
    "aes128gcm12",
    "aes256gcm8",
    "aes128ccm16",
    "aes256ccm12",
    "aes128ccm8",
    "chacha20poly1305",
    "aes192-sha384",
    "aes256-sha512",
    "aes128-sha1",
    "aes128-aesxcbc",
    "aes128-aescmac",
    "aes128ctr-sha256",
    "null-sha256",
)


def one_of_each(peers: Peers) -> tuple[str, str]:
    """Both sides settle on one IKE SA with one Child SA, the same ones; returns the child's SPIs, ours first."""

    def same() -> tuple[str, str] | None:
        ours, theirs = peers.ours.established(), peers.charon.established()
        if len(ours) != 1 or len(theirs) != 1 or ours[0].spis != theirs[0].spis:
            return None
        mine, his = ours[0].installed, theirs[0].installed
        if len(mine) != 1 or len(his) != 1 or (mine[0].spi_in, mine[0].spi_out) != (his[0].spi_out, his[0].spi_in):
            return None
        return mine[0].spi_in, mine[0].spi_out

    return wait_for("both sides hold one IKE SA and one Child SA, the same ones", same)


def up(peers: Peers, initiator: str) -> tuple[str, str]:
    peers.side(initiator).initiate()
    spis = one_of_each(peers)
    assert peers.lab.l.ping("10.2.0.10") == 3
    return spis


@both_roles
@pytest.mark.parametrize("suite", SUITES)
def test_suite_carries_ping_and_tcp(connect: Connect, suite: str, initiator: str) -> None:
    ike, esp = SUITES[suite]
    peers = connect(ike=(ike,), esp=(esp,))
    up(peers, initiator)
    assert peers.lab.r.ping("10.1.0.10") == 3
    assert peers.lab.tcp_mbit_per_s() > 20
    (child,) = peers.ours.established()[0].installed
    assert child.packets_in > 0
    assert child.packets_out > 0


@both_roles
@pytest.mark.parametrize("ike", MORE_IKE)
def test_ike_algorithm_and_group_make_a_tunnel_and_rekey(connect: Connect, ike: str, initiator: str) -> None:
    """The group of the IKE SA makes the rekeyed child's keys too."""
    proposals = {"ike": (ike,), "esp": (f"aes128gcm16-{ike.rpartition('-')[2]}",)}
    allowed = LEFT.but(options=(("allow_weak", "yes"),), **proposals)
    peers = connect(allowed, RIGHT.but(**proposals))
    before = up(peers, initiator)
    peers.side(initiator).swanctl("--rekey", "--child", "net")
    wait_for("new SPIs", lambda: set(one_of_each(peers)).isdisjoint(before))
    assert peers.lab.r.ping("10.1.0.10") == 3


@pytest.mark.parametrize(("ike", "esp"), AS_STRONGSWAN_READS_THEM)
def test_a_proposal_that_strongswan_reads_otherwise_than_it_looks_is_read_so(
    connect: Connect, ike: str, esp: str
) -> None:
    peers = connect(ike=(ike,), esp=(esp,))
    up(peers, "ours")
    assert peers.lab.r.ping("10.1.0.10") == 3


@pytest.mark.parametrize("esp", MORE_ESP)
def test_esp_algorithm_carries_pings_both_ways(connect: Connect, esp: str) -> None:
    peers = connect(ike=(IKE_USUAL,), esp=(esp,))
    up(peers, "ours")
    assert peers.lab.r.ping("10.1.0.10") == 3


@both_roles
@by_both_sides
@pytest.mark.parametrize("suite", ["aes128gcm16", "aes256-sha256"])
@pytest.mark.parametrize("pfs", [False, True], ids=["no-pfs", "pfs"])
def test_child_rekey(connect: Connect, suite: str, pfs: bool, who: str, initiator: str) -> None:
    ike, esp = SUITES[suite]
    peers = connect(ike=(ike,), esp=(esp + "-x25519" if pfs else esp,))
    before = up(peers, initiator)
    peers.side(who).swanctl("--rekey", "--child", "net")
    wait_for("new SPIs", lambda: set(one_of_each(peers)).isdisjoint(before))
    assert peers.lab.l.ping("10.2.0.10") == 3
    assert peers.lab.r.ping("10.1.0.10") == 3


@both_roles
@by_both_sides
@pytest.mark.parametrize("suite", ["aes128gcm16", "aes256-sha256"])
def test_ike_rekey_moves_the_children(connect: Connect, suite: str, who: str, initiator: str) -> None:
    ike, esp = SUITES[suite]
    peers = connect(ike=(ike,), esp=(esp,))
    child = up(peers, initiator)
    before = peers.ours.established()[0].spis
    peers.side(who).swanctl("--rekey", "--ike", "t")
    wait_for("a new IKE SA", lambda: one_of_each(peers) and peers.ours.established()[0].spis != before)
    assert one_of_each(peers) == child
    assert peers.lab.l.ping("10.2.0.10") == 3
    # the moved child lives on the new IKE SA
    peers.side(who).swanctl("--rekey", "--child", "net")
    wait_for("new SPIs", lambda: set(one_of_each(peers)).isdisjoint(child))
    assert peers.lab.l.ping("10.2.0.10") == 3


@both_roles
@by_both_sides
def test_delete_of_the_ike_sa(connect: Connect, who: str, initiator: str) -> None:
    peers = connect()
    up(peers, initiator)
    peers.side(who).swanctl("--terminate", "--ike", "t")
    wait_for("nothing left", lambda: not peers.ours.sas() and not peers.charon.sas())
    assert peers.lab.l.ping("10.2.0.10", count=1) == 0
    up(peers, initiator)


@both_roles
@by_both_sides
def test_delete_of_the_child(connect: Connect, who: str, initiator: str) -> None:
    peers = connect()
    up(peers, initiator)
    peers.side(who).swanctl("--terminate", "--child", "net")
    wait_for(
        "no Child SA on either side",
        lambda: not any(ike.installed for ike in peers.ours.sas() + peers.charon.sas()),
    )
    peers.side(who).initiate()
    one_of_each(peers)
    assert peers.lab.l.ping("10.2.0.10") == 3


@both_roles
def test_charons_own_proposals_and_mobike(connect: Connect, initiator: str) -> None:
    peers = connect(LEFT.but(ike=(), esp=()), RIGHT.but(ike=(), esp=(), options=(("mobike", "yes"),)))
    up(peers, initiator)


@both_roles
def test_two_selectors_on_one_side(connect: Connect, initiator: str) -> None:
    peers = connect(
        LEFT.but(children=(("net", ("10.1.0.0/24",), ("10.2.0.0/24", "10.3.0.0/24")),)),
        RIGHT.but(children=(("net", ("10.2.0.0/24", "10.3.0.0/24"), ("10.1.0.0/24",)),)),
    )
    up(peers, initiator)
    assert peers.lab.l.ping("10.3.0.10") == 3


@both_roles
def test_everything_goes_into_the_tunnel(connect: Connect, initiator: str) -> None:
    peers = connect(
        LEFT.but(children=(("net", ("10.1.0.0/24",), ("0.0.0.0/0",)),)),
        RIGHT.but(children=(("net", ("0.0.0.0/0",), ("10.1.0.0/24",)),)),
    )
    up(peers, initiator)
    assert peers.lab.l.ping("203.0.113.10") == 3


@both_roles
def test_responder_narrows_to_its_own_selectors(connect: Connect, initiator: str) -> None:
    wide_on_the_left = LEFT.but(children=(("net", ("10.1.0.0/24",), ("10.0.0.0/8",)),))
    wide_on_the_right = RIGHT.but(children=(("net", ("10.2.0.0/24",), ("10.0.0.0/8",)),))
    peers = connect(
        wide_on_the_left if initiator == "ours" else LEFT, RIGHT if initiator == "ours" else wide_on_the_right
    )
    up(peers, initiator)


@both_roles
def test_invalid_ke_retry_of_the_ike_sa(connect: Connect, initiator: str) -> None:
    guesses_wrong, wants = ("aes128gcm16-prfsha256-x25519-ecp256",), ("aes128gcm16-prfsha256-ecp256",)
    peers = connect(
        LEFT.but(ike=guesses_wrong if initiator == "ours" else wants),
        RIGHT.but(ike=wants if initiator == "ours" else guesses_wrong),
    )
    up(peers, initiator)


@by_both_sides
def test_invalid_ke_retry_of_a_child_rekey(connect: Connect, who: str) -> None:
    guesses_wrong, wants = ("aes128gcm16-x25519-ecp256",), ("aes128gcm16-ecp256",)
    peers = connect(
        LEFT.but(esp=guesses_wrong if who == "ours" else wants),
        RIGHT.but(esp=wants if who == "ours" else guesses_wrong),
    )
    before = up(peers, who)
    peers.side(who).swanctl("--rekey", "--child", "net")
    wait_for("new SPIs", lambda: set(one_of_each(peers)).isdisjoint(before))
    assert peers.lab.l.ping("10.2.0.10") == 3
