"""How a Child SA is negotiated: proposals, selectors, keys (RFC 7296 sections 1.2, 1.3.1, 2.9, 2.17).

The same for IKE_AUTH and CREATE_CHILD_SA, for both roles; the exchanges' files say in which message it travels.
USE_TRANSPORT_MODE is not echoed, so every Child SA is a tunnel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ...algorithms import suite_of
from ...crypto.secret import Secret
from ...errors import NegotiationError, RemoteError, UsageError
from ...iana import Group, NotifyType, PayloadType, TransformType
from ...model import Proposal, TrafficSelector
from ..asks import Steps, ask_spi
from ..config import ChildConfig
from .child_sa import FALLBACK, ORDINARY, ChildSA, Place, install_child
from .collide import Nonces
from .exchange import Payloads
from .ike_sa import IkeSA
from .message import Message
from .narrow import (
    PAYLOAD_SELECTORS,
    Common,
    covers,
    drop_unpaired,
    foldable,
    lead_with,
    narrow_both,
    not_covered,
    reduced,
    shown,
    volume,
)
from .negotiate import check_chosen, check_narrowed, choose_proposal, numbered, uses_esn, without_ke
from .payloads import SaPayload, TsPayload
from .reserved import without_reserved
from .resources import admit, alike, fallback_of, is_alike, speaks
from .resources import shown as shown_resource
from .states import ChildState
from .unique import same_peer

if TYPE_CHECKING:
    from collections.abc import Iterable

Selectors = tuple[TrafficSelector, ...]
Packet = tuple[TrafficSelector, TrafficSelector]  # local and remote side of one packet
CHILDREN_MAX = 64
RESOURCE_CHILDREN_MAX = 256  # beside those: of all groups together, with those that a rekey has replaced
CHILDREN_PER_PEER = 256  # over all its IKE SAs, including those of a reauthentication
RESOURCE_CHILDREN_PER_PEER = 1024
REPLACED_ROOM = 3  # factor above the limit while a peer does not delete the Child SAs that its rekeys replaced


@dataclass(frozen=True, slots=True)
class ChildOffer:
    """What we propose as initiator of the exchange."""

    config: ChildConfig
    spi: int
    proposals: tuple[Proposal, ...]
    local_ts: Selectors
    remote_ts: Selectors
    packet: Packet | None = None  # the packet that triggered it; its selectors come first in the two lists

    @property
    def sa_payload(self) -> SaPayload:
        return SaPayload(self.proposals)

    @property
    def ts_payloads(self) -> Payloads:
        return (TsPayload(PayloadType.TSI, self.local_ts), TsPayload(PayloadType.TSR, self.remote_ts))


@dataclass(frozen=True, slots=True)
class ChildChoice:
    """What was chosen; its SPI is the peer's until ours, as responder, has been asked for. `narrowed` as in ChildSA."""

    config: ChildConfig
    proposal: Proposal
    local_ts: Selectors
    remote_ts: Selectors
    narrowed: str = ""


def selectors_of(sa: IkeSA, config: ChildConfig) -> tuple[Selectors, Selectors]:
    """(local, remote); a dynamic one of the configuration is the IKE SA's own address on that side."""
    local, remote = config.local_at((sa.path.local,)), config.remote_at((sa.path.remote,))
    return foldable(local), foldable(remote)


def groups_of(proposals: Iterable[Proposal]) -> tuple[int, ...]:
    """The groups of all proposals in order of preference, each once."""
    groups = (t.id for p in proposals for t in p.of(TransformType.KE) if t.id != Group.NONE)
    return tuple(dict.fromkeys(groups))


# --- initiator of the exchange


def make_offer(
    sa: IkeSA,
    config: ChildConfig,
    *,
    with_ke: bool,
    selectors: tuple[Selectors, Selectors] | None = None,
    resource: int | None = None,
    replaces: int | None = None,
    packet: Packet | None = None,
) -> Steps[ChildOffer]:
    """`resource` and `replaces` as in AskSpi; `packet`: the packet that triggered this
    Child SA. UsageError if it cannot be offered.
    """
    local, remote = lead_with(packet, *(selectors or selectors_of(sa, config)))
    _check_offer(config, local, remote)
    spi = yield from ask_spi(resource, replaces)
    proposals = config.proposals if with_ke else without_ke(config.proposals)
    return ChildOffer(config, spi, numbered(proposals, spi.to_bytes(4, "big")), local, remote, packet)


