"""scapy as an independent oracle of transport mode: every algorithm that it has, IPv4 and IPv6, with and without ESN, UDP on both ports."""

from __future__ import annotations

import pytest
from kernel_packets import key_of, open_batch, pair, seal
from odd_packets import V4, V6, ipv6_with_chain, upper
from test_esp_scapy import CIPHERS, MACS, THEIRS
from twin_ip import ipv4_header

from ipsec_fast.algorithms import esp_suite

ipsec = pytest.importorskip("scapy.layers.ipsec", reason="scapy is not installed")
from scapy.layers.inet import IP, UDP  # noqa: E402
from scapy.layers.inet6 import IPv6  # noqa: E402

pytestmark = pytest.mark.usefixtures("each_engine")


def scapy_sa(algorithm: str, esn: bool, encap: bool):
    suite, key = esp_suite(algorithm), key_of(algorithm)
    cipher_key = key[: suite.encryption.keymat_bytes]
    return ipsec.SecurityAssociation(
        ipsec.ESP,
        spi=0x1001,
        seq_num=1,
        crypt_algo=CIPHERS[suite.encryption.mode],
        crypt_key=cipher_key or None,
        auth_algo=MACS[suite.integrity.name] if suite.integrity else None,
        auth_key=key[len(cipher_key) :] if suite.integrity else None,
        nat_t_header=UDP(sport=4500, dport=4500) if encap else None,
        esn_en=esn,
        esn=0,
    )


def v4(length: int) -> bytes:
    body = upper(17, *V4, bytes(i & 255 for i in range(length)))
    return ipv4_header(*V4, 17, payload=len(body)) + body


def v6(length: int) -> bytes:
    return ipv6_with_chain([], 17, upper(17, *V6, bytes(i & 255 for i in range(length))))


@pytest.mark.parametrize("algorithm", THEIRS)
@pytest.mark.parametrize("esn", [False, True])
@pytest.mark.parametrize(("make", "encap"), [(v4, False), (v6, False), (v4, True)])
def test_scapy_opens_what_we_seal_and_we_what_it_seals(algorithm, esn, make, encap):
    out, into = pair(algorithm, mode="transport", esn=esn, encap=(4500, 4500) if encap else None)
    theirs, parse = scapy_sa(algorithm, esn, encap), IPv6 if make is v6 else IP
    for packet in [make(length) for length in (0, 1, 2, 3, 60, 1300)]:
        sealed = seal([packet], out)[0]
        assert bytes(theirs.decrypt(parse(sealed), verify=True)) == packet
    sending = scapy_sa(algorithm, esn, encap)
    packets = [make(length) for length in (0, 1, 2, 3, 60, 1300)]
    opened = open_batch([bytes(sending.encrypt(parse(packet))) for packet in packets], into)
    assert opened.names == ["ok"] * 6
    assert opened.packets == packets
