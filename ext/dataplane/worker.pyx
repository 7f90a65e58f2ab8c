"""The worker: one thread without the GIL that moves packets between one TUN queue and the UDP sockets.

    out: tun read -> ip parse -> spd -> clamp, or answer too-big, or fragment -> into slots -> esp_outbound per 64 -> one send per slot
    in : udp receive (GRO) -> split -> keepalive? marker? SPI? -> esp_inbound per batch -> selectors -> ECN -> clamp -> merge -> tun write

It sleeps in poll until a descriptor has something, or the stop eventfd. It holds no lock and no Python object, and allocates nothing after start. Each
packet that does not go on is counted by its verdict, for the worker and for its SA; what control must know goes up the notify ring, what is not ESP the
punt ring. One worker numbers an outbound SA and owns an inbound window (design decision 4): publish an SA to one worker only. Called by gateway.
"""

from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from ipsec_fast.dataplane.coalesce cimport iovec, merge_flush, merge_packet, merge_table, write_single
from ipsec_fast.dataplane.epoch cimport epoch_enter, epoch_join, epoch_leave, epoch_rest, epoch_slot, retire
from ipsec_fast.dataplane.esp cimport esp_batch_ctx, esp_batch_ctx_free, esp_batch_ctx_new, esp_inbound, esp_packet
from ipsec_fast.dataplane.ip cimport IP_OK, ecn_decapsulate, ip_info, ip_parse
from ipsec_fast.dataplane.pmtu cimport ANSWER_BYTES, answer_too_big, clamp_mss
from ipsec_fast.dataplane.port cimport *
from ipsec_fast.dataplane.ring cimport Ring, record_ring, ring_push
from ipsec_fast.dataplane.sad cimport esp_last_number, esp_sa, load_u64
from ipsec_fast.dataplane.segment cimport (
    segment_fragmented, segment_header_length, segment_single, segment_super, segment_target, vnet_header
)
from ipsec_fast.dataplane.spd cimport (
    FLOW_CACHE_SIZE, POLICY_BYPASS, POLICY_PROTECT, Tables, dataplane_tables, find_policy, find_sa, flow_entry, flow_key,
    make_flow_key, policy_row, selector_pair_list, selectors_match
)
from ipsec_fast.dataplane.status cimport *
from ipsec_fast.dataplane.tun cimport Tun, tun_port
from ipsec_fast.dataplane.udp cimport UdpSocket, udp_endpoint, udp_port

import contextlib
import ipaddress
import os
import threading

from ..errors import StateError, UsageError
from .engine import engines
from .notice import Notice, NoticeKind, Punted
from .offload import Offload
from .port import COUNTER_NAMES
from .status import NAMES

WORKER_NICE = -5  # relative to the process

cdef extern from "net_io.h" nogil:
    enum:
        CONTROL_BYTES
        AF_INET
        AF_INET6
        POLLIN
        POLLERR
        POLLHUP
        POLLNVAL
        MSG_DONTWAIT
        MSG_TRUNC
        VNET_NEEDS_CSUM
        VNET_GSO_NONE
    struct msghdr:
        void *msg_name
        uint32_t msg_namelen
        iovec *msg_iov
        size_t msg_iovlen
        void *msg_control
        size_t msg_controllen
        int msg_flags
    struct mmsghdr:
        msghdr msg_hdr
        unsigned int msg_len
    struct pollfd:
        int fd
        short events
        short revents
    struct control_view:
        int segment
        int tos
        int family
        uint8_t local[16]
    int recvmmsg(int fd, mmsghdr *messages, unsigned int count, int flags, void *timeout) noexcept
    int poll(pollfd *fds, unsigned long count, int timeout) noexcept
    long read(int fd, void *data, size_t size) noexcept
    void control_read(msghdr *message, control_view *view) noexcept
    uint64_t monotonic_ns() noexcept
    void *atomic_get_pointer(void **source) noexcept
    void atomic_set_pointer(void **target, void *value) noexcept

cdef extern from "stdlib.h" nogil:
    void *aligned_alloc(size_t alignment, size_t size) noexcept