def _check_offer(config: ChildConfig, local: Selectors, remote: Selectors) -> None:
    longest = max(len(local), len(remote))
    if longest > PAYLOAD_SELECTORS:
        text = (
            f"child {config.name} has {longest} selectors on one side, at most {PAYLOAD_SELECTORS} fit into a Child SA"
        )
        raise UsageError(f"{text} (RFC 7296 section 3.13); split it into several children")
    if not all(drop_unpaired(local, remote)):
        text = f"child {config.name}: no packet can match both {shown(local)} and {shown(remote)}"
        raise UsageError(f"{text}; both sides need one IP version and protocol")


def offered_text(offer: ChildOffer) -> str:
    """The whole offer as text, for the reason of its failure."""
    return f"{', '.join(map(str, offer.proposals))} for {shown(offer.local_ts)} === {shown(offer.remote_ts)}"


def check_answer(offer: ChildOffer, message: Message) -> ChildChoice:
    """The responder's choice, checked against the offer."""
    answer = message.get(SaPayload)
    tsi, tsr = message.get(TsPayload, PayloadType.TSI), message.get(TsPayload, PayloadType.TSR)
    if answer is None or tsi is None or tsr is None:
        raise NegotiationError("the response has no SA, TSi or TSr payload", NotifyType.INVALID_SYNTAX)
    proposal = check_chosen(offer.proposals, answer.proposals)
    local, remote = drop_unpaired(
        check_narrowed(offer.local_ts, tsi.selectors, side="TSi"),
        check_narrowed(offer.remote_ts, tsr.selectors, side="TSr"),
    )  # a selector of an unknown type can only be left out
    if not local:
        text = (
            f"no packet could match what the responder returned: TSi {shown(tsi.selectors)}, TSr {shown(tsr.selectors)}"
        )
        raise NegotiationError(text, NotifyType.TS_UNACCEPTABLE)
    choice = ChildChoice(offer.config, proposal, local, remote)
    return replace(choice, narrowed=_narrowed("the peer", choice, offer.local_ts, offer.remote_ts))


def _narrowed(
    whom: str, choice: ChildChoice, local: Sequence[TrafficSelector], remote: Sequence[TrafficSelector]
) -> str:
    """`by the peer from 10.1.0.0/16`: offered selectors that are not, or not wholly, in the choice; "" if all are."""
    lost = (not_covered(local, choice.local_ts), not_covered(remote, choice.remote_ts))
    sides = [shown(side) for side in lost if side]
    return f"by {whom} from {' === '.join(sides)}" if sides else ""


# --- responder of the exchange


def check_room(sa: IkeSA, place: Place) -> None:
    """NegotiationError if this IKE SA or this peer has as many as it may; RFC 9611
    section 6 has a notify of its own for a group.
    """
    if place.resource is not None:
        most, per_peer, notify = RESOURCE_CHILDREN_MAX, RESOURCE_CHILDREN_PER_PEER, NotifyType.TS_MAX_QUEUE
        own, what = count_children(sa, in_group=True), "per-resource SAs"
    else:
        most, per_peer, notify = CHILDREN_MAX, CHILDREN_PER_PEER, NotifyType.NO_ADDITIONAL_SAS
        own, what = count_children(sa, in_group=False), "Child SAs"
    if own >= most:
        raise NegotiationError(f"{most} {what} in one IKE SA are the most", notify)
    others = sum(count_children(other, in_group=place.resource is not None) for other in same_peer(sa))
    if own + others >= per_peer:
        raise NegotiationError(f"{sa.remote_id} has {own + others} {what} over all its IKE SAs, the most", notify)


def check_rekey_room(sa: IkeSA, old: ChildSA) -> None:
    """A rekey is allowed at the limit too. NegotiationError if the peer leaves too many replaced Child SAs."""
    most = CHILDREN_MAX if old.resource is None else RESOURCE_CHILDREN_MAX
    same = sum((child.resource is None) == (old.resource is None) for child in sa.children.values())
    if same >= REPLACED_ROOM * most:
        text = f"{same} Child SAs are there, most of them replaced and not deleted by the peer"
        raise NegotiationError(text, NotifyType.TEMPORARY_FAILURE)


def count_children(sa: IkeSA, *, in_group: bool) -> int:
    """The number of per-resource Child SAs, or of the others; those that a rekey has replaced do not count."""
    if in_group:
        return sum(child.resource is not None for child in sa.children.values())
    return sum(child.resource is None and child.state is not ChildState.REKEYED for child in sa.children.values())


def has_resource_room(sa: IkeSA) -> bool:
    """For one more per-resource Child SA, whoever asks for it."""
    return count_children(sa, in_group=True) < RESOURCE_CHILDREN_MAX


