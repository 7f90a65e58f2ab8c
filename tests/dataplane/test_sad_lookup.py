"""The SAD (RFC 4301 section 4.1): longest match, ESP and AH apart, misuse refused; batches that look SAs up while others come and go."""

from __future__ import annotations

import gc
import random
import threading
import time
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_packets import OUTERS, ipv4, key_of, seal

from ipsec_fast import SA, SAD, PacketBatch, protect, protect_dummies, unprotect
from ipsec_fast.algorithms import ah_suite
from ipsec_fast.dataplane.epoch import retired
from ipsec_fast.dataplane.status import NAMES
from ipsec_fast.errors import StateError, UsageError

KEY = key_of("aes128gcm16")
V4, V6 = OUTERS["v4"], OUTERS["v6"]


def inbound(spi: int, tag: int = 0, **more) -> SA:
    sa = SA("in", spi, key=KEY, **{**V4, **more})
    sa.tag = tag
    return sa


def ah(direction: str, spi: int, **outer) -> SA:
    return SA(direction, spi, "sha256", bytes(ah_suite("sha256").keymat_bytes), protocol="ah", **outer)


class Arrived:
    """Packets as they came, bound to a SAD."""

    def __init__(self, sad: SAD, packets: list[bytes]) -> None:
        self.buffer = np.frombuffer(b"".join(packets), np.uint8).copy()
        self.lengths = np.array([len(p) for p in packets], np.uint32)
        self.offsets = (np.cumsum(self.lengths) - self.lengths).astype(np.uint32)
        self.verdicts = np.full(len(packets), 0xFF, np.uint8)
        self.tags = np.full(len(packets), 0xFF, np.uint64)
        self.batch = PacketBatch(self.buffer, self.offsets, self.lengths, sad, self.verdicts, tags=self.tags)

    def open(self) -> list[str]:
        good = unprotect(self.batch)
        assert good == np.count_nonzero(self.verdicts == 0)
        assert not self.lengths[self.verdicts != 0].any()
        return [NAMES[v] for v in self.verdicts]


def opened(sad: SAD, packets: list[bytes]) -> list[str]:
    return Arrived(sad, packets).open()


# --- misuse ---------------------------------------------------------------------------------------------------------------


def test_what_a_sad_cannot_hold_is_refused():
    sad = SAD()
    for sa, more, message in [
        (SA("out", 0x1001, key=KEY, **V4), {}, "other direction"),
        (inbound(255), {}, "below 256 are reserved"),
        (SA("in", 0x1001, key=KEY), {}, r"no outer addresses.*bare=True"),
        (inbound(0x1001), {"src": "192.0.2.1"}, "only together with the destination"),
        (inbound(0x1001), {"dst": "192.0.2.2", "src": "2001:db8::1"}, "one is IPv4"),
        (inbound(0x1001), {"dst": "nowhere"}, "dst: 'nowhere'"),
        (SA.__new__(SA), {}, "never made"),
    ]:
        with pytest.raises(UsageError, match=message):
            sad.add(sa, **more)
    with pytest.raises(TypeError):
        sad.add(None)
    bare = SAD(bare=True)
    for sa in (inbound(0x1001), SA("in", 0x1001, key=KEY, mode="transport")):
        with pytest.raises(UsageError, match="starts at an IP header"):
            bare.add(sa)
    with pytest.raises(UsageError, match="no addresses to search by"):
        bare.add(SA("in", 0x1001, key=KEY), dst="192.0.2.2")
    assert len(sad) == len(bare) == 0


def test_a_key_is_taken_once_and_leaves_the_first_owner_in_place():
    sad, first = SAD(), inbound(0x1001)
    sad.add(first)
    with pytest.raises(UsageError, match="twice"):
        sad.add(first, dst="192.0.2.2")
    with pytest.raises(UsageError, match="twice"):
        sad.add(inbound(0x1001))
    by_dst, by_both = inbound(0x1001), inbound(0x1001)
    sad.add(by_dst, dst="192.0.2.2")
    sad.add(by_both, dst="192.0.2.2", src="192.0.2.1")
    with pytest.raises(UsageError, match=r"twice .*for 192\.0\.2\.2"):
        sad.add(inbound(0x1001), dst="192.0.2.2")
    with pytest.raises(UsageError, match="twice"):
        sad.add(inbound(0x1001), dst="192.0.2.2", src="192.0.2.1")
    assert set(sad) == {first, by_dst, by_both}
    assert sad.find(0x1001) is first