cdef enum:
    MAX_SOCKETS = 16
    TUN_READS = 32           # of one turn
    FLUSH_BYTES = 256 * 1024 # sent before the turn is over: more would leave the cache
    GRO_MESSAGES = 8
    GRO_BYTES = 65536
    PLAIN_MESSAGES = 32      # without UDP_GRO
    PLAIN_BYTES = 16384
    IN_PACKETS = 512
    PACKET_AT = 64           # of the read buffer; the virtio-net header stands before it
    VNET_BYTES = 10
    NAME_BYTES = 28
    ANSWERS_BURST = 50       # too-big answers: a bucket of 50, 100 a second
    ANSWERS_PER_S = 100
    TOLD_POLICIES = 64
    PUNT_RING_BYTES = 1 << 20
    NOTIFY_RING_BYTES = 1 << 16
    KEEPALIVE_BYTE = 0xFF
    IKE_HEADER_BYTES = 28

# kinds of notice.py
cdef enum:
    FIRST_INBOUND = 1
    REKEY_SOON = 2
    GRANT_WANTED = 3
    SEQ_EXHAUSTED = 4
    UNKNOWN_SPI = 5
    NO_SA = 6
    TUN_LOST = 7
    LIFE_OVER = 8
    IN_REKEY_SOON = 9
    IN_LIFE_OVER = 10

# esp_sa.flags: what control was told of this SA; esp_sa.user is one more than the `granted` for which GRANT_WANTED went up
cdef enum:
    TOLD_FIRST = 1
    TOLD_REKEY = 2
    TOLD_EXHAUSTED = 4

cdef uint64_t SECOND_NS = 1000000000

cdef struct punt_head:
    uint16_t socket_index
    uint16_t remote_port
    uint8_t remote_version
    uint8_t local_version
    uint8_t remote[16]
    uint8_t local[16]

cdef struct notice_record:
    uint64_t value
    uint8_t kind
    uint8_t remote_version   # 0: no address
    uint8_t remote[16]

cdef struct worker_state:
    tun_port *tun
    udp_port *ports[MAX_SOCKETS]
    uint32_t port_count
    void *tables
    epoch_slot *epoch
    esp_batch_ctx *esp
    record_ring *punt
    record_ring *notify
    int stop_fd
    int tun_fd               # -1 once the device is gone
    uint64_t now_ns
    uint64_t unknown_told_ns
    uint64_t no_sa_told_ns[TOLD_POLICIES]
    uint64_t answers_at_ns
    uint64_t answers_left
    uint8_t *read_buffer
    uint8_t *scratch
    uint8_t *receive_memory
    flow_entry *cache
    uint32_t in_count
    esp_packet in_packets[IN_PACKETS]
    uint8_t in_tos[IN_PACKETS]
    mmsghdr messages[PLAIN_MESSAGES]
    iovec vectors[PLAIN_MESSAGES]
    uint8_t names[PLAIN_MESSAGES][NAME_BYTES]
    uint8_t controls[PLAIN_MESSAGES][CONTROL_BYTES]
    io_counters counters
    tx_queue queue
    merge_table merge


# --- telling control ---


cdef bint tell(worker_state *w, uint8_t kind, uint64_t value) noexcept nogil:
    cdef notice_record record
    memset(&record, 0, sizeof(record))
    record.kind = kind
    record.value = value
    if ring_push(w.notify, &record, sizeof(record), NULL, 0):
        return True
    w.counters.value[C_NOTICE_OVERFLOW] += 1
    return False


cdef void tell_unknown_spi(worker_state *w, uint32_t index, mmsghdr *message, uint64_t spi) noexcept nogil:
    """At most once a second; with the sender's address, where control may know it."""
    cdef notice_record record
    cdef uint8_t *name = <uint8_t *>message.msg_hdr.msg_name
    if w.unknown_told_ns and w.now_ns - w.unknown_told_ns < SECOND_NS:
        return
    w.unknown_told_ns = w.now_ns
    memset(&record, 0, sizeof(record))
    record.kind = UNKNOWN_SPI
    record.value = spi
    if w.ports[index].family == AF_INET:
        record.remote_version = 4
        memcpy(record.remote, name + 4, 4)
    else:
        record.remote_version = 6
        memcpy(record.remote, name + 8, 16)
    if not ring_push(w.notify, &record, sizeof(record), NULL, 0):
        w.counters.value[C_NOTICE_OVERFLOW] += 1


