"""The flood of `bench flood`: a process of its own that sends one kind of datagrams at
a rate, from many addresses of a network.

    python -m ipsec_fast.bench.flood_source KIND TARGET RATE SECONDS [SPI]

KIND is one of `KINDS`. RATE is datagrams per second, 0: as fast as a socket takes them. It prints
how many it has sent. Called by flood.py.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import sys
import time
from collections.abc import Callable, Iterator
from itertools import cycle

from ..algorithms import parse_ike_proposal
from ..crypto.exchange import generate
from ..iana import ExchangeType, NotifyType, PayloadType, TransformType
from ..ike.header import FLAG_INITIATOR, IkeHeader
from ..ike.v2.message import decode_message, encode_message
from ..ike.v2.payloads import KePayload, NoncePayload, NotifyPayload, Payload, SaPayload
from ..model import Proposal, Transform

KINDS = ("refused", "half-open", "junk", "bad-icv")
SOURCES = [f"198.18.{number // 8}.{number % 8 + 1}" for number in range(64)]  # of RFC 2544's 198.18.0.0/15
OFFER = parse_ike_proposal("aes128gcm16-prfsha256-x25519")
IKE_PORT, NAT_PORT = 500, 4500
GROUP = 31
ESP_BYTES, GSO = 1400, 40
UDP_SEGMENT = 103
Send = Callable[[], int]  # one step: how many datagrams it has sent


def main(words: list[str]) -> int:
    kind, target, rate, seconds = words[0], words[1], float(words[2]), float(words[3])
    with contextlib.ExitStack() as stack:
        if kind == "bad-icv":
            send = _bad_icvs(stack, target, int(words[4]))
        else:
            sockets = [stack.enter_context(_socket(address, target, IKE_PORT)) for address in SOURCES]
            send = {"refused": _refused, "half-open": _half_open, "junk": _junk}[kind](sockets)
        print(_run(send, rate, seconds))
    return 0


def _run(send: Send, rate: float, seconds: float) -> int:
    """Ends in time even if nothing can be sent."""
    start, sent = time.monotonic(), 0
    while (now := time.monotonic()) < start + seconds:
        if rate and sent > (now - start) * rate:
            time.sleep(0.001)
            continue
        with contextlib.suppress(OSError):  # the buffer is full, or an ICMP error of an earlier datagram is reported
            sent += send()
    return sent


def _socket(address: str, target: str, port: int) -> socket.socket:
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    one.bind((address, 0))
    one.connect((target, port))
    one.setblocking(False)
    return one


def _init(sa: SaPayload, public: bytes, before: tuple[Payload, ...] = (), spi: bytes = b"", ni: bytes = b"") -> bytes:
    header = IkeHeader.make(spi or os.urandom(8), bytes(8), ExchangeType.IKE_SA_INIT, 0, initiator=True, response=False)
    nat = tuple(
        NotifyPayload(kind, bytes(20))
        for kind in (NotifyType.NAT_DETECTION_SOURCE_IP, NotifyType.NAT_DETECTION_DESTINATION_IP)
    )
    return encode_message(header, (*before, sa, KePayload(GROUP, public), NoncePayload(ni or os.urandom(32)), *nat))


def _each(sockets: list[socket.socket]) -> Iterator[socket.socket]:
    return cycle(sockets)


def _refused(sockets: list[socket.socket]) -> Send:
    """Offers of the largest size that is read, without any algorithm that we carry; each has an SPI of its own."""
    strange = tuple(Transform(TransformType.ENCR, 200 + at, 128) for at in range(8))
    rest = _init(SaPayload(tuple(Proposal(at, 1, b"", strange) for at in range(1, 65))), bytes(32))[8:]
    each = _each(sockets)

    def send() -> int:
        next(each).send(os.urandom(8) + rest)
        return 1

    return send


def _half_open(sockets: list[socket.socket]) -> Send:
    """Valid requests, repeated with the COOKIE if one is asked for; no IKE_AUTH ever follows."""
    sa, public = SaPayload((Proposal(1, 1, b"", OFFER.transforms),)), generate(GROUP).public
    each = _each(sockets)
    nonces: dict[bytes, bytes] = {}

    def send() -> int:
        one, spi, ni = next(each), os.urandom(8), os.urandom(32)
        nonces[spi] = ni
        while len(nonces) > 4096:
            del nonces[next(iter(nonces))]
        one.send(_init(sa, public, spi=spi, ni=ni))
        return 1 + sum(map(answer, select.select(sockets, [], [], 0)[0]))

    def answer(one: socket.socket) -> int:
        message = decode_message(one.recv(65535))
        cookie = message.notify(NotifyType.COOKIE)
        asked = nonces.pop(message.header.spi_i, None)
        if cookie is None or asked is None:
            return 0
        one.send(_init(sa, public, (cookie,), message.header.spi_i, asked))
        return 1

    return send


def _junk(sockets: list[socket.socket]) -> Send:
    """SK payloads without a valid content, for SPIs that nobody has."""
    body = bytes([PayloadType.NOTIFY, 0]) + (4 + 64).to_bytes(2, "big") + os.urandom(64)
    head = IkeHeader(
        bytes(8), bytes(8), PayloadType.SK, 2, 0, ExchangeType.INFORMATIONAL, FLAG_INITIATOR, 1, 28 + len(body)
    )
    rest = head.encode()[16:] + body
    each = _each(sockets)

    def send() -> int:
        next(each).send(os.urandom(16) + rest)
        return 1

    return send


def _bad_icvs(stack: contextlib.ExitStack, target: str, spi: int) -> Send:
    """ESP in UDP for an installed Child SA, with numbers above its window and bad ICVs; 40 per system call."""
    one = stack.enter_context(_socket(SOURCES[0], target, NAT_PORT))
    one.setblocking(True)
    one.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, ESP_BYTES)
    rest = os.urandom(ESP_BYTES - 8)
    number = 1 << 20

    def send() -> int:
        nonlocal number
        number = number % 0xFFFF0000 + GSO
        head = spi.to_bytes(4, "big")
        one.send(b"".join(head + (number + at).to_bytes(4, "big") + rest for at in range(GSO)))
        return GSO

    return send


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
