"""The hard end of a Child SA, and its way back (RFC 7296 sections 1.4.1, 2.8).

What has reached its hard limit is used no more from that moment on, whatever the window of the IKE SA is busy with; the
peer is told as soon as the window is free, and the child is negotiated anew, as strongSwan does. Called by endpoint.
"""

from __future__ import annotations

from .child_sa import ChildSA, close_child
from .create_child import CreateChild
from .ike_sa import IkeSA
from .informational import DeleteChild
from .outbound import submit
from .states import ChildState, State

WANTED = (ChildState.INSTALLED, ChildState.REKEYING)


class RecreateChild(CreateChild):
    """Made anew unless a rekey that was under way has done it."""

    def is_wanted(self, sa: IkeSA) -> bool:
        same = (child for child in sa.children.values() if child.name == self.config.name and child.resource is None)
        stands = any(child.state in WANTED for child in same)
        return not sa.is_closed and not stands


def expire_child(sa: IkeSA, child: ChildSA, reason: str) -> None:
    is_wanted = child.state in WANTED and not child.is_redundant and child.resource is None
    is_told = child.state is ChildState.DELETING
    spi_in = child.spi_in
    close_child(sa, child, reason)
    if sa.state not in (State.ESTABLISHED, State.REKEYING) or is_told:
        return
    submit(sa, DeleteChild(None, reason, spi_in=spi_in))
    if is_wanted:
        submit(sa, RecreateChild(child.config))
