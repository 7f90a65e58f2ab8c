"""ESP between two AF_PACKET sockets: a box on the wire that seals IPv4 towards one side and opens it towards the other.

    python bump_in_the_wire.py --plain lan0 --sealed wan0 --key-out HEX --key-in HEX --spi-out 0x1000 --spi-in 0x2000

Transport mode, so addresses, MAC headers and routes stay as they are; two such boxes face each other. ARP passes, everything else that
is not whole IPv4 is dropped. The hosts behind it need an MTU that leaves room: `sa.max_inner_length(1500)`. Needs CAP_NET_RAW. Hosts must
not leave checksums to their network card where that card is virtual (ethtool -K veth0 tx off): nobody would fill them in behind the seal.
"""

import argparse
import contextlib
import select
import signal
import socket
import sys

import numpy as np

from ipsec_fast import SA, PacketBatch, protect, unprotect

BATCH, SLOT, MAC = 64, 2048, 14
ARP, IPV4 = b"\x08\x06", b"\x08\x00"
PACKET_OUTGOING = 4
TRANSPORT = {"mode": "transport", "algorithm": "aes128gcm16"}


class Direction:
    """Frames of one socket, sealed or opened in place, out of the other."""

    def __init__(self, sa: SA, source: socket.socket, target: socket.socket) -> None:
        self.work = protect if sa.direction == "out" else unprotect
        self.source, self.target = source, target
        self.buffer = np.zeros(BATCH * SLOT, np.uint8)
        self.view = memoryview(self.buffer)
        self.offsets, self.lengths = np.zeros(BATCH, np.uint32), np.zeros(BATCH, np.uint32)
        self.verdicts = np.zeros(BATCH, np.uint8)
        # the frame begins where the IP packet in it has its headroom; what is sealed grows over its MAC header, of which a copy is kept
        self.starts = np.arange(BATCH, dtype=np.uint32) * SLOT + sa.headroom + MAC
        self.headers = [b""] * BATCH
        self.batch = PacketBatch(self.buffer, self.offsets, self.lengths, sa, self.verdicts)
        self.counts = {"sent": 0, "passed": 0, "dropped": 0}

    def turn(self) -> None:
        """Everything that is there, at most one batch."""
        self.offsets[:], self.lengths[:] = self.starts, 0
        used = 0
        while used < BATCH:
            start = int(self.starts[used])
            try:
                size, _, _, address = self.source.recvmsg_into([self.view[start - MAC : start + 1900]])
            except BlockingIOError:
                break
            kind = bytes(self.view[start - 2 : start])
            if address[2] == PACKET_OUTGOING or size <= MAC:
                continue
            if kind == ARP:
                self.send(self.view[start - MAC : start - MAC + size], "passed")
            elif kind == IPV4:
                self.headers[used] = bytes(self.view[start - MAC : start])
                self.lengths[used] = size - MAC
                used += 1
            else:
                self.counts["dropped"] += 1
        if used:
            self.work(self.batch)
        for i in range(used):
            if self.verdicts[i]:
                self.counts["dropped"] += 1
                continue
            at, length = int(self.offsets[i]), int(self.lengths[i])
            self.view[at - MAC : at] = self.headers[i]
            self.send(self.view[at - MAC : at + length], "sent")

    def send(self, frame: memoryview, counted: str) -> None:
        try:
            self.target.send(frame)
            self.counts[counted] += 1
        except OSError:  # larger than the interface takes, or it is down
            self.counts["dropped"] += 1


def open_interface(name: str) -> socket.socket:
    every_protocol = 0x0003
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(every_protocol))
    opened.bind((name, every_protocol))
    opened.setblocking(False)
    return opened


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plain", required=True, help="the interface of the host or network to protect")
    parser.add_argument("--sealed", required=True, help="the interface towards the other box")
    for way in ("out", "in"):
        parser.add_argument(f"--key-{way}", required=True, type=bytes.fromhex, help="16 bytes of AES-128, 4 of salt")
        parser.add_argument(f"--spi-{way}", required=True, type=lambda text: int(text, 0))
    given = parser.parse_args()
    plain, sealed = open_interface(given.plain), open_interface(given.sealed)
    directions = {
        plain: Direction(SA("out", given.spi_out, key=given.key_out, **TRANSPORT), plain, sealed),
        sealed: Direction(SA("in", given.spi_in, key=given.key_in, **TRANSPORT), sealed, plain),
    }
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with contextlib.suppress(KeyboardInterrupt, SystemExit):
        while True:
            for ready in select.select(list(directions), [], [])[0]:
                directions[ready].turn()
    for name, one in (("sealed", directions[plain]), ("opened", directions[sealed])):
        print(name, *(f"{key}={count}" for key, count in one.counts.items()), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
