"""One security association (RFC 4301 section 4.4.2): checks what it is made of, and owns the struct that kernels use.

Hot and cold part are apart: kernels see `esp_sa` alone, 64-byte aligned; window and expanded key lie elsewhere. What a mode and its headers want
of the struct: sad_modes.pxi. Left out: the lookup by SPI (sad_table.pyx). Called by: control/, embedders, PacketBatch.
"""

import collections
import ipaddress
import os
import weakref

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from ipsec_fast.algorithms import ah_suite, esp_suite
from ipsec_fast.crypto.secret cimport Secret, borrow
from ipsec_fast.dataplane.crew cimport CREW_MOST
from ipsec_fast.dataplane.engine cimport engine_suite, find_suite
from ipsec_fast.dataplane.epoch cimport retire
from ipsec_fast.dataplane.forks cimport fork_count
from ipsec_fast.dataplane.ip cimport csum_add
from ipsec_fast.dataplane.status cimport VERDICT_COUNT
from ipsec_fast.errors import AlgorithmError, StateError, UsageError
from ipsec_fast.model import OuterHeader

from ipsec_fast.dataplane import status
from ipsec_fast.dataplane.dropped import LastDrop


cdef extern from "replay.h" nogil:
    struct replay_window:
        uint64_t top
        uint64_t resyncs
    replay_window *replay_new(uint32_t size, uint64_t top) noexcept

cdef extern from "ah_mutable.h" nogil:
    uint32_t ah_length(uint32_t icv_field, uint32_t version) noexcept

cdef extern from "stdlib.h" nogil:
    void *aligned_alloc(size_t alignment, size_t size) noexcept

cdef extern from "openssl/crypto.h" nogil:
    void OPENSSL_cleanse(void *p, size_t length) noexcept


cdef extern from *:
    """
    /* the writer, a worker or a call without the GIL, is done within some ns */
    static void drop_read(uint64_t *to, const uint64_t *from, size_t words)
    {
        do {
            while ((to[0] = __atomic_load_n(from, __ATOMIC_ACQUIRE)) & 1)
                ;
            for (size_t i = 1; i < words; i++)
                to[i] = __atomic_load_n(&from[i], __ATOMIC_RELAXED);
            __atomic_thread_fence(__ATOMIC_ACQUIRE);
        } while (__atomic_load_n(from, __ATOMIC_RELAXED) != to[0]);
    }
    """
    void drop_read(uint64_t *to, const uint64_t *from_, size_t words) noexcept nogil

cdef extern from "unistd.h" nogil:
    int usleep(unsigned int microseconds) noexcept

MOST_SECONDS = 1 << 33  # as nanoseconds it fits

cdef enum:
    LEAVING_US = 200
    LEAVING_TRIES = 5000     # a turn of a worker lasts some 100 ms at most


cdef uint64_t nanoseconds(seconds) except? 0:
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds < MOST_SECONDS:
        raise UsageError(f"lifetime {seconds!r}: it is a number of seconds, 0 for none")
    return max(1, int(seconds * 1e9)) if seconds else 0


cdef inline void store_be16(uint8_t *p, uint32_t value) noexcept nogil:
    p[0] = <uint8_t> (value >> 8)
    p[1] = <uint8_t> value


cdef class PeerIds:
    pass


_peer_ids = weakref.WeakValueDictionary()
_last_asked = collections.OrderedDict()  # by next_identification, whose caller holds none
LAST_ASKED = 256


cdef PeerIds peer_ids_of(src, dst, int protocol, int start):
    cdef PeerIds found
    key = (src.packed, dst.packed, protocol)
    found = _peer_ids.get(key)
    if found is None:
        found = _peer_ids[key] = PeerIds()
        found.next = start
    return found


