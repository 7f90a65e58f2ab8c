"""The MTU arithmetic of control.mtu against packets that kernels sealed: every algorithm, mode, pair of versions, encapsulation, size.

Where the first blocks fill up and around full packets each length is sealed and measured; then for every path MTU in between the largest
inner packet must be the last that fits. Random ones besides. The number of comparisons is printed at the end of the run.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import cache
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_packets import OUTERS, SUITES, ipv4, ipv6, key_of, ones_sum, seal
from mtu_checks import CHECKS

from ipsec_fast import SA, protect_packet
from ipsec_fast.algorithms import ah_suite, ah_suite_names, esp_suite
from ipsec_fast.control.mtu import Encapsulation, Mode
from ipsec_fast.errors import UsageError

ENDS = {4: ("10.1.0.1", "10.2.0.1"), 6: ("::1", "::2")}  # those of kernel_packets
HEADER = {4: 20, 6: 40}
FULL = range(1380, 1450)
Case = tuple[dict[str, Any], dict[str, Any], int]  # arguments of SA, of Encapsulation, bytes that a socket adds


def cases(inner: int) -> Iterator[Case]:
    """Every way to carry packets of this version with ESP."""
    for outer in (4, 6):
        for encap in (False, True):
            ends = OUTERS[f"v{outer}udp" if encap else f"v{outer}"]
            how = {"outer_version": outer, "inner_version": inner, "encap": encap}
            for esn in (False, True):
                yield {**ends, "esn": esn}, how, 0
            if encap:  # the worker's: a UDP socket writes the outer headers
                yield {}, how, HEADER[outer] + 8
            yield {**ends, "mode": "beet", "inner": ENDS[inner]}, {**how, "mode": "beet"}, 0
    for encap in (False, True):
        ports = {"encap": (4500, 4500)} if encap else {}
        how = {"outer_version": inner, "inner_version": inner, "encap": encap, "mode": "transport"}
        yield {"mode": "transport", **ports}, how, 0


def ah_cases(inner: int) -> Iterator[Case]:
    for outer in (4, 6):
        yield {**OUTERS[f"v{outer}"]}, {"outer_version": outer, "inner_version": inner}, 0
    yield {"mode": "transport"}, {"outer_version": inner, "inner_version": inner, "mode": "transport"}, 0


@cache
def packets(version: int, first: int, last: int) -> list[bytes]:
    make = ipv4 if version == 4 else ipv6
    return [make(length, protocol=253) for length in range(first, last)]


def measured(sa: SA, version: int, added: int, sizes: range) -> dict[int, int]:
    """The length on the wire of each size of inner packet, as the kernel made it."""
    sealed = seal(packets(version, sizes.start, sizes.stop), sa)
    return dict(zip(sizes, (len(packet) + added for packet in sealed), strict=True))


def hold(wraps: Encapsulation, sa: SA, added: int = 0) -> None:
    version, what = wraps.inner_version, f"{'ah' if wraps.is_ah else 'esp'} {wraps.mode}"
    for sizes in (range(HEADER[version], HEADER[version] + 70), FULL):
        lengths = measured(sa, version, added, sizes)
        assert {size: wraps.sealed_bytes(size) for size in sizes} == lengths
        CHECKS[f"{what}: length on the wire"] += len(lengths)
        for path_mtu in range(lengths[sizes[1]], lengths[sizes[-2]]):
            largest = wraps.max_inner_bytes(path_mtu)
            assert lengths[largest] <= path_mtu < lengths[largest + 1], (path_mtu, largest)
            CHECKS[f"{what}: largest inner packet"] += 1


@pytest.mark.parametrize("name", SUITES)
def test_esp_of_every_kind_is_as_long_as_computed(name: str) -> None:
    for inner in (4, 6):
        for arguments, how, added in cases(inner):
            try:
                sa = SA("out", 0x1001, name, key_of(name), **arguments)
            except UsageError as error:  # one kind of BEET, see test_esp_modes
                with pytest.raises(UsageError, match=str(error)):
                    Encapsulation(esp_suite(name), **how)
                continue
            hold(Encapsulation(esp_suite(name), **how), sa, added)


@pytest.mark.parametrize("name", ah_suite_names())
def test_ah_of_every_kind_is_as_long_as_computed(name: str) -> None:
    key = bytes(range(ah_suite(name).keymat_bytes))
    for inner in (4, 6):
        for arguments, how, added in ah_cases(inner):
            for esn in (False, True):
                sa = SA("out", 0x1001, name, key, protocol="ah", esn=esn, **arguments)
                hold(Encapsulation(ah_suite(name), **how), sa, added)


@pytest.mark.parametrize("name", SUITES)
@pytest.mark.parametrize("tfc", [100, 101, 1400])
def test_tfc_padding_counts(name: str, tfc: int) -> None:
    sa = SA("out", 0x1001, name, key_of(name), tfc=tfc, **OUTERS["v4udp"])
    wraps = Encapsulation(esp_suite(name), 4, True, tfc=tfc)
    sizes = range(tfc - 40, tfc + 40)
    lengths = measured(sa, 4, 0, sizes)
    assert {size: wraps.sealed_bytes(size) for size in sizes} == lengths
    assert wraps.max_inner_bytes(lengths[tfc] - 1) == 0
    assert lengths[tfc] == lengths[tfc - 40]
    CHECKS["esp tunnel, TFC: length on the wire"] += len(lengths)
    for path_mtu in range(lengths[tfc], lengths[sizes[-2]]):
        largest = wraps.max_inner_bytes(path_mtu)
        assert lengths[largest] <= path_mtu < lengths[largest + 1]
        CHECKS["esp tunnel, TFC: largest inner packet"] += 1


def with_options(length: int, options: int) -> bytes:
    """IPv4, so many bytes of NOPs among its `length`."""
    head = (
        struct.pack("!BBHHHBBH", 0x45 + options // 4, 0, length, 1, 0, 64, 253, 0)
        + b"\x0a\1\0\1\x0a\2\0\1"
        + b"\1" * options
    )
    head = head[:10] + struct.pack("!H", ones_sum(head) ^ 0xFFFF) + head[12:]
    return head + bytes(length - len(head))


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from(SUITES),
    st.integers(1, 10),
    st.integers(0, 1400),
    st.sampled_from(["transport", "beet"]),
    st.booleans(),
)
def test_ipv4_options_stay_outside_or_travel_in_a_header_of_their_own(
    name: str, words: int, payload: int, mode: Literal["transport", "beet"], encap: bool
) -> None:
    header = 20 + 4 * words
    ends: dict[str, Any] = {"inner": ENDS[4], "src": "192.0.2.1", "dst": "192.0.2.2"} if mode == "beet" else {}
    sa = SA("out", 0x1001, name, key_of(name), mode=mode, encap=(4500, 4500) if encap else None, **ends)
    wraps = Encapsulation(esp_suite(name), 4, encap, mode, header_bytes=header)
    sealed = len(protect_packet(sa, with_options(header + payload, 4 * words)))
    assert wraps.sealed_bytes(header + payload) == sealed
    assert wraps.max_inner_bytes(sealed) >= header + payload
    CHECKS["IPv4 options"] += 2


@settings(max_examples=600, deadline=None)
@given(
    st.sampled_from(SUITES), st.sampled_from([4, 6]), st.sampled_from([4, 6]), st.booleans(),
    st.sampled_from(["tunnel", "transport", "beet"]), st.integers(576, 9216), st.sampled_from([0, 0, 0, 60, 999]),
)  # fmt: skip
def test_a_random_path_takes_the_largest_packet_and_not_one_byte_more(
    name: str, outer: int, inner: int, encap: bool, mode: Mode, path_mtu: int, tfc: int
) -> None:
    outer = inner if mode == "transport" else outer
    tfc = tfc if mode == "tunnel" and tfc < path_mtu - 200 else 0
    arguments: dict[str, Any] = {} if mode == "transport" else dict(OUTERS[f"v{outer}"])
    arguments |= {"encap": (4500, 4500)} if encap else {}
    arguments |= {"inner": ENDS[inner]} if mode == "beet" else {}
    try:
        wraps = Encapsulation(esp_suite(name), outer, encap, mode, inner, tfc)
    except UsageError:  # BEET that adds too little
        return
    sa = SA("out", 0x1001, name, key_of(name), mode=mode, tfc=tfc, **arguments)
    largest = wraps.max_inner_bytes(path_mtu)
    make = ipv4 if inner == 4 else ipv6
    lengths = [len(protect_packet(sa, make(size, protocol=253))) for size in (largest, largest + 1)]
    assert lengths == [wraps.sealed_bytes(largest), wraps.sealed_bytes(largest + 1)]
    assert lengths[0] <= path_mtu < lengths[1]
    found = wraps.figures(path_mtu)
    assert found.overhead_bytes == lengths[0] - largest
    assert (found.mss_ipv4, found.mss_ipv6) == (largest - 40, largest - 60)
    assert (found.mss_ipv4_timestamps, found.mss_ipv6_timestamps) == (largest - 52, largest - 72)
    CHECKS["random paths"] += 4
