"""PacketBatch, protect and unprotect: the ESP and AH kernels over buffers of the caller's, bound once.

Everything is checked before anything is written. Element types and read-only buffers are checked when the batch is bound;
head and tail room and overlap then and at every call, since the caller may have changed offsets and lengths. A dropped packet
gets length 0, so that nobody sends it by mistake. The GIL is released while the kernels run; an SA in another thread's batch is
a StateError. With a SAD each packet finds its SA by itself (sad_table.pyx), in one epoch: an SA that is removed meanwhile lives
until the call is over. A slot of length 0 is empty: no kernel sees it. Left out: policy.
Called by: embedders, bench.py, tests.
"""

from cpython.buffer cimport PyBUF_C_CONTIGUOUS, PyBUF_FORMAT, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport qsort
from libc.string cimport memset

from ipsec_fast.dataplane.ah cimport ah_batch_ctx_free, ah_batch_ctx_new, ah_batch_ctx_set_time, ah_inbound, ah_outbound
from ipsec_fast.dataplane.epoch cimport epoch_enter, epoch_join, epoch_leave, epoch_slot, retire
from ipsec_fast.dataplane.crew cimport Crew
from ipsec_fast.dataplane.esp cimport (
    esp_batch_ctx_free, esp_batch_ctx_new, esp_batch_ctx_set_crew, esp_batch_ctx_set_time, esp_inbound, esp_outbound, esp_outbound_dummies, esp_packet
)
from ipsec_fast.dataplane.forks cimport fork_count
from ipsec_fast.dataplane.sad cimport (
    HOLDER_CALL, HOLDER_LEAVING, MODE_TRANSPORT, MODE_TUNNEL, OUTER_NONE, PROTOCOL_AH, PROTOCOL_ESP, SA, SA_INBOUND, SA_OUTBOUND, coarse_ns, esp_sa, holder_none, load_u64,
    sa_check_time, sa_enter, sa_enter_late, sa_leave, sa_need, sa_note_use, sa_refuse, sa_settle, store_u64, swap_u64
)
from ipsec_fast.dataplane.sad_table cimport SAD, sad_assign, sad_prefetch, sad_table
from ipsec_fast.dataplane.status cimport VERDICT_BAD_INNER, VERDICT_BAD_OUTER, VERDICT_OK, VERDICT_RUNT
from ipsec_fast.errors import StateError, UsageError

from operator import index


cdef extern from *:
    """
    static int compare_u64(const void *a, const void *b)
    {
        uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
        return (x > y) - (x < y);
    }
    static inline void *load_pointer(void *const *from) { return __atomic_load_n(from, __ATOMIC_ACQUIRE); }
    """
    int compare_u64(const void *a, const void *b) noexcept nogil
    void *load_pointer(void **from_) noexcept nogil

# a call that looks SAs up as it goes enters them under a number of its own, and so sees which it has entered already
cdef uint64_t calls = HOLDER_CALL


# of each size: its name, and the formats of PEP 3118 that will do
_ELEMENTS = {1: ("u8", "Bbc"), 4: ("u32", "ILil"), 8: ("u64", "QLql")}
_KINDS = {**dict.fromkeys("bhilqn", "int"), **dict.fromkeys("BHILQNc", "uint"), **dict.fromkeys("efdg", "float")}
_OTHERS = {"?": "bool", "O": "object", "P": "pointers"}


def _type_name(str text, int itemsize):
    """numpy's name of a format of PEP 3118: `int64` for `l` with 8 bytes."""
    letter = text.lstrip("@=<>!")
    name = _OTHERS.get(letter)
    if letter in _KINDS:
        name = f"{_KINDS[letter]}{8 * itemsize}"
    elif letter[:1] == "Z":
        name = f"complex{8 * itemsize}"
    elif name is None:
        name = f"of type {text!r}"
    return f"big-endian {name}" if text[:1] in (">", "!") and itemsize > 1 else name


cdef enum:
    AHEAD = 8                # SAs that are on their way from memory while one is entered

# codes of `describe`: which packet, and why not
cdef enum:
    FITS = 0
    OUTSIDE
    NO_HEADROOM
    NO_TAILROOM
    OVERLAP

