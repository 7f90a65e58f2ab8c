"""What holds each algorithm up: algorithm x mode x family x engine, with the source of its proof.

`./run shell python tests/support/proof_table.py` prints the tables of docs/proof.md, to which tests/test_proof_document.py holds it.
Letters are found where the tests have their lists, so that a test that goes away takes its letter along.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parents[1]
sys.path[:0] = [str(HERE), str(HERE / "support"), str(HERE / "dataplane"), str(HERE.parent)]

from ipsec_fast.algorithms import Mode, ah_suite, ah_suite_names, esp_suite, esp_suite_names  # noqa: E402
from ipsec_fast.dataplane.engine import engines  # noqa: E402

FAMILIES = ("4 in 4", "4 in 6", "6 in 4", "6 in 6")


def vectors_of() -> dict[str, set[str]]:
    """Suite -> files of third-party vectors that run it, whole packets or its cipher or MAC."""
    from dataplane_vectors import esp_vectors

    found: dict[str, set[str]] = {name: set() for name in esp_suite_names()}
    for vector in esp_vectors():
        found[vector.suite].add(vector.id.split("/")[0])
    for name in found:
        suite = esp_suite(name)
        if suite.encryption.mode is Mode.GCM and suite.encryption.iv_bytes:
            found[name] |= {"CAVP"}
        if name == "chacha20poly1305":
            found[name] |= {"Wycheproof"}
        if suite.integrity:
            found[name] |= {MAC_SOURCE[suite.integrity.name]}
    return found


# each MAC against its RFC's vectors in test_esp_suites.test_macs_against_their_rfcs
MAC_SOURCE = {
    "sha1": "RFC 2202",
    "sha256": "RFC 4868",
    "sha384": "RFC 4868",
    "sha512": "RFC 4868",
    "aesxcbc": "RFC 3566",
    "aescmac": "RFC 4493",
}


def engines_of(kernel: str) -> str:
    """Of those that this project has, whether here or not: OpenSSL carries everything, ipsec-mb no CCM with 192-bit keys."""
    encryption = esp_suite(kernel).encryption
    lacks = encryption.mode is Mode.CCM and encryption.key_bytes == 24
    here = [name for name, suites in engines().items() if kernel in suites]
    assert "openssl" in here
    assert not ("ipsecmb" in here and lacks)
    return "o" if lacks else "o m"


def esp_rows() -> list[str]:
    from interop.test_charon_tunnel import MORE_ESP
    from test_esp_scapy import THEIRS

    usual = {"aes128gcm16", "aes256gcm16", "aes128-sha256", "aes256-sha256"}
    vectors, rows = vectors_of(), []
    for name in esp_suite_names():
        tunnel = "w s" if name in THEIRS else "w"
        over_4 = tunnel + (" c" if name in MORE_ESP or name in usual else "")
        transport = "w s" if name in THEIRS else "w"
        beet_64 = "w"
        cells = [over_4, tunnel, tunnel, tunnel, transport, transport, "w", "w", beet_64, "w"]
        rows.append(
            f"| `{name}` | {' | '.join(cells)} | {engines_of(name)} | {', '.join(sorted(vectors[name])) or '–'} |"
        )
    return rows


def ah_rows() -> list[str]:
    from test_ah import SCAPY

    rows = []
    for name in ah_suite_names():
        cell = "w s" if name in SCAPY else "w"
        source = "dpdk, RFC 4868" if name == "sha256" else MAC_SOURCE.get(name, "–")
        rows.append(f"| `{name}` | {' | '.join([cell] * 6)} | {engines_of(ah_suite(name).kernel)} | {source} |")
    return rows


def tables() -> str:
    tunnel = " | ".join(f"tunnel {family}" for family in FAMILIES)
    beet = " | ".join(f"BEET {family}" for family in FAMILIES)
    esp = f"| ESP | {tunnel} | transport 4 | transport 6 | {beet} | engines | vectors |\n|{'---|' * 13}\n"
    ah = f"| AH | {tunnel} | transport 4 | transport 6 | engines | vectors |\n|{'---|' * 9}\n"
    return esp + "\n".join(esp_rows()) + "\n\n" + ah + "\n".join(ah_rows()) + "\n"


if __name__ == "__main__":
    print(tables(), end="")
