"""The SPD's cache for the worker (RFC 4301 section 4.4.1): ordered policies for what leaves, selectors of each SA for what arrives.

Everything the worker reads is immutable once published. Ranges of addresses and ports are true ranges, not prefixes. A packet whose ports cannot be
seen (later fragment, protocol without ports) matches any-port and OPAQUE selectors only (section 4.4.1.1); track gives later fragments the ports of
their first one. What arrives is checked against the SA it
came on (section 5.2), not against the policies: after a rekey both old and new SA carry the same selectors. SAs are found by SPI in a SAD of
the table's own (sad_table.pyx). Called by worker; made by control.
"""

cimport cython
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memset

from ipsec_fast.dataplane.epoch cimport retire
from ipsec_fast.dataplane.ip cimport IP_OK, ip_info, ip_parse
from ipsec_fast.dataplane.sad cimport (
    HOLDER_LEAVING, HOLDER_WORKER, MODE_TUNNEL, OUTER_NONE, PROTOCOL_AH, SA, SA_INBOUND, SA_OUTBOUND, holder_none, load_u64, sa_need, sa_refuse,
    sa_settle, statistic, store_u64, swap_u64
)
from ipsec_fast.dataplane.sad_table cimport SAD
from ipsec_fast.dataplane.udp cimport udp_endpoint

from ..errors import StateError, UsageError

cdef extern from "net_io.h" nogil:
    void atomic_set_pointer(void **target, void *value) noexcept

_ACTIONS = {"discard": POLICY_DISCARD, "bypass": POLICY_BYPASS, "protect": POLICY_PROTECT}
cdef uint64_t generations = 0
cdef uint64_t holdings = 0


cdef inline bint not_above(const wide_address *a, const wide_address *b) noexcept nogil:
    return a.high < b.high or (a.high == b.high and a.low <= b.low)


cdef inline bint matches(
    const selector *ts, const flow_key *key, const wide_address *address, uint16_t port
) noexcept nogil:
    if ts.version != key.version or not not_above(&ts.start, address) or not not_above(address, &ts.end):
        return False
    if ts.protocol and ts.protocol != key.protocol:
        return False
    if ts.any_port:
        return True
    if ts.opaque:
        return not key.has_ports
    return key.has_ports and ts.start_port <= port <= ts.end_port


cdef inline uint64_t load_be(const uint8_t *at, int size) noexcept nogil:
    cdef uint64_t value = 0
    cdef int i
    for i in range(size):
        value = value << 8 | at[i]
    return value


cdef inline void load_address(wide_address *address, const uint8_t *at, uint8_t version) noexcept nogil:
    address.high = 0 if version == 4 else load_be(at, 8)
    address.low = load_be(at, 4) if version == 4 else load_be(at + 8, 8)


cdef void make_flow_key(flow_key *key, const ip_info *info) noexcept nogil:
    memset(key, 0, sizeof(flow_key))
    load_address(&key.src, info.src, info.version)
    load_address(&key.dst, info.dst, info.version)
    key.version = info.version
    key.protocol = info.protocol
    key.has_ports = info.has_ports
    key.src_port = info.src_port
    key.dst_port = info.dst_port


cdef bint selectors_match(const selector_pair_list *pairs, const flow_key *key) noexcept nogil:
    """An arriving packet: its destination is in one of ours, its source in one of theirs."""
    cdef uint32_t i
    if pairs is NULL:
        return False
    for i in range(pairs.local_count):
        if matches(&pairs.local[i], key, &key.dst, key.dst_port):
            break
    else:
        return False
    for i in range(pairs.remote_count):
        if matches(&pairs.remote[i], key, &key.src, key.src_port):
            return True
    return False


cdef inline uint32_t first_match(const dataplane_tables *tables, const flow_key *key) noexcept nogil:
    cdef uint32_t i
    for i in range(tables.policy_count):
        if matches(&tables.policies[i].local, key, &key.src, key.src_port) and matches(
            &tables.policies[i].remote, key, &key.dst, key.dst_port
        ):
            return i
    return tables.policy_count