cdef struct misfit:
    int code
    uint32_t index


cdef class PacketBatch:
    """Packets in a buffer, bound once to their SAs.

    `buffer` u8, `offsets` and `lengths` u32[n], `verdicts` u8[n]: all writable and contiguous.

    `sas` is one SA for all packets, or one per packet. Before each call write offsets and lengths; after it they are
    the result's, `verdicts` is 0 where that is good, and a dropped packet has length 0. A slot of length 0 is empty: it is
    not counted, neither in what a call returns nor in the SA, and its verdict is not 0. Sealing needs `sa.headroom`
    bytes before and `sa.tailroom` behind each packet. A SAD in place of `sas` finds the SA of each packet that arrives
    (`unknown_spi` where there is none); `tags` u64[n] then takes the tag of the SA that a packet came on, 0 where there is none.
    A `crew` does its part of large batches of SAs that have keys for it (`SA(crew=crew.size)`).
    Raises BufferError (read-only, no room, overlap) and UsageError (element types, lengths of the arrays) before anything is written.
    """

    def __cinit__(self, buffer, offsets, lengths, sas, verdicts, *, tags=None, Crew crew=None):
        self._hold("buffer", buffer, 1)
        self._hold("offsets", offsets, 4)
        self._hold("lengths", lengths, 4)
        self._hold("verdicts", verdicts, 1)
        if self.views[0].len > 0xFFFFFFFF:
            raise UsageError("a buffer is at most 4 GiB, offsets have 32 bits")
        self.n = self.views[3].len
        if self.views[1].len != 4 * self.n or self.views[2].len != 4 * self.n:
            raise UsageError(f"offsets, lengths and verdicts differ in length: {self.views[1].len // 4}, {self.views[2].len // 4}, {self.n}")
        if tags is not None:
            self._hold("tags", tags, 8)
            if self.views[4].len != 8 * self.n:
                raise UsageError(f"verdicts and tags differ in length: {self.n}, {self.views[4].len // 8}")
        if isinstance(sas, SAD):
            self.sad = sas
            self.owners = ()
            self.sas = <esp_sa **> allocate(self.n, sizeof(esp_sa *))
            self.distinct = <esp_sa **> allocate(self.n, sizeof(esp_sa *))
        else:
            self._bind_sas((sas,) * self.n if isinstance(sas, SA) else sas)
        self.holder = holder_none()
        self.packets = <esp_packet *> allocate(self.n, sizeof(esp_packet))
        self.regions = <uint64_t *> allocate(self.n, sizeof(uint64_t))
        self.ctx = esp_batch_ctx_new()
        if self.ctx == NULL:
            raise MemoryError
        self.crew = crew
        if crew is not None:
            crew.need_threads()
            esp_batch_ctx_set_crew(self.ctx, &crew.state, <uint32_t> crew.size)
        if self.sad is not None or any((<SA> sa).hot.protocol == PROTOCOL_AH for sa in self.owners):
            self.ah = ah_batch_ctx_new()
            if self.ah == NULL:
                raise MemoryError
        # room is checked for what the SAs do: seal or open
        check_fit(self, load_packets(self, self.n, False))

    def __dealloc__(self):
        cdef int i
        esp_batch_ctx_free(self.ctx)
        ah_batch_ctx_free(self.ah)
        PyMem_Free(self.packets)
        PyMem_Free(self.regions)
        PyMem_Free(self.sas)
        PyMem_Free(self.distinct)
        PyMem_Free(self.firsts)
        for i in range(self.held):
            PyBuffer_Release(&self.views[i])

    def __len__(self):
        return self.n

    def __repr__(self):
        if self.sad is not None:
            whose = f"SAs of {self.sad!r}"
        elif self.distinct_count == 1:
            whose = repr(self.owners[0])
        else:
            whose = f"{self.distinct_count} SAs"
        return f"<PacketBatch of {self.n} packets in {self.views[0].len} bytes, {whose}>"

    def _hold(self, name, source, int itemsize):
        cdef Py_buffer *view = &self.views[self.held]
        kind, letters = _ELEMENTS[itemsize]
        wanted = f"np.{kind.replace('u', 'uint')} (it must be {kind})"
        try:
            PyObject_GetBuffer(source, view, PyBUF_WRITABLE | PyBUF_C_CONTIGUOUS | PyBUF_FORMAT)
        except TypeError:
            raise UsageError(f"{name}: {type(source).__name__} is no buffer") from None
        except (BufferError, ValueError) as error:  # ValueError: numpy's word for it
            if "dtype" in str(error):  # of dates, which no buffer has
                raise UsageError(f"{name} is {getattr(source, 'dtype', 'of another type')}; make it {wanted}") from None
            raise BufferError(f"{name} must be writable and contiguous: {error}") from None
        self.held += 1
        found = "B" if view.format == NULL else view.format.decode()
        if view.itemsize != itemsize or found.lstrip("@=<") not in letters:
            raise UsageError(f"{name} is {_type_name(found, <int> view.itemsize)}; make it {wanted}")

    def _bind_sas(self, sas):
        try:
            owners = tuple(sas)
        except TypeError:
            raise UsageError(f"sas: {type(sas).__name__} is neither an SA, nor one SA for each packet, nor a SAD") from None
        if len(owners) != self.n:
            raise UsageError(f"{len(owners)} SAs for {self.n} packets")
        self.owners = owners
        self.sas = <esp_sa **> allocate(self.n, sizeof(esp_sa *))
        self.distinct = <esp_sa **> allocate(self.n, sizeof(esp_sa *))
        self.firsts = <uint32_t *> allocate(self.n, sizeof(uint32_t))
        seen = set()
        for i, sa in enumerate(owners):
            if not isinstance(sa, SA) or not (<SA> sa).hot.made:
                raise UsageError(f"packet {i}: its SA is {sa!r}")
            self.sas[<uint32_t> i] = (<SA> sa).hot
            if id(sa) not in seen:
                seen.add(id(sa))
                self.distinct[self.distinct_count] = (<SA> sa).hot
                self.firsts[self.distinct_count] = <uint32_t> i
                self.distinct_count += 1