def choose_child(
    sa: IkeSA,
    message: Message,
    candidates: Sequence[ChildConfig],
    *,
    with_ke: bool,
    ke_group: int | None = None,
    replaced: ChildSA | None = None,
) -> ChildChoice:
    """The configured child that suits the offer best (section 2.9): first one
    that holds the initiator's first selectors.

    Then the largest part of the offer decides, then the narrower child, then the order of the configuration.
    NegotiationError names both sides; TS_UNACCEPTABLE takes precedence over NO_PROPOSAL_CHOSEN. `replaced`: the Child
    SA that the peer rekeys; its selectors are allowed, and the new one must hold them all (section 2.9.2).
    """
    offered = message.get(SaPayload)
    tsi, tsr = message.get(TsPayload, PayloadType.TSI), message.get(TsPayload, PayloadType.TSR)
    if offered is None or tsi is None or tsr is None:
        raise NegotiationError("no SA, TSi or TSr payload", NotifyType.INVALID_SYNTAX)
    if not candidates:
        raise NegotiationError(f"connection {sa.name} has no children", NotifyType.TS_UNACCEPTABLE)
    for payload in (tsi, tsr):
        if not payload.selectors:
            text = f"{payload.type_.name} has no selector of a type that we know: {payload.unread_text}"
            raise NegotiationError(text, NotifyType.TS_UNACCEPTABLE)
    selectors = (reduced(tsi.selectors), reduced(tsr.selectors))
    fitting: list[tuple[tuple[bool, float, int], ChildChoice, Common]] = []
    refusals: list[RemoteError] = []
    for config in candidates:
        try:
            fitting.append(_choose(sa, offered, selectors, config, with_ke, ke_group, replaced))
        except NegotiationError as error:
            refusals.append(error)
    if not fitting:
        raise min(refusals, key=lambda error: error.notify == NotifyType.TS_UNACCEPTABLE)
    _, choice, common = min(fitting, key=lambda item: item[0])
    return replace(choice, narrowed=_narrowed_by_us(choice, common, tsi, tsr))


def place_child(
    sa: IkeSA, message: Message, choice: ChildChoice, *, with_ke: bool, ke_group: int | None = None
) -> tuple[ChildChoice, Place]:
    """Where the new Child SA stands if the peer speaks RFC 9611 of it: the fallback of a new group, or one more with its algorithms."""
    notify = message.notify(NotifyType.SA_RESOURCE_INFO)
    if notify is None or not speaks(sa, choice.config):
        return choice, ORDINARY
    fallback = fallback_of(sa, choice.config, choice.local_ts, choice.remote_ts)
    if fallback is None:
        return choice, FALLBACK
    place = admit(sa, fallback)
    if not is_alike(choice.proposal, fallback):
        same = replace(choice.config, proposals=alike(choice.config.proposals, fallback))
        again = choose_child(sa, message, (same,), with_ke=with_ke, ke_group=ke_group)
        choice = replace(again, config=choice.config)
    sa.progress(
        f"CHILD SA {fallback.name}: one more for resource {place.resource}, peer's {shown_resource(notify)}",
        group="chd",
    )
    return choice, place


def _choose(
    sa: IkeSA,
    offered: SaPayload,
    selectors: tuple[Selectors, Selectors],
    config: ChildConfig,
    with_ke: bool,
    ke_group: int | None,
    replaced: ChildSA | None,
) -> tuple[tuple[bool, float, int], ChildChoice, Common]:
    """The choice of this child, and its rank: the least is the best."""
    local, remote = selectors_of(sa, config)
    if replaced is not None:
        local = (*local, *not_covered(replaced.local_ts, local))
        remote = (*remote, *not_covered(replaced.remote_ts, remote))
    limits = sa.core.settings
    common = narrow_both(
        *selectors,
        local,
        remote,
        policies=limits.policies_per_child,
        routes=limits.routes_per_child,
    )
    configured = remote if replaced is None else (*remote, *replaced.remote_ts)
    common = _without_reserved(sa, common, configured, selectors[0][0])
    if not with_ke:
        proposal = choose_proposal(without_ke(offered.proposals), without_ke(config.proposals))
    else:
        proposal = choose_with_group(offered.proposals, config.proposals, ke_group)
    choice = ChildChoice(config, proposal, common.local, common.remote)
    if replaced is not None:
        check_not_narrower(choice, replaced)
    rank = (not common.holds_first, -common.share, volume(local) * volume(remote))
    return rank, choice, common