cdef policy_row *find_policy(dataplane_tables *tables, flow_entry *cache, const flow_key *key) noexcept nogil:
    """The first policy that matches a packet that leaves, NULL if none does. `cache` has FLOW_CACHE_SIZE entries of this worker."""
    cdef flow_entry *entry
    cdef uint64_t mixed
    cdef uint32_t found
    if tables.policy_count <= FLOW_CACHE_POLICIES:
        found = first_match(tables, key)
        return &tables.policies[found] if found < tables.policy_count else NULL
    mixed = key.src.low * 0x9E3779B97F4A7C15u ^ key.dst.low * 0xC2B2AE3D27D4EB4Fu ^ key.dst.high
    mixed ^= (<uint64_t>key.src_port << 24 ^ <uint64_t>key.dst_port << 8 ^ key.protocol) * 0x165667B19E3779F9u
    entry = &cache[(mixed >> 40) % FLOW_CACHE_SIZE]
    if entry.generation != tables.generation or memcmp(&entry.key, key, sizeof(flow_key)) != 0:
        entry.policy = first_match(tables, key)
        entry.key = key[0]
        entry.generation = tables.generation
    return &tables.policies[entry.policy] if entry.policy < tables.policy_count else NULL


cdef inline bint could_match(
    const selector *ts, const flow_key *key, const wide_address *address, bint any_protocol
) noexcept nogil:
    """Whether some ports, and with `any_protocol` some protocol, would make it match."""
    if ts.version != key.version or not not_above(&ts.start, address) or not not_above(address, &ts.end):
        return False
    return ts.protocol == 0 or any_protocol or ts.protocol == key.protocol


cdef policy_row *find_policy_without_ports(
    dataplane_tables *tables, const flow_key *key, bint any_protocol, bint *depends
) noexcept nogil:
    cdef policy_row *row
    cdef uint32_t i
    depends[0] = False
    for i in range(tables.policy_count):
        row = &tables.policies[i]
        if matches(&row.local, key, &key.src, 0) and matches(&row.remote, key, &key.dst, 0):
            return row
        if could_match(&row.local, key, &key.src, any_protocol) and could_match(&row.remote, key, &key.dst, any_protocol):
            depends[0] = True
            return NULL
    return NULL


cdef bint selectors_could_match(const selector_pair_list *pairs, const flow_key *key, bint any_protocol) noexcept nogil:
    cdef uint32_t i
    if pairs is NULL:
        return False
    for i in range(pairs.local_count):
        if could_match(&pairs.local[i], key, &key.dst, any_protocol):
            break
    else:
        return False
    for i in range(pairs.remote_count):
        if could_match(&pairs.remote[i], key, &key.src, any_protocol):
            return True
    return False


cdef int fill_selector(selector *to, object ts) except -1:
    start, end = int(ts.start), int(ts.end)
    to.start.high, to.start.low = start >> 64, start & 0xFFFFFFFFFFFFFFFF
    to.end.high, to.end.low = end >> 64, end & 0xFFFFFFFFFFFFFFFF
    to.version, to.protocol = ts.version, ts.protocol
    to.any_port, to.opaque = ts.is_any_port, ts.is_opaque
    to.start_port, to.end_port = ts.start_port, ts.end_port
    return 0


cdef class SelectorPairs:
    """Owns one selector_pair_list."""

    cdef selector_pair_list list_

    def __cinit__(self, local, remote):
        self.list_.local = <selector *>PyMem_Calloc(len(local) + len(remote), sizeof(selector))
        if self.list_.local is NULL:
            raise MemoryError
        self.list_.remote = self.list_.local + len(local)
        for i, ts in enumerate([*local, *remote]):
            fill_selector(&self.list_.local[<Py_ssize_t>i], ts)
        self.list_.local_count, self.list_.remote_count = len(local), len(remote)

    def __dealloc__(self):
        PyMem_Free(self.list_.local)