def protect(PacketBatch batch not None, n=None):
    """Seal every packet in place, rewrite offsets and lengths, give verdicts; returns how many are ok.

    `n`: only the first `n` packets; the other slots stay as they are. A packet that is refused stays as it is, with length 0;
    only one that the crypto library failed to seal (`crypto_failed`) is zeroed.
    Raises StateError, and touches no packet, if another thread or a worker uses one of these SAs, or if an SA was made before a fork.
    """
    if batch.sad is not None:
        raise UsageError("protect takes outbound SAs; a SAD is searched for what arrives")
    return run(batch, first_packets(batch, n), SA_OUTBOUND)


def protect_dummies(PacketBatch batch not None, n=None):
    """Make a dummy packet (RFC 4303 section 2.6) of each length in place: the slot is overwritten by zeros and sealed.

    The receiver authenticates and drops it (verdict `dummy`). A length of 0 is a dummy without data, not an empty slot.
    Raises as protect does, UsageError for an SA not in tunnel mode.
    """
    cdef uint32_t i, count
    if batch.sad is not None:
        raise UsageError("protect takes outbound SAs; a SAD is searched for what arrives")
    count = first_packets(batch, n)
    for i in range(count):
        if batch.sas[i].mode != MODE_TUNNEL or batch.sas[i].protocol != PROTOCOL_ESP:
            raise UsageError("dummy packets are for ESP in tunnel mode")
    return run(batch, count, SA_OUTBOUND, True)


def unprotect(PacketBatch batch not None, n=None):
    """Open every packet in place, rewrite offsets and lengths, give verdicts; returns how many are ok.

    `n`: only the first `n` packets. A packet that is dropped at or after the integrity check is zeroed, whatever the reason
    (`bad_icv`, `bad_padding`, `replay_seen` inside one batch, `lifetime`, ...); one that is dropped before stays as it is.
    Raises StateError as protect does.
    """
    cdef uint32_t count = first_packets(batch, n)
    return run(batch, count, SA_INBOUND) if batch.sad is None else run_found(batch, count)


