"""Everything that passes an interface, looked at for what must not happen: a number used twice, a packet in clear.

An AF_PACKET socket with virtio-net headers, so that what the kernel hands over as one big packet (UDP
segmentation) is cut as it will be on a wire. Of ESP the 64-bit number is the explicit IV (AES-GCM); of IKE the
SK{} IV and the message ID of each (SPIs, direction). What the kernel could not give us is counted: a proof with
holes is none. Called by crash.py and the tests.
"""

from __future__ import annotations

import select
import socket
import struct
import threading
from bisect import bisect_right
from dataclasses import dataclass, field
from hashlib import sha256
from ipaddress import IPv4Address, IPv4Network

ETH_P_ALL, ETH_P_IP = 3, 0x0800
SOL_PACKET, PACKET_STATISTICS, PACKET_VNET_HDR = 263, 6, 15
SO_RCVBUFFORCE = 33
VNET = struct.Struct("=BBHHHH")  # flags, gso_type, hdr_len, gso_size, csum_start, csum_offset
GSO_UDP_L4 = 5
ETHERNET_BYTES, UDP_BYTES, UDP = 14, 8, 17
IKE_PORT, NAT_PORT = 500, 4500
IKE_HEADER_BYTES, SK, IKE_AUTH, RESPONSE = 28, 46, 35, 0x20
BUFFER_BYTES = 256 << 20


class Numbers:
    """A set of numbers that mostly follow each other: ranges, in order."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []  # one behind the last

    def add(self, number: int) -> bool:
        """False where it is in already."""
        index = bisect_right(self._starts, number) - 1
        if index >= 0 and number < self._ends[index]:
            return False
        if index >= 0 and number == self._ends[index]:
            self._ends[index] += 1
        else:
            index += 1
            self._starts.insert(index, number)
            self._ends.insert(index, number + 1)
        if index + 1 < len(self._starts) and self._starts[index + 1] == self._ends[index]:
            self._ends[index] = self._ends.pop(index + 1)
            del self._starts[index + 1]
        return True


@dataclass
class Findings:
    esp_packets: int = 0
    repeated_numbers: int = 0
    repeated_ike_ivs: int = 0
    repeated_message_ids: int = 0
    clear_packets: int = 0
    ike_auths: set[bytes] = field(default_factory=set)  # SPIs of the IKE SAs that IKE_AUTH was seen for


class Eye:
    """Pure: frames in, findings out. `inner`: the networks that must not be seen in clear."""

    def __init__(self, inner: tuple[IPv4Network, ...]) -> None:
        self.findings = Findings()
        self._inner = inner
        self._numbers: dict[tuple[bytes, bytes], Numbers] = {}  # by destination and SPI
        self._ike: dict[tuple[bytes, ...], bytes] = {}

    def look(self, frame: bytes, segment_bytes: int = 0) -> None:
        """An Ethernet frame; `segment_bytes` cuts its UDP payload."""
        if len(frame) < ETHERNET_BYTES + 20 or int.from_bytes(frame[12:14], "big") != ETH_P_IP:
            return
        ip = frame[ETHERNET_BYTES:]
        header_bytes, source, target = (ip[0] & 15) * 4, ip[12:16], ip[16:20]
        if any(IPv4Address(address) in network for address in (source, target) for network in self._inner):
            self.findings.clear_packets += 1
            return
        if ip[9] != UDP or len(ip) < header_bytes + UDP_BYTES:
            return
        udp = ip[header_bytes : int.from_bytes(ip[2:4], "big")]
        ports = struct.unpack_from(">HH", udp)
        payload = udp[UDP_BYTES:]
        if NAT_PORT in ports:
            for at in range(0, len(payload), segment_bytes or len(payload) or 1):
                self._datagram(payload[at : at + (segment_bytes or len(payload))], source, target)
        elif IKE_PORT in ports:
            self._message(payload, source)

    def _datagram(self, data: bytes, source: bytes, target: bytes) -> None:
        if data[:4] == bytes(4):
            self._message(data[4:], source)
        elif len(data) >= 16:
            self.findings.esp_packets += 1
            numbers = self._numbers.setdefault((target, data[:4]), Numbers())
            self.findings.repeated_numbers += not numbers.add(int.from_bytes(data[8:16], "big"))

    def _message(self, data: bytes, source: bytes) -> None:
        if len(data) < IKE_HEADER_BYTES + 12 or data[16] != SK:
            return
        spis, flags, message_id = data[:16], data[19] & RESPONSE, data[20:24]
        iv = data[IKE_HEADER_BYTES + 4 :][:8]
        if data[18] == IKE_AUTH and not flags:
            self.findings.ike_auths.add(spis)
        digest = sha256(data).digest()  # the same bytes again are a retransmission
        if self._ike.setdefault((source, spis, b"iv", iv), digest) != digest:
            self.findings.repeated_ike_ivs += 1
        if self._ike.setdefault((source, spis, bytes([flags]), message_id), digest) != digest:
            self.findings.repeated_message_ids += 1


class Wiretap:
    """Looks in a thread of its own until `close`; `raw` is an AF_PACKET socket of the namespace, made for us."""

    def __init__(self, raw: socket.socket, interface: str, inner: tuple[IPv4Network, ...]) -> None:
        self._socket = raw
        raw.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
        raw.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        raw.bind((interface, ETH_P_ALL))
        self._eye = Eye(inner)
        self.dropped = 0
        self._running = threading.Event()
        self._running.set()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    @property
    def findings(self) -> Findings:
        return self._eye.findings

    def close(self) -> None:
        """Everything that has arrived is looked at first."""
        self._running.clear()
        self._thread.join()
        self._count_drops()
        self._socket.close()

    def _look(self) -> None:
        while select.select([self._socket], [], [], 0.1)[0] or self._running.is_set():
            while True:
                try:
                    data = self._socket.recv(1 << 17, socket.MSG_DONTWAIT)
                except BlockingIOError:
                    break
                _, kind, _, segment_bytes, _, _ = VNET.unpack_from(data)
                self._eye.look(data[VNET.size :], segment_bytes if kind == GSO_UDP_L4 else 0)

    def _count_drops(self) -> None:
        statistics = self._socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8)
        self.dropped += struct.unpack("=II", statistics)[1]