cdef inline uint64_t spi_number(uint32_t spi_be) noexcept nogil:
    cdef const uint8_t *at = <const uint8_t *>&spi_be
    return <uint64_t>at[0] << 24 | <uint64_t>at[1] << 16 | <uint64_t>at[2] << 8 | at[3]


cdef void tell_once(worker_state *w, esp_sa *sa, uint16_t told, uint8_t kind) noexcept nogil:
    if not sa.flags & told and tell(w, kind, spi_number(sa.spi_be)):
        sa.flags |= told


cdef inline void tell_of_outbound(worker_state *w, esp_sa *sa) noexcept nogil:
    """Lifetime and grant of an SA that is in use; each is told once (a new grant: again)."""
    cdef uint64_t granted
    if sa.seq >= load_u64(&sa.grant_ask):
        granted = load_u64(&sa.granted)
        if granted < sa.hard_limit and <uint64_t>sa.user != granted + 1 and tell(w, GRANT_WANTED, spi_number(sa.spi_be)):
            sa.user = <void *>(granted + 1)
    if sa.seq >= sa.soft_limit or sa.bytes >= sa.soft_bytes:
        tell_once(w, sa, TOLD_REKEY, REKEY_SOON)
    if sa.seq >= sa.hard_limit:
        tell_once(w, sa, TOLD_EXHAUSTED, SEQ_EXHAUSTED if sa.hard_limit == esp_last_number(sa) else LIFE_OVER)


cdef inline void tell_of_inbound(worker_state *w, esp_sa *sa, uint8_t verdict) noexcept nogil:
    if not sa.flags & TOLD_FIRST:
        tell_once(w, sa, TOLD_FIRST, FIRST_INBOUND)
    if sa.packets >= sa.soft_limit or sa.bytes >= sa.soft_bytes:
        tell_once(w, sa, TOLD_REKEY, IN_REKEY_SOON)
    if verdict == VERDICT_LIFETIME:
        tell_once(w, sa, TOLD_EXHAUSTED, IN_LIFE_OVER)


cdef inline void tell_no_sa(worker_state *w, dataplane_tables *tables, policy_row *row) noexcept nogil:
    cdef uint64_t *told = &w.no_sa_told_ns[(row - tables.policies) % TOLD_POLICIES]
    if told[0] == 0 or w.now_ns - told[0] >= SECOND_NS:
        told[0] = w.now_ns
        tell(w, NO_SA, row.tag)


cdef inline void drop(worker_state *w, esp_sa *sa, uint8_t verdict) noexcept nogil:
    """Verdicts of the worker's own; those of the kernels are in the SA already."""
    w.counters.drops[verdict] += 1
    if sa is not NULL:
        sa.drops[verdict] += 1


# --- out ---


cdef void flush_queue(tx_queue *queue) noexcept nogil:
    cdef worker_state *w = <worker_state *>queue.owner
    tx_send(queue, w.ports, w.port_count, w.stop_fd)


cdef void answer(worker_state *w, const uint8_t *packet, const ip_info *info, uint32_t mtu) noexcept nogil:
    cdef uint8_t out[ANSWER_BYTES]
    cdef uint64_t earned = (w.now_ns - w.answers_at_ns) * ANSWERS_PER_S // SECOND_NS
    cdef uint32_t length = 0
    if earned:
        w.answers_left = min(<uint64_t>ANSWERS_BURST, w.answers_left + earned)
        w.answers_at_ns = w.now_ns
    if w.answers_left and not (info.version == 6 and info.total_length <= 1280):
        length = answer_too_big(out, packet, info, mtu)
    if length == 0:
        w.counters.value[C_TOO_BIG_UNANSWERED] += 1
        return
    w.answers_left -= 1
    w.counters.value[C_TOO_BIG_ANSWERED] += 1
    write_single(&w.merge, out, length)


cdef uint8_t send_too_big(
    worker_state *w, segment_target *target, const vnet_header *vnet, uint8_t *packet, const ip_info *info, uint32_t mtu
) noexcept nogil:
    if info.dont_fragment:
        answer(w, packet, info, mtu)
        return VERDICT_PMTU_EXCEEDED
    w.counters.value[C_FRAGMENTED] += 1
    return segment_fragmented(target, vnet, packet, info, mtu, w.scratch)


