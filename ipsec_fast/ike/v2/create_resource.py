"""One more Child SA of a group, for one resource of ours (RFC 9611 section 3), as initiator.

It has the selectors and algorithms of the fallback. A peer that has enough says TS_MAX_QUEUE; what it answers without SA_RESOURCE_INFO,
or for other traffic, is deleted again. Whether and when to ask is the shell's (control/resources). The responder stands in
create_child_answer.py and resources.py.
"""

from __future__ import annotations

from dataclasses import replace

from ...errors import LocalError, NegotiationError
from ...iana import NotifyType, name_of
from ...model import selectors_text
from ..config import ChildConfig
from ..events import ResourceFailed
from .child_sa import ChildSA, Place
from .child_setup import ChildChoice, Selectors, has_resource_room
from .create_child import CreateChild
from .ike_sa import IkeSA
from .message import Message
from .payloads import NotifyPayload
from .resources import STANDING, alike, fallback_of, group_of, is_alike, limit_of

ENOUGH = (NotifyType.TS_MAX_QUEUE, NotifyType.NO_ADDITIONAL_SAS)


class CreateResourceChild(CreateChild):
    """Asked for by us; `resource` is our own number of it, which the peer only ever prints."""

    def __init__(self, config: ChildConfig, local_ts: Selectors, remote_ts: Selectors, resource: int) -> None:
        super().__init__(config)
        self.resource = resource
        self._key = (config, local_ts, remote_ts)
        self._fallback: ChildSA | None = None
        self._has_enough = False

    def is_wanted(self, sa: IkeSA) -> bool:
        """While the fallback stands, nothing serves the resource yet, and there is room by our own limits: the peer chooses how many
        fallbacks there are."""
        if sa.is_closed:
            return False
        self._fallback = fallback_of(sa, *self._key)
        served = [c.resource for c in group_of(sa, *self._key) if c.resource is not None]
        has_room = len(served) < limit_of(sa, self.config) and has_resource_room(sa)
        return self._fallback is not None and self.resource not in served and has_room

    def resource_for(self, fallback: ChildSA) -> int | None:
        is_its = (fallback.name, fallback.local_ts, fallback.remote_ts) == (self.config.name, *self._key[1:])
        return self.resource if is_its else None

    def _place(self, sa: IkeSA) -> Place:
        return Place(True, self.resource)

    def _selectors(self, sa: IkeSA) -> tuple[Selectors, Selectors]:
        return self._key[1], self._key[2]

    def _proposed(self) -> ChildConfig:
        proposals = alike(self.config.proposals, self._fallback) if self._fallback is not None else ()
        if not proposals:
            raise LocalError(f"child {self.config.name} does not propose any more what its fallback SA has")
        return replace(self.config, proposals=proposals)

    def _check(self, message: Message, choice: ChildChoice) -> None:
        fallback = self._fallback
        if message.notify(NotifyType.SA_RESOURCE_INFO) is None:
            self._has_enough = True
            raise NegotiationError("the peer answered without SA_RESOURCE_INFO, which it has for the first one")
        if fallback is not None and not is_alike(choice.proposal, fallback):
            raise NegotiationError(f"the peer chose {choice.proposal}, the first one has {fallback.suite.name}")
        if (frozenset(choice.local_ts), frozenset(choice.remote_ts)) != tuple(map(frozenset, self._key[1:])):
            got = f"{selectors_text(choice.local_ts)} === {selectors_text(choice.remote_ts)}"
            raise NegotiationError(f"the peer narrowed it to {got}, which is not what the first one carries")

    def _refused(self, sa: IkeSA, error: NotifyPayload) -> None:
        if error.notify == NotifyType.TEMPORARY_FAILURE and self._put_off(sa):
            return
        self._has_enough = error.notify in ENOUGH
        raise NegotiationError(f"the peer refused it with {name_of(NotifyType, error.notify)}")

    def failed(self, sa: IkeSA, reason: str) -> None:
        self._close_key_pair()
        if sa.is_closed:
            return
        fallback = fallback_of(sa, *self._key)
        if fallback is not None:
            sa.core.emit(
                ResourceFailed(
                    sa.ike_id, fallback.child_id, sa.name, self.config.name, self.resource, reason, self._has_enough
                )
            )
        sa.progress(f"CHILD SA {self.config.name} for resource {self.resource} failed: {reason}", group="chd")


def carry_resources(sa: IkeSA) -> list[CreateResourceChild]:
    """A reauthentication makes the per-resource Child SAs anew too, before the old IKE SA goes."""
    old = sa.core.sas.get(sa.reauthenticates or 0)
    carried = old.children.values() if old is not None else ()
    return [
        CreateResourceChild(child.config, child.local_ts, child.remote_ts, child.resource)
        for child in carried
        if child.resource is not None and child.state in STANDING and not child.is_redundant
    ]
