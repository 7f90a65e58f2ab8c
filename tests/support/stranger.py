"""A sender without our secret: IKE_SA_INIT requests of every kind, and the endpoint's answers to them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from ipaddress import ip_address

from pair import ADDRESS_B, Shell

from ipsec_fast.algorithms import parse_ike_proposal
from ipsec_fast.crypto.exchange import generate
from ipsec_fast.iana import NotifyType, TransformType
from ipsec_fast.ike.header import IkeHeader
from ipsec_fast.ike.v2.message import Message, decode_message, encode_message
from ipsec_fast.ike.v2.payloads import KePayload, NoncePayload, NotifyPayload, Payload, SaPayload
from ipsec_fast.model import Address, Path, Proposal, Transform

GOOD = SaPayload((Proposal(1, 1, b"", parse_ike_proposal("aes128gcm16-prfsha256-x25519").transforms),))
REFUSED = SaPayload((Proposal(1, 1, b"", (Transform(TransformType.ENCR, 200, 128),)),))
NAT = (
    NotifyPayload(NotifyType.NAT_DETECTION_SOURCE_IP, bytes(20)),
    NotifyPayload(NotifyType.NAT_DETECTION_DESTINATION_IP, bytes(20)),
)


def largest_offers() -> dict[str, SaPayload]:
    """Offers with as many proposals and transforms as are read; none holds
    anything that we carry, or none does as a whole.
    """
    strange = tuple(Transform(TransformType.ENCR, 200 + at, 128) for at in range(128))
    near = parse_ike_proposal("aes256gcm16-aes128gcm16-prfsha512-prfsha384-prfsha256-modp2048").transforms
    near = tuple(t for t in near if t.type != TransformType.KE)
    return {
        "64 proposals": SaPayload(tuple(Proposal(at, 1, b"", strange[:8]) for at in range(1, 65))),
        "128 transforms": SaPayload(tuple(Proposal(at, 1, b"", strange) for at in range(1, 5))),
        "near misses": SaPayload(tuple(Proposal(at, 1, b"", (*near, *strange[:3])) for at in range(1, 65))),
    }


class Stranger:
    """Sends to side b of a Pair, or to any Shell; every answer is kept."""

    def __init__(self, shell: Shell, seed: int = 1) -> None:
        self.shell = shell
        self.random = random.Random(f"stranger {seed}")
        self.public = generate(31).public
        self.answers: list[bytes] = []
        self.sent_bytes = 0

    def send(
        self, data: bytes, address: Address | str = "203.0.113.7", port: int = 500, now: float = 1000.0
    ) -> list[bytes]:
        """Send a datagram; the answers that come at once."""
        path = Path(ADDRESS_B, 500, ip_address(address) if isinstance(address, str) else address, port)
        self.sent_bytes += len(data)
        self.shell.endpoint.receive_datagram(data, path, now)
        self.shell.drain(now)
        answers = [one for sent in self.shell.endpoint.datagrams_to_send(now) for one in sent.datagrams]
        self.answers += answers
        return answers

    def init(
        self, sa: SaPayload = GOOD, *, before: Sequence[Payload] = (), nonce_bytes: int = 32, spi: bytes = b"", nat: bool = True,
        ni: NoncePayload | None = None, group: int = 31,
    ) -> bytes:  # fmt: skip
        header = IkeHeader.make(spi or self.random.randbytes(8), bytes(8), 34, 0, initiator=True, response=False)
        nonce = ni or NoncePayload(self.random.randbytes(nonce_bytes))
        return encode_message(header, (*before, sa, KePayload(group, self.public), nonce, *(NAT if nat else ())))

    def begin(self, address: Address | str = "203.0.113.7", port: int = 500, now: float = 1000.0) -> str:
        """Do an IKE_SA_INIT as an honest peer does, with a COOKIE if asked; returns the outcome."""
        spi, ni = self.random.randbytes(8), NoncePayload(self.random.randbytes(32))
        before: tuple[Payload, ...] = ()
        for _ in range(2):
            answers = self.send(self.init(before=before, spi=spi, ni=ni), address, port, now)
            if not answers:
                return "nothing"
            message = decode_message(answers[0])
            cookie = message.notify(NotifyType.COOKIE)
            if cookie is None:
                return "answered" if message.get(SaPayload) else "refused"
            before = (cookie,)
        return "asked for a cookie again"


def notify_of(answer: bytes) -> int | None:
    message: Message = decode_message(answer)
    return message.error.notify if message.error else None
