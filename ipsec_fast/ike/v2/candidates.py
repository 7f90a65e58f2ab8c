"""Which proposal to choose while several connections may be meant (RFC 7296 section 2.7).

IKE_SA_INIT names nobody, so until IKE_AUTH every connection whose addresses fit is a candidate (RFC 4301
section 4.4.3.1). So the proposal is chosen that most candidates allow, and another group is asked for only if
most lack the one that was sent. Candidates that name the peer's address count before those for any address.
Candidates with the same list of proposals are weighed together, so that the cost depends on the number of
lists. Pure functions; called by sa_init_answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...errors import NegotiationError
from ...iana import TransformType
from ...model import Proposal
from ..config import ConnectionConfig
from .child_setup import choose_with_group
from .negotiate import choose_proposal
from .offer import NoCommonProposal

LISTS_MAX = 16  # that are weighed: a stranger's offer must not cost more with every connection
NAMES_SHOWN = 6


@dataclass(slots=True)
class _List:
    """A list of proposals, how many candidates share it, and how many of those name the peer's address."""

    proposals: tuple[Proposal, ...]
    count: int = 0
    named: int = 0
    choice: Proposal | None = None  # what these candidates alone would choose


def choose(
    candidates: Sequence[ConnectionConfig], offered: Sequence[Proposal], ke_group: int
) -> tuple[Proposal, tuple[ConnectionConfig, ...]]:
    """The proposal, and the candidates that allow it, in their order. NegotiationError if
    none has anything in common with the offer.
    """
    lists = _lists_of(candidates)
    able, refusal = _able(list(lists.values()), offered, ke_group)
    if not able:
        raise NoCommonProposal(lambda: f"{refusal}{_others(candidates)}")
    best = _best(able, offered, ke_group)
    chosen = (best,)
    allowing = {key for key, one in lists.items() if _allows(one.proposals, chosen)}
    return best, tuple(one for one in candidates if id(one.proposals) in allowing)


def _lists_of(candidates: Iterable[ConnectionConfig]) -> dict[int, _List]:
    """Candidates grouped by the identity of their list, because hashing and comparing
    long lists would cost more than it saves.
    """
    lists: dict[int, _List] = {}
    for one in candidates:
        row = lists.get(id(one.proposals))
        if row is None:
            row = lists[id(one.proposals)] = _List(one.proposals)
        row.count += 1
        row.named += bool(one.remote_addrs)
    return lists


def _able(
    lists: Sequence[_List], offered: Sequence[Proposal], ke_group: int
) -> tuple[list[_List], NegotiationError | None]:
    """The lists that have something in common with the offer, and the first refusal.

    Each chooses by its own order, with the group that was sent if it can. Behind the first LISTS_MAX one that can is enough: who has
    more lists than that loses no connection.
    """
    able: list[_List] = []
    refusal: NegotiationError | None = None
    for number, one in enumerate(lists):
        if able and number >= LISTS_MAX:
            break
        try:
            one.choice = choose_with_group(offered, one.proposals, ke_group)
            able.append(one)
        except NegotiationError as error:
            refusal = refusal or error
    return able, refusal


def _others(candidates: Sequence[ConnectionConfig]) -> str:
    """The names of the candidates whose proposals the refusal does not show."""
    names = [one.name for one in candidates if one.proposals != candidates[0].proposals] if candidates else []
    if not names:
        return ""
    left = len(names) - NAMES_SHOWN
    more = f" and {left} more" if left > 0 else ""
    return f" (connection {candidates[0].name}); nor with {', '.join(names[:NAMES_SHOWN])}{more}"


def _best(able: Sequence[_List], offered: Sequence[Proposal], ke_group: int) -> Proposal:
    choices = list(dict.fromkeys(one.choice for one in able if one.choice is not None))
    if len(choices) == 1:
        return choices[0]
    total = sum(one.count for one in able)

    def weight(choice: Proposal) -> tuple[int, bool, int, tuple[int, ...]]:
        """Greater is better: candidates with the peer's address, the group that was
        sent, number of candidates, the peer's order.
        """
        allowing = [one for one in able if one.choice == choice or _allows(one.proposals, (choice,))]
        count = sum(one.count for one in allowing)
        is_sent = _group(choice) == ke_group and 2 * count >= total
        return sum(one.named for one in allowing), is_sent, count, tuple(-place for place in _place(offered, choice))

    return max(choices, key=weight)


def _place(offered: Sequence[Proposal], choice: Proposal) -> tuple[int, ...]:
    """Its place in the peer's order: proposal, cipher, group."""
    number = next((i for i, one in enumerate(offered) if one.number == choice.number), len(offered))
    theirs = offered[number] if number < len(offered) else choice
    types = (TransformType.ENCR, TransformType.KE)
    found = (next((i for i, t in enumerate(theirs.of(kind)) if t == choice.one(kind)), 0) for kind in types)
    return (number, *found)


def _group(proposal: Proposal) -> int | None:
    transform = proposal.one(TransformType.KE)
    return transform.id if transform is not None else None


def _allows(ours: Sequence[Proposal], chosen: tuple[Proposal]) -> bool:
    try:
        choose_proposal(chosen, ours)
    except NegotiationError:
        return False
    return True
