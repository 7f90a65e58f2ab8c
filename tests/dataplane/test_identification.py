"""The IPv4 identification of outer headers (RFC 6864): never 0, and without DF
no two packets to one peer with the same.
"""

from __future__ import annotations

import pytest
from kernel_packets import OUTERS, ipv4, ipv6, key_of, pair, seal

from ipsec_fast import SA
from ipsec_fast.algorithms import ah_suite
from ipsec_fast.dataplane.sad import next_identification
from ipsec_fast.dataplane.udp import set_raw_endpoint
from ipsec_fast.model import OuterHeader

IDS = 65535
CLEAR = {"header": OuterHeader(df="clear")}


def id_of(packet: bytes) -> int:
    return int.from_bytes(packet[4:6], "big")


def ids_of(sa: SA, count: int) -> list[int]:
    return [id_of(packet) for at in range(0, count, 500) for packet in seal([ipv4(28)] * min(500, count - at), sa)]


@pytest.mark.parametrize("protocol", ["esp", "ah"])
@pytest.mark.parametrize("df", ["set", "clear"])
def test_it_is_never_0(protocol, df):
    algorithm = "aes128gcm16" if protocol == "esp" else "sha256"
    key = key_of(algorithm) if protocol == "esp" else bytes(ah_suite(algorithm).keymat_bytes)
    sa = SA("out", 0x1000FFFF, algorithm, key, protocol=protocol, header=OuterHeader(df=df), **OUTERS["v4"])
    found = ids_of(sa, IDS + 500)
    assert 0 not in found
    assert len(set(found[:IDS])) == IDS


@pytest.mark.parametrize("outer", ["v4", "v4udp"])
def test_two_sas_to_one_peer_do_not_share_one_where_routers_may_cut(outer):
    """Their SPIs end in the same 16 bits, as those of a rekey may."""
    sas = [pair(spi=spi, outer=outer, **CLEAR)[0] for spi in (0x10005000, 0x20005000, 0x30005001)]
    found = [one for _ in range(40) for sa in sas for one in ids_of(sa, 500)]
    assert len(set(found)) == len(found) == 60000


def test_copied_df_counts_as_what_it_is():
    header = {"header": OuterHeader(df="copy")}
    sas = [pair(spi=spi, outer="v4", **header)[0] for spi in (0x10005000, 0x20005000)]
    free = [
        id_of(p) for _ in range(20) for sa in sas for p in seal([ipv4(28), ipv6(48), ipv4(28)], sa) if not p[6] & 0x40
    ]
    assert len(set(free)) == len(free) == 80


def test_beet_mode_too():
    inner = {"mode": "beet", "inner": ("10.1.0.1", "10.2.0.1"), **OUTERS["v4"]}
    sas = [SA("out", spi, "aes128gcm16", key_of("aes128gcm16"), **inner) for spi in (0x10005000, 0x20005000)]
    found = [id_of(p) for _ in range(50) for sa in sas for p in seal([ipv4(60)] * 10, sa)]
    assert len(set(found)) == len(found)


def test_ours_are_from_the_same_count():
    ends = {"src": "192.0.2.1", "dst": "192.0.2.99", "encap": (4500, 4500)}
    sa = SA("out", 0x1001, "aes128gcm16", key_of("aes128gcm16"), **ends, **CLEAR)
    found = [next_identification(sa.src, sa.dst, 17) if n % 2 else ids_of(sa, 1)[0] for n in range(400)]
    assert len(set(found)) == 400


def test_ah_that_is_cut_outside_counts_with_its_peers_others():
    """Its ICV covers the identification, so that one stays in the fragments, which are made without DF."""
    key = bytes(ah_suite("sha256").keymat_bytes)
    sas = [SA("out", spi, "sha256", key, protocol="ah", **OUTERS["v4"]) for spi in (0x10005000, 0x20005000)]
    for sa in sas:
        set_raw_endpoint(sa, 0, outside_mtu=1000)
    found = [one for _ in range(10) for sa in sas for one in ids_of(sa, 500)]
    assert len(set(found)) == len(found) == 10000
