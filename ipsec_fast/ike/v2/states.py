"""The states of an IKE SA, and which may follow which (RFC 7296; the names are those that strongSwan prints).

`IkeSA.enter` is the only place that changes a state, and it asks `check_transition` here. Which message may come in
which state is `dispatch.TABLE`.
"""

from __future__ import annotations

from enum import Enum


class State(Enum):
    CREATED = "CREATED"  # no message has left yet
    CONNECTING = "CONNECTING"  # IKE_SA_INIT or IKE_AUTH under way: nobody is authenticated
    ESTABLISHED = "ESTABLISHED"
    REKEYING = "REKEYING"  # our request to replace it is outstanding
    REKEYED = "REKEYED"  # another one has taken its place, its DELETE is under way
    DELETING = "DELETING"  # our DELETE is queued or outstanding
    DELETED = "DELETED"


TRANSITIONS: dict[State, frozenset[State]] = {
    State.CREATED: frozenset({State.CONNECTING, State.ESTABLISHED, State.DELETED}),
    State.CONNECTING: frozenset({State.ESTABLISHED, State.DELETING, State.DELETED}),
    State.ESTABLISHED: frozenset({State.REKEYING, State.REKEYED, State.DELETING, State.DELETED}),
    State.REKEYING: frozenset({State.ESTABLISHED, State.REKEYED, State.DELETING, State.DELETED}),
    State.REKEYED: frozenset({State.DELETING, State.DELETED}),
    State.DELETING: frozenset({State.DELETED}),
    State.DELETED: frozenset(),
}

# a peer that is authenticated may be talked to in these
AUTHENTICATED = frozenset({State.ESTABLISHED, State.REKEYING, State.REKEYED, State.DELETING})


class ChildState(Enum):
    INSTALLING = "INSTALLING"
    INSTALLED = "INSTALLED"
    REKEYING = "REKEYING"  # our request to replace it is outstanding
    REKEYED = "REKEYED"  # another one has taken its place
    DELETING = "DELETING"  # our DELETE is queued or outstanding
    DELETED = "DELETED"


CHILD_TRANSITIONS: dict[ChildState, frozenset[ChildState]] = {
    ChildState.INSTALLING: frozenset({ChildState.INSTALLED, ChildState.DELETED}),
    ChildState.INSTALLED: frozenset({ChildState.REKEYING, ChildState.REKEYED, ChildState.DELETING, ChildState.DELETED}),
    ChildState.REKEYING: frozenset({ChildState.INSTALLED, ChildState.REKEYED, ChildState.DELETING, ChildState.DELETED}),
    ChildState.REKEYED: frozenset({ChildState.DELETING, ChildState.DELETED}),
    ChildState.DELETING: frozenset({ChildState.DELETED}),
    ChildState.DELETED: frozenset(),
}


def check_transition(old: State, new: State) -> None:
    if new not in TRANSITIONS[old]:
        raise AssertionError(f"an IKE SA does not go from {old.value} to {new.value}")


def check_child_transition(old: ChildState, new: ChildState) -> None:
    if new not in CHILD_TRANSITIONS[old]:
        raise AssertionError(f"a Child SA does not go from {old.value} to {new.value}")
