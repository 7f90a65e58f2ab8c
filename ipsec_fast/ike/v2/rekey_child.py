"""Our rekey of a Child SA, and its crossing with the peer's (RFC 7296 sections 1.3.3, 2.8, 2.8.1, 2.25.1).

Design, "The way of a rekey": we send on the new SA at once, then DELETE the old one, whose inbound half stays 5 s. Where
both sides rekeyed it, the SA of the exchange with the lowest nonce is closed by its creator; the other creator deletes
the old one.
"""

from __future__ import annotations

from typing import ClassVar

from ...errors import NegotiationError
from ...iana import NotifyType, name_of
from ..asks import Steps
from ..timers import TimerKind
from .child_sa import ChildGoneError, ChildSA, PeerChildRekey, close_child
from .child_setup import ChildChoice, Selectors, check_not_narrower
from .collide import Nonces, own_is_redundant
from .create_child import CreateChild
from .exchange import rekey_twin
from .ike_sa import REPLACED_S, IkeSA
from .informational import DeleteChild
from .message import Message
from .outbound import submit
from .payloads import NotifyPayload
from .states import ChildState

BACKOFF_FIRST_S = 5.0
BACKOFF_CAP_S = 60.0
NARROWED_WAIT_S = 30.0  # until the next try; a peer that narrows in a rekey may have a new policy
RESPONSE_READ_S = 10.0  # what we made as responder may be unknown to the peer for so long: retransmissions


def backoff_s(sa: IkeSA, failures: int) -> float:
    """Until a refused rekey is tried again; jittered, so that two sides do not meet again and again."""
    return sa.core.jittered(min(BACKOFF_FIRST_S * 2.0**failures, BACKOFF_CAP_S), 0.5)