def next_identification(src, dst, int protocol):
    """The IPv4 identification of a packet without DF: 1 to 65535, shared with all SAs from `src` to `dst` (RFC 6864)."""
    key = (src.packed, dst.packed, protocol)
    found = peer_ids_of(src, dst, protocol, int.from_bytes(os.urandom(2), "big"))
    _last_asked[key] = found
    _last_asked.move_to_end(key)
    while len(_last_asked) > LAST_ASKED:
        _last_asked.popitem(last=False)
    return next_shared_id(&found.next)


include "sad_modes.pxi"


cdef class SA:
    """One security association (RFC 4301 section 4.4.2) of ESP or AH: the Python face of the struct that kernels use.

    `key` is cipher key, salt, integrity key (RFC 7296 section 2.17), bytes-like or a Secret; what is kept of it is
    wiped at the end. `seq` is the last number used (out) or the highest received (in: it and all below are refused).
    `granted` None lets every number be used. `window` is the anti-replay window, 32 to 1048576 packets (in).

    Modes. "tunnel" seals whole IP packets, IPv4 and IPv6 in either: with `src` and `dst` the kernels write and strip the
    outer header, with `encap` (source port, destination port) UDP too (RFC 3948); without, ESP alone. `header` says how
    the outer header is made (None outside tunnel mode). `tfc`: shorter packets are padded to so many bytes (out).
    "transport" takes whole IP packets and keeps their header outside; `encap` puts UDP in front of ESP. Behind a NAT
    `original` (in) mends the checksums of TCP and UDP (RFC 3948 section 3.1.2): the addresses (source, destination) that
    the sender's packets had, or "recompute".
    "beet": all packets go from `inner[0]` to `inner[1]`; they travel between `src` and `dst`, without an inner header.
    `crew` is the size of the Crew that may help to seal or open; 0 in the end where the engine is too fast for that (`sa.crew`).
    `protocol` "ah" (RFC 4302): `algorithm` is one such as "sha256" or "aes128gmac"; tunnel (with `src`, `dst`) or transport.
    One thread uses an SA at a time: a call, or the worker whose tables hold it. An SA made before a fork belongs to the
    parent process: in the child `protect`, `unprotect`, workers and crews refuse it with StateError.
    Raises AlgorithmError (unknown algorithm, key of a wrong length), UsageError (everything else that is wrong).
    """

    def __cinit__(self, *args, **kwargs):
        cdef size_t size = (sizeof(esp_sa) + 63) & ~<size_t> 63
        self.hot = <esp_sa *> aligned_alloc(64, size)
        if self.hot == NULL:
            raise MemoryError
        memset(self.hot, 0, size)
        self.hot.owner = <void *> self
        self.hot.holder = holder_none()

    def __init__(self, direction, spi, algorithm="aes128gcm16", key=None, mode="tunnel", src=None, dst=None, encap=None, esn=False,
                 window=1024, seq=0, granted=None, engine="auto", inner=None, original=None, header=None, tfc=0,
                 protocol="esp", crew=0):
        if self.hot.key != NULL or self.hot.window != NULL:
            raise StateError("this SA is made already")
        if direction not in ("out", "in"):
            raise UsageError(f"direction {direction!r}: it is 'out' or 'in'")
        if mode not in MODES:
            raise UsageError(f"mode {mode!r}: it is one of {', '.join(MODES)}")
        if not isinstance(spi, int) or not 1 <= spi <= 0xFFFFFFFF:
            raise UsageError(f"SPI {spi!r}: it is 1 to 4294967295 (a SAD holds none below 256, RFC 4303 section 2.1)")
        if not isinstance(window, int) or not 32 <= window <= 1048576:
            raise UsageError(f"anti-replay window {window!r}: it is 32 to 1048576 packets")
        last = 0xFFFFFFFFFFFFFFFF if esn else 0xFFFFFFFF
        if not isinstance(seq, int) or not 0 <= seq <= last:
            raise UsageError(f"sequence number {seq!r}: it is 0 to {last} {'with' if esn else 'without'} ESN")
        if protocol not in PROTOCOLS:
            raise UsageError(f"protocol {protocol!r}: it is 'esp' or 'ah'")
        suite = esp_suite(algorithm) if protocol == "esp" else ah_suite(algorithm)
        self.algorithm = suite.name
        self.protocol = protocol
        self.hot.protocol = PROTOCOLS[protocol]
        self.mode = mode
        self.window_size = window
        spi_bytes = spi.to_bytes(4, "big")
        memcpy(&self.hot.spi_be, <const char *> spi_bytes, 4)
        self.hot.direction = SA_OUTBOUND if direction == "out" else SA_INBOUND
        self.hot.esn = bool(esn)
        self.hot.seq = seq
        self.set_limits()
        self.hot.outer_id = spi & 0xFFFF  # where it starts does not matter, DF is set (RFC 6864)
        if direction == "in":
            self.hot.window = replay_new(window, seq)
            if self.hot.window == NULL:
                raise MemoryError
        self.hot.mode = MODES[mode]
        set_outer(self, src, dst, encap)
        if not isinstance(crew, int) or isinstance(crew, bool) or not 0 <= crew <= CREW_MOST:
            raise UsageError(f"crew {crew!r}: it is 0 to {CREW_MOST} threads")
        self.hot.spare_count = crew
        set_key(self, find_suite(suite.name if protocol == "esp" else suite.kernel, engine), key)
        set_header_rules(self, header)
        set_inner(self, inner)
        set_original(self, original)
        set_room(self, tfc)
        self.set_grant(last if granted is None else granted)
        self.hot.made = 1

    def __dealloc__(self):
        if self.hot == NULL:
            return
        if self.hot.release != NULL:
            self.hot.release(self.hot)
        free_spares(self.hot)
        if self.hot.key != NULL:
            self.hot.suite.key_free(self.hot.key)
        free(self.hot.window)
        OPENSSL_cleanse(self.hot, sizeof(esp_sa))
        free(self.hot)

    def __reduce__(self):
        raise TypeError("an SA holds keys and is not pickled")

    def __repr__(self):
        return f"<SA {self.protocol} {self.direction} spi 0x{self.spi:08x} {self.algorithm} seq {self.seq}>"

    def set_grant(self, granted):
        """Numbers up to `granted` may be used; the next grant is wanted at half of what this one adds."""
        if not isinstance(granted, int) or granted < 0:
            raise UsageError(f"grant {granted!r}: it is the highest sequence number that may be used")
        cdef uint64_t end = min(granted, <object> self.hot.hard_limit)
        cdef uint64_t now = load_u64(&self.hot.seq)
        store_u64(&self.hot.grant_ask, now + (end - now) // 2 if end > now else end)
        store_u64(&self.hot.granted, end)

    def set_limits(self, soft_packets=0, hard_packets=0, soft_bytes=0, hard_bytes=0, soft_seconds=0, hard_seconds=0, idle_seconds=0):
        """What this SA may carry from now on, 0 for no limit; to be called before it is in use.

        From a soft limit on a new SA is wanted; past a hard one every packet gets the verdict `lifetime`. 75 % and the end of
        the sequence numbers hold besides. Bytes are those of inner packets. Seconds count from now on, those of `idle_seconds`
        from the last good packet on; `protect` and `unprotect` look once a call (4 ms exact), the worker does not: a gateway has timers.
        """
        cdef uint64_t now = coarse_ns()
        cdef uint64_t last = esp_last_number(self.hot), used
        for value in (soft_packets, hard_packets, soft_bytes, hard_bytes):
            if not isinstance(value, int) or not 0 <= value < 1 << 63:
                raise UsageError(f"lifetime {value!r}: it is a number of packets or bytes, 0 for none")
        cdef uint64_t soft_ns = nanoseconds(soft_seconds), hard_ns = nanoseconds(hard_seconds), idle_ns = nanoseconds(idle_seconds)
        used = self.hot.packets if self.hot.direction == SA_INBOUND else load_u64(&self.hot.seq)
        self.hot.hard_limit = min(last, used + <uint64_t> hard_packets) if hard_packets else last
        self.hot.soft_limit = min(last // 4 * 3, used + <uint64_t> soft_packets) if soft_packets else last // 4 * 3
        self.hot.hard_bytes = self.hot.bytes + <uint64_t> hard_bytes if hard_bytes else <uint64_t> -1
        self.hot.soft_bytes = self.hot.bytes + <uint64_t> soft_bytes if soft_bytes else <uint64_t> -1
        self.hot.soft_at_ns = now + soft_ns if soft_ns else <uint64_t> -1
        self.hot.hard_at_ns = now + hard_ns if hard_ns else <uint64_t> -1
        self.hot.idle_ns = idle_ns
        self.hot.last_use_ns = now if idle_ns else self.hot.last_use_ns
        self.hot.used_packets = self.hot.packets

    def check_time(self, now=None):
        """False, from then on, where a hard limit of time or `idle_seconds` is over at `now` (CLOCK_MONOTONIC, None: now).

        For who calls the kernels by cimport or wants to know without a packet.
        """
        if now is not None and not (isinstance(now, (int, float)) and 0 <= now < MOST_SECONDS):
            raise UsageError(f"time {now!r}: it is CLOCK_MONOTONIC in seconds")
        return bool(sa_check_time(self.hot, coarse_ns() if now is None else <uint64_t> (now * 1e9)))

    def sealed_length(self, uint32_t inner_length, header_length=None):
        """Bytes of the sealed packet, outer headers of this SA included. AH in transport mode: at most so many.

        Transport mode: `header_length` is what stays outside (20 where not given); BEET: what is taken off (20 or 40).
        """
        cdef uint32_t kept = kept_length(self, header_length)
        if inner_length < kept:
            raise UsageError(f"a packet of {inner_length} bytes has no header of {kept}")
        payload = esp_filled(self.hot, inner_length - kept)
        if self.hot.protocol == PROTOCOL_AH:
            return front_length(self, kept) + inner_length - kept
        return front_length(self, kept) + 8 + self.hot.iv_length + payload + esp_padding(self.hot, payload) + 2 + self.hot.icv_length

    def max_inner_length(self, uint32_t sealed_length, header_length=None):
        """The largest inner packet whose sealed form is at most this long; 0 if none fits. `header_length` as above."""
        cdef uint32_t kept = kept_length(self, header_length), front = front_length(self, kept)
        if sealed_length < front:
            return 0
        if self.hot.protocol == PROTOCOL_AH:
            return sealed_length - front + kept
        payload = esp_max_payload(self.hot, sealed_length - front)
        return payload + kept if payload >= self.hot.tfc and payload else 0

    def counters(self):
        """`packets`, `bytes` (of inner packets) and one entry per drop reason that occurred.

        `resynchronised`: how often an ESN came back after a gap of 2^32 (RFC 4303 appendix A3), if it ever did.
        """
        cdef int i
        found = {"packets": load_u64(&self.hot.packets), "bytes": load_u64(&self.hot.bytes)}
        for i in range(1, VERDICT_COUNT):
            if load_u64(&self.hot.drops[i]):
                found[status.NAMES[i]] = load_u64(&self.hot.drops[i])
        if self.hot.window != NULL and statistic(&(<replay_window *> self.hot.window).resyncs):
            found["resynchronised"] = statistic(&(<replay_window *> self.hot.window).resyncs)
        return found

    @property
    def last_drop(self):
        """The last packet that this SA dropped, and its headers; None if none was. May be read while a worker uses the SA."""
        cdef drop_record copy
        drop_read(<uint64_t *> &copy, <const uint64_t *> &self.hot.last_drop, sizeof(drop_record) // 8)
        if copy.verdict == 0:
            return None
        header = (<const char *> copy.header)[:copy.header_length]
        return LastDrop(status.NAMES[copy.verdict], copy.seq, header, copy.at_ns / 1e9 if copy.at_ns else None)

    @property
    def direction(self):
        """"out" or "in"."""
        return "out" if self.hot.direction == SA_OUTBOUND else "in"

    @property
    def spi(self):
        """The security parameters index, 1 to 4294967295."""
        return int.from_bytes((<const char *> &self.hot.spi_be)[:4], "big")

    @property
    def engine(self):
        """The name of the crypto engine that carries it."""
        sa_need(self)
        return self.hot.suite.engine.decode()

    @property
    def esn(self):
        """Whether sequence numbers have 64 bits (RFC 4303 section 2.2.1)."""
        return bool(self.hot.esn)

    @property
    def window(self):
        """Size of the anti-replay window, in packets."""
        return self.window_size

    @property
    def headroom(self):
        """Bytes that protect writes before a packet."""
        return self.hot.headroom

    @property
    def tailroom(self):
        """Most bytes that it writes behind."""
        return self.hot.tailroom

    @property
    def seq(self):
        """Last number used (out), highest valid one received (in)."""
        if self.hot.direction == SA_INBOUND and self.hot.window != NULL:
            return statistic(&(<replay_window *> self.hot.window).top)
        return load_u64(&self.hot.seq)

    @property
    def granted(self):
        """Sequence numbers up to this may be used (out)."""
        return load_u64(&self.hot.granted)

    @property
    def hard_limit(self):
        """The last packet that may be carried; out: the last number that may be used."""
        return self.hot.hard_limit

    @property
    def soft_limit(self):
        """From this number of packets on a new SA is wanted; out: of the last number used."""
        return self.hot.soft_limit

    @property
    def soft_limit_reached(self):
        """75 % of the numbers are used, or a lifetime: a new SA is wanted."""
        used = load_u64(&self.hot.packets if self.hot.direction == SA_INBOUND else &self.hot.seq)
        return used >= self.hot.soft_limit or load_u64(&self.hot.bytes) >= self.hot.soft_bytes or coarse_ns() >= self.hot.soft_at_ns

    @property
    def mss_ipv4(self):
        """0: no clamp; these three are used by the worker."""
        return load_u16(&self.hot.mss_ipv4)

    @mss_ipv4.setter
    def mss_ipv4(self, uint16_t value):
        store_u16(&self.hot.mss_ipv4, value)

    @property
    def mss_ipv6(self):
        """0: no clamp; used by the worker."""
        return load_u16(&self.hot.mss_ipv6)

    @mss_ipv6.setter
    def mss_ipv6(self, uint16_t value):
        store_u16(&self.hot.mss_ipv6, value)

    @property
    def max_inner(self):
        """The largest inner packet that fits the path, 0: no limit; used by the worker."""
        return load_u16(&self.hot.max_inner)

    @max_inner.setter
    def max_inner(self, uint16_t value):
        store_u16(&self.hot.max_inner, value)

    @property
    def crew(self):
        """Threads that may help with this SA."""
        return self.hot.spare_count

    @property
    def tag(self):
        """The control plane's own."""
        return self.hot.tag

    @tag.setter
    def tag(self, uint64_t value):
        self.hot.tag = value


cdef int sa_count_for_peer(SA sa) except -1:
    if sa.hot.ids == NULL:
        share_ids(sa)
    sa.hot.rules |= RULE_ONE_COUNT
    return 0


cdef int sa_need(SA sa) except -1:
    if not sa.hot.made:
        raise UsageError(f"SA {sa.spi:#010x} has no key: it was never made, or SA.__init__ failed")
    return 0


cdef inline bint is_leaving(const esp_sa *sa) noexcept nogil:
    cdef uint64_t who = load_u64(&sa.holder)
    return who >> 32 == fork_count[0] and who & HOLDER_LEAVING and who & HOLDER_WORKER


cdef int sa_settle(esp_sa *sa) except -1:
    cdef int tries = 0
    while tries < LEAVING_TRIES and is_leaving(sa):
        retire(None)
        if is_leaving(sa):
            with nogil:
                usleep(LEAVING_US)
        tries += 1
    return tries


cdef int sa_enter_late(esp_sa *sa) except -1:
    sa_settle(sa)
    return 0 if sa_enter(sa) else sa_refuse(sa)


cdef int sa_refuse(esp_sa *sa) except -1:
    cdef uint64_t who = load_u64(&sa.holder)
    name = f"SA {int.from_bytes((<const char *> &sa.spi_be)[:4], 'big'):#010x}"
    if who >> 32 != fork_count[0]:
        raise StateError(
            f"{name} was made before a fork: its key, numbers and window belong to the parent process; make an SA with a key of its own in the child"
        )
    if who & HOLDER_WORKER:
        raise StateError(f"{name} is in use by a worker: one thread numbers, or accepts for, an SA; publish tables without it, or stop that worker")
    raise StateError(f"{name} is in use by another thread: one thread numbers, or accepts for, an SA")


cdef void set_key(SA sa, const engine_suite *suite, key) except *:
    cdef Py_buffer view
    if key is None:
        use_key(sa, suite, NULL, 0)
    if isinstance(key, Secret):
        use_key(sa, suite, borrow(<Secret> key), (<Secret> key).size)
        return
    try:
        PyObject_GetBuffer(key, &view, PyBUF_SIMPLE)
    except TypeError:
        raise UsageError(f"the key is bytes-like or a Secret, not {type(key).__name__}") from None
    try:
        use_key(sa, suite, <const uint8_t *> view.buf, view.len)
    finally:
        PyBuffer_Release(&view)


cdef int make_spares(esp_sa *sa, const uint8_t *keymat) except -1:
    """A copy of the key for each of a crew, where the library's object is one thread's. Engines whose keys may be shared are faster than a crew wakes up."""
    cdef uint32_t i
    if sa.suite.keys_are_shared:
        sa.spare_count = 0
    if sa.spare_count == 0:
        return 0
    sa.spares = <void **> calloc(sa.spare_count, sizeof(void *))
    if sa.spares == NULL:
        raise MemoryError
    for i in range(sa.spare_count):
        sa.spares[i] = sa.suite.key_new(sa.suite, keymat, sa.direction == SA_OUTBOUND)
        if sa.spares[i] == NULL:
            raise MemoryError
    return 0


cdef void free_spares(esp_sa *sa) noexcept:
    cdef uint32_t i
    if sa.spares == NULL:
        return
    for i in range(sa.spare_count):
        if sa.spares[i] != NULL:
            sa.suite.key_free(sa.spares[i])
    free(sa.spares)
    sa.spares = NULL


cdef void use_key(SA sa, const engine_suite *suite, const uint8_t *keymat, Py_ssize_t size) except *:
    if keymat == NULL or size != suite.keymat_length:
        parts = [f"{suite.key_length} cipher key"] if suite.key_length else []
        if suite.salt_length:
            parts.append(f"{suite.salt_length} salt")
        if not suite.is_aead:
            parts.append(f"{suite.keymat_length - suite.key_length - suite.salt_length} integrity key")
        raise AlgorithmError(f"{sa.algorithm} needs {suite.keymat_length} bytes of key ({', '.join(parts)}), not {size}")
    sa.hot.key = suite.key_new(suite, keymat, sa.hot.direction == SA_OUTBOUND)
    if sa.hot.key == NULL:
        raise AlgorithmError(f"{suite.engine.decode()} refused the key of {sa.algorithm}")
    sa.hot.suite = suite
    make_spares(sa.hot, keymat)
    memcpy(sa.hot.salt, keymat + suite.key_length, suite.salt_length)
    sa.hot.iv_length = suite.iv_length
    sa.hot.icv_length = suite.icv_length
    sa.hot.align = suite.align
    sa.hot.is_aead = suite.is_aead
    sa.hot.iv_kind = suite.iv_kind
    sa.hot.salt_length = suite.salt_length