cdef uint32_t first_packets(PacketBatch batch, n) except? 0xFFFFFFFF:
    """How many packets a call is for."""
    if n is None:
        return batch.n
    try:
        count = index(n)
    except TypeError:
        count = -1
    if not 0 <= count <= batch.n:
        raise UsageError(f"n {n!r}: it is how many packets from the first on, 0 to {batch.n} of this batch")
    return count


cdef int enter_batch(PacketBatch batch) except -1:
    cdef uint64_t before
    if swap_u64(&batch.holder, holder_none(), holder_none() | HOLDER_CALL) == 1:
        return 0
    before = load_u64(&batch.holder)
    # bound before a fork: with a SAD it may find SAs of this process. Who was inside is not here.
    if before >> 32 == fork_count[0] or swap_u64(&batch.holder, before, holder_none() | HOLDER_CALL) != 1:
        raise StateError("this batch is in use by another thread")
    if batch.sad is not None:
        batch.distinct_count = 0
        memset(batch.sas, 0, batch.n * sizeof(esp_sa *))
    if batch.crew is not None:
        store_u64(&batch.holder, before)
        (<Crew> batch.crew).need_threads()
    return 0


cdef inline void leave_batch(PacketBatch batch) noexcept nogil:
    store_u64(&batch.holder, holder_none())


cdef void *allocate(size_t count, size_t size) except NULL:
    cdef void *block = PyMem_Calloc(count if count else 1, size)
    if block == NULL:
        raise MemoryError
    return block


cdef inline uint64_t tell_time(PacketBatch batch) noexcept:
    """Once a call: for limits of time and SA.last_drop."""
    cdef uint64_t now = coarse_ns()
    esp_batch_ctx_set_time(batch.ctx, now)
    if batch.ah != NULL:
        ah_batch_ctx_set_time(batch.ah, now)
    return now


cdef inline void prefetch_sa(const esp_sa *sa) noexcept nogil:
    """What is read of an SA for each packet, and for each call."""
    sad_prefetch(sa)
    sad_prefetch(&sa.hard_limit)
    sad_prefetch(&sa.holder)
    sad_prefetch(&sa.protocol)
    sad_prefetch(&sa.hard_at_ns)


cdef object run(PacketBatch batch, uint32_t n, int direction, bint dummies=False):
    cdef misfit found
    cdef uint32_t good = 0
    cdef uint32_t entered = 0
    cdef uint64_t now
    enter_batch(batch)
    now = tell_time(batch)
    try:
        while entered < batch.distinct_count and batch.firsts[entered] < n:
            if entered + AHEAD < batch.distinct_count:
                prefetch_sa(batch.distinct[entered + AHEAD])
            if not sa_enter(batch.distinct[entered]):
                sa_enter_late(batch.distinct[entered])
            entered += 1
            sa_check_time(batch.distinct[entered - 1], now)
            if batch.distinct[entered - 1].direction != direction:
                raise UsageError("protect takes outbound SAs, unprotect inbound ones; this batch holds one of the other kind")
        with nogil:  # once: to let go of the GIL and take it again costs what some packets do
            found = load_packets(batch, n, dummies)
            if found.code == FITS:
                run_kernels(batch, n, direction, dummies)
                good = store_results(batch, n)
        check_fit(batch, found)
    finally:
        while entered > 0:
            entered -= 1
            sa_note_use(batch.distinct[entered], now)
            sa_leave(batch.distinct[entered])
        leave_batch(batch)
    return good


cdef object run_found(PacketBatch batch, uint32_t n):
    """As run, for what arrives: each packet's SA is looked up, and held by the epoch until the call is over."""
    cdef misfit found
    cdef uint32_t good = 0
    cdef SA busy
    enter_batch(batch)
    try:
        busy = open_found(batch, n, &found, &good)
        if busy is not None and sa_settle(busy.hot):
            busy = open_found(batch, n, &found, &good)
        if busy is not None:
            sa_refuse(busy.hot)
        check_fit(batch, found)
    finally:
        leave_batch(batch)
    return good


