"""RFC 9611 with a peer that does not speak it (charon before 6.0.2): it gets the notify, ignores it, and the tunnel has one Child SA."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from interop.conftest import Peers
from interop.test_charon_tunnel import one_of_each, up
from netns.lab import wait_for
from netns.site import LEFT, Site

from ipsec_fast.gateway.vici.client import ViciClient
from ipsec_fast.gateway.vici.status import read_status

pytestmark = [pytest.mark.interop, pytest.mark.timeout(90)]
Connect = Callable[..., Peers]
WANTED = LEFT.but(gateway=(("workers", 1),), child_options=(("per_cpu_sas", "yes"),))
TWO_WORKERS = LEFT.but(gateway=(("workers", 2),))


@pytest.mark.parametrize("initiator", ["ours", "charon"])
@pytest.mark.parametrize(("ours", "cores"), [(WANTED, "one worker"), (TWO_WORKERS, "one owner")], ids=["one", "two"])
def test_one_child_sa_carries_the_tunnel_over_rekeys_of_either_side(
    connect: Connect, ours: Site, cores: str, initiator: str
) -> None:
    peers = connect(ours=ours)
    up(peers, initiator)
    for who in ("ours", "charon"):
        before = one_of_each(peers)
        peers.side(who).swanctl("--rekey", "--child", "net")
        wait_for("new SPIs", lambda old=before: set(one_of_each(peers)).isdisjoint(old))
        assert peers.lab.l.ping("10.2.0.10") == 3
        assert peers.lab.r.ping("10.1.0.10") == 3
    with ViciClient(str(peers.ours.socket)) as client:
        status = read_status(client)
    (child,) = (c for sa in status["ike_sas"] for c in sa["child-sas"] if c["state"] == "INSTALLED")
    assert not {"per-cpu-sas", "cpu"} & child.keys(), "no group was agreed on"
    assert child["worker"] == int(child["spi-in"], 16) % (1 if ours is WANTED else 2)
    assert child["cores"].startswith(cores)  # where OpenSSL does the work its ciphers are shared
