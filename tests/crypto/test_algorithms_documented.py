"""docs/algorithms.md against the tables that the code runs on."""

from __future__ import annotations

from pathlib import Path

from ipsec_fast.algorithms import ENCRYPTION, INTEGRITY, Encryption, Integrity, Mode, parse_esp_proposal

DOCUMENT = Path(__file__).parents[2] / "docs" / "algorithms.md"
RFC = {
    Mode.GCM: "4106",
    Mode.CCM: "4309",
    Mode.CHACHA20: "7634",
    Mode.GMAC: "4543",
    Mode.CBC: "3602",
    Mode.CTR: "3686",
    Mode.NULL: "2410",
}
MAC_RFC = {"sha512": "4868", "sha384": "4868", "sha256": "4868", "aescmac": "4494", "aesxcbc": "3566", "sha1": "2404"}


def cipher_row(row: Encryption) -> str:
    rfc = RFC[row.mode] + (", 8750" if row.name.endswith("iiv") else "")
    sizes = f"{row.key_bytes * 8} | {row.salt_bytes * 8} | {row.iv_bytes} | {row.icv_bytes or '–'}"
    return f"| `{row.name}` | {row.id.name} ({row.id}) | {rfc} | {sizes} | {'yes' if row.in_ike else ''} |"


def integrity_row(row: Integrity) -> str:
    sizes = f"{row.key_bytes * 8} | {row.icv_bytes}"
    weak = "weak: warned about" if row.is_weak else ""
    return f"| `{row.name}` | {row.id.name} ({row.id}) | {MAC_RFC[row.name]} | {sizes} | {'yes' if row.in_ike else ''} | {weak} |"


def test_every_algorithm_is_documented_as_it_is_and_no_other() -> None:
    lines = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("| `")]
    assert lines == [*map(cipher_row, ENCRYPTION), *map(integrity_row, INTEGRITY)]


def test_every_word_is_understood() -> None:
    for row in ENCRYPTION:
        assert parse_esp_proposal(row.name if row.is_aead else f"{row.name}-sha256")
    for integrity in INTEGRITY:
        assert parse_esp_proposal(f"aes128-{integrity.name}")


if __name__ == "__main__":
    for encryption in ENCRYPTION:
        print(cipher_row(encryption))
    for integrity in INTEGRITY:
        print(integrity_row(integrity))
