"""SA and PacketBatch as a library: refused before anything is written, keys never shown, one thread per SA."""

from __future__ import annotations

import pickle
import threading

import numpy as np
import pytest
from kernel_packets import SUITES, Slots, ipv4, key_of, open_batch, pair, seal, verdicts_of

from ipsec_fast import SA, SAD, PacketBatch, protect, protect_dummies, unprotect
from ipsec_fast.algorithms import esp_suite
from ipsec_fast.crypto.secret import secret_from_buffer
from ipsec_fast.dataplane import status
from ipsec_fast.errors import AlgorithmError, StateError, UsageError

KEY = key_of("aes128gcm16")


def arrays(n: int = 2, size: int = 400):
    return (
        np.full(size, 0xEE, np.uint8),
        np.array([50 + 150 * i for i in range(n)], np.uint32),
        np.full(n, 60, np.uint32),
        np.zeros(n, np.uint8),
    )


# --- SA -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", SUITES)
def test_a_key_of_the_wrong_length_is_refused_with_the_right_one(algorithm):
    right = esp_suite(algorithm).keymat_bytes
    for length in (0, 1, 16, right - 1, right + 1, 200):
        if length != right:
            with pytest.raises(AlgorithmError, match=f"needs {right} bytes of key .*, not {length}"):
                SA("out", 0x1001, algorithm, bytes(length))
    with pytest.raises(AlgorithmError, match=f"needs {right} bytes"):
        SA("out", 0x1001, algorithm)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"direction": "both"}, "'out' or 'in'"),
        ({"spi": 0}, "1 to 4294967295"),
        ({"spi": 1 << 32}, "1 to 4294967295"),
        ({"mode": "iptfs"}, "tunnel, transport, beet"),
        ({"window": 31}, "32 to 1048576"),
        ({"window": 1048577}, "32 to 1048576"),
        ({"seq": -1}, "0 to 4294967295 without ESN"),
        ({"seq": 1 << 32}, "0 to 4294967295 without ESN"),
        ({"seq": 1 << 64, "esn": True}, "with ESN"),
        ({"src": "192.0.2.1"}, "go together"),
        ({"src": "192.0.2.1", "dst": "2001:db8::1"}, "one is IPv4, the other IPv6"),
        ({"src": "192.0.2.1", "dst": "nowhere"}, "outer address"),
        ({"encap": (4500, 4500)}, "needs src and dst"),
        ({"src": "192.0.2.1", "dst": "192.0.2.2", "encap": (0, 4500)}, "1 to 65535"),
        ({"granted": -1}, "grant"),
        ({"key": "text"}, "bytes-like or a Secret, not str"),
    ],
)
def test_what_is_wrong_with_an_sa_is_said(wrong, message):
    arguments = {"direction": "out", "spi": 0x1001, "key": KEY, **wrong}
    with pytest.raises(UsageError, match=message):
        SA(**arguments)


@pytest.mark.parametrize("algorithm", ["aes128", "rot13", "aes128gcm16-sha256", "aes128gcm9", "null", "3des-sha1"])
def test_an_algorithm_that_we_do_not_carry_is_refused(algorithm):
    with pytest.raises(AlgorithmError, match=r"aes|write null-sha256"):
        SA("out", 0x1001, algorithm, KEY)


def test_an_engine_that_we_do_not_have_is_refused():
    with pytest.raises(AlgorithmError, match="openssl"):
        SA("out", 0x1001, key=KEY, engine="abacus")


def test_a_half_made_sa_is_refused():
    with pytest.raises(UsageError, match="its SA"):
        PacketBatch(*arrays()[:3], SA.__new__(SA), arrays()[3])


def test_an_sa_is_made_once():
    sa = SA("out", 0x1001, key=KEY)
    with pytest.raises(StateError):
        sa.__init__("out", 0x1002, key=KEY)


def test_repr_and_pickle_show_no_key():
    sa = SA("out", 0x1001, key=b"\x41" * 20)
    assert "A" * 4 not in repr(sa)
    assert "41" * 4 not in repr(sa)
    with pytest.raises(TypeError):
        pickle.dumps(sa)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, secret_from_buffer])
def test_keys_may_be_any_buffer_or_a_secret(kind):
    out = SA("out", 0x1001, key=kind(KEY))
    assert open_batch(seal([ipv4(60)], out), pair()[1]).packets == [ipv4(60)]


def test_a_closed_secret_is_refused():
    secret = secret_from_buffer(KEY)
    secret.close()
    with pytest.raises(StateError):
        SA("out", 0x1001, key=secret)


def test_strongswan_spellings_name_the_same_suite():
    assert SA("out", 0x1001, "aes128gcm128", KEY).algorithm == "aes128gcm16"


