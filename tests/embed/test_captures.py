"""docs/examples/pcap_to_esp.py reads the captures that tools write, and says of a bad one what is wrong, in one line."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import pytest
from twin_ip import ipv4_header, ipv6_header

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "docs" / "examples" / "pcap_to_esp.py"
KEY = bytes(range(20)).hex()
ENDS = ("--key", KEY, "--src", "192.0.2.1", "--dst", "192.0.2.2")
PACKETS = [
    ipv4_header("10.1.0.1", "10.2.0.1", 17, payload=8) + bytes(8),
    ipv6_header("2001:db8::1", "2001:db8::2", 59, payload=20) + bytes(20),
    ipv4_header("10.1.0.1", "10.2.0.1", 17, payload=1380) + bytes(range(230)) * 6,
]
ETHERNET, RAW, COOKED, COOKED2 = 1, 101, 113, 276


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, EXAMPLE, *words], capture_output=True, text=True, timeout=100, cwd=ROOT)


def kind_of(packet: bytes) -> bytes:
    return b"\x08\x00" if packet[0] >> 4 == 4 else b"\x86\xdd"


FRAMES = {
    "Ethernet": (ETHERNET, lambda p: (bytes(12) + kind_of(p) + p).ljust(60, b"\0")),
    "VLAN": (ETHERNET, lambda p: bytes(12) + b"\x81\x00\x00\x07" + kind_of(p) + p),
    "VLAN in VLAN": (ETHERNET, lambda p: bytes(12) + b"\x88\xa8\x00\x07\x81\x00\x00\x08" + kind_of(p) + p),
    "cooked": (COOKED, lambda p: bytes(14) + kind_of(p) + p),
    "cooked v2": (COOKED2, lambda p: kind_of(p) + bytes(18) + p),
    "cooked VLAN": (COOKED, lambda p: bytes(14) + b"\x81\x00\x00\x07" + kind_of(p) + p),
    "raw": (RAW, lambda p: p),
}


def pcap(link: int, frames: list[bytes], order: str = "<", magic: int = 0xA1B2C3D4, cut: int = 0) -> bytes:
    ticks = 1 if magic == 0xA1B2C3D4 else 1000
    records = [
        struct.pack(order + "IIII", 1000 + i, i * ticks, len(f) - cut, len(f)) + f[: len(f) - cut]
        for i, f in enumerate(frames)
    ]
    return struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 1 << 18, link) + b"".join(records)


def block(kind: int, body: bytes, order: str = "<") -> bytes:
    body += bytes(-len(body) % 4)
    size = struct.pack(order + "I", 12 + len(body))
    return struct.pack(order + "I", kind) + size + body + size


def section(order: str = "<") -> bytes:
    return block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1), order)


def pcapng(link: int, frames: list[bytes], order: str = "<", nanoseconds: bool = True) -> bytes:
    option = struct.pack(order + "HHB3xHH", 9, 1, 9, 0, 0) if nanoseconds else b""
    found = section(order) + block(1, struct.pack(order + "HHI", link, 0, 0) + option, order)
    found += block(0x0BAD, b"not known to anybody", order)
    for i, frame in enumerate(frames):
        at = (1000 + i) * (10**9 if nanoseconds else 10**6)
        head = struct.pack(order + "IIIII", 0, at >> 32, at & 0xFFFFFFFF, len(frame), len(frame))
        found += block(6, head + frame + bytes(-len(frame) % 4), order)
    return found


def results(path: Path) -> list[tuple[int, bytes]]:
    data, at, found = path.read_bytes(), 24, []
    assert struct.unpack("<I", data[20:24])[0] == RAW
    while at < len(data):
        seconds, _, size, _ = struct.unpack("<IIII", data[at : at + 16])
        found.append((seconds, data[at + 16 : at + 16 + size]))
        at += 16 + size
    return found


WRITERS = {
    "pcap": pcap,
    "pcap, other order": lambda link, frames: pcap(link, frames, ">"),
    "pcap, ns": lambda link, frames: pcap(link, frames, magic=0xA1B23C4D),
    "pcapng": pcapng,
    "pcapng, other order": lambda link, frames: pcapng(link, frames, ">"),
    "pcapng, us": lambda link, frames: pcapng(link, frames, nanoseconds=False),
    "pcapng, two sections": lambda link, frames: pcapng(link, frames[:1]) + pcapng(link, frames[1:], ">"),
}


@pytest.mark.parametrize(
    ("writer", "frame"),
    [*((w, "Ethernet") for w in WRITERS), *(("pcap", f) for f in FRAMES), *(("pcapng", f) for f in FRAMES)],
)
def test_each_kind_of_capture_is_sealed_and_opened_again(writer: str, frame: str, tmp_path: Path) -> None:
    link, made = FRAMES[frame]
    plain, sealed, again = (tmp_path / name for name in ("plain", "sealed", "again"))
    frames = [made(packet) for packet in PACKETS]
    if link != RAW:
        frames.append(made(PACKETS[0]).replace(b"\x08\x00", b"\x08\x06", 1))  # ARP
    plain.write_bytes(WRITERS[writer](link, frames))
    done = run("seal", str(plain), str(sealed), *ENDS)
    assert done.returncode == 0
    assert "3 ok" in done.stderr
    assert ("1 not IP" in done.stderr) == (link != RAW)
    done = run("open", str(sealed), str(again), *ENDS)
    assert done.returncode == 0
    assert done.stderr.strip().startswith("3 ok")
    first = 1000 if writer != "pcapng, two sections" else None
    assert [packet for _, packet in results(again)] == PACKETS
    assert first is None or [at for at, _ in results(again)] == [1000, 1001, 1002]


def test_packets_that_the_capture_cut_short_are_left_out(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_bytes(pcap(RAW, PACKETS, cut=4))
    done = run("seal", str(plain), str(tmp_path / "sealed"), *ENDS)
    assert done.returncode == 0
    assert done.stderr.split(maxsplit=1) == ["3", "cut short by the capture\n"]


GOOD, GOOD_NG = pcap(RAW, PACKETS), pcapng(RAW, PACKETS)
BAD = {
    "empty": (b"", "empty"),
    "no capture": (b"\x7fELF" + bytes(100), "neither pcap nor pcapng"),
    "text": (b"hello", "neither pcap nor pcapng"),
    "header cut": (GOOD[:20], "middle of its header"),
    "record cut": (GOOD[:30], "middle of a packet's header"),
    "packet cut": (GOOD[:-1], "middle of a packet"),
    "lying length": (GOOD[:24] + b"\0" * 8 + b"\xff" * 8 + GOOD[40:], "claims to have 4294967295 bytes"),
    "link type": (pcap(105, PACKETS), "link type is 105; known are 1, "),
    "pcapng cut": (GOOD_NG[:-1], "middle of a block"),
    "pcapng head cut": (GOOD_NG + b"\6\0", "middle of a block"),
    "pcapng byte order": (GOOD_NG[:8] + bytes(4) + GOOD_NG[12:], "no byte order"),
    "pcapng short block": (section() + struct.pack("<II", 6, 8), "has a length of 8"),
    "pcapng interface": (section() + block(6, bytes(32)), "is damaged"),
    "pcapng lying length": (
        section() + block(1, struct.pack("<HHI", RAW, 0, 0)) + block(6, struct.pack("<IIIII", 0, 0, 0, 9999, 9999)),
        "is damaged",
    ),
    "pcapng huge block": (section() + struct.pack("<II", 6, 0xFFFFFFF0), "claims to have"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_one_line(name: str, tmp_path: Path) -> None:
    data, reason = BAD[name]
    file = tmp_path / "bad.pcap"
    file.write_bytes(data)
    done = run("seal", str(file), str(tmp_path / "out"), *ENDS)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(f"{file}: ")
    assert reason in done.stderr


@pytest.mark.parametrize("words", [("missing.pcap", "out"), (".", "out")])
def test_a_file_that_cannot_be_read_is_one_line(words: tuple[str, str], tmp_path: Path) -> None:
    done = run("seal", str(tmp_path / words[0]), str(tmp_path / words[1]), *ENDS)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert str(tmp_path) in done.stderr


def test_a_wrong_key_is_one_line(tmp_path: Path) -> None:
    done = run("seal", "x", "y", "--key", "00", *ENDS[2:])
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "needs 20 bytes of key" in done.stderr


def test_a_super_packet_of_segmentation_offload_is_left_out(tmp_path: Path) -> None:
    """Linux captures of BIG TCP hold packets above 64 KB, whose IPv4 header says 0 for their length."""
    large = PACKETS[0][:2] + b"\0\0" + PACKETS[0][4:] + bytes(200_000)
    plain, sealed = tmp_path / "plain", tmp_path / "sealed"
    plain.write_bytes(pcap(RAW, [PACKETS[0], large, PACKETS[2]]))
    done = run("seal", str(plain), str(sealed), *ENDS)
    assert done.returncode == 0, done.stderr
    assert done.stderr.split(maxsplit=2)[:2] == ["2", "ok:"]
    assert "1 longer than 65535 bytes" in done.stderr
    assert len(results(sealed)) == 2


def test_a_capture_is_not_written_over_itself(tmp_path: Path) -> None:
    plain, link = tmp_path / "plain", tmp_path / "link"
    plain.write_bytes(GOOD)
    link.symlink_to(plain)
    for target in (plain, link):
        done = run("seal", str(plain), str(target), *ENDS)
        assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
        assert "the target too" in done.stderr
    assert plain.read_bytes() == GOOD


def test_a_full_disk_is_one_line_that_names_the_target(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(GOOD)
    done = run("seal", str(tmp_path / "plain"), "/dev/full", *ENDS)
    assert (done.returncode, done.stderr.strip()) == (1, "/dev/full: No space left on device")
