"""IKE messages of our own making and Hypothesis strategies for payloads, shared by the codec tests and the fuzzers."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from hypothesis import strategies as st

from ipsec_fast.algorithms import default_esp_proposals, default_ike_proposals
from ipsec_fast.iana import ExchangeType, IdType, NotifyType, PayloadType, ProtocolId
from ipsec_fast.ike.header import IkeHeader
from ipsec_fast.ike.v2.message import encode_message
from ipsec_fast.ike.v2.negotiate import numbered, without_ke
from ipsec_fast.ike.v2.payloads import (
    AuthPayload,
    DeletePayload,
    IdPayload,
    KePayload,
    NoncePayload,
    NotifyPayload,
    Payload,
    SaPayload,
    TsPayload,
    UnknownPayload,
    VendorPayload,
)
from ipsec_fast.model import Identity, Proposal, TrafficSelector, Transform

SPI_I, SPI_R = bytes(range(1, 9)), bytes(range(11, 19))
NET_1, NET_2 = TrafficSelector.parse("10.1.0.0/24"), TrafficSelector.parse("2001:db8::/64[tcp/443]")


def header(exchange: int = ExchangeType.IKE_SA_INIT, response: bool = False, message_id: int = 0) -> IkeHeader:
    return IkeHeader.make(SPI_I, SPI_R, exchange, message_id, initiator=not response, response=response)


def sa_init() -> tuple[Payload, ...]:
    """HDR, SAi1, KEi, Ni, N(NAT_DETECTION_*)"""
    return (
        SaPayload(numbered(default_ike_proposals())),
        KePayload(31, bytes(range(32))),
        NoncePayload(bytes(range(32))),
        NotifyPayload(NotifyType.NAT_DETECTION_SOURCE_IP, bytes(20)),
        NotifyPayload(NotifyType.NAT_DETECTION_DESTINATION_IP, bytes(20)),
        VendorPayload(b"someone"),
    )


def ike_auth() -> tuple[Payload, ...]:
    """SK {IDi, IDr, AUTH, SAi2, TSi, TSr}"""
    return (
        IdPayload(PayloadType.IDI, Identity.parse("london.example")),
        IdPayload(PayloadType.IDR, Identity.parse("192.0.2.2")),
        AuthPayload(2, bytes(32)),
        SaPayload(numbered(without_ke(default_esp_proposals()), b"\xc0\x01\x02\x03")),
        TsPayload(PayloadType.TSI, (NET_1, NET_2)),
        TsPayload(PayloadType.TSR, (NET_2,)),
    )


def create_child() -> tuple[Payload, ...]:
    """SK {N(REKEY_SA), SA, Ni, KEi, TSi, TSr}"""
    return (
        NotifyPayload(NotifyType.REKEY_SA, protocol=ProtocolId.ESP, spi=b"\xc0\x01\x02\x03"),
        SaPayload(numbered(default_esp_proposals(), b"\xc0\x01\x02\x04")),
        NoncePayload(bytes(32)),
        KePayload(31, bytes(32)),
        TsPayload(PayloadType.TSI, (NET_1,)),
        TsPayload(PayloadType.TSR, (NET_2,)),
    )


def ike_rekey() -> tuple[Payload, ...]:
    """SK {SA, Ni, KEi}"""
    return (
        SaPayload(numbered(default_ike_proposals(), SPI_I)),
        NoncePayload(bytes(32)),
        KePayload(31, bytes(32)),
    )


def informational() -> tuple[Payload, ...]:
    """SK {D, N}"""
    return (DeletePayload(ProtocolId.ESP, (b"\xc0\x01\x02\x03",)), NotifyPayload(40000, b"abc"))


def messages() -> dict[str, bytes]:
    """One message of each shape, its payloads in clear."""
    return {
        "sa_init": encode_message(header(), sa_init()),
        "ike_auth": encode_message(header(ExchangeType.IKE_AUTH, message_id=1), ike_auth()),
        "create_child": encode_message(header(ExchangeType.CREATE_CHILD_SA, message_id=2), create_child()),
        "ike_rekey": encode_message(header(ExchangeType.CREATE_CHILD_SA, True, 3), ike_rekey()),
        "informational": encode_message(header(ExchangeType.INFORMATIONAL, message_id=4), informational()),
        "empty": encode_message(header(ExchangeType.INFORMATIONAL, message_id=5), ()),
    }


u8, u16 = st.integers(0, 255), st.integers(0, 65535)
spis = st.sampled_from([b"", b"\1\2\3\4", SPI_I])


@st.composite
def selectors(draw: st.DrawFn) -> TrafficSelector:
    version = draw(st.sampled_from([4, 6]))
    highest = 2**32 - 1 if version == 4 else 2**128 - 1
    start, end = sorted((draw(st.integers(0, highest)), draw(st.integers(0, highest))))
    ports = draw(st.one_of(st.just((65535, 0)), st.tuples(u16, u16).map(lambda p: (min(p), max(p)))))
    make = IPv4Address if version == 4 else IPv6Address
    return TrafficSelector(make(start), make(end), draw(u8), *ports)


transforms = st.builds(Transform, u8, u16, st.one_of(st.none(), u16))
proposals = st.builds(Proposal, u8, u8, st.binary(max_size=16), st.lists(transforms, max_size=9).map(tuple))
identities = st.one_of(
    st.binary(min_size=4, max_size=4).map(lambda d: Identity(IdType.IPV4_ADDR, d)),
    st.binary(min_size=16, max_size=16).map(lambda d: Identity(IdType.IPV6_ADDR, d)),
    st.builds(Identity, u8.filter(lambda t: t not in (1, 5)), st.binary(max_size=40)),
)
_unread = u8.filter(lambda t: t not in {0, 33, 34, 35, 36, 39, 40, 41, 42, 43, 44, 45, 46, 53})

PAYLOADS: dict[str, st.SearchStrategy[Payload]] = {
    "SA": st.builds(SaPayload, st.lists(proposals, min_size=1, max_size=5).map(tuple)),
    "KE": st.builds(KePayload, u16, st.binary(max_size=300)),
    "NONCE": st.builds(NoncePayload, st.binary(min_size=16, max_size=256)),
    "ID": st.builds(
        IdPayload,
        st.sampled_from([PayloadType.IDI, PayloadType.IDR]),
        identities,
        st.binary(min_size=3, max_size=3),
    ),
    "AUTH": st.builds(AuthPayload, u8, st.binary(max_size=100)),
    "NOTIFY": st.builds(NotifyPayload, u16, st.binary(max_size=64), u8, st.binary(max_size=255)),
    "DELETE": st.one_of(
        st.builds(DeletePayload, u8, st.lists(st.binary(min_size=4, max_size=4), max_size=9).map(tuple)),
        st.builds(DeletePayload, u8, st.lists(st.binary(min_size=8, max_size=8), max_size=9).map(tuple)),
    ),
    "VENDOR": st.builds(VendorPayload, st.binary(max_size=64)),
    "TS": st.builds(
        TsPayload,
        st.sampled_from([PayloadType.TSI, PayloadType.TSR]),
        st.lists(selectors(), min_size=1, max_size=8).map(tuple),
    ),
    "UNKNOWN": st.builds(UnknownPayload, _unread, st.booleans(), st.binary(max_size=64)),
}
any_payload = st.one_of(*PAYLOADS.values())