cdef SA open_found(PacketBatch batch, uint32_t n, misfit *found, uint32_t *good):
    """The first SA that another thread has, and then nothing is done; None if there is none."""
    global calls
    cdef epoch_slot *slot
    cdef void **current = &batch.sad.current
    cdef bint bare = batch.sad.bare
    cdef esp_sa *refused = NULL
    cdef SA busy = None
    cdef uint64_t who, now = tell_time(batch)
    calls = calls + 1 if calls + 1 < HOLDER_LEAVING else HOLDER_CALL + 1
    who = holder_none() | calls
    slot = epoch_join()
    with nogil:
        epoch_enter(slot)
        found[0] = load_packets(batch, n, False)
        if found.code == FITS:
            sad_assign(<sad_table *> load_pointer(current), bare, batch.packets, n)
            refused = enter_found(batch, n, who, now)
            if refused == NULL:
                run_kernels(batch, n, SA_INBOUND, False)
                good[0] = store_results(batch, n)
            leave_found(batch, n, now)
    if refused != NULL:
        busy = <SA> refused.owner  # which lives, in this epoch
    epoch_leave(slot)
    retire(None)
    return busy


cdef esp_sa *enter_found(PacketBatch batch, uint32_t n, uint64_t who, uint64_t now) noexcept nogil:
    cdef uint32_t i
    cdef esp_sa *sa
    cdef int entered
    for i in range(n):
        batch.sas[i] = sa = batch.packets[i].sa
        if sa == NULL:
            continue
        entered = swap_u64(&sa.holder, holder_none(), who)
        if entered == 0:
            return sa
        if entered == 1:
            batch.distinct[batch.distinct_count] = sa
            batch.distinct_count += 1
            sa_check_time(sa, now)
    return NULL


cdef void leave_found(PacketBatch batch, uint32_t n, uint64_t now) noexcept nogil:
    while batch.distinct_count:
        batch.distinct_count -= 1
        sa_note_use(batch.distinct[batch.distinct_count], now)
        sa_leave(batch.distinct[batch.distinct_count])
    memset(batch.sas, 0, n * sizeof(esp_sa *))


cdef inline bint is_ah(const esp_sa *sa) noexcept nogil:
    return sa != NULL and sa.protocol == PROTOCOL_AH


cdef void run_kernels(PacketBatch batch, uint32_t n, int direction, bint dummies) noexcept nogil:
    # a batch without AH is one run
    cdef uint32_t start = 0, end = n
    while start < n:
        if batch.ah != NULL:
            end = start + 1
            while end < n and is_ah(batch.sas[end]) == is_ah(batch.sas[start]):
                end += 1
        if is_ah(batch.sas[start]):
            if direction == SA_OUTBOUND:
                ah_outbound(batch.ah, batch.packets + start, end - start)
            else:
                ah_inbound(batch.ah, batch.packets + start, end - start)
        elif dummies:
            esp_outbound_dummies(batch.ctx, batch.packets + start, end - start)
        elif direction == SA_OUTBOUND:
            esp_outbound(batch.ctx, batch.packets + start, end - start)
        else:
            esp_inbound(batch.ctx, batch.packets + start, end - start)
        start = end


cdef inline uint8_t verdict_of_nothing(const esp_sa *sa) noexcept nogil:
    """What the kernels say of a packet of 0 bytes."""
    if sa != NULL and sa.direction == SA_OUTBOUND:
        return VERDICT_BAD_INNER
    return VERDICT_BAD_OUTER if sa != NULL and (sa.outer != OUTER_NONE or sa.mode == MODE_TRANSPORT) else VERDICT_RUNT