def test_grant_is_asked_for_at_half():
    sa = SA("out", 0x1001, key=KEY, granted=0)
    sa.set_grant(1 << 22)
    assert sa.granted == 1 << 22


# --- PacketBatch --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", range(4))
def test_read_only_buffers_are_refused(which):
    buffer, offsets, lengths, verdicts = arrays()
    given = [buffer, offsets, lengths, verdicts]
    given[which] = given[which].copy()
    given[which].flags.writeable = False
    with pytest.raises(BufferError):
        PacketBatch(*given[:3], SA("out", 0x1001, key=KEY), given[3])
    with pytest.raises(BufferError):
        PacketBatch(bytes(400), offsets, lengths, SA("out", 0x1001, key=KEY), verdicts)


@pytest.mark.parametrize("kind", [np.uint64, np.uint16, np.float32, np.uint8])
def test_offsets_of_another_type_are_refused(kind):
    buffer, offsets, lengths, verdicts = arrays()
    with pytest.raises(UsageError, match=r"offsets .* u32"):
        PacketBatch(buffer, offsets.astype(kind), lengths, SA("out", 0x1001, key=KEY), verdicts)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (np.int64, "int64"),
        (np.uint64, "uint64"),
        (np.int16, "int16"),
        (np.float64, "float64"),
        (np.bool_, "bool"),
        (np.complex128, "complex128"),
        (">u4", "big-endian uint32"),
        ("M8[s]", r"datetime64\[s\]"),
    ],
)
def test_a_wrong_dtype_is_named_with_the_right_one(kind, name):
    buffer, offsets, lengths, verdicts = arrays()
    sa = SA("out", 0x1001, key=KEY)
    for which, wanted in ((1, "uint32"), (2, "uint32"), (3, "uint8"), (0, "uint8")):
        if kind is np.bool_ and wanted == "uint8":
            name = "bool"
        given = [buffer, offsets, lengths, verdicts]
        given[which] = given[which].astype(kind)
        what = ("buffer", "offsets", "lengths", "verdicts")[which]
        with pytest.raises(UsageError, match=rf"{what} is {name}; make it np\.{wanted}"):
            PacketBatch(*given[:3], sa, given[3])


def test_a_batch_says_what_it_is():
    buffer, offsets, lengths, verdicts = arrays()
    out, into = pair()
    assert (
        repr(PacketBatch(buffer, offsets, lengths, out, verdicts))
        == f"<PacketBatch of 2 packets in 400 bytes, {out!r}>"
    )
    other = SA("out", 0x1002, key=KEY)
    assert "2 SAs" in repr(PacketBatch(buffer, offsets, lengths, [out, other], verdicts))
    sad = SAD(bare=True)
    sad.add(into)
    assert "SAs of <SAD of 1 SAs>" in repr(PacketBatch(buffer, offsets, lengths, sad, verdicts))


# --- partly filled batches ----------------------------------------------------------------------------------------------------


def filled(n: int, sas) -> Slots:
    return Slots([ipv4(60 + i) for i in range(n)], sas, 64, 64)


def test_only_the_first_packets_are_sealed():
    out, into = pair()
    slots = filled(6, out)
    before = slots.offsets.copy(), slots.lengths.copy(), slots.buffer.copy()
    assert protect(slots.batch, 4) == 4
    assert slots.verdicts.tolist() == [0, 0, 0, 0, 0xFF, 0xFF]
    assert (slots.offsets[4:] == before[0][4:]).all()
    assert (slots.lengths[4:] == before[1][4:]).all()
    assert (slots.buffer[int(before[0][4]) - 64 :] == before[2][int(before[0][4]) - 64 :]).all()
    assert (out.seq, out.counters()) == (4, {"packets": 4, "bytes": 60 + 61 + 62 + 63})
    assert protect(slots.batch, 0) == 0
    sealed = Slots(slots.packets[:4], into)
    assert unprotect(sealed.batch, 3) == 3
    assert sealed.packets[:3] == [ipv4(60 + i) for i in range(3)]
    assert sealed.packets[3] == slots.packets[3]
    assert into.seq == 3


def test_a_sad_opens_only_the_first_packets():
    out, into = pair()
    sad = SAD(bare=True)
    sad.add(into)
    sealed = Slots(seal([ipv4(60)] * 3, out), sad)
    assert unprotect(sealed.batch, 2) == 2
    assert sealed.verdicts.tolist() == [0, 0, 0xFF]
    assert into.seq == 2


def test_an_sa_behind_the_first_packets_is_not_taken():
    first, second = SA("out", 0x1001, key=KEY), SA("in", 0x1002, key=KEY)
    buffer, offsets, lengths, verdicts = arrays()
    buffer[50:110] = np.frombuffer(ipv4(60), np.uint8)
    batch = PacketBatch(buffer, offsets, lengths, [first, second], verdicts)
    assert protect(batch, 1) == 1
    offsets[0], lengths[0] = 50, 60
    with pytest.raises(UsageError, match="outbound"):
        protect(batch)


