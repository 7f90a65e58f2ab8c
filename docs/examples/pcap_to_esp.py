"""Seal the IP packets of a capture into ESP, or open them again, 256 at a time.

    python pcap_to_esp.py seal plain.pcap esp.pcap --key 000102...13 --src 192.0.2.1 --dst 192.0.2.2
    python pcap_to_esp.py open esp.pcap plain-again.pcap --key 000102...13 --src 192.0.2.1 --dst 192.0.2.2

Reads pcap and pcapng, of Ethernet (VLAN tags too), Linux cooked captures (`tcpdump -i any`) or bare IP; writes pcap of
bare IP. What is not IP, is longer than an IP packet may be, or was cut short by the capture, is left out and counted.
Keys on a command line can be read by every user of the host: good for captures, not for traffic.
"""

import argparse
import os
import struct
import sys
from collections import Counter
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from ipsec_fast import SA, PacketBatch, protect, unprotect, verdict_text
from ipsec_fast.errors import IpsecFastError

BATCH, SLOT = 256, 65536 + 512  # packets per call; bytes for each, head and tail room included
MOST_IP = 65535  # bytes of an IP packet
MOST_BYTES = 1 << 24  # of one record of a capture
RAW_IP = 101
# of each link type: where the EtherType stands, and where what it names begins; None: the packet itself
LINKS = {1: (12, 14), 113: (14, 16), 276: (0, 20), RAW_IP: None, 228: None, 229: None, 12: None, 14: None}
VLAN = (0x8100, 0x88A8, 0x9100)
IP_TYPES = (0x0800, 0x86DD)
PCAP = {0xA1B2C3D4: 10**6, 0xA1B23C4D: 10**9}  # magic number: ticks of a second
SECTION, INTERFACE, OLD_PACKET, SIMPLE_PACKET, ENHANCED_PACKET = 0x0A0D0D0A, 1, 2, 3, 6  # blocks of pcapng


class BadCaptureError(Exception):
    """What is wrong with the file, in one clause."""


class Sealer:
    """One SA and one batch, bound once: buffer, offsets, lengths and verdicts are filled and used again."""

    def __init__(self, sa: SA) -> None:
        self.sa = sa
        self.work = protect if sa.direction == "out" else unprotect
        self.buffer = np.zeros((BATCH, SLOT), np.uint8)
        self.offsets, self.lengths = np.zeros(BATCH, np.uint32), np.zeros(BATCH, np.uint32)
        self.verdicts = np.zeros(BATCH, np.uint8)
        self.starts = np.arange(BATCH, dtype=np.uint32) * SLOT + sa.headroom
        self.batch = PacketBatch(self.buffer, self.offsets, self.lengths, sa, self.verdicts)

    def run(self, packets: list[bytes]) -> list[tuple[int, bytes]]:
        """(verdict, result) of each; a length of 0 in the rest of the batch is nobody's packet."""
        flat = self.buffer.reshape(-1)
        self.offsets[:], self.lengths[:] = self.starts, 0
        for i, packet in enumerate(packets):
            flat[self.starts[i] : self.starts[i] + len(packet)] = np.frombuffer(packet, np.uint8)
            self.lengths[i] = len(packet)
        self.work(self.batch)
        return [
            (int(self.verdicts[i]), flat[self.offsets[i] : self.offsets[i] + self.lengths[i]].tobytes())
            for i in range(len(packets))
        ]


# --- reading captures: (link type, nanoseconds, frame, whether it is whole) of each packet


def read_exactly(file: BinaryIO, count: int, what: str) -> bytes:
    if count > MOST_BYTES:
        raise BadCaptureError(f"{what} at byte {file.tell()} claims to have {count} bytes")
    data = file.read(count)
    if len(data) < count:
        raise BadCaptureError(f"the file ends in the middle of {what}")
    return data


def read_pcap(file: BinaryIO, order: str, ticks: int) -> Iterator[tuple[int, int, bytes, bool]]:
    link = struct.unpack(order + "I", read_exactly(file, 20, "its header")[16:])[0] & 0x0FFFFFFF
    if link not in LINKS:
        raise BadCaptureError(f"its link type is {link}; known are {', '.join(map(str, sorted(LINKS)))}")
    while head := file.read(16):
        if len(head) < 16:
            raise BadCaptureError("the file ends in the middle of a packet's header")
        seconds, parts, size, whole = struct.unpack(order + "IIII", head)
        yield link, seconds * 10**9 + parts * 10**9 // ticks, read_exactly(file, size, "a packet"), size == whole


def read_pcapng(file: BinaryIO) -> Iterator[tuple[int, int, bytes, bool]]:
    """`file` stands behind the type of the first block."""
    order, interfaces, kind = "<", [], SECTION
    while True:
        if kind == SECTION:  # it says in which order bytes stand from here on
            length, magic = read_exactly(file, 4, "a block"), read_exactly(file, 4, "a block")
            order = "<" if magic == b"\x4d\x3c\x2b\x1a" else ">"
            if struct.unpack(order + "I", magic)[0] != 0x1A2B3C4D:
                raise BadCaptureError("it has no byte order: it is damaged, or no pcapng")
            interfaces, behind = [], 4
        else:
            length, behind = read_exactly(file, 4, "a block"), 0
        size = struct.unpack(order + "I", length)[0]
        if size < 12 + behind or size % 4:
            raise BadCaptureError(f"a block at byte {file.tell()} has a length of {size}")
        body = read_exactly(file, size - 8 - behind, "a block")[:-4]
        try:
            if kind == INTERFACE:
                interfaces.append((struct.unpack_from(order + "H", body)[0], ticks_of(body[8:], order)))
            elif kind in (ENHANCED_PACKET, OLD_PACKET, SIMPLE_PACKET):
                yield packet_of(kind, body, order, interfaces)
        except (struct.error, IndexError):
            raise BadCaptureError(f"a block before byte {file.tell()} is damaged") from None
        head = file.read(4)
        if not head:
            return
        if len(head) < 4:
            raise BadCaptureError("the file ends in the middle of a block")
        kind = struct.unpack(order + "I", head)[0]


