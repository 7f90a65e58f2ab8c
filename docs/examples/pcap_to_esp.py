"""Seal the IP packets of a capture into ESP, or open them again, 256 at a time.

    python pcap_to_esp.py seal plain.pcap esp.pcap --key 000102...13 --src 192.0.2.1 --dst 192.0.2.2
    python pcap_to_esp.py open esp.pcap plain-again.pcap --key 000102...13 --src 192.0.2.1 --dst 192.0.2.2

Captures of Ethernet or of bare IP; what is not IP is left out and counted. Keys on a command line can be read by every user of the host:
good for captures, not for traffic. Needs scapy for the file format.
"""

import argparse
import sys
from collections import Counter

import numpy as np
from scapy.utils import PcapWriter, RawPcapReader

from ipsec_fast import SA, PacketBatch, protect, unprotect, verdict_text

BATCH, SLOT = 256, 65536 + 512  # packets per call; bytes for each, head and tail room included
ETHERNET, RAW_IP = 1, 101  # link types


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


def ip_packets(path: str, skipped: Counter):
    """(seconds, microseconds, IP packet) of each packet of a capture."""
    reader = RawPcapReader(path)
    for frame, about in reader:
        if reader.linktype == ETHERNET:
            kind, frame = frame[12:14], frame[14:]
            if kind not in (b"\x08\x00", b"\x86\xdd"):
                skipped["not IP"] += 1
                continue
        yield about.sec, about.usec, frame


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
    direction = "out" if given.what == "seal" else "in"
    sealer = Sealer(SA(direction, given.spi, given.algorithm, given.key, src=given.src, dst=given.dst))
    counts: Counter[str] = Counter()
    with PcapWriter(given.target, linktype=RAW_IP) as writer:
        writer.write_header(None)
        for chunk in chunks(ip_packets(given.source, counts), BATCH):
            results = sealer.run([packet for _, _, packet in chunk])
            for (seconds, microseconds, _), (verdict, result) in zip(chunk, results, strict=True):
                counts[verdict_text(verdict)] += 1
                if verdict == 0:
                    writer.write_packet(result, sec=seconds, usec=microseconds)
    for text, count in counts.most_common():
        print(f"{count:8} {text}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
