"""What an exchange is to the IKE SA: a request of ours with its response, or the reply to a request of the peer's.

An own request waits in the IKE SA's queue until the window is free (`outbound.submit`). The exchanges themselves have a
file each; `dispatch.TABLE` knows the handlers of the peer's requests.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ...iana import ExchangeType
from ..asks import Steps
from .message import Message
from .payloads import Payload

if TYPE_CHECKING:
    from .child_sa import ChildSA
    from .ike_sa import IkeSA

Payloads = tuple[Payload, ...]


@dataclass(frozen=True, slots=True)
class Reply:
    """The response to a request of the peer's; `after` runs when it has been stored and sent."""

    payloads: Payloads = ()
    after: Callable[[], None] | None = None


def rekey_twin(child_id: int) -> object:
    return "CHILD_REKEY", child_id


class Exchange:
    """A request of ours, from the queue to its end. `name` is what list-sas calls the task."""

    name: ClassVar[str]
    type: ClassVar[ExchangeType]
    priority: ClassVar[int] = 0  # higher ones leave the queue first: deletes
    makes_child: ClassVar[bool] = False
    probe_sizes: tuple[int, ...] = ()  # of probe.Probe: IP datagram sizes, the largest first and whole
    probe_wait_s: float = 0.0

    @property
    def twin(self) -> object:
        """A key that is equal for exchanges of which one in the queue is enough; None: keep each."""
        return None

    def is_wanted(self, sa: IkeSA) -> bool:
        """Asked when its turn has come: is there still a reason to send it?"""
        return not sa.is_closed

    def request(self, sa: IkeSA) -> Steps[Payloads]:
        """The payloads to send. A LocalError fails the exchange before anything was sent."""
        raise NotImplementedError

    def response(self, sa: IkeSA, message: Message) -> Steps[None]:
        """Its response has come; a RemoteError or LocalError from here goes to `failed`."""
        raise NotImplementedError

    def note_deleted(self, spis: Collection[bytes]) -> None:
        """While it is outstanding the peer has deleted Child SAs that we do not know."""

    def resource_for(self, fallback: ChildSA) -> int | None:
        """Which resource it is to give a Child SA of its own in this group (RFC 9611); None where it does something else."""
        return None

    def broken(self, sa: IkeSA, reason: str) -> None:
        """Called if its response breaks the protocol: fail; the caller then ends the IKE SA."""
        self.failed(sa, reason)

    def failed(self, sa: IkeSA, reason: str) -> None:
        """It came to nothing: it was refused, nobody answered, or the IKE SA is gone (`sa.is_closed`)."""