cdef uint8_t send_protected(
    worker_state *w, esp_sa *sa, const vnet_header *vnet, uint8_t *packet, const ip_info *info
) noexcept nogil:
    cdef segment_target target
    cdef uint32_t largest = info.total_length, header, mss, mtu = sa.max_inner
    target.queue = &w.queue
    target.sa = sa
    target.to = <udp_endpoint *>atomic_get_pointer(&sa.endpoint)
    tell_of_outbound(w, sa)
    if vnet.gso_type != VNET_GSO_NONE:
        header = segment_header_length(vnet, packet, info)
        if header == 0:
            return VERDICT_BAD_INNER
        largest = min(largest, header + vnet.gso_size)
        if mtu and largest > mtu:
            return send_too_big(w, &target, vnet, packet, info, mtu)
        return segment_super(&target, vnet, packet, info)
    mss = sa.mss_ipv4 if info.version == 4 else sa.mss_ipv6
    if mss and clamp_mss(packet, info, <uint16_t>mss, vnet.flags & VNET_NEEDS_CSUM):
        w.counters.value[C_MSS_CLAMPED] += 1
    if mtu and largest > mtu:
        return send_too_big(w, &target, vnet, packet, info, mtu)
    return segment_single(&target, vnet, packet, info)


cdef inline void handle_from_tun(
    worker_state *w, dataplane_tables *tables, const vnet_header *vnet, uint8_t *packet, uint32_t length
) noexcept nogil:
    cdef ip_info info
    cdef flow_key key
    cdef policy_row *row
    cdef uint8_t verdict
    if ip_parse(packet, length, &info) != IP_OK:
        drop(w, NULL, VERDICT_BAD_INNER)
        return
    make_flow_key(&key, &info)
    row = find_policy(tables, w.cache, &key)
    if row is NULL or row.action != POLICY_PROTECT:
        if row is not NULL and row.action == POLICY_BYPASS:
            w.counters.value[C_BYPASS_NOT_ROUTABLE] += 1
        else:
            drop(w, NULL, VERDICT_POLICY_DISCARD)
        return
    if row.sa is NULL:
        drop(w, NULL, VERDICT_POLICY_NO_SA)
        tell_no_sa(w, tables, row)
        return
    verdict = send_protected(w, row.sa, vnet, packet, &info)
    if verdict == VERDICT_OK:
        w.counters.value[C_BYTES_OUT] += info.total_length
        if row.sa.seq < load_u64(&row.sa.granted) and row.sa.seq < row.sa.hard_limit:  # what is dropped keeps no NAT mapping alive
            row.sa.last_use_ns = w.now_ns
    else:
        drop(w, row.sa, verdict)


cdef void tun_turn(worker_state *w, dataplane_tables *tables, bint broken) noexcept nogil:
    cdef int i
    cdef long got
    for i in range(TUN_READS):
        got = read(w.tun_fd, w.read_buffer + PACKET_AT - VNET_BYTES, 65535 + VNET_BYTES)
        w.counters.value[C_TUN_READS] += 1
        if got < 0:
            if broken and errno != EAGAIN and errno != EINTR:
                w.tun_fd = -1
                tell(w, TUN_LOST, 0)
            break
        if got <= VNET_BYTES:
            break
        w.counters.value[C_TUN_READ_BYTES] += got - VNET_BYTES
        handle_from_tun(
            w, tables, <const vnet_header *>(w.read_buffer + PACKET_AT - VNET_BYTES), w.read_buffer + PACKET_AT,
            <uint32_t>(got - VNET_BYTES),
        )
        if w.queue.bytes >= FLUSH_BYTES:
            flush_queue(&w.queue)
    if w.queue.used:
        flush_queue(&w.queue)


# --- in ---


