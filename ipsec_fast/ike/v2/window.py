"""Message IDs and retransmission of one IKE SA (RFC 7296 sections 2.1-2.3), with a window of 1 in both directions.

Pure: it decides, others send. The stored response and the stored request are tuples of datagrams, because a message may be
fragmented; its digest is then that of its first fragment. Not here: what a message means, and the larger windows that
SET_WINDOW_SIZE would allow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from hashlib import sha256

from ...iana import ExchangeType
from ..config import EndpointSettings

Datagrams = tuple[bytes, ...]


class Arrival(Enum):
    """What a request's message ID and bytes say."""

    NEW = auto()
    REPEATED = auto()  # the last request again, same bytes: the stored response goes out again
    RESTING = auto()  # the request that is being worked on
    WRONG = auto()  # any other ID, or the last ID with other bytes


def digest_of(data: bytes) -> bytes:
    return sha256(data).digest()


@dataclass(slots=True)
class Outstanding:
    """The one request of ours that waits for its response."""

    message_id: int
    exchange: ExchangeType
    datagrams: Datagrams
    sends: int = 1
    answered: bool = False  # its response is being worked on; further copies are dropped
    since: int = 1  # the send from which on it has had these datagrams
    unasked: int = 0  # of the sends: those between two of the schedule, because a smaller size was asked for
    sizes: tuple[int, ...] = ()  # of a probe: those still to be tried
    wait_s: float = 0.0  # of a probe: for how long each is
    tried_all: bool = False  # of a probe: it was left to the routers
    probe: Datagrams = ()  # of a probe: it as it was first sent, whole

    def refit(self, datagrams: Datagrams) -> None:
        """The same message in smaller fragments, from the next send on."""
        self.datagrams, self.since = datagrams, self.sends + 1


@dataclass(slots=True)
class Window:
    next_own: int = 0
    expected: int = 0
    outstanding: Outstanding | None = None
    last_digest: bytes = b""
    last_response: Datagrams = ()
    resting_digest: bytes = b""
    repeats: int = 0  # how often the last response was asked for again

    # --- requests of ours

    def open_request(self, exchange: ExchangeType, datagrams: Datagrams) -> None:
        if self.outstanding is not None:
            raise AssertionError("window of 1: a request of ours is outstanding")
        self.outstanding = Outstanding(self.next_own, exchange, datagrams)

    def replace_request(self, datagrams: Datagrams) -> None:
        """The same message ID with other bytes: only IKE_SA_INIT may do so (COOKIE, INVALID_KE_PAYLOAD)."""
        if self.outstanding is None or self.outstanding.exchange != ExchangeType.IKE_SA_INIT:
            raise AssertionError("only an IKE_SA_INIT request is ever replaced")
        self.outstanding = Outstanding(self.outstanding.message_id, self.outstanding.exchange, datagrams)

    def awaits(self, message_id: int, exchange: int) -> bool:
        own = self.outstanding
        return own is not None and not own.answered and own.message_id == message_id and own.exchange == exchange

    def close_request(self) -> None:
        """The response has been worked on; the next request takes the next message ID."""
        if self.outstanding is not None:
            self.outstanding = None
            self.next_own += 1

    # --- requests of the peer

    def is_last(self, message_id: int) -> bool:
        """The request that was answered last, whatever bytes it comes in."""
        return message_id == self.expected - 1 and bool(self.last_response)

    def classify(self, message_id: int, digest: bytes) -> Arrival:
        if message_id == self.expected:
            return Arrival.RESTING if self.resting_digest else Arrival.NEW
        if message_id == self.expected - 1 and digest == self.last_digest and self.last_response:
            return Arrival.REPEATED
        return Arrival.WRONG

    def accept(self, digest: bytes) -> None:
        """A new request with a good ICV is being worked on."""
        self.resting_digest = digest

    def store_response(self, datagrams: Datagrams) -> None:
        self.last_digest, self.resting_digest = self.resting_digest, b""
        self.last_response = datagrams
        self.repeats = 0
        self.expected += 1


def retransmit_wait(settings: EndpointSettings, sends: int, random: Callable[[int], bytes]) -> float | None:
    """Seconds to wait after send number `sends` (1 is the first); None when no further send may follow and it is given up.

    0.5 s x1.6 up to 8 s, 16 sends: 93 s in all. The wait behind the last send is one more step of the schedule.
    """
    if sends > settings.retransmit_sends:
        return None
    wait = min(settings.retransmit_first_s * settings.retransmit_factor ** (sends - 1), settings.retransmit_cap_s)
    fraction = int.from_bytes(random(2), "big") / 65535
    return wait * (1 + settings.retransmit_jitter * (2 * fraction - 1))