def test_only_the_first_dummies_are_made():
    out, into = pair()
    slots = filled(3, out)
    assert protect_dummies(slots.batch, 2) == 2
    assert verdicts_of(slots.packets[:2], into) == ["dummy", "dummy"]
    assert slots.packets[2] == ipv4(62)


def test_an_sa_that_makes_no_dummies_does_not_matter_behind_the_first_n():
    key = bytes(range(20))
    tunnel, transport = SA("out", 0x1001, key=key), SA("out", 0x1002, key=key, mode="transport")
    slots = filled(2, [tunnel, transport])
    assert protect_dummies(slots.batch, 1) == 1
    with pytest.raises(UsageError, match="tunnel mode"):
        protect_dummies(slots.batch)


@pytest.mark.parametrize("n", [-1, 7, 1.0, "2", 1 << 40])
def test_a_number_of_packets_that_the_batch_has_not_is_refused(n):
    slots = filled(6, pair()[0])
    with pytest.raises(UsageError, match="0 to 6 of this batch"):
        protect(slots.batch, n)


@pytest.mark.parametrize("kind", ["esp", "ah", "transport"])
def test_empty_slots_are_not_counted(kind):
    """Counters, last_drop and numbers are those of the packets that are there."""
    more = {"esp": {}, "ah": {"protocol": "ah"}, "transport": {"mode": "transport"}}[kind]
    ends = {"src": "192.0.2.1", "dst": "192.0.2.2"} if kind != "transport" else {}
    algorithm, key = ("sha256", bytes(32)) if kind == "ah" else ("aes128gcm16", KEY)
    out, into = (SA(way, 0x1001, algorithm, key, **ends, **more) for way in ("out", "in"))
    slots = filled(8, out)
    slots.lengths[[0, 3, 4, 7]] = 0
    assert protect(slots.batch) == 4
    assert (slots.verdicts != 0).tolist() == [True, False, False, True, True, False, False, True]
    assert out.counters() == {"packets": 4, "bytes": 61 + 62 + 65 + 66}
    assert (out.seq, out.last_drop) == (4, None)
    opening = Slots(slots.packets, into)
    assert unprotect(opening.batch) == 4
    assert into.counters() == {"packets": 4, "bytes": 61 + 62 + 65 + 66}
    assert into.last_drop is None
    sad = SAD()
    fresh = SA("in", 0x1001, algorithm, key, **ends, **more)
    sad.add(fresh)
    assert unprotect(Slots(slots.packets, sad).batch) == 4
    assert fresh.counters()["packets"] == 4
    assert fresh.last_drop is None


def test_a_batch_of_empty_slots_is_fine():
    out, into = pair()
    slots = filled(4, out)
    slots.lengths[:] = 0
    assert protect(slots.batch) == 0
    assert unprotect(Slots([b""] * 4, into).batch) == 0
    assert out.counters() == into.counters() == {"packets": 0, "bytes": 0}


def test_which_refused_packets_are_zeroed():
    """docs/library.md: what fails behind its decryption is zeros, what is refused before stays as it was."""
    out, into = pair()
    first, second, third = seal([ipv4(60)] * 3, out)
    forged = second[:-1] + bytes([second[-1] ^ 1])
    stranger = b"\x77" * 4 + third[4:]
    slots = Slots([first, first, forged, stranger], into)
    assert unprotect(slots.batch) == 1
    assert slots.names == ["ok", "replay_seen", "bad_icv", "wrong_spi"]
    at = [0, len(first), 2 * len(first), 3 * len(first)]
    whole = bytes(slots.buffer)
    assert whole[at[1] : at[2]] == bytes(len(first)), "opened, then found to be there already"
    assert whole[at[2] : at[3]] == bytes(len(first))
    assert whole[at[3] :] == stranger
    assert unprotect(again := Slots([first], into).batch) == 0, again
    refused = Slots([b"\x45" + bytes(59)], out, 64, 64)
    assert protect(refused.batch) == 0
    assert bytes(refused.buffer[64:124]) == b"\x45" + bytes(59)


def test_strided_buffers_are_refused():
    buffer, offsets, lengths, verdicts = arrays(size=800)
    with pytest.raises(BufferError, match="contiguous"):
        PacketBatch(buffer[::2], offsets, lengths, SA("out", 0x1001, key=KEY), verdicts)


