"""Narrowing traffic selectors (RFC 7296 section 2.9): the intersection over all pairs of both lists. Pure functions.

The responder narrows, the initiator checks that it got no more than it offered. Called by the exchanges that make a
Child SA, through negotiate.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...errors import NegotiationError
from ...iana import NotifyType
from ...model import TrafficSelector, selectors_text

MAX_SELECTORS = 64  # a Child SA with more is cut to these: narrower than allowed is legal
_SHOWN = 12


def narrow(
    offered: Sequence[TrafficSelector], configured: Sequence[TrafficSelector], *, side: str = "traffic selectors"
) -> tuple[TrafficSelector, ...]:
    """What both lists allow, in the order offered, without what another one covers.

    NegotiationError (TS_UNACCEPTABLE) where that is nothing; `side` (`TSi`, `TSr`) names it there.
    """
    result: list[TrafficSelector] = []
    for theirs in offered:
        for ours in configured:
            both = theirs.intersect(ours)
            if both is None or any(known.contains(both) for known in result):
                continue
            result = [known for known in result if not both.contains(known)]
            result.append(both)
            if len(result) == MAX_SELECTORS:
                return tuple(result)
    if not result:
        text = f"no common {side}: they offered {_shown(offered)}, we allow {_shown(configured)}"
        raise NegotiationError(text, NotifyType.TS_UNACCEPTABLE)
    return tuple(result)


def check_narrowed(
    offered: Sequence[TrafficSelector], returned: Sequence[TrafficSelector], *, side: str = "traffic selectors"
) -> tuple[TrafficSelector, ...]:
    """The responder's selectors, checked: each lies inside one that we offered. NegotiationError otherwise."""
    most = max(MAX_SELECTORS, len(offered))
    if len(returned) > most:
        text = f"the responder returned {len(returned)} selectors for our {side}, at most {most} are taken"
        raise NegotiationError(text, NotifyType.TS_UNACCEPTABLE)
    outside = next((ts for ts in returned if not any(ours.contains(ts) for ours in offered)), None)
    if outside is not None:
        text = f"the responder widened our {side}: it returned {outside}, we offered {_shown(offered)}"
        raise NegotiationError(text, NotifyType.TS_UNACCEPTABLE)
    return tuple(returned)


def _shown(selectors: Sequence[TrafficSelector]) -> str:
    left = len(selectors) - _SHOWN
    return (selectors_text(selectors[:_SHOWN]) or "nothing") + (f" and {left} more" if left > 0 else "")
