"""The codec of records: what is not of its kind, bent or cut is refused, everything else comes back equal, secrets as secrets."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from enum import Enum
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from state_samples import child_record, ike_record, plain, secrets_of

from ipsec_fast.algorithms import esp_suite, esp_suite_names
from ipsec_fast.control.store_codec import decode, encode, schema
from ipsec_fast.crypto.rest import OpenedRecord, RestKey
from ipsec_fast.crypto.secret import Secret, random_secret, secret_from_buffer
from ipsec_fast.errors import StateError, UsageError
from ipsec_fast.iana import Encr
from ipsec_fast.ike.records import IkeRecord
from ipsec_fast.model import TrafficSelector

ROOT = Path(__file__).parents[2]
KEY = RestKey(random_secret(32))


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclasses.dataclass(frozen=True)
class Everything:
    nothing: None
    yes: bool
    number: int
    real: float
    text: str
    data: bytes
    v4: IPv4Address
    v6: IPv6Address | IPv4Address
    secret: Secret
    colour: Colour
    cipher: Encr
    many: tuple[int, ...]
    pair: tuple[str, bytes]
    maybe: TrafficSelector | None
    either: int | str | None


def opened(parts: list[Any]) -> OpenedRecord:
    return KEY.open(b"", KEY.seal(b"", parts))


def stream(value: object, kind: Any) -> bytes:
    """What is sealed, as bytes, secrets and all."""
    record = opened(encode(value, kind))
    return record.take(record.left)


def everything(**changes: Any) -> Everything:
    one = Everything(
        None, True, -(2**70), 0.5, "Zürich", b"\0\1", IPv4Address("192.0.2.1"), IPv6Address("2001:db8::1"),
        secret_from_buffer(b"0123456789abcdef"), Colour.BLUE, Encr.AES_GCM_16, (1, 2**64, -1), ("a", b"b"), None, "word",
    )  # fmt: skip
    return dataclasses.replace(one, **changes)


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("yes", 1), ("number", True), ("number", 1.0), ("number", 2**300), ("real", "1"), ("text", b"x"), ("data", "x"),
        ("v4", IPv6Address("::1")), ("secret", b"0123456789abcdef"), ("colour", "red"), ("cipher", 20), ("many", [1]),
        ("many", (1, "2")), ("pair", ("a",)), ("maybe", "10.0.0.0/8"), ("either", 1.5), ("nothing", 0),
        ("v6", IPv6Address("fe80::1%eth0")),
    ],
)  # fmt: skip
def test_a_value_of_another_kind_is_refused_and_the_field_is_named(field: str, wrong: object) -> None:
    with pytest.raises(UsageError, match=rf"Everything\.{field}: "):
        encode(everything(**{field: wrong}), Everything)


def test_a_refusal_never_shows_the_value() -> None:
    with pytest.raises(UsageError) as caught:
        encode(everything(secret=b"0123456789abcdef"), Everything)
    assert "0123" not in str(caught.value)


@pytest.mark.parametrize("kind", [dict, list[int], Any, complex])
def test_a_type_that_no_record_may_hold_is_refused(kind: Any) -> None:
    with pytest.raises(UsageError, match="cannot hold"):
        encode(None, kind)


def test_every_truncation_is_refused() -> None:
    for value, kind in ((everything(), Everything), (ike_record(), IkeRecord)):
        whole = stream(value, kind)
        for length in range(1, len(whole)):
            with pytest.raises(StateError):
                decode(opened([whole[:length]]), kind)
        with pytest.raises(StateError, match="1 bytes too many"):
            decode(opened([whole + b"\0"]), kind)


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (bool, b"\2"), (int, b"\0"), (int, b"\2\0\1"), (int, b"\x21" + bytes(33)), (str, b"\0\0\0\1\xff"),
        (bytes, b"\xff\xff\xff\xff"), (tuple[int, ...], b"\xff\xff\xff\xff\1\1"), (int | None, b"\2"), (Colour, b"\0\0\0\5green"),
        (Encr, b"\2\x7f\xff"),
    ],
)  # fmt: skip
def test_lying_lengths_and_unknown_values_are_refused(kind: Any, data: bytes) -> None:
    with pytest.raises(StateError):
        decode(opened([data]), kind)


def test_values_that_their_class_refuses_are_refused() -> None:
    good = stream(TrafficSelector.parse("10.0.0.0/8"), TrafficSelector)
    bent = good.replace(IPv4Address("10.0.0.0").packed, IPv4Address("11.0.0.0").packed)
    with pytest.raises(StateError, match="no TrafficSelector"):
        decode(opened([bent]), TrafficSelector)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.binary(min_size=1, max_size=200))
def test_any_bytes_are_a_record_or_a_state_error(data: bytes) -> None:
    try:
        value = decode(opened([data]), Everything)
    except StateError:
        return
    assert stream(value, Everything) == data or value.real != value.real


@settings(max_examples=200, deadline=None)
@given(
    number=st.integers(-(2**200), 2**200), real=st.floats(allow_nan=False), text=st.text(st.characters(exclude_categories=["Cs"])),
    data=st.binary(), either=st.none() | st.integers(-(2**64), 2**64) | st.just("x"), many=st.lists(st.integers(0, 2**64)).map(tuple),
    v6=st.ip_addresses(),
)  # fmt: skip
def test_every_plain_value_comes_back(**changes: Any) -> None:
    value = everything(**changes)
    assert plain(decode(opened(encode(value, Everything)), Everything)) == plain(value)


@pytest.mark.parametrize("children", [0, 1, 3])
def test_a_record_comes_back_with_secrets_as_secrets(children: int) -> None:
    record = ike_record(children=children)
    again = decode(opened(encode(record, IkeRecord)), IkeRecord)
    assert plain(again) == plain(record)
    assert isinstance(again.keys.sk_d, Secret)


def test_no_part_that_is_bytes_holds_a_secret() -> None:
    record = ike_record()
    parts = encode(record, IkeRecord)
    as_bytes = b"".join(part for part in parts if isinstance(part, bytes))
    assert not [key for key in secrets_of(record) if key in as_bytes]
    assert sum(isinstance(part, Secret) for part in parts) == len(secrets_of(record))


def test_the_order_of_a_union_s_members_does_not_matter() -> None:
    """Python holds `A | B` and `B | A` for equal, and a cache gives whichever came first in this process."""
    for one, other in (
        (int | None, None | int),
        (IPv4Address | IPv6Address, IPv6Address | IPv4Address),
        (int | float, float | int),
    ):
        assert schema(one) == schema(other)
    assert [stream(value, float | int) for value in (1, 1.0)] != [stream(1, float | int)] * 2
    script = (
        "from ipaddress import *; from ipsec_fast.control.store_codec import encode, schema; kinds = (IPv4Address | IPv6Address | None,"
        "None | IPv6Address | IPv4Address); kinds = kinds[::{}]; print([schema(k).hex() for k in kinds], encode(None, kinds[0]))"
    )
    made = [
        subprocess.run([sys.executable, "-c", script.format(way)], capture_output=True, text=True, check=True, cwd=ROOT)
        for way in (1, -1)
    ]
    assert made[0].stdout == made[1].stdout


def test_the_schema_changes_with_any_name_and_type() -> None:
    def made(*fields: tuple[str, Any]) -> bytes:
        return schema(dataclasses.make_dataclass("Made", fields, frozen=True))

    seen = [
        made(("a", int)), made(("b", int)), made(("a", bytes)), made(("a", int), ("b", int)), made(("a", int | None)),
        made(("a", tuple[int, ...])), made(("a", tuple[int])), made(("a", TrafficSelector)), schema(IkeRecord),
    ]  # fmt: skip
    assert len(set(seen)) == len(seen)
    assert made(("a", int)) == seen[0]


def test_every_esp_suite_comes_back_as_it_was() -> None:
    children = tuple(
        dataclasses.replace(child_record(number), suite=esp_suite(name))
        for number, name in enumerate(esp_suite_names())
    )
    record = dataclasses.replace(ike_record(), children=children)
    back = decode(opened(encode(record, IkeRecord)), IkeRecord)
    assert [child.suite for child in back.children] == [esp_suite(name) for name in esp_suite_names()]
    assert plain(back) == plain(record)