def test_arrays_of_different_length_are_refused():
    buffer, offsets, lengths, verdicts = arrays()
    with pytest.raises(UsageError, match="differ in length"):
        PacketBatch(buffer, offsets[:1], lengths, SA("out", 0x1001, key=KEY), verdicts)
    with pytest.raises(UsageError, match="sas: int is neither an SA"):
        PacketBatch(buffer, offsets, lengths, 7, verdicts)
    with pytest.raises(UsageError, match="1 SAs for 2 packets"):
        PacketBatch(buffer, offsets, lengths, [SA("out", 0x1001, key=KEY)], verdicts)
    with pytest.raises(UsageError, match="packet 1"):
        PacketBatch(buffer, offsets, lengths, [SA("out", 0x1001, key=KEY), None], verdicts)


@pytest.mark.parametrize(
    ("offsets", "lengths", "message"),
    [
        ((15, 200), (60, 60), "packet 0 .* 16 bytes before"),
        ((50, 341), (60, 60), "packet 1 at 341, 60 bytes: it reaches beyond"),
        ((50, 340), (60, 60), "packet 1 .* bytes behind"),
        ((50, 323), (60, 60), "packet 1 .* bytes behind"),
        ((50, 110), (60, 60), "overlap"),
        ((200, 100), (60, 90), "overlap"),
        ((50, 50), (60, 60), "overlap"),
        ((0xFFFFFFF0, 50), (0x20, 60), "beyond"),
    ],
)
def test_packets_without_room_are_refused_before_anything_is_written(offsets, lengths, message):
    buffer, good_offsets, good_lengths, verdicts = arrays()
    sa = SA("out", 0x1001, key=KEY)
    wrong = np.array(offsets, np.uint32), np.array(lengths, np.uint32)
    with pytest.raises(BufferError, match=message):
        PacketBatch(buffer, *wrong, sa, verdicts)
    batch = PacketBatch(buffer, good_offsets, good_lengths, sa, verdicts)
    good_offsets[:], good_lengths[:] = wrong
    with pytest.raises(BufferError, match=message):
        protect(batch)
    assert (buffer == 0xEE).all()
    assert sa.seq == 0


def test_room_that_is_just_enough_is_enough():
    sa = SA("out", 0x1001, key=KEY)
    slots = Slots([ipv4(60)] * 3, sa, sa.headroom, sa.tailroom)
    assert protect(slots.batch) == 3


def test_packets_may_stand_in_any_order():
    buffer, offsets, lengths, verdicts = arrays()
    offsets[:] = offsets[::-1].copy()
    for at in offsets.tolist():
        buffer[at : at + 60] = np.frombuffer(ipv4(60), np.uint8)
    assert protect(PacketBatch(buffer, offsets, lengths, SA("out", 0x1001, key=KEY), verdicts)) == 2


def test_the_wrong_direction_is_refused():
    out, into = pair()
    slots = Slots([ipv4(60)], out, out.headroom, out.tailroom)
    with pytest.raises(UsageError, match="outbound"):
        unprotect(slots.batch)
    with pytest.raises(UsageError, match="outbound"):
        protect(Slots([ipv4(60)], into).batch)
    assert slots.packets == [ipv4(60)]


def test_a_bound_buffer_cannot_be_resized():
    buffer = bytearray(400)
    _, offsets, lengths, verdicts = arrays()
    batch = PacketBatch(buffer, offsets, lengths, SA("out", 0x1001, key=KEY), verdicts)
    with pytest.raises(BufferError):
        buffer.extend(b"x")
    del batch
    buffer.extend(b"x")


def test_an_empty_batch_is_fine():
    empty32 = np.zeros(0, np.uint32)
    assert protect(PacketBatch(bytearray(1), empty32, empty32.copy(), [], np.zeros(0, np.uint8))) == 0


def test_two_threads_with_one_sa_never_share_a_number():
    sa = SA("out", 0x1001, key=KEY)
    seen, refused, lock = [], [0], threading.Lock()

    def work() -> None:
        slots = Slots([ipv4(1400)] * 256, sa, sa.headroom, sa.tailroom)
        starts = slots.offsets.copy()
        for _ in range(40):
            slots.offsets[:], slots.lengths[:] = starts, 1400
            slots.buffer[starts] = 0x45
            slots.buffer[starts + 2], slots.buffer[starts + 3] = 1400 >> 8, 1400 & 255
            try:
                protect(slots.batch)
            except StateError:
                with lock:
                    refused[0] += 1
                continue
            ivs = [int.from_bytes(p[8:16], "big") for p in slots.packets]
            with lock:
                seen.extend(ivs)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == len(set(seen)) == sa.seq
    assert len(seen) + refused[0] * 256 == 4 * 40 * 256


def test_verdict_table_is_complete_and_names_are_unique():
    assert len(status.NAMES) == len(status.HELP) == len(set(status.NAMES))
    assert status.NAMES[0] == "ok"
    assert all(status.VERDICTS[name] == value for value, name in enumerate(status.NAMES))
    assert status.verdict_text(200) == "verdict 200"