cdef misfit load_packets(PacketBatch batch, uint32_t n, bint dummies) noexcept nogil:
    # offsets and lengths are read once: what was checked is what runs
    cdef uint8_t *base = <uint8_t *> batch.views[0].buf
    cdef uint64_t size = <uint64_t> batch.views[0].len, start, end, last_end = 0, before = 0, behind = 0
    cdef const uint32_t *offsets = <const uint32_t *> batch.views[1].buf
    cdef const uint32_t *lengths = <const uint32_t *> batch.views[2].buf
    cdef uint32_t i
    cdef esp_sa **sas = batch.sas
    cdef esp_packet *packets = batch.packets
    cdef esp_sa *sa = NULL
    cdef bint sorted_regions = True
    cdef misfit found
    found.code, found.index = FITS, 0
    for i in range(n):
        if sas[i] != sa:
            sa = sas[i]
            before = behind = 0
            if sa != NULL and sa.direction == SA_OUTBOUND:
                before, behind = sa.headroom, sa.tailroom
        start = offsets[i]
        end = start + lengths[i]
        packets[i].data = base + start
        packets[i].length = <uint32_t> (end - start)
        packets[i].sa = sa
        found.index = i
        if end > size:
            found.code = OUTSIDE
            return found
        if end == start and not dummies:  # an empty slot: without an SA the kernels leave it alone, and nothing is counted
            packets[i].sa = NULL
            packets[i].flags = verdict_of_nothing(sa)
            continue
        if start < before:
            found.code = NO_HEADROOM
            return found
        if end + behind > size:
            found.code = NO_TAILROOM
            return found
        if start - before < last_end:
            sorted_regions = False
        last_end = end + behind
    if not sorted_regions:
        found.index = find_overlap(batch, n, dummies)
        if found.index < n:
            found.code = OVERLAP
    return found


cdef uint32_t find_overlap(PacketBatch batch, uint32_t n, bint dummies) noexcept nogil:
    # the rank, by offset, of a packet that reaches into the one before; n if there is none
    cdef uint32_t i, count = 0
    cdef uint64_t start, end, last_end = 0
    cdef esp_sa *sa
    for i in range(n):
        sa = batch.packets[i].sa
        start = <uint64_t> (batch.packets[i].data - <uint8_t *> batch.views[0].buf)
        end = start + batch.packets[i].length
        if end == start and not dummies:
            continue
        if sa != NULL and sa.direction == SA_OUTBOUND:
            start, end = start - sa.headroom, end + sa.tailroom
        batch.regions[count] = start << 32 | end
        count += 1
    qsort(batch.regions, count, sizeof(uint64_t), compare_u64)
    for i in range(count):
        if batch.regions[i] >> 32 < last_end:
            return i
        last_end = <uint32_t> batch.regions[i]
    return n


cdef int check_fit(PacketBatch batch, misfit found) except -1:
    cdef esp_sa *sa
    if found.code == FITS:
        return 0
    sa = batch.sas[found.index]
    offset, length = (<uint32_t *> batch.views[1].buf)[found.index], (<uint32_t *> batch.views[2].buf)[found.index]
    where = f"packet {found.index} at {offset}, {length} bytes"
    if found.code == OUTSIDE:
        raise BufferError(f"{where}: it reaches beyond the buffer of {batch.views[0].len} bytes")
    if found.code == NO_HEADROOM:
        raise BufferError(f"{where}: protect needs {sa.headroom} bytes before it (sa.headroom)")
    if found.code == NO_TAILROOM:
        raise BufferError(f"{where}: protect needs {sa.tailroom} bytes behind it (sa.tailroom)")
    raise BufferError(f"packets overlap, head and tail room included (number {found.index} by offset reaches into the one before)")


cdef uint32_t store_results(PacketBatch batch, uint32_t n) noexcept nogil:
    cdef uint8_t *base = <uint8_t *> batch.views[0].buf
    cdef uint32_t *offsets = <uint32_t *> batch.views[1].buf
    cdef uint32_t *lengths = <uint32_t *> batch.views[2].buf
    cdef uint8_t *verdicts = <uint8_t *> batch.views[3].buf
    cdef uint64_t *tags = <uint64_t *> batch.views[4].buf if batch.held == 5 else NULL
    cdef uint32_t i, good = 0
    cdef esp_packet *packets = batch.packets
    cdef esp_packet *packet
    for i in range(n):
        packet = &packets[i]
        if packet.sa == NULL:
            packet.verdict = packet.flags  # why there is none
        if tags != NULL:
            tags[i] = packet.sa.tag if packet.sa != NULL else 0
        verdicts[i] = packet.verdict
        if packet.verdict == VERDICT_OK:
            offsets[i] = <uint32_t> (packet.data - base)
            lengths[i] = packet.length
            good += 1
        else:
            lengths[i] = 0
    return good
