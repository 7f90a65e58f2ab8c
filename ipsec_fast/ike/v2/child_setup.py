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
from ...errors import NegotiationError, RemoteError
from ...iana import Group, NotifyType, PayloadType, TransformType
from ...model import Proposal, TrafficSelector
from ..asks import Steps, ask_spi
from ..config import ChildConfig
from .child_sa import FALLBACK, ORDINARY, ChildSA, Place, install_child
from .collide import Nonces
from .exchange import Payloads
from .ike_sa import IkeSA
from .message import Message
from .negotiate import check_chosen, check_narrowed, choose_proposal, narrow, numbered, uses_esn, without_ke
from .payloads import SaPayload, TsPayload
from .resources import admit, alike, fallback_of, is_alike, shown, speaks

if TYPE_CHECKING:
    from collections.abc import Iterable

Selectors = tuple[TrafficSelector, ...]
CHILDREN_MAX = 64
RESOURCE_CHILDREN_MAX = 256  # beside those: of all groups together, with those that a rekey has replaced


@dataclass(frozen=True, slots=True)
class ChildOffer:
    """What we propose as initiator of the exchange."""

    config: ChildConfig
    spi: int
    proposals: tuple[Proposal, ...]
    local_ts: Selectors
    remote_ts: Selectors

    @property
    def sa_payload(self) -> SaPayload:
        return SaPayload(self.proposals)

    @property
    def ts_payloads(self) -> Payloads:
        return (TsPayload(PayloadType.TSI, self.local_ts), TsPayload(PayloadType.TSR, self.remote_ts))


@dataclass(frozen=True, slots=True)
class ChildChoice:
    """What we choose as responder of the exchange; its SPI is the peer's until ours has been asked for."""

    config: ChildConfig
    proposal: Proposal
    local_ts: Selectors
    remote_ts: Selectors


def selectors_of(sa: IkeSA, config: ChildConfig) -> tuple[Selectors, Selectors]:
    """(local, remote); a dynamic one of the configuration is the IKE SA's own address on that side."""
    return config.local_at((sa.path.local,)), config.remote_at((sa.path.remote,))


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
) -> Steps[ChildOffer]:
    """`resource` and `replaces` as in AskSpi."""
    spi = yield from ask_spi(resource, replaces)
    proposals = config.proposals if with_ke else without_ke(config.proposals)
    local, remote = selectors or selectors_of(sa, config)
    return ChildOffer(config, spi, numbered(proposals, spi.to_bytes(4, "big")), local, remote)


def check_answer(offer: ChildOffer, message: Message) -> ChildChoice:
    """The responder's choice, checked against the offer."""
    answer = message.get(SaPayload)
    tsi, tsr = message.get(TsPayload, PayloadType.TSI), message.get(TsPayload, PayloadType.TSR)
    if answer is None or tsi is None or tsr is None:
        raise NegotiationError("the response has no SA, TSi or TSr payload", NotifyType.INVALID_SYNTAX)
    proposal = check_chosen(offer.proposals, answer.proposals)
    local = check_narrowed(offer.local_ts, tsi.selectors, side="TSi")
    remote = check_narrowed(offer.remote_ts, tsr.selectors, side="TSr")
    return ChildChoice(offer.config, proposal, local, remote)


# --- responder of the exchange


def check_room(sa: IkeSA, place: Place) -> None:
    """NegotiationError where this IKE SA holds as many as it may; RFC 9611 section 6 has a notify of its own for what is in a group."""
    if place.resource is not None:
        if has_resource_room(sa):
            return
        text = f"{RESOURCE_CHILDREN_MAX} per-resource SAs in one IKE SA are the most"
        raise NegotiationError(text, NotifyType.TS_MAX_QUEUE)
    if sum(child.resource is None for child in sa.children.values()) >= CHILDREN_MAX:
        raise NegotiationError(f"{CHILDREN_MAX} Child SAs are the most", NotifyType.NO_ADDITIONAL_SAS)


def has_resource_room(sa: IkeSA) -> bool:
    """For one more per-resource Child SA, whoever asks for it."""
    return sum(child.resource is not None for child in sa.children.values()) < RESOURCE_CHILDREN_MAX


def choose_child(
    sa: IkeSA, message: Message, candidates: Sequence[ChildConfig], *, with_ke: bool, ke_group: int | None = None
) -> ChildChoice:
    """The first child of the configuration that fits wholly, else the first that fits in part.

    NegotiationError names both sides; TS_UNACCEPTABLE goes before NO_PROPOSAL_CHOSEN where no selectors fit at all.
    """
    offered = message.get(SaPayload)
    tsi, tsr = message.get(TsPayload, PayloadType.TSI), message.get(TsPayload, PayloadType.TSR)
    if offered is None or tsi is None or tsr is None:
        raise NegotiationError("no SA, TSi or TSr payload", NotifyType.INVALID_SYNTAX)
    if not candidates:
        raise NegotiationError(f"connection {sa.name} has no children", NotifyType.TS_UNACCEPTABLE)
    fitting: list[tuple[bool, ChildChoice]] = []
    refusals: list[RemoteError] = []
    for config in candidates:
        try:
            choice = _choose(sa, offered, tsi.selectors, tsr.selectors, config, with_ke, ke_group)
        except NegotiationError as error:
            refusals.append(error)
            continue
        fitting.append(((choice.local_ts, choice.remote_ts) != selectors_of(sa, config), choice))
    if fitting:
        return min(fitting, key=lambda item: item[0])[1]
    raise min(refusals, key=lambda error: error.notify == NotifyType.TS_UNACCEPTABLE)


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
        f"CHILD SA {fallback.name}: one more for resource {place.resource}, peer's {shown(notify)}", group="chd"
    )
    return choice, place


def _choose(
    sa: IkeSA,
    offered: SaPayload,
    tsi: Selectors,
    tsr: Selectors,
    config: ChildConfig,
    with_ke: bool,
    ke_group: int | None,
) -> ChildChoice:
    local, remote = selectors_of(sa, config)
    remote_ts = narrow(tsi, remote, side="TSi")
    local_ts = narrow(tsr, local, side="TSr")
    if not with_ke:
        proposal = choose_proposal(without_ke(offered.proposals), without_ke(config.proposals))
    else:
        proposal = choose_with_group(offered.proposals, config.proposals, ke_group)
    return ChildChoice(config, proposal, local_ts, remote_ts)


def choose_with_group(
    offered: Sequence[Proposal], ours: Sequence[Proposal], ke_group: int | None, *, spi_bytes: int | None = None
) -> Proposal:
    """The group of the KE payload is taken where our proposals allow it, which saves a round trip."""
    if ke_group is not None and ke_group in groups_of(ours):
        try:
            return choose_proposal(offered, ours, spi_bytes=spi_bytes, groups_allowed=(ke_group,))
        except NegotiationError:
            pass  # it is not offered together with anything of ours
    return choose_proposal(offered, ours, spi_bytes=spi_bytes)


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
    )
    yield from install_child(sa, child)
    return child
