"""scapy as an independent oracle: it opens what we seal and we open what it seals, a few packets of each kind."""

from __future__ import annotations

import itertools

import pytest
from kernel_packets import SUITES, ipv4, ipv6, key_of, open_batch, pair, seal

from ipsec_fast.algorithms import Mode, esp_suite

ipsec = pytest.importorskip("scapy.layers.ipsec", reason="scapy is not installed")
from scapy.layers.inet import IP, UDP  # noqa: E402
from scapy.layers.inet6 import IPv6  # noqa: E402

pytestmark = pytest.mark.usefixtures("each_engine")

CIPHERS = {
    Mode.GCM: "AES-GCM",
    Mode.CCM: "AES-CCM",
    Mode.GMAC: "AES-NULL-GMAC",
    Mode.CHACHA20: "CHACHA20-POLY1305",
    Mode.CBC: "AES-CBC",
    Mode.CTR: "AES-CTR",
    Mode.NULL: "NULL",
}
MACS = {
    "sha1": "HMAC-SHA1-96",
    "sha256": "SHA2-256-128",
    "sha384": "SHA2-384-192",
    "sha512": "SHA2-512-256",
    "aescmac": "AES-CMAC-96",
}


def is_known_to_scapy(name: str) -> bool:
    """It has no XCBC, no implicit IV, no ICV of an AEAD below 16 bytes."""
    suite = esp_suite(name)
    cipher = suite.encryption
    if cipher.is_aead:
        return cipher.icv_bytes == 16 and cipher.iv_bytes == 8
    return suite.integrity is not None and suite.integrity.name in MACS


THEIRS = [name for name in SUITES if is_known_to_scapy(name)]
KINDS = list(itertools.product(THEIRS, ["v4", "v6", "v4udp"], [False, True]))


def scapy_sa(algorithm: str, outer: str, esn: bool, seq: int = 1):
    suite, key = esp_suite(algorithm), key_of(algorithm)
    cipher_key = key[: suite.encryption.keymat_bytes]
    header = IPv6(src="2001:db8::1", dst="2001:db8::2") if outer == "v6" else IP(src="192.0.2.1", dst="192.0.2.2")
    return ipsec.SecurityAssociation(
        ipsec.ESP,
        spi=0x1001,
        seq_num=seq,
        crypt_algo=CIPHERS[suite.encryption.mode],
        crypt_key=cipher_key or None,
        auth_algo=MACS[suite.integrity.name] if suite.integrity else None,
        auth_key=key[len(cipher_key) :] if suite.integrity else None,
        tunnel_header=header,
        nat_t_header=UDP(sport=4500, dport=4500) if outer.endswith("udp") else None,
        esn_en=esn,
        esn=0,
    )


@pytest.mark.parametrize(("algorithm", "outer", "esn"), KINDS)
@pytest.mark.parametrize("make", [ipv4, ipv6])
def test_scapy_opens_what_we_seal(algorithm, outer, esn, make):
    out, _ = pair(algorithm, outer=outer, esn=esn)
    theirs = scapy_sa(algorithm, outer, esn)
    for packet in [make(length) for length in (48, 51, 1400)]:
        sealed = seal([packet], out)[0]
        parsed = (IPv6 if outer == "v6" else IP)(sealed)
        opened = theirs.decrypt(parsed, verify=True)
        assert bytes(opened)[-(len(packet) - 40) or None :] == packet[40:]


@pytest.mark.parametrize(("algorithm", "outer", "esn"), KINDS)
@pytest.mark.parametrize("make", [ipv4, ipv6])
def test_we_open_what_scapy_seals(algorithm, outer, esn, make):
    _, into = pair(algorithm, outer=outer, esn=esn)
    theirs = scapy_sa(algorithm, outer, esn)
    for packet in [make(length) for length in (48, 51, 1400)]:
        sealed = bytes(theirs.encrypt((IP if make is ipv4 else IPv6)(packet)))
        opened = open_batch([sealed], into)
        assert opened.names == ["ok"]
        assert opened.packets[0][20:] == packet[20:]  # scapy writes the inner header anew