cdef inline void deliver(worker_state *w, esp_packet *packet, uint8_t outer_tos) noexcept nogil:
    """An opened packet to the TUN, or its drop counted."""
    cdef esp_sa *sa = packet.sa
    cdef ip_info info
    cdef flow_key key
    cdef uint16_t mss
    if packet.verdict == VERDICT_OK or packet.verdict == VERDICT_DUMMY or packet.verdict == VERDICT_LIFETIME:
        sa.last_use_ns = w.now_ns
        tell_of_inbound(w, sa, packet.verdict)
    if packet.verdict != VERDICT_OK:
        w.counters.drops[packet.verdict] += 1
        return
    if ip_parse(packet.data, packet.length, &info) != IP_OK:
        drop(w, sa, VERDICT_BAD_INNER)
        return
    make_flow_key(&key, &info)
    if not selectors_match(<selector_pair_list *>atomic_get_pointer(&sa.selectors), &key):
        drop(w, sa, VERDICT_SELECTOR_MISMATCH)
        return
    if outer_tos & 3:
        if ecn_decapsulate(packet.data, outer_tos):
            drop(w, sa, VERDICT_BAD_ECN)
            return
    mss = sa.mss_ipv4 if info.version == 4 else sa.mss_ipv6
    if mss and clamp_mss(packet.data, &info, mss, False):
        w.counters.value[C_MSS_CLAMPED] += 1
    w.counters.value[C_PACKETS_IN] += 1
    w.counters.value[C_BYTES_IN] += info.total_length
    merge_packet(&w.merge, packet.data, &info)


cdef void open_batch(worker_state *w) noexcept nogil:
    cdef uint32_t i
    if w.in_count == 0:
        return
    esp_inbound(w.esp, w.in_packets, w.in_count)
    for i in range(w.in_count):
        deliver(w, &w.in_packets[i], w.in_tos[i])
    w.in_count = 0


cdef void punt(
    worker_state *w, uint32_t index, mmsghdr *message, control_view *view, uint8_t *data, uint32_t length
) noexcept nogil:
    cdef punt_head head
    cdef uint8_t *name = <uint8_t *>message.msg_hdr.msg_name
    memset(&head, 0, sizeof(head))
    head.socket_index = <uint16_t>index
    head.remote_port = <uint16_t>(name[2] << 8 | name[3])
    if w.ports[index].family == AF_INET:
        head.remote_version = 4
        memcpy(head.remote, name + 4, 4)
    else:
        head.remote_version = 6
        memcpy(head.remote, name + 8, 16)
    if view.family:
        head.local_version = 4 if view.family == AF_INET else 6
        memcpy(head.local, view.local, 16)
    if ring_push(w.punt, &head, sizeof(head), data, length):
        w.counters.value[C_PUNTED] += 1
    else:
        w.counters.value[C_PUNT_OVERFLOW] += 1


cdef inline void handle_datagram(
    worker_state *w, dataplane_tables *tables, uint32_t index, mmsghdr *message, control_view *view,
    uint8_t *data, uint32_t length
) noexcept nogil:
    """One datagram of those that the kernel may have joined: keepalive, IKE or ESP (RFC 3948 section 2)."""
    cdef uint32_t spi_be
    cdef esp_packet *packet
    if length == 1 and data[0] == KEEPALIVE_BYTE:
        w.counters.value[C_KEEPALIVES_IN] += 1
        return
    if length < 8:
        drop(w, NULL, VERDICT_RUNT)
        return
    memcpy(&spi_be, data, 4)
    if spi_be == 0:
        if length < 4 + IKE_HEADER_BYTES:
            drop(w, NULL, VERDICT_RUNT)
            return
        punt(w, index, message, view, data + 4, length - 4)
        return
    if w.in_count == IN_PACKETS:
        open_batch(w)
    packet = &w.in_packets[w.in_count]
    packet.sa = find_sa(tables, spi_be)
    if packet.sa is NULL:
        drop(w, NULL, VERDICT_UNKNOWN_SPI)
        tell_unknown_spi(w, index, message, spi_number(spi_be))
        return
    packet.data = data
    packet.length = length
    w.in_tos[w.in_count] = <uint8_t>view.tos if view.tos >= 0 else 0
    w.in_count += 1


