"""A record with something in every field, its secrets known, for the tests of state at rest."""

from __future__ import annotations

import dataclasses
import os
from ipaddress import ip_address
from typing import Any

from ipsec_fast.algorithms import esp_suite, parse_ike_proposal
from ipsec_fast.crypto.prf import IkeKeys
from ipsec_fast.crypto.secret import Secret, reveal_for_test, secret_from_buffer
from ipsec_fast.ike.nat import NatResult
from ipsec_fast.ike.records import ChildRecord, IkeRecord
from ipsec_fast.ike.v2.states import ChildState, State
from ipsec_fast.model import Identity, Path, TrafficSelector


def ike_record(ike_id: int = 1, *, children: int = 2, **changes: Any) -> IkeRecord:
    """`changes` as in dataclasses.replace."""
    record = IkeRecord(
        ike_id=ike_id,
        connection="paris",
        settings=os.urandom(32),
        state=State.ESTABLISHED,
        initiator=True,
        began_here=False,
        spi_i=bytes(range(8)),
        spi_r=bytes(range(8, 16)),
        path=Path(ip_address("192.0.2.1"), 4500, ip_address("2001:db8::2"), 4500, True),
        nat=NatResult(True, local=False, remote=True),
        nat_fake=True,
        local_id=Identity.parse("london.example"),
        remote_id=None,
        proposal=parse_ike_proposal("aes128gcm16-prfsha256-x25519"),
        keys=IkeKeys(*(secret_from_buffer(os.urandom(32)) for _ in range(7))),
        iv_end=2**40,
        next_own_message_id=7,
        expected_message_id=2**32 - 1,
        own_outstanding=False,
        last_request_digest=os.urandom(32),
        last_response=(b"the first fragment", b"", b"the last"),
        fragments=True,
        fragment_bytes=1280,
        children=tuple(child_record(ike_id * 100 + n) for n in range(children)),
        created_at=12.5,
        authenticated_at=None,
        established_at=13.25,
        rekey_at=1234567890.125,
        reauth_at=1234569999.25,
        life_at=None,
    )
    return dataclasses.replace(record, **changes)


def child_record(child_id: int) -> ChildRecord:
    return ChildRecord(
        child_id=child_id,
        name="net",
        state=ChildState.REKEYED if child_id % 2 else ChildState.INSTALLED,
        initiator=True,
        suite=esp_suite("aes128-sha256" if child_id % 2 else "aes256gcm16"),
        esn=True,
        group=31,
        encap=True,
        spi_in=0xC0000000 + child_id,
        spi_out=2**32 - 1,
        key_in=secret_from_buffer(os.urandom(48)),
        key_out=secret_from_buffer(os.urandom(48)),
        local_ts=(TrafficSelector.parse("10.1.0.0/24[tcp/443]"), TrafficSelector.parse("10.3.0.5-10.3.0.9")),
        remote_ts=(TrafficSelector.parse("2001:db8::/64[udp/opaque]"),),
        outbound_deferred=True,
        is_redundant=False,
        replaces=child_id - 1,
        replaced_by=None,
        installed_at=14.0,
        rekey_at=None,
        life_at=1234567899.5,
        in_group=True,
        resource=child_id % 4,
    )


def plain(value: Any) -> Any:
    """The same value with every secret as its bytes, so that two can be compared."""
    if isinstance(value, Secret):
        return reveal_for_test(value)
    if isinstance(value, IkeKeys):
        return tuple(reveal_for_test(getattr(value, name)) for name in IkeKeys.__slots__)
    if isinstance(value, tuple):
        return tuple(plain(item) for item in value)
    if dataclasses.is_dataclass(value):
        return type(value).__name__, {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return value


def secrets_of(record: IkeRecord) -> list[bytes]:
    """Every key of a record that has one byte and more."""
    keys = [getattr(record.keys, name) for name in IkeKeys.__slots__]
    keys += [key for child in record.children for key in (child.key_in, child.key_out)]
    return [reveal_for_test(key) for key in keys if len(key)]
