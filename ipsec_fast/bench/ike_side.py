"""One side of the handshakes that bench ike counts: an endpoint, and the shell that a gateway gives it, without sockets and routes.

Asks are answered by what answers them in the gateway (policy, key exchange, SPIs); a Child SA is installed by making both its SAs, which
expands their keys. Called by ike.py and ike_gateways.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import ip_address

from ..algorithms import parse_esp_proposal, parse_ike_proposal
from ..control.answers import Answers
from ..control.child_sas import sas_from_ike
from ..control.spi import SpiPool
from ..crypto.secret import secret_from_buffer
from ..dataplane.sad import SA
from ..errors import IpsecFastError
from ..ike.config import ChildConfig, ConnectionConfig, EndpointSettings, Unique
from ..ike.endpoint import Endpoint
from ..ike.events import Ask, AskInstallChild, ChildDown, ChildFailed, ChildUp, IkeDown
from ..model import Identity, Path, TrafficSelector
from ..policy.credentials import Credentials, SharedKey
from ..policy.peers import Peers

CIPHER = "aes128gcm16"
CHILD = "net"
LONDON, PARIS = ip_address("192.0.2.1"), ip_address("192.0.2.2")
OUT = Path(LONDON, 500, PARIS, 500)
_IDENTITIES = (Identity.parse("london.example"), Identity.parse("paris.example"))
_NETWORKS = (TrafficSelector.parse("10.1.0.0/24"), TrafficSelector.parse("10.2.0.0/24"))


def connection_of(is_london: bool, proposals: Iterable[str]) -> ConnectionConfig:
    """London initiates, Paris answers; IKE SAs of one pair of identities stand beside each other."""
    (here, there), (own, other) = (_IDENTITIES, _NETWORKS) if is_london else (_IDENTITIES[::-1], _NETWORKS[::-1])
    return ConnectionConfig(
        name="paris" if is_london else "london",
        proposals=tuple(parse_ike_proposal(text) for text in proposals),
        local_id=here,
        remote_id=there,
        children=(ChildConfig(CHILD, (own,), (other,), (parse_esp_proposal(CIPHER),)),),
        unique=Unique.NEVER,
    )


@dataclass
class Heard:
    """What happened since it was last asked for: numbers of IKE SAs."""

    up: list[int] = field(default_factory=list)
    down: list[int] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


class Side:
    """`psk` is any bytes. After every input call `drain`, then send what `datagrams` gives."""

    def __init__(self, connection: ConnectionConfig, psk: bytes) -> None:
        self.connection = connection
        self.endpoint = Endpoint(EndpointSettings(), os.urandom)
        self._spis = SpiPool(os.urandom)
        keys = Credentials([SharedKey("site", _IDENTITIES, secret_from_buffer(bytearray(psk)))])
        self._answers = Answers(Peers([connection]), keys, self._spis)
        self._children: dict[int, tuple[SA, SA]] = {}

    def begin(self, now: float) -> int:
        return self.endpoint.initiate(self.connection, (), OUT, now)

    def drain(self, now: float) -> Heard:
        """Until the endpoint has nothing more to say."""
        heard = Heard()
        while (event := self.endpoint.next_event()) is not None:
            if isinstance(event, Ask):
                self.endpoint.answer(event.ticket, self._answer(event), now)
                continue
            match event:
                case ChildUp():
                    heard.up.append(event.ike_id)
                case ChildDown():
                    inbound, _ = self._children.pop(event.child_id)
                    self._spis.give_back(inbound.spi)
                case ChildFailed():
                    heard.failures.append(event.reason)
                case IkeDown():
                    heard.down.append(event.ike_id)
                    if event.failed:
                        heard.failures.append(event.reason)
        self.endpoint.changed_records()  # a gateway would store them
        return heard

    def datagrams(self, now: float) -> list[tuple[Path, bytes]]:
        return [(path, data) for path, message, _ in self.endpoint.datagrams_to_send(now) for data in message]

    def _answer(self, ask: Ask) -> object:
        try:
            if not isinstance(ask, AskInstallChild):
                return self._answers.answer(ask)
            self._children[ask.child_id] = sas_from_ike(ask)
            self._spis.use(ask.spi_in)
            return None
        except IpsecFastError as error:
            return error