def ticks_of(options: bytes, order: str) -> int:
    """if_tsresol: ticks of a second, a power of 10, or of 2 where the highest bit is set."""
    while len(options) >= 4:
        code, size = struct.unpack_from(order + "HH", options)
        if code == 9 and size == 1:
            return 2 ** (options[4] & 0x7F) if options[4] & 0x80 else 10 ** options[4]
        options = options[4 + (size + 3 & ~3) :]
    return 10**6


def packet_of(kind: int, body: bytes, order: str, interfaces: list[tuple[int, int]]) -> tuple[int, int, bytes, bool]:
    if kind == SIMPLE_PACKET:  # without a time; cut where the file's limit is
        whole = struct.unpack_from(order + "I", body)[0]
        return interfaces[0][0], 0, body[4 : 4 + whole], len(body) - 4 >= whole
    number = struct.unpack_from(order + ("I" if kind == ENHANCED_PACKET else "H"), body)[0]
    high, low, size, whole = struct.unpack_from(order + "IIII", body, 4)
    link, ticks = interfaces[number]
    if size > len(body) - 20:
        raise struct.error
    return link, (high << 32 | low) * 10**9 // ticks, body[20 : 20 + size], size == whole


def frames(file: BinaryIO) -> Iterator[tuple[int, int, bytes, bool]]:
    magic = file.read(4)
    for order in "<>" if len(magic) == 4 else "":
        number = struct.unpack(order + "I", magic)[0]
        if number in PCAP:
            yield from read_pcap(file, order, PCAP[number])
            return
        if number == SECTION:
            yield from read_pcapng(file)
            return
    raise BadCaptureError("it is neither pcap nor pcapng" if magic else "it is empty")


def ip_packets(file: BinaryIO, skipped: Counter[str]) -> Iterator[tuple[int, bytes]]:
    """(nanoseconds, IP packet) of each packet of a capture."""
    for link, at_ns, frame, is_whole in frames(file):
        packet = ip_of(frame, link)
        if packet is None:
            skipped["not IP"] += 1
        elif not is_whole:
            skipped["cut short by the capture"] += 1
        elif len(packet) > MOST_IP:  # of segmentation offload: it never was on a wire
            skipped[f"longer than {MOST_IP} bytes"] += 1
        else:
            yield at_ns, packet


def ip_of(frame: bytes, link: int) -> bytes | None:
    if link not in LINKS:
        return None
    places = LINKS[link]
    if places is not None:
        kind = int.from_bytes(frame[places[0] : places[0] + 2], "big")
        frame = frame[places[1] :]
        while kind in VLAN and len(frame) >= 4:
            kind, frame = int.from_bytes(frame[2:4], "big"), frame[4:]
        if kind not in IP_TYPES:
            return None
    if not frame or frame[0] >> 4 not in (4, 6):
        return None
    at = 2 if frame[0] >> 4 == 4 else 4
    size = int.from_bytes(frame[at : at + 2], "big") + (0 if at == 2 else 40)
    return frame[:size] if 20 <= size < len(frame) else frame  # Ethernet fills up short frames


def chunks(source, size: int):
    chunk = []
    for one in source:
        chunk.append(one)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["seal", "open"])
    parser.add_argument("source")
    parser.add_argument("target")
    parser.add_argument("--key", required=True, type=bytes.fromhex, help="hexadecimal: cipher key, salt, integrity key")
    parser.add_argument("--algorithm", default="aes128gcm16")
    parser.add_argument("--spi", type=lambda text: int(text, 0), default=0x1000)
    parser.add_argument("--src", required=True, help="outer addresses of the sealed packets")
    parser.add_argument("--dst", required=True)
    given = parser.parse_args()
    try:
        convert(given)
    except BadCaptureError as error:
        print(f"{given.source}: {error}", file=sys.stderr)
    except IpsecFastError as error:
        print(error, file=sys.stderr)
    except OSError as error:
        print(f"{error.filename or given.target}: {error.strerror}", file=sys.stderr)
    else:
        return 0
    return 1


def convert(given: argparse.Namespace) -> None:
    if os.path.exists(given.target) and os.path.samefile(given.source, given.target):
        raise BadCaptureError("it cannot be the target too, which is written while it is read")
    direction = "out" if given.what == "seal" else "in"
    sealer = Sealer(SA(direction, given.spi, given.algorithm, given.key, src=given.src, dst=given.dst))
    counts: Counter[str] = Counter()
    with open(given.source, "rb") as source, open(given.target, "wb") as target:
        target.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 1 << 18, RAW_IP))
        for chunk in chunks(ip_packets(source, counts), BATCH):
            results = sealer.run([packet for _, packet in chunk])
            for (at_ns, _), (verdict, result) in zip(chunk, results, strict=True):
                counts[verdict_text(verdict)] += 1
                if verdict == 0:
                    seconds, nanoseconds = divmod(at_ns, 10**9)
                    head = struct.pack("<IIII", seconds & 0xFFFFFFFF, nanoseconds // 1000, len(result), len(result))
                    target.write(head + result)
    for text, count in counts.most_common():
        print(f"{count:8} {text}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