cdef void udp_turn(worker_state *w, dataplane_tables *tables, uint32_t index) noexcept nogil:
    cdef udp_port *port = w.ports[index]
    cdef uint32_t count = GRO_MESSAGES if port.udp_gro else PLAIN_MESSAGES, i, at, length, segment
    cdef uint32_t size = GRO_BYTES if port.udp_gro else PLAIN_BYTES
    cdef int got
    cdef mmsghdr *message
    cdef control_view view
    cdef uint8_t *data
    for i in range(count):
        message = &w.messages[i]
        w.vectors[i].iov_base = w.receive_memory + i * size
        w.vectors[i].iov_len = size
        message.msg_hdr.msg_iov = &w.vectors[i]
        message.msg_hdr.msg_iovlen = 1
        message.msg_hdr.msg_name = w.names[i]
        message.msg_hdr.msg_namelen = NAME_BYTES
        message.msg_hdr.msg_control = w.controls[i]
        message.msg_hdr.msg_controllen = CONTROL_BYTES
        message.msg_hdr.msg_flags = 0
    got = recvmmsg(port.fd, w.messages, count, MSG_DONTWAIT, NULL)
    w.counters.value[C_UDP_RECEIVES] += 1
    if got <= 0:
        return
    for i in range(<uint32_t>got):
        message = &w.messages[i]
        length = message.msg_len
        data = w.receive_memory + i * size
        w.counters.value[C_UDP_MESSAGES_IN] += 1
        w.counters.value[C_UDP_BYTES_IN] += length
        if message.msg_hdr.msg_flags & MSG_TRUNC:
            w.counters.value[C_UDP_TRUNCATED] += 1
            continue
        control_read(&message.msg_hdr, &view)
        segment = view.segment if view.segment > 0 else length
        if length == 0:
            w.counters.value[C_UDP_EMPTY] += 1
        at = 0
        while at < length:
            handle_datagram(w, tables, index, message, &view, data + at, min(segment, length - at))
            at += segment
    open_batch(w)
    merge_flush(&w.merge)


# --- the loop ---


cdef void worker_loop(worker_state *w) noexcept nogil:
    cdef pollfd fds[2 + MAX_SOCKETS]
    cdef uint32_t i
    cdef dataplane_tables *tables
    memset(fds, 0, sizeof(fds))
    fds[0].fd = w.stop_fd
    fds[0].events = fds[1].events = POLLIN
    for i in range(w.port_count):
        fds[2 + i].fd = w.ports[i].fd
        fds[2 + i].events = POLLIN
    while True:
        fds[1].fd = w.tun_fd
        epoch_rest(w.epoch)
        if poll(fds, 2 + w.port_count, -1) < 0 and errno != EINTR:
            return
        if fds[0].revents:
            return
        w.counters.value[C_POLLS] += 1
        w.now_ns = monotonic_ns()
        epoch_enter(w.epoch)
        tables = <dataplane_tables *>atomic_get_pointer(&w.tables)
        if fds[1].revents:
            tun_turn(w, tables, (fds[1].revents & (POLLERR | POLLHUP | POLLNVAL)) != 0)
        for i in range(w.port_count):
            if fds[2 + i].revents:
                udp_turn(w, tables, i)


