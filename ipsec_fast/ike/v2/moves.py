"""Where a peer behind a NAT is now (RFC 7296 section 2.23): its NAT may give it another address or port at any time.

The side that is not behind a NAT sends to where the peer's newest authentic message or packet came from. IKE messages are noted here
by inbound: a request or response with a new message ID, never a repetition. Of ESP the dataplane tells (newest packet of the replay
window, behind its ICV). An IKE SA moves at most once in REST_S. What comes from elsewhere meanwhile is remembered, and taken when the
rest is over if nothing newer came: then the shell is asked by CheckSource where its newest ESP packet came from.
Left out: a peer that is not behind a NAT, or a side that is itself behind one; these need MOBIKE. Called by inbound and the endpoint.
"""

from __future__ import annotations

from dataclasses import replace

from ...model import Address, Path
from ..events import CheckSource, PathMoved
from ..timers import TimerKind
from .ike_sa import IkeSA
from .outbound import retransmit
from .states import State

REST_S = 1.0  # between two moves
ANSWER_S = 0.02  # for the shell's answer to CheckSource, which comes at once where there is a dataplane


def note_message(sa: IkeSA, path: Path) -> None:
    """A valid message came on this path that is newer than all before it."""
    sa.was_heard = True
    if sa.follows_peer and (path.local, path.local_port, path.marker) == (sa.path.local, sa.path.local_port, True):
        _note_of_all(sa, path, sa.core.now)


def note_packet(sa: IkeSA, remote: Address, port: int, at: float) -> None:
    """The newest ESP packet of one of its Child SAs came from there, at that time."""
    if sa.follows_peer and remote.version == sa.path.remote.version:
        _note_of_all(sa, replace(sa.path, remote=remote, remote_port=port), at)


def _note_of_all(sa: IkeSA, path: Path, at: float) -> None:
    """What rekeys made of one IKE SA is one peer. A younger one that was heard itself knows better than an old one's late message."""
    _note(sa, path, at)
    for one in tuple(sa.kin):
        if one is not sa and one.follows_peer and (one.ike_id < sa.ike_id or not one.was_heard):
            _note(one, path, at)


def _note(sa: IkeSA, path: Path, at: float) -> None:
    if at < sa.heard_at:
        return
    sa.heard_at = at
    if path == sa.path:
        sa.wanted_path = None
    elif sa.path_rests:
        sa.wanted_path = path
    else:
        _move(sa, path)


def rest_is_over(sa: IkeSA) -> None:
    """The timer: asks the shell, and decides a moment later if no answer comes."""
    if sa.asks_source:
        decide(sa)
        return
    sa.asks_source = True
    sa.set_timer(TimerKind.MOVE, ANSWER_S)
    sa.core.emit(CheckSource(sa.ike_id, tuple(sa.children)))


def decide(sa: IkeSA) -> None:
    sa.asks_source = False
    sa.set_timer(TimerKind.MOVE, None)
    path, sa.wanted_path = sa.wanted_path, None
    if path is not None and path != sa.path and sa.follows_peer:
        _move(sa, path)


def inherit(new: IkeSA, old: IkeSA) -> None:
    """A rekey's new IKE SA is where the old one is now, and rests as long."""
    if old.heard_at >= new.heard_at:
        new.path, new.heard_at, new.wanted_path = old.path, old.heard_at, old.wanted_path
    if old.path_rests:
        old.wanted_path, old.asks_source = None, False
        old.set_timer(TimerKind.MOVE, None)
        new.set_timer(TimerKind.MOVE, REST_S)


def _move(sa: IkeSA, path: Path) -> None:
    before, sa.path = sa.path, path
    sa.wanted_path = None
    if before.remote != path.remote:
        sa.fragment_bytes = 0  # what another path carries says nothing of this one
    sa.core.mark_changed(sa)
    if sa.established_at is not None and sa.state in (State.ESTABLISHED, State.REKEYING):
        sa.core.counters["peers_moved"] += 1
        sa.core.emit(PathMoved(sa.ike_id, sa.name, before, path, tuple(sa.children)))
    sa.set_timer(TimerKind.MOVE, REST_S)
    own = sa.window.outstanding
    if own is not None and not own.answered and not own.probe:  # it went to where the peer is no more
        retransmit(sa, as_it_is=True)
