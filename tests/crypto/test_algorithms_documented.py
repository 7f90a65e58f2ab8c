"""docs/algorithms.md against the tables that the code runs on."""

from __future__ import annotations

from pathlib import Path

from ipsec_fast.algorithms import (
    AH_SUITES,
    ENCRYPTION,
    INTEGRITY,
    AhSuite,
    Encryption,
    Integrity,
    Mode,
    parse_esp_proposal,
)

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


def ah_row(row: AhSuite) -> str:
    length = 12 + row.iv_bytes + row.icv_bytes
    sizes = f"{row.keymat_bytes * 8} | {row.iv_bytes or '–'} | {row.icv_bytes} | {-(-length // 4) * 4} | {-(-length // 8) * 8}"
    return f"| `{row.name}` | {row.id.name} ({row.id}) | {MAC_RFC.get(row.name, '4543')} | {sizes} |"


def test_every_algorithm_is_documented_as_it_is_and_no_other() -> None:
    lines = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("| `")]
    assert lines == [*map(cipher_row, ENCRYPTION), *map(integrity_row, INTEGRITY), *map(ah_row, AH_SUITES)]


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
    for ah in AH_SUITES:
        print(ah_row(ah))
