"""Where a peer behind a NAT is now (RFC 7296 section 2.23): its NAT may give it another address or port at any time.

The side that is not behind a NAT sends to the source of the peer's newest authentic message or packet. For IKE,
inbound notes each request or response with a new message ID, never a repetition. For ESP, the dataplane reports
the source of the packet with the highest number, after its ICV. An IKE SA moves at most once in REST_S. Another
source within that time is remembered. At its end CheckSource asks the shell for the newest ESP source, and the
newest of all is taken. Left out: a peer that is not behind a NAT, or a side that is itself behind one; these need
MOBIKE. Called by inbound and the endpoint.
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
ANSWER_S = 0.02  # for the shell's answer to CheckSource, which is immediate with a dataplane


def note_message(sa: IkeSA, path: Path) -> None:
    """A valid message, newer than all before it, arrived on this path."""
    sa.was_heard = True
    if sa.follows_peer and (path.local, path.local_port, path.marker) == (sa.path.local, sa.path.local_port, True):
        _note_of_all(sa, path, sa.core.now)


def note_packet(sa: IkeSA, remote: Address, port: int, at: float) -> None:
    """The newest ESP packet of one of its Child SAs came from there at that time."""
    if sa.follows_peer and remote.version == sa.path.remote.version:
        _note_of_all(sa, replace(sa.path, remote=remote, remote_port=port), at)


def _note_of_all(sa: IkeSA, path: Path, at: float) -> None:
    """Note the path for all IKE SAs that rekeys made of one. A younger one that was heard
    itself ignores an older one's late message.
    """
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
    """The timer: ask the shell, and decide after ANSWER_S if no answer comes."""
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
    """The new IKE SA of a rekey takes the old one's path, and may not move sooner."""
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
        sa.fragment_bytes = 0  # the size was found on another path
    sa.core.mark_changed(sa)
    if sa.established_at is not None and sa.state in (State.ESTABLISHED, State.REKEYING):
        sa.core.counters["peers_moved"] += 1
        sa.core.emit(PathMoved(sa.ike_id, sa.name, before, path, tuple(sa.children)))
    sa.set_timer(TimerKind.MOVE, REST_S)
    own = sa.window.outstanding
    if own is not None and not own.answered and not own.probe:  # it was sent to the old address
        retransmit(sa, as_it_is=True)
