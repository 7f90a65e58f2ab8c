"""A Child SA goes on after a crash: where the IV is the sequence number, no nonce comes twice under a key (RFC 8221 section 4)."""

from __future__ import annotations

import dataclasses
import os

import pytest
from dataplane.kernel_packets import ipv4, open_batch, seal
from test_manager import Site, ask

from ipsec_fast import SA
from ipsec_fast.algorithms import EspSuite, Mode, esp_suite, esp_suite_names
from ipsec_fast.control.grants import BLOCK
from ipsec_fast.control.store import GrantMark
from ipsec_fast.crypto.secret import secret_from_buffer
from ipsec_fast.ike.events import AskInstallChild

BY_COUNTER = [name for name in esp_suite_names() if esp_suite(name).encryption.mode not in (Mode.CBC, Mode.NULL)]
PACKET = ipv4(60)


class Crash:
    """The same child of the same keys, installed by one process after the other; `peer` receives from all of them."""

    def __init__(self, suite: EspSuite, *, esn: bool) -> None:
        self.suite, self.esn = suite, esn
        self.keys = [os.urandom(suite.keymat_bytes) for _ in range(2)]
        self.peer = SA("in", 2001, suite.name, self.keys[1], esn=esn)

    def ask(self) -> AskInstallChild:
        key_in, key_out = (secret_from_buffer(bytearray(key)) for key in self.keys)
        return dataclasses.replace(ask(1, suite=self.suite.name), key_in=key_in, key_out=key_out, esn=self.esn)

    def process(self, mark: GrantMark | None = None) -> Site:
        site = Site()
        if mark is not None:
            site.children.resume(1, mark)
        site.hear(self.ask())
        return site

    def nonces(self, site: Site, count: int) -> list[int]:
        """Of so many packets, which the peer must be able to read."""
        sa = site.children.get(1).sa_out
        first = sa.seq + 1
        sealed = seal([PACKET] * count, sa)
        assert open_batch(sealed, self.peer).packets == [PACKET] * count
        if not self.suite.encryption.iv_bytes:  # the peer read them, so the numbers were the IVs
            return list(range(first, first + count))
        return [int.from_bytes(one[8:16], "big") for one in sealed]


@pytest.mark.parametrize("esn", [False, True])
@pytest.mark.parametrize("name", BY_COUNTER)
def test_no_nonce_comes_twice_however_often_a_gateway_is_killed(name, esn):
    crash, mark, used = Crash(esp_suite(name), esn=esn), None, []
    for life in range(3):
        site = crash.process(mark)
        found = crash.nonces(site, 5)
        assert min(found) == life * BLOCK + 1, "the first behind all that may have been used"
        used += found
        mark = site.children.mark_of(1)
        assert mark.out_end == (life + 1) * BLOCK == site.store.ends[1]
    assert len(set(used)) == len(used) == 15


@pytest.mark.parametrize(
    "name", ["aes128ctr-sha256", "aes256ccm16", "aes128gmac", "chacha20poly1305", "aes128gcm16iiv"]
)
def test_a_restored_child_whose_numbers_are_used_up_sends_nothing(name):
    crash = Crash(esp_suite(name), esn=False)
    sa = crash.process(GrantMark(2**32 - 1, 0)).children.get(1).sa_out
    with pytest.raises(AssertionError):
        seal([PACKET], sa)
    assert sa.counters()["packets"] == 0
    assert sa.counters()["seq_exhausted"] == 1