cdef class Worker:
    """One thread without the GIL between one TUN queue and some sockets."""

    def __cinit__(self):
        self.state = <worker_state *>calloc(1, sizeof(worker_state))
        if self.state is NULL:
            raise MemoryError
        self.state.stop_fd = -1

    def __init__(self, Tun tun not None, sockets, *, str engine="auto", offload=Offload()):
        cdef UdpSocket sock
        cdef worker_state *w = self.state
        sockets = tuple(sockets)
        if not 0 < len(sockets) <= MAX_SOCKETS:
            raise UsageError(f"a worker has 1 to {MAX_SOCKETS} sockets, not {len(sockets)}")
        self._tun, self._sockets = tun, sockets
        # what is shown is the engine that runs: the best one where nobody chose
        self.engine = next(iter(engines())) if engine == "auto" else engine
        self._punt, self._notify = Ring(PUNT_RING_BYTES), Ring(NOTIFY_RING_BYTES)
        w.punt, w.notify = &(<Ring>self._punt).ring, &(<Ring>self._notify).ring
        w.tun, w.tun_fd = &tun.port, tun.port.fd
        if not offload.coalesce:
            tun.port.merge_tcp = tun.port.merge_udp = 0
        for i, sock in enumerate(sockets):
            w.ports[<Py_ssize_t>i] = &sock.port_
            if not offload.udp_segment:
                sock.port_.udp_segment = 0
        w.port_count = <uint32_t>len(sockets)
        self._allocate()
        w.stop_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        w.epoch = epoch_join()
        self._tables = Tables((), ())
        w.tables = &(<Tables>self._tables).c

    def _allocate(self):
        cdef worker_state *w = self.state
        w.esp = esp_batch_ctx_new()
        w.read_buffer = <uint8_t *>aligned_alloc(64, 65536 + 4096)
        w.scratch = <uint8_t *>aligned_alloc(64, 65536 + 4096)
        w.receive_memory = <uint8_t *>aligned_alloc(4096, GRO_MESSAGES * GRO_BYTES)
        w.cache = <flow_entry *>calloc(FLOW_CACHE_SIZE, sizeof(flow_entry))
        if (
            w.esp is NULL or w.read_buffer is NULL or w.scratch is NULL or w.receive_memory is NULL or w.cache is NULL
            or not tx_queue_init(&w.queue, w.esp, &w.counters)
        ):
            raise MemoryError
        w.queue.owner = w
        w.queue.flush = flush_queue
        w.merge.tun = w.tun
        w.merge.counters = &w.counters
        w.answers_left = ANSWERS_BURST

    def __dealloc__(self):
        cdef worker_state *w = self.state
        if w is NULL:
            return
        if w.epoch is not NULL:
            epoch_leave(w.epoch)
        if w.stop_fd >= 0:
            os.close(w.stop_fd)
        tx_queue_free(&w.queue)
        esp_batch_ctx_free(w.esp)
        free(w.read_buffer)
        free(w.scratch)
        free(w.receive_memory)
        free(w.cache)
        free(w)
        self.state = NULL

    def start(self):
        if self._thread is not None:
            raise StateError("this worker runs already, or ran: make a new one")
        if self.state.tun.fd < 0 or any(sock.fd < 0 for sock in self._sockets):
            raise StateError("this worker's TUN or a socket of it is closed")
        self._thread = threading.Thread(target=self._run, name="ipsec-fast-worker", daemon=True)
        self._thread.start()

    def _run(self):
        _prefer_this_thread()
        with nogil:
            worker_loop(self.state)

    def stop(self):
        """Ends the thread and waits for it; twice is fine."""
        if self._thread is not None:
            os.eventfd_write(self.state.stop_fd, 1)
            self._thread.join()
        epoch_rest(self.state.epoch)
        retire(None)

    @property
    def running(self):
        return self._thread is not None and self._thread.is_alive()

    @property
    def tables(self):
        return self._tables

    def publish(self, Tables tables not None):
        """Swap in new tables; the old ones are freed once the worker passed a quiescent point."""
        old, self._tables = self._tables, tables
        atomic_set_pointer(&self.state.tables, &tables.c)
        retire(old)

    @property
    def punt_fd(self):
        return self._punt.fd

    @property
    def notify_fd(self):
        return self._notify.fd

    def take_punted(self):
        return [self._punted(record) for record in (<Ring>self._punt).take_records()]

    def _punted(self, bytes record):
        cdef punt_head head
        memcpy(&head, <const char *>record, sizeof(head))
        return Punted(
            data=record[sizeof(head):],
            socket_index=head.socket_index,
            local=_address(head.local_version, head.local),
            local_port=self._sockets[head.socket_index].port,
            remote=_address(head.remote_version, head.remote),
            remote_port=head.remote_port,
        )

    def take_notices(self):
        retire(None)
        return [_notice(record) for record in (<Ring>self._notify).take_records()]

    def counters(self):
        """Every counter by name; a drop is `drop_` and the name of its verdict."""
        cdef int i
        retire(None)
        found = {name: self.state.counters.value[<Py_ssize_t>i] for i, name in enumerate(COUNTER_NAMES)}
        for i, name in enumerate(NAMES):
            if i != VERDICT_OK:
                found[f"drop_{name}"] = self.state.counters.drops[i]
        return found


def _prefer_this_thread():
    """Packets before negotiations: a thread that waits for its CPU for some ms drops what arrives meanwhile. Where we may not, we do not."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, max(-20, os.getpriority(os.PRIO_PROCESS, 0) + WORKER_NICE))


cdef _address(uint8_t version, const uint8_t *at):
    if version == 4:
        return ipaddress.IPv4Address((<const char *>at)[:4])
    return ipaddress.IPv6Address((<const char *>at)[:16]) if version == 6 else None


cdef _notice(bytes record):
    cdef notice_record at
    memcpy(&at, <const char *>record, sizeof(at))
    return Notice(NoticeKind(at.kind), at.value, _address(at.remote_version, at.remote))
