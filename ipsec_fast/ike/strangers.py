"""Limits on unauthenticated senders: when they must return a COOKIE, how often they are answered and logged.

Each limit is checked before the step that it limits: decoding, negotiating, computing, writing. A sender that
floods uses up the share of its own address and network (fair.py), so an honest peer elsewhere is still
answered, and its failures are still logged. Used by v2/sa_init_answer.py, v2/ike_sa.py and endpoint.py;
docs/floods.md says what an operator sees.
"""

from __future__ import annotations

from collections import Counter
from enum import Enum

from ..model import Address
from .config import EndpointSettings
from .fair import FairBucket, Meter, Rate

_THOUSANDS = Rate(4096, 1000)  # of one address: two answers at once to each of 2,000 peers behind one NAT


class Line(Enum):
    """The kinds of lines about unauthenticated senders; each has a budget of its own."""

    INITIATING = "initiating"
    REFUSED = "refused"
    AUTHENTICATION = "authentication"


_LINES = {Line.INITIATING: Rate(2, 1), Line.REFUSED: Rate(2, 1), Line.AUTHENTICATION: Rate(2, 2)}  # all: 10 in a second
_EACH_LINE = Rate(2, 0.1)


class Strangers:
    def __init__(self, settings: EndpointSettings) -> None:
        self._settings = settings
        self._requests = Meter(Rate(settings.cookie_from_requests_per_s, settings.cookie_from_requests_per_s))
        self._refusals = Meter(Rate(2 * settings.cookie_from_refusals_per_s, settings.cookie_from_refusals_per_s))
        # error notifies help only the operator of a peer with a wrong configuration, so they may be few
        self._errors = FairBucket(Rate(10, 2), (Rate(40, 8), Rate(20, 4)), Rate(100, 50))
        # without a COOKIE, an INVALID_KE_PAYLOAD or a repeated response a peer would not come up
        self._answers = FairBucket(_THOUSANDS, (_THOUSANDS, _THOUSANDS), Rate(8192, 4000))
        self._lines = {kind: FairBucket(_EACH_LINE, (_EACH_LINE, _EACH_LINE), rate) for kind, rate in _LINES.items()}
        self._untold: Counter[Line] = Counter()

    # --- load

    def note_request(self, now: float) -> None:
        self._requests.count(now)

    def note_refusal(self, now: float) -> None:
        self._refusals.count(now)

    def must_show_address(self, half_open: int, now: float) -> bool:
        """Whether an IKE_SA_INIT needs a COOKIE: by what is half open, by the requests
        and by the refusals of the last seconds.
        """
        settings = self._settings
        if settings.cookie_always or half_open >= settings.cookie_from_half_open:
            return True
        return self._requests.is_much(now) or self._refusals.is_much(now)

    # --- answers to what is not protected

    def may_refuse(self, address: Address, now: float) -> bool:
        """Whether to send an error notify, without which the peer loses nothing."""
        return self._errors.take(address, now)

    def may_answer(self, address: Address, now: float) -> bool:
        """Whether to send what an honest peer needs in order to go on."""
        return self._answers.take(address, now)

    # --- lines

    def may_tell(self, line: Line, address: Address, now: float) -> bool:
        if self._lines[line].take(address, now):
            return True
        self._untold[line] += 1
        return False

    def take_untold(self, line: Line) -> int:
        """How many of this kind were left out since the last one that was logged."""
        return self._untold.pop(line, 0)
