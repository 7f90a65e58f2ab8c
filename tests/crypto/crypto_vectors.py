"""Third-party vectors for tests/crypto: where they lie, how captures are read, and how many were run or skipped."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tally import tally

VECTORS = Path(os.environ.get("IPSEC_FAST_VECTORS", Path(__file__).parents[3] / "shared" / "vectors"))
OWN = Path(__file__).parents[1] / "vectors"  # those that may be copied
RAN = tally("vectors {name}: {count} run")
SKIPPED = tally("vectors {name}: {count} skipped")


def load(name: str) -> Any:
    path = VECTORS / name if (VECTORS / name).exists() else OWN / name
    if not path.exists():
        pytest.skip(f"{path} is not here; set IPSEC_FAST_VECTORS to the folder of the vectors")
    return json.loads(path.read_text())


def wycheproof(name: str) -> list[dict[str, Any]]:
    groups = load(f"wycheproof/{name}_test.json")["testGroups"]
    return [{**test, "tag_bits": group.get("tagSize")} for group in groups for test in group["tests"]]


def udp_payloads(name: str) -> Iterator[bytes]:
    """The UDP payloads of an Ethernet/IPv4 capture, pcap or pcapng, in order."""
    load("pcap_keys.json")
    data = (VECTORS / "pcaps" / name).read_bytes()
    for frame in _pcapng(data) if data[:4] == b"\x0a\x0d\x0d\x0a" else _pcap(data):
        if frame[12:14] == b"\x08\x00" and frame[23] == 17:
            yield frame[14 + (frame[14] & 15) * 4 + 8 :]


def _pcap(data: bytes) -> Iterator[bytes]:
    order = "<" if data[:4] in (b"\xd4\xc3\xb2\xa1", b"\x4d\x3c\xb2\xa1") else ">"
    at = 24
    while at < len(data):
        (length,) = struct.unpack_from(order + "I", data, at + 8)
        yield data[at + 16 : at + 16 + length]
        at += 16 + length


def _pcapng(data: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        kind, length = struct.unpack_from("<II", data, at)
        if kind == 6:
            (captured,) = struct.unpack_from("<I", data, at + 20)
            yield data[at + 28 : at + 28 + captured]
        at += length