def test_what_is_not_in_it_is_not_removed_and_not_found():
    sad, sa = SAD(), inbound(0x1001)
    with pytest.raises(UsageError, match="not in this SAD"):
        sad.remove(sa)
    sad.add(sa)
    sad.remove(sa)
    with pytest.raises(UsageError, match="not in this SAD"):
        sad.remove(sa)
    assert sad.find(0x1001) is None
    assert len(sad) == 0
    assert sa not in sad
    for wrong, message in [
        ({"spi": -1}, "SPI"), ({"spi": 1 << 32}, "SPI"), ({"spi": "1"}, "SPI"), ({"spi": 1, "protocol": 17}, "50"),
        ({"spi": 1, "dst": "x"}, "dst"), ({"spi": 1, "dst": "::1", "src": "1.1.1.1"}, "one is IPv4"),
    ]:  # fmt: skip
        with pytest.raises(UsageError, match=message):
            sad.find(**wrong)


def test_only_unprotect_takes_a_sad():
    arrived = Arrived(SAD(), [bytes(100)])
    for seals in (protect, protect_dummies):
        with pytest.raises(UsageError, match="searched for what arrives"):
            seals(arrived.batch)
    assert not arrived.buffer.any()


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        (np.zeros(1, np.uint32), "it must be u64"),
        (np.zeros(2, np.uint64), "verdicts and tags differ"),
        (7, "tags: int is no buffer"),
    ],
)
def test_tags_of_another_type_or_length_are_refused(tags, message):
    a = Arrived(SAD(), [bytes(100)])
    with pytest.raises(UsageError, match=message):
        PacketBatch(a.buffer, a.offsets, a.lengths, SAD(), a.verdicts, tags=tags)
    frozen = np.zeros(1, np.uint64)
    frozen.flags.writeable = False
    with pytest.raises(BufferError, match="tags must be writable"):
        PacketBatch(a.buffer, a.offsets, a.lengths, SAD(), a.verdicts, tags=frozen)


# --- the longest match ----------------------------------------------------------------------------------------------------


def test_the_longest_match_wins_and_each_falls_back_to_the_next():
    sad = SAD()
    alone, by_dst, by_both = inbound(0x1001), inbound(0x1001), inbound(0x1001)
    sad.add(by_both, dst="239.1.1.1", src="192.0.2.1")
    assert sad.find(0x1001, "239.1.1.1", "192.0.2.9") is None
    assert sad.find(0x1001, "239.1.1.1") is None
    sad.add(alone)
    sad.add(by_dst, dst="239.1.1.1")
    assert sad.find(0x1001, "239.1.1.1", "192.0.2.1") is by_both
    assert sad.find(0x1001, "239.1.1.1", "192.0.2.9") is by_dst
    assert sad.find(0x1001, "239.1.1.1") is by_dst
    assert sad.find(0x1001, "239.1.1.2", "192.0.2.1") is alone
    assert sad.find(0x1001) is alone
    assert sad.find(0x1002, "239.1.1.1", "192.0.2.1") is None
    sad.remove(by_both)
    assert sad.find(0x1001, "239.1.1.1", "192.0.2.1") is by_dst
    sad.remove(by_dst)
    assert sad.find(0x1001, "239.1.1.1", "192.0.2.1") is alone


def test_an_ipv4_address_is_not_the_ipv6_address_with_the_same_bytes():
    sad, four = SAD(), inbound(0x1001)
    sad.add(four, dst="1.2.3.4")
    assert sad.find(0x1001, "102:304::") is None
    assert sad.find(0x1001, "1.2.3.4") is four


def test_esp_and_ah_are_told_apart():
    sad, esp, other = SAD(), inbound(0x1001), ah("in", 0x1001, **V4)
    sad.add(esp)
    assert sad.find(0x1001, protocol=51) is None
    sad.add(other)
    assert sad.find(0x1001) is esp
    assert sad.find(0x1001, protocol=51) is other