def set_selectors(SA sa not None, local, remote):
    """What an inbound SA may carry: destination in `local`, source in `remote`. May be called while workers use the SA."""
    if not local or not remote:
        raise UsageError(f"SA {sa.spi:#010x}: selectors of both sides are needed, local has {len(local)}, remote has {len(remote)}")
    cdef SelectorPairs new = SelectorPairs(local, remote)
    kept = sa.io if isinstance(sa.io, dict) else {}
    old = kept.get("selectors")
    sa.io = {**kept, "selectors": new}
    atomic_set_pointer(&sa.hot.selectors, &new.list_)
    retire(old)


def accepts(SA sa not None, bytes packet):
    """Whether the selectors of an inbound SA let this inner packet in."""
    cdef ip_info info
    cdef flow_key key
    if ip_parse(<const uint8_t *><const char *>packet, <uint32_t>len(packet), &info) != IP_OK:
        return False
    make_flow_key(&key, &info)
    return bool(selectors_match(<selector_pair_list *>sa.hot.selectors, &key))


cdef class Policy:
    """One entry of the SPD (RFC 4301 section 4.4.1) for packets that leave: the first match counts, none: discard.

    `protect` without `outbound` drops (`policy_no_sa`) and reports `tag` (NoticeKind.NO_SA). What says `bypass` cannot leave
    through a TUN: dropped, counted as `bypass_not_routable`. `owner` is the worker that sends on `outbound`; the others hand
    their packets to it. None: whichever worker has the tables; of several workers one must be named.
    """

    def __init__(self, str action, local, remote, SA outbound=None, tag=0, owner=None):
        if self.action is not None:
            raise StateError("this policy is made already")
        if action not in _ACTIONS:
            raise UsageError(f"policy action {action!r} is none of protect, bypass, discard")
        if local.version != remote.version:
            raise UsageError(f"policy {local} === {remote}: selectors of one IP version are needed")
        if outbound is not None and action != "protect":
            raise UsageError(f"policy {local} === {remote}: only protect has an SA, not {action}")
        if owner is not None and not 0 <= owner < OWNER_ANY:
            raise UsageError(f"policy {local} === {remote}: a worker's number is 0 to {OWNER_ANY - 1}, not {owner}")
        self.action, self.local, self.remote, self.outbound, self.tag, self.owner = action, local, remote, outbound, tag, owner

    def __repr__(self):
        return f"<Policy {self.action} {self.local} === {self.remote}>"


cdef class Tables:
    """An immutable snapshot: inbound SAs by SPI, policies in order. It keeps its SAs alive; `Worker.publish` swaps it in.

    Raises UsageError: an SA of the wrong direction or with outer addresses, an SPI twice, an inbound SA without selectors,
    an outbound one without endpoint.
    """

    def __init__(self, inbound, policies):
        global generations
        if self.sad is not None:
            raise StateError("these tables are made already: a worker may read them, so make new ones")
        self.inbound, self.policies = tuple(inbound), tuple(policies)
        generations += 1
        self.c.generation = generations
        self._fill_sad()
        self._fill_policies()
        self.made = True

    def __dealloc__(self):
        PyMem_Free(self.c.policies)

    def find(self, bytes packet):
        """The policy for a packet that leaves; None: none matches (it is discarded), or it is no IP packet."""
        cdef ip_info info
        cdef flow_key key
        cdef uint32_t found
        if ip_parse(<const uint8_t *><const char *>packet, <uint32_t>len(packet), &info) != IP_OK:
            return None
        make_flow_key(&key, &info)
        found = first_match(&self.c, &key)
        return self.policies[found] if found < self.c.policy_count else None

    def _fill_sad(self):
        cdef SA sa
        self.sad = SAD(bare=True)
        self.sad.with_ah = True
        for sa in self.inbound:
            _check_for_worker(sa, SA_INBOUND)
            self.sad.add(sa)
        self.c.sad = &self.sad.rows.table

    def _fill_policies(self):
        cdef policy_row *row
        cdef Policy policy
        cdef Py_ssize_t i
        self.c.policies = <policy_row *>PyMem_Calloc(max(1, len(self.policies)), sizeof(policy_row))
        if self.c.policies is NULL:
            raise MemoryError
        for i, policy in enumerate(self.policies):
            row = &self.c.policies[i]
            if policy.action is None:
                raise UsageError(f"policy {i} was never made: Policy.__init__ did not run, or failed")
            fill_selector(&row.local, policy.local)
            fill_selector(&row.remote, policy.remote)
            row.action, row.tag = _ACTIONS[policy.action], policy.tag
            row.owner = OWNER_ANY if policy.owner is None else policy.owner
            if policy.outbound is not None:
                _check_for_worker(policy.outbound, SA_OUTBOUND)
                row.sa = (<SA>policy.outbound).hot
        self.c.policy_count = <uint32_t>len(self.policies)


