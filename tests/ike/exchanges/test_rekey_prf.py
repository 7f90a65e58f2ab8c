"""The PRF across an IKE rekey: kept where possible, because strongSwan and RFC 7296 section 2.18 differ about a change of it."""

from __future__ import annotations

import pytest
from pair import Pair, connection

from ipsec_fast.iana import Prf, TransformType

WIDE = ("aes256gcm16-aes128gcm16-prfsha512-prfsha256-x25519", "aes128-sha256-x25519")


def prfs(pair: Pair) -> set[int]:
    return {shell.view.proposal.one(TransformType.PRF).id for shell in (pair.a, pair.b)}


@pytest.mark.parametrize("side", ["a", "b"])
def test_the_prf_in_use_is_kept_though_another_would_be_preferred(side: str) -> None:
    pair = Pair(a=connection("a", ike=("aes128-sha256-x25519", *WIDE[:1])), b=connection("b", ike=(WIDE[1],))).up()
    assert prfs(pair) == {Prf.PRF_HMAC_SHA2_256}
    # both would now take SHA-512 first
    for shell in (pair.a, pair.b):
        for sa in shell.endpoint._core.sas.values():
            sa.connection = connection("ab"[shell is pair.b], ike=WIDE)
    pair.call(side, "rekey_ike", pair.shell(side).view.ike_id)
    pair.run(1)
    pair.check_one_pair()
    assert prfs(pair) == {Prf.PRF_HMAC_SHA2_256}


def test_a_peer_that_wants_another_prf_gets_it_by_the_rfc() -> None:
    pair = Pair(a=connection("a", ike=WIDE), b=connection("b", ike=WIDE)).up()
    assert prfs(pair) == {Prf.PRF_HMAC_SHA2_512}
    only = connection("a", ike=WIDE[1:])
    for sa in pair.a.endpoint._core.sas.values():
        sa.connection = only
    pair.call("a", "rekey_ike", pair.a.view.ike_id)
    pair.run(1)
    pair.check_one_pair()
    assert prfs(pair) == {Prf.PRF_HMAC_SHA2_256}