KEYS = st.tuples(
    st.sampled_from([256, 257, 0xFFFFFFFF]), st.sampled_from([None, "10.0.0.1", "10.0.0.2", "fd00::1"]), st.booleans()
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(KEYS, st.booleans()), max_size=40))
def test_against_the_three_steps_of_the_rfc_on_a_dict(steps):
    sad, model = SAD(), {}
    for (spi, dst, with_src), adds in steps:
        src = None if dst is None or not with_src else "fd00::9" if ":" in dst else "10.0.0.9"
        key = spi, dst, src
        if adds and key not in model:
            model[key] = inbound(spi)
            sad.add(model[key], dst, src)
        elif not adds and key in model:
            sad.remove(model.pop(key))
    assert set(sad) == set(model.values())
    for spi in (256, 257, 258, 0xFFFFFFFF):
        for dst, src in [(None, None), ("10.0.0.1", "10.0.0.9"), ("10.0.0.2", "10.0.0.8"), ("fd00::1", "fd00::9")]:
            expected = model.get((spi, dst, src)) or model.get((spi, dst, None)) or model.get((spi, None, None))
            assert sad.find(spi, dst, src) is expected


# --- many -----------------------------------------------------------------------------------------------------------------

PATTERNS = {
    "random": lambda n: random.Random(1).sample(range(256, 1 << 32), n),
    "counted up": lambda n: range(256, 256 + n),
    "low bits zero": lambda n: range(1 << 16, (n + 1) << 16 if n < 65535 else 1 << 32, 1 << 16),
    "low byte the same": lambda n: range(0x1007, 0x1007 + (n << 8), 1 << 8),
}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_no_choice_of_spis_makes_a_search_long(pattern):
    sad, spis = SAD(), list(PATTERNS[pattern](20_000))
    sas = [inbound(spi) for spi in spis]
    for sa in sas:
        sad.add(sa)
    assert sad.longest_search <= 64
    assert all(sad.find(spi) is sa for spi, sa in zip(spis, sas, strict=True))
    assert sad.table_bytes <= 100 * len(spis)
    for sa in sas[::2]:
        sad.remove(sa)
    assert [sad.find(spi) for spi in spis[:100:2]] == [None] * 50
    assert all(sad.find(spi) is sa for spi, sa in zip(spis[1::2], sas[1::2], strict=True))


def test_one_spi_for_many_groups_is_found_by_destination():
    sad = SAD()
    groups = [f"239.{i >> 8}.{i & 255}.1" for i in range(5000)]
    sas = [inbound(0x1001) for _ in groups]
    for sa, group in zip(sas, groups, strict=True):
        sad.add(sa, dst=group)
    assert all(sad.find(0x1001, group, "10.0.0.1") is sa for sa, group in zip(sas, groups, strict=True))
    assert sad.longest_search <= 64


def test_a_table_that_sas_come_to_and_go_from_does_not_grow():
    sad = SAD()
    live = [inbound(0x1000 + i) for i in range(100)]
    for sa in live:
        sad.add(sa)
    size = sad.table_bytes
    for i in range(5000):
        sad.add(inbound(0x10000 + i))
        sad.remove(sad.find(0x10000 + i))
    assert sad.table_bytes <= 2 * size
    assert all(sad.find(sa.spi) is sa for sa in live)


# --- batches --------------------------------------------------------------------------------------------------------------