# --- who holds the SAs of published tables -----------------------------------------------------------------------------------------------------

# Not collected as part of a cycle: __dealloc__ needs its tables.
@cython.no_gc
cdef class Holding:
    """A worker's hold on the SAs of its tables, from the publication until the worker has passed a quiescent point without them.

    It holds the SAs of policies that it owns or that have no owner, and inbound SAs whose SPI is its own. The others are in its tables
    only to hand packets off. `held_at` of an SA is the last publication that took it, so that an earlier one does not free it.
    """

    cdef int take(self) except -1:
        cdef Py_ssize_t i, n = held_count(self), taken
        cdef esp_sa *sa
        for i in range(n):
            sa = held(self, i)
            if sa is not NULL and not self.has(sa):
                sa_settle(sa)
        taken = self.take_all(n)
        if taken < n:
            sa_refuse(held(self, taken))
        return 0

    cdef Py_ssize_t take_all(self, Py_ssize_t n) noexcept:
        """Take all SAs, or none, without letting another Python thread run; returns the index of the first that is in use, or `n`."""
        cdef Py_ssize_t i, taken = n
        cdef esp_sa *sa
        for i in range(n):
            sa = held(self, i)
            if sa is NULL or self.has(sa):
                continue
            if swap_u64(&sa.holder, holder_none(), self.holder) != 1:
                taken = i
                break
            sa.held_at = self.serial
        for i in range(taken):
            sa = held(self, i)
            if sa is NULL:
                continue
            if taken == n:
                sa.held_at = self.serial
                store_u64(&sa.holder, self.holder)
            elif sa.held_at == self.serial and self.has(sa):
                store_u64(&sa.holder, holder_none())
        return taken

    cdef bint has(self, const esp_sa *sa) noexcept:
        return load_u64(&sa.holder) & ~<uint64_t>HOLDER_LEAVING == self.holder

    cdef void begin_to_leave(self) noexcept:
        cdef Py_ssize_t i
        cdef esp_sa *sa
        for i in range(held_count(self)):
            sa = held(self, i)
            if sa is not NULL and sa.held_at == self.serial and self.has(sa):
                store_u64(&sa.holder, self.holder | HOLDER_LEAVING)

    cdef void leave(self) noexcept:
        cdef Py_ssize_t i
        cdef esp_sa *sa
        for i in range(held_count(self)):
            sa = held(self, i)
            if sa is not NULL and sa.held_at == self.serial and self.has(sa):
                store_u64(&sa.holder, holder_none())

    def __dealloc__(self):
        if self.tables is not None and self.holder >> 32 == holder_none() >> 32:
            self.leave()


cdef inline Py_ssize_t held_count(Holding holding) noexcept:
    return PyTuple_GET_SIZE(holding.tables.inbound) + holding.tables.c.policy_count