def _without_reserved(sa: IkeSA, common: Common, configured: Selectors, first: TrafficSelector) -> Common:
    """Narrow away what a peer may not pick (reserved.py)."""
    kept = without_reserved(common.remote, configured, sa.core.connected(), sa.path.remote)
    if kept == common.remote:
        return common
    local, remote = drop_unpaired(common.local, kept)
    holds_first = common.holds_first and covers(remote, first)
    return replace(common, local=local, remote=remote, holds_first=holds_first)


def check_not_narrower(choice: ChildChoice, replaced: ChildSA) -> None:
    """Section 2.9.2: the new Child SA must hold all selectors of the one that it replaces."""
    lost = (*not_covered(replaced.local_ts, choice.local_ts), *not_covered(replaced.remote_ts, choice.remote_ts))
    if lost:
        text = f"a rekey must not narrow CHILD SA {replaced.name}{{{replaced.child_id}}} (RFC 7296 section 2.9.2)"
        raise NegotiationError(f"{text}: {shown(lost)} would be lost", NotifyType.TS_UNACCEPTABLE)


def _narrowed_by_us(choice: ChildChoice, common: Common, tsi: TsPayload, tsr: TsPayload) -> str:
    text = _narrowed("us", choice, tsr.selectors, tsi.selectors)
    if common.left_out:
        taken = f"{len(choice.local_ts)} and {len(choice.remote_ts)}"
        text += f" ({common.left_out} selectors are more than one Child SA takes, {taken} were taken)"
    unread = [payload.unread_text for payload in (tsi, tsr) if payload.unread]
    if unread:
        text = f"{text or 'by us'} ({', '.join(unread)} left out)"
    return text


def choose_with_group(
    offered: Sequence[Proposal], ours: Sequence[Proposal], ke_group: int | None, *, spi_bytes: int | None = None
) -> Proposal:
    """The group of the KE payload is taken where our proposals allow it, which saves a round trip."""
    chosen = choose_proposal(offered, ours, spi_bytes=spi_bytes)
    group = chosen.one(TransformType.KE)
    if ke_group is None or (group is not None and group.id == ke_group) or ke_group not in groups_of(ours):
        return chosen
    try:
        return choose_proposal(offered, ours, spi_bytes=spi_bytes, groups_allowed=(ke_group,))
    except NegotiationError:  # the group is not offered together with a proposal of ours
        return chosen


def answer_payloads(choice: ChildChoice, spi: int) -> tuple[SaPayload, Payloads]:
    """SAr and, of the exchange's initiator and responder, TSi and TSr."""
    answer = SaPayload((replace(choice.proposal, spi=spi.to_bytes(4, "big")),))
    return answer, (TsPayload(PayloadType.TSI, choice.remote_ts), TsPayload(PayloadType.TSR, choice.local_ts))


# --- both


def establish_child(
    sa: IkeSA,
    choice: ChildChoice,
    *,
    spi_in: int,
    nonces: Nonces,
    shared: Secret | None,
    initiator: bool,
    replaces: ChildSA | None = None,
    outbound_deferred: bool = False,
    place: Place = ORDINARY,
) -> Steps[ChildSA]:
    """Keys, then into the dataplane. `initiator`: of this exchange, hence of the Child SA's KEYMAT. `place`: in a group of RFC 9611."""
    if replaces is not None and (choice.local_ts, choice.remote_ts) == (replaces.local_ts, replaces.remote_ts):
        choice = replace(choice, narrowed=replaces.narrowed)
    if initiator and replaces is None:  # the responder may have narrowed to reserved networks, or to ours
        configured = selectors_of(sa, choice.config)[1]
        kept = without_reserved(choice.remote_ts, configured, sa.core.connected(), sa.path.remote)
        choice = replace(choice, remote_ts=kept)
    suite = suite_of(choice.proposal)
    key_i, key_r = sa.keys.child_keys(shared, nonces, suite.keymat_bytes)
    group = choice.proposal.one(TransformType.KE)
    child = ChildSA(
        child_id=sa.core.new_id("child"),
        config=choice.config,
        suite=suite,
        esn=uses_esn(choice.proposal),
        group=int(group.id) if group and shared is not None else 0,
        encap=sa.encap,
        spi_in=spi_in,
        spi_out=int.from_bytes(choice.proposal.spi, "big"),
        key_in=key_r if initiator else key_i,
        key_out=key_i if initiator else key_r,
        local_ts=choice.local_ts,
        remote_ts=choice.remote_ts,
        initiator=initiator,
        installed_at=sa.core.now,
        outbound_deferred=outbound_deferred,
        replaces=replaces.child_id if replaces else None,
        quiet_since=replaces.quiet_since if replaces else sa.core.now,
        place=place,
        narrowed=choice.narrowed,
    )
    yield from install_child(sa, child)
    return child