def test_what_finds_no_sa_says_why_and_nothing_else_is_touched():
    sad = SAD()
    sad.add(inbound(0x1001))
    good = seal([ipv4(60)], SA("out", 0x1001, key=KEY, **V4))[0]
    unknown = good[:20] + (0x1002).to_bytes(4, "big") + good[24:]
    fragment = good[:6] + b"\x20\0" + good[8:]
    other_protocol = good[:9] + b"\x06" + good[10:]
    short = bytes([0x45, 0, 0, 27, 0, 0, 0, 0, 64, 50]) + good[10:27]
    ipv6_short = bytes([0x60, 0, 0, 0, 0, 7, 50, 64]) + bytes(39)
    packets = [unknown, fragment, other_protocol, short, b"", b"\x45", b"\xf5" * 40, bytes(100), ipv6_short]
    arrived = Arrived(sad, packets)
    before = arrived.buffer.copy()
    assert arrived.open() == [
        "unknown_spi", "outer_fragment", "bad_outer", "runt", "bad_outer", "bad_outer", "bad_outer", "bad_outer", "runt",
    ]  # fmt: skip
    assert (arrived.buffer == before).all()
    assert not arrived.tags.any()
    assert opened(SAD(bare=True), [b"", bytes(7), bytes(8), bytes(100)]) == [
        "runt",
        "runt",
        "unknown_spi",
        "unknown_spi",
    ]