cdef inline esp_sa *held(Holding holding, Py_ssize_t i) noexcept:
    """The SA of one row, inbound ones first; NULL if this worker does not use it."""
    cdef Py_ssize_t inbound = PyTuple_GET_SIZE(holding.tables.inbound)
    cdef policy_row *row
    cdef esp_sa *sa
    cdef const uint8_t *spi
    if i < inbound:
        sa = (<SA>PyTuple_GET_ITEM(holding.tables.inbound, i)).hot
        spi = <const uint8_t *>&sa.spi_be
        return sa if load_be(spi, 4) % holding.workers == holding.worker else NULL
    row = &holding.tables.c.policies[i - inbound]
    return row.sa if row.owner == holding.worker or row.owner == OWNER_ANY else NULL


cdef Holding hold(Tables tables, uint64_t number, uint32_t worker, uint32_t workers):
    """A holding for the worker with this number; its SAs are not taken yet."""
    global holdings
    cdef Holding new
    cdef uint32_t i
    if not tables.made:
        raise UsageError("these tables were never made: Tables.__init__ did not run, or failed")
    for i in range(tables.c.policy_count):
        if tables.c.policies[i].sa is NULL:
            continue
        if tables.c.policies[i].owner != OWNER_ANY and tables.c.policies[i].owner >= workers:
            raise UsageError(
                f"{tables.policies[i]!r}: no worker is its SA's owner: {tables.c.policies[i].owner} is given, and there are {workers}, counted from 0"
            )
        if workers > 1 and tables.c.policies[i].owner == OWNER_ANY:
            raise UsageError(
                f"{tables.policies[i]!r}: with {workers} workers its SA needs an owner, since only one may number its packets: Policy(owner=...)"
            )
    holdings += 1
    new = Holding.__new__(Holding)
    new.tables, new.worker, new.workers = tables, worker, workers
    new.holder, new.serial = holder_none() | HOLDER_WORKER | number, holdings
    return new


cdef _check_for_worker(SA sa, int direction):
    name = f"SA {sa.spi:#010x}"
    sa_need(sa)
    if direction == SA_INBOUND and sa.spi < 256:
        raise UsageError(f"{name}: SPIs below 256 are reserved (RFC 4303 section 2.1)")
    if sa.hot.direction != direction:
        raise UsageError(f"{name} is {sa.direction}bound, where the other direction is needed")
    if sa.hot.mode != MODE_TUNNEL:
        raise UsageError(f"{name} is of {sa.mode} mode; a worker carries tunnel mode")
    # AH covers the outer header, so its SAs know it; what a raw socket sends carries it
    raw = direction == SA_OUTBOUND and sa.hot.endpoint is not NULL and (<udp_endpoint *>sa.hot.endpoint).raw
    if sa.hot.outer != OUTER_NONE and sa.hot.protocol != PROTOCOL_AH and not raw:
        raise UsageError(f"{name} has outer addresses of its own; the worker's socket adds them")
    if sa.hot.protocol == PROTOCOL_AH and direction == SA_OUTBOUND and not raw:
        raise UsageError(f"{name} is of AH and needs a raw endpoint: call set_raw_endpoint first")
    if direction == SA_INBOUND and sa.hot.selectors is NULL:
        raise UsageError(f"{name} has no selectors: call set_selectors first")
    if direction == SA_OUTBOUND and sa.hot.endpoint is NULL:
        raise UsageError(f"{name} has no endpoint: call set_endpoint first")


def last_sent_s(SA sa not None):
    """Monotonic seconds of the last datagram sent on this SA, None if there was none."""
    cdef uint64_t at = statistic(&sa.hot.last_use_ns)
    return at / 1e9 if sa.hot.direction == SA_OUTBOUND and at else None


def last_big_s(SA sa not None):
    """Monotonic seconds of the last inner packet of more than 512 bytes, not ICMP, that left on this SA, None if there was none."""
    cdef uint64_t at = load_u64(&sa.hot.big_at_ns)
    return at / 1e9 if at else None


def last_received_s(SA sa not None):
    """Monotonic seconds of the last valid packet received on this SA, None if there was none."""
    cdef uint64_t at = statistic(&sa.hot.last_use_ns)
    return at / 1e9 if sa.hot.direction == SA_INBOUND and at else None