class RekeyChild(CreateChild):
    name: ClassVar[str] = "CHILD_REKEY"

    def __init__(self, old: ChildSA) -> None:
        super().__init__(old.config)
        self.old = old
        self._peer_may_lack_it = False

    @property
    def twin(self) -> object:
        return rekey_twin(self.old.child_id)

    def is_wanted(self, sa: IkeSA) -> bool:
        wanted = not sa.is_closed and self.old.child_id in sa.children
        if wanted and self.old.own_rekey is self:  # another group
            return True
        if wanted and self.old.narrowed_in_rekey:
            submit(sa, ReplaceChild(self.old))
            return False
        wanted = wanted and self.old.state is ChildState.INSTALLED
        if wanted:
            self.old.enter(ChildState.REKEYING)
            self.old.own_rekey = self
            # made by the peer, which may not have read our response yet: then it refuses what it will have in a moment
            is_fresh = not self.old.initiator and sa.core.now - self.old.installed_at < RESPONSE_READ_S
            self._peer_may_lack_it = (self.old.outbound_deferred or is_fresh) and not self.old.rekey_failures
            sa.progress(f"rekeying CHILD SA {self.old.name}{{{self.old.child_id}}}", group="chd")
        return wanted

    def _rekeys(self) -> ChildSA:
        return self.old

    def _selectors(self, sa: IkeSA) -> tuple[Selectors, Selectors]:
        return self.old.local_ts, self.old.remote_ts

    def _check(self, message: Message, choice: ChildChoice) -> None:
        try:
            check_not_narrower(choice, self.old)
        except NegotiationError:
            self.old.narrowed_in_rekey = self.old.resource is None
            raise

    def _is_redundant(self, sa: IkeSA, nonces: Nonces) -> bool:
        peers = self._peers(sa)
        return peers is not None and own_is_redundant(nonces, peers.nonces)

    def _peers(self, sa: IkeSA) -> PeerChildRekey | None:
        """The peer's rekey of the same Child SA, unless it has closed what it made: then it knows that ours stays."""
        peers = self.old.peer_rekey
        return peers if peers is not None and peers.child.child_id in sa.children else None

    def _established(self, sa: IkeSA, child: ChildSA) -> None:
        old, peers = self.old, self._peers(sa)
        old.own_rekey = None
        if child.is_redundant:
            self._lose(sa, child)
            return
        if peers is not None:
            peers.child.is_redundant = True  # its creator, the peer, closes it
            sa.set_timer(TimerKind.CHILD_REKEY, None, peers.child.child_id)
            sa.set_timer(TimerKind.CHILD_EXPIRE, REPLACED_S, peers.child.child_id)
        old.replaced_by = child.child_id
        if old.child_id in sa.children:
            old.enter(ChildState.REKEYED)
            submit(sa, DeleteChild(old, "replaced by a rekey", grace_s=sa.core.settings.old_inbound_s))

    def _lose(self, sa: IkeSA, child: ChildSA) -> None:
        """Ours holds the lowest nonce: we close it, and the peer, whose SA stays, deletes the old one."""
        sa.progress(f"crossing rekeys of CHILD SA {child.name}: ours is redundant", group="chd")
        sa.set_timer(TimerKind.CHILD_REKEY, None, child.child_id)
        grace_s = sa.core.settings.old_inbound_s
        submit(sa, DeleteChild(child, "redundant after crossing rekeys", grace_s=grace_s))
        self._leave_to_peer(sa)

    def _leave_to_peer(self, sa: IkeSA) -> None:
        old, peers = self.old, self._peers(sa)
        if old.child_id in sa.children and peers is not None:
            old.enter(ChildState.REKEYED)
            old.replaced_by = peers.child.child_id
            sa.set_timer(TimerKind.CHILD_EXPIRE, REPLACED_S, old.child_id)

    def _refused(self, sa: IkeSA, error: NotifyPayload) -> None:
        is_unknown = error.notify == NotifyType.CHILD_SA_NOT_FOUND and not self._peer_may_lack_it
        if is_unknown and self._peers(sa) is None:
            self._forget_old(sa)
            return
        self.failed(sa, f"the peer refused the rekey with {name_of(NotifyType, error.notify)}")

    def response(self, sa: IkeSA, message: Message) -> Steps[None]:
        """<-- HDR, SK {SA, Nr, [KEr,] TSi, TSr}, or N(error)"""
        try:
            yield from super().response(sa, message)
        except ChildGoneError as error:
            self._end_old(sa, str(error))

    def _end_old(self, sa: IkeSA, reason: str) -> None:
        """The peer wanted the end of what has replaced it, so nothing is to follow it either."""
        self.old.own_rekey = None
        if self.old.child_id in sa.children and self._peers(sa) is None:
            submit(sa, DeleteChild(self.old, reason))

    def _forget_old(self, sa: IkeSA) -> None:
        """Section 2.25: the peer does not know it, so it goes without a word and is made anew."""
        self._close_key_pair()
        if self.old.child_id in sa.children:
            self.old.own_rekey = None
            close_child(sa, self.old, "the peer does not know it any more")
            if self.old.resource is None:
                submit(sa, CreateChild(self.config))

    def failed(self, sa: IkeSA, reason: str) -> None:
        self._close_key_pair()
        old = self.old
        old.own_rekey = None
        if sa.is_closed or old.child_id not in sa.children:
            return
        if self._peers(sa) is not None:  # the peer's own rekey of it went well
            self._leave_to_peer(sa)
            return
        old.peer_rekey = None
        old.enter(ChildState.INSTALLED)
        wait_s = NARROWED_WAIT_S if old.narrowed_in_rekey else backoff_s(sa, old.rekey_failures)
        old.rekey_failures += 1
        sa.progress(f"rekey of CHILD SA {old.name}{{{old.child_id}}} failed: {reason}; again in {wait_s:.0f} s")
        sa.set_timer(TimerKind.CHILD_REKEY, wait_s, old.child_id)


class ReplaceChild(CreateChild):
    """A new Child SA instead of one whose rekey the peer narrowed: section 2.9.2 forbids narrowing in rekeys only."""

    def __init__(self, old: ChildSA) -> None:
        super().__init__(old.config)
        self.old = old

    def is_wanted(self, sa: IkeSA) -> bool:
        return not sa.is_closed and self.old.child_id in sa.children and self.old.state is ChildState.INSTALLED

    def _established(self, sa: IkeSA, child: ChildSA) -> None:
        self.old.replaced_by = child.child_id
        if self.is_wanted(sa):
            submit(
                sa, DeleteChild(self.old, "replaced: the peer has narrowed it", grace_s=sa.core.settings.old_inbound_s)
            )

    def failed(self, sa: IkeSA, reason: str) -> None:
        super().failed(sa, reason)
        if self.is_wanted(sa):
            sa.set_timer(TimerKind.CHILD_REKEY, NARROWED_WAIT_S, self.old.child_id)