@pytest.mark.parametrize("outer", ["v4", "v6", "v4udp", "v6udp"])
def test_a_batch_finds_the_sa_of_each_packet_in_any_order(outer):
    sad, packets, rng = SAD(), [], random.Random(3)
    for i in range(200):
        sad.add(inbound(0x1000 + i, tag=i + 1, **OUTERS[outer]))
        packets += seal([ipv4(60 + i)] * 3, SA("out", 0x1000 + i, key=KEY, **OUTERS[outer]))
    order = list(range(len(packets)))
    rng.shuffle(order)
    arrived = Arrived(sad, [packets[i] for i in order])
    assert arrived.open() == ["ok"] * 600
    assert arrived.tags.tolist() == [i // 3 + 1 for i in order]
    assert arrived.lengths.tolist() == [60 + i // 3 for i in order]
    assert [sa.counters()["packets"] for sa in sad] == [3] * 200


def test_a_non_esp_marker_and_another_port_are_no_esp():
    sad, udp = SAD(), OUTERS["v4udp"]
    sad.add(inbound(0x1001, **udp))
    good = seal([ipv4(60)], SA("out", 0x1001, key=KEY, **udp))[0]
    marker = good[:28] + bytes(4) + good[32:]
    other_port = good[:22] + b"\x11\x95" + good[24:]
    raw = seal([ipv4(60)], SA("out", 0x1001, key=KEY, **V4))[0]
    assert opened(sad, [marker, other_port, raw, good[:24] + b"\0\x0f" + good[26:36]]) == [
        "unknown_spi", "bad_outer", "bad_outer", "bad_outer",
    ]  # fmt: skip
    assert opened(sad, [good]) == ["ok"]


@pytest.mark.parametrize("outer", ["v4", "v6"])
def test_esp_and_ah_with_one_spi_in_one_batch(outer):
    sad, outers = SAD(), OUTERS[outer]
    sad.add(inbound(0x1001, tag=50, **outers))
    sad.add(ah("in", 0x1001, **outers))
    esp_packets = seal([ipv4(60)] * 4, SA("out", 0x1001, key=KEY, **outers))
    ah_packets = seal([ipv4(60)] * 4, ah("out", 0x1001, **outers))
    arrived = Arrived(sad, [esp_packets[0], ah_packets[0], ah_packets[1], bytes(60), esp_packets[1], ah_packets[2]])
    assert arrived.open() == ["ok", "ok", "ok", "bad_outer", "ok", "ok"]
    assert arrived.tags.tolist() == [50, 0, 0, 0, 50, 0]


def test_the_addresses_of_the_packet_choose_among_sas_of_one_spi():
    sad, sources = SAD(), ["192.0.2.1", "192.0.2.7", "192.0.2.8"]
    group = {"dst": "239.1.1.1"}
    alone, by_dst, by_both = (inbound(0x1001, tag=tag, src="192.0.2.1", **group) for tag in (1, 2, 3))
    sad.add(by_both, dst="239.1.1.1", src="192.0.2.7")
    sad.add(by_dst, dst="239.1.1.1")
    sad.add(alone)
    packets = [
        seal([ipv4(60)], SA("out", 0x1001, key=KEY, src=src, seq=i, **group))[0] for i, src in enumerate(sources)
    ]
    packets += seal([ipv4(60)], SA("out", 0x1001, key=KEY, src="192.0.2.7", dst="192.0.2.3"))
    arrived = Arrived(sad, packets)
    assert arrived.open() == ["ok"] * 4
    assert arrived.tags.tolist() == [2, 3, 2, 1]


def test_transport_mode_packets_are_found_by_their_own_header():
    sad = SAD()
    sad.add(SA("in", 0x1001, key=KEY, mode="transport"), dst="10.2.0.1")
    out = SA("out", 0x1001, key=KEY, mode="transport")
    assert opened(sad, seal([ipv4(60)], out)) == ["ok"]
    sad.remove(sad.find(0x1001, "10.2.0.1"))
    assert opened(sad, seal([ipv4(60)], out)) == ["unknown_spi"]


def test_a_batch_bound_before_an_sa_was_added_finds_it_and_after_its_removal_does_not():
    sad, out = SAD(bare=True), SA("out", 0x1001, key=KEY)
    first, second = seal([ipv4(60)] * 2, out)
    arrived = Arrived(sad, [first])
    assert arrived.open() == ["unknown_spi"]
    sa = SA("in", 0x1001, key=KEY)
    for i in range(100):  # the table grows, the batch sees it
        sad.add(SA("in", 0x2000 + i, key=KEY))
    sad.add(sa)
    assert opened(sad, [first]) == ["ok"]
    sad.remove(sa)
    assert opened(sad, [second]) == ["unknown_spi"]


def test_a_removed_sa_is_freed_when_no_call_is_under_way():
    sad, sa = SAD(), inbound(0x1001)
    gone = weakref.ref(sa)
    sad.add(sa)
    sad.remove(sa)
    del sa
    opened(sad, [bytes(100)])
    gc.collect()
    assert gone() is None
    assert retired() == 0


def test_an_sa_in_another_threads_batch_is_a_state_error_before_anything_is_written():
    """The other thread's call is held open by its size; that it overlapped is seen from the error itself."""
    sad = SAD(bare=True)
    sad.add(SA("in", 0x1001, key=KEY))
    packet = seal([ipv4(1400)], SA("out", 0x1001, key=KEY))[0]
    large, one = Arrived(sad, [packet] * 20_000), Arrived(sad, [packet])
    starts = large.offsets.copy()
    end = time.monotonic() + 60
    errors: list[StateError] = []

    def run(arrived: Arrived) -> None:
        while not errors and time.monotonic() < end:
            arrived.lengths[:], arrived.offsets[:] = len(packet), starts[: len(arrived.lengths)]
            before = arrived.buffer[:64].copy()
            try:
                unprotect(arrived.batch)
            except StateError as error:
                assert (arrived.buffer[:64] == before).all()
                errors.append(error)

    threads = [threading.Thread(target=run, args=(a,)) for a in (large, one)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors
    assert "in use by another thread" in str(errors[0])
    assert opened(sad, [packet])[0] in ("ok", "replay_seen")  # nobody left the SA entered


def test_batches_run_while_others_add_and_remove():
    """What stays is always found, what goes is ok or unknown; no SA is freed under a batch (the sanitizer build sees that)."""
    sad, stays = SAD(bare=True), [SA("in", 0x1000 + i, key=KEY) for i in range(16)]
    for sa in stays:
        sad.add(sa)
    packets = [p for i in range(16) for p in seal([ipv4(60)], SA("out", 0x1000 + i, key=KEY))]
    packets += [p for i in range(16) for p in seal([ipv4(60)], SA("out", 0x2000 + i, key=KEY))]
    seen: set[str] = set()
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            arrived = Arrived(sad, packets)
            names = arrived.open()
            assert set(names[:16]) <= {"ok", "replay_seen"}, names
            seen.update(names[16:])

    thread = threading.Thread(target=run)
    thread.start()
    try:
        for _ in range(150):
            moving = [SA("in", 0x2000 + i, key=KEY) for i in range(16)]
            for sa in moving:
                sad.add(sa)
            for sa in moving:
                sad.remove(sa)
    finally:
        stop.set()
        thread.join()
    assert seen <= {"ok", "replay_seen", "unknown_spi"}
    assert seen
    assert len(sad) == 16
