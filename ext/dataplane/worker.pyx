"""The worker: one thread without the GIL that moves packets between its inner side (a TUN queue, a packet socket) and the UDP sockets.

    out: tun read -> ip parse -> spd -> clamp, or answer too-big, or fragment -> into slots -> esp_outbound per 64 -> one send per slot
    in : udp receive (GRO) -> split -> keepalive? marker? SPI? -> esp_inbound per batch -> selectors -> ECN -> clamp -> merge -> tun write

It sleeps in poll until a descriptor, or the stop eventfd, is ready. It holds no lock and no Python object, and allocates nothing
after start. Each dropped packet is counted by its verdict, for the worker and for its SA. What control must know goes up the
notify ring, datagrams that are not ESP the punt ring. One worker numbers an outbound SA and owns an inbound window
(ARCHITECTURE.md, rule 1). So it holds the SAs of its tables (spd.Holding) from their publication until it has stopped or passed a
quiescent point without them. A child of fork has no worker; the inherited object can only be deleted.
Called by gateway.
Here: the loop and the Python face. The rest of the translation unit, so that it is inlined, is in
worker_{state,tell,path,out,in,raw,hold,hand}.pxi.
"""

from libc.errno cimport EAGAIN, EBADF, EINTR, ENETDOWN, errno
from libc.stdint cimport UINT64_MAX, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memmove, memset

from ipsec_fast.dataplane.ah cimport ah_batch_ctx, ah_batch_ctx_free, ah_batch_ctx_new, ah_batch_ctx_set_time, ah_inbound
from ipsec_fast.dataplane.coalesce cimport merge_flush, merge_packet, merge_table, write_single
from ipsec_fast.dataplane.epoch cimport epoch_enter, epoch_join, epoch_leave, epoch_rest, epoch_slot, retire
from ipsec_fast.dataplane.crew cimport Crew
from ipsec_fast.dataplane.esp cimport (
    esp_batch_ctx, esp_batch_ctx_free, esp_batch_ctx_new, esp_batch_ctx_set_crew, esp_batch_ctx_set_time, esp_inbound, esp_packet
)
from ipsec_fast.dataplane.forks cimport fork_count, port_leave, port_use
from ipsec_fast.dataplane.inner cimport (
    INNER_DOWN_SEEN, INNER_DOWN_TOLD, INNER_UP, STRIP_PACKET, STRIP_REFUSED, VNET_BYTES, InnerPort, inner_port, inner_strip
)
from ipsec_fast.dataplane.ip cimport IP_OK, ecn_decapsulate, ip_info, ip_parse
from ipsec_fast.dataplane.last_drop cimport last_drop_clear
from ipsec_fast.dataplane.net_io cimport (
    AF_INET, CONTROL_BYTES, MSG_DONTWAIT, MSG_ERRQUEUE, MSG_TRUNC, POLLERR, POLLHUP, POLLIN, POLLNVAL, VNET_GSO_NONE,
    VNET_NEEDS_CSUM, atomic_get_int_fenced, atomic_get_pointer, atomic_set_int_fenced, atomic_set_pointer, control_read, control_view,
    error_read, error_view, iovec, mmsghdr, monotonic_ns, poll, pollfd, read, record_write, recvmmsg, vnet_header
)
from ipsec_fast.dataplane.pmtu cimport ANSWER_BYTES, MSS_CLAMPED, MSS_KEPT, answer_too_big, clamp_mss
from ipsec_fast.dataplane.port cimport *
from ipsec_fast.dataplane.raw_socket cimport RawSocket
from ipsec_fast.dataplane.ring cimport Ring, Wake, record_ring, ring_next, ring_pop, ring_push, ring_put, ring_release, ring_wake
from ipsec_fast.dataplane.sad cimport (
    HOLDER_LEAVING, PROTOCOL_AH, PROTOCOL_ESP, count_u64, esp_last_number, esp_sa, load_u16, load_u64, source_record, statistic, store_u64
)
from ipsec_fast.dataplane.sad_table cimport sad_find_spi, sad_prefetch_spi
from ipsec_fast.dataplane.segment cimport (
    segment_fragmented, segment_header_length, segment_single, segment_super, segment_target
)
from ipsec_fast.dataplane.spd cimport (
    FLOW_CACHE_SIZE, OWNER_ANY, POLICY_BYPASS, POLICY_PROTECT, Holding, Tables, dataplane_tables, find_policy, find_sa, flow_entry, flow_key,
    hold as hold_sas, make_flow_key, policy_row, selector_pair_list, selectors_match
)
from ipsec_fast.dataplane.status cimport *
from ipsec_fast.dataplane.track cimport (
    TRACK_ENTRIES, TRACK_TIMEOUT_NS, track_free, track_inbound, track_new, track_outbound, track_table
)
from ipsec_fast.dataplane.udp cimport UdpSocket, packet_source, udp_endpoint, udp_port

import contextlib
import ipaddress
import os
import sys
import threading

from ..errors import StateError, UsageError
from .engine import engines
from .echo import COOKIE
from .notice import Notice, NoticeKind, Punted
from .offload import Offload
from .port import COUNTER_NAMES
from .status import NAMES

WORKER_NICE = -5  # relative to the process

cdef uint64_t workers_made = 0

cdef enum:
    FIRST_SOCKET = 4  # in the list of poll, behind stop, TUN, what is handed over, and what control sends

cdef extern from "replay.h" nogil:
    struct replay_window:
        uint64_t top

cdef extern from "stdlib.h" nogil:
    void *aligned_alloc(size_t alignment, size_t size) noexcept

include "worker_state.pxi"
include "worker_tell.pxi"
include "worker_out.pxi"
include "worker_path.pxi"
include "worker_in.pxi"
include "worker_raw.pxi"
include "worker_hold.pxi"
include "worker_hand.pxi"


cdef void worker_loop(worker_state *w) noexcept nogil:
    cdef pollfd fds[FIRST_SOCKET + MAX_SOCKETS]
    cdef uint32_t i
    cdef dataplane_tables *tables
    memset(fds, 0, sizeof(fds))
    fds[0].fd = w.stop_fd
    fds[2].fd = w.hand_fd
    fds[3].fd = w.inject.wake_fd
    fds[0].events = fds[1].events = fds[2].events = fds[3].events = POLLIN
    for i in range(w.port_count):
        fds[FIRST_SOCKET + i].fd = w.ports[i].fd
        fds[FIRST_SOCKET + i].events = POLLIN
    while True:
        fds[1].fd = w.tun_fd
        epoch_rest(w.epoch)
        if poll(fds, FIRST_SOCKET + w.port_count, HOLD_POLL_MS if w.held_bytes else -1) < 0 and errno != EINTR:
            return
        if fds[0].revents:
            forget_held(w, UINT64_MAX)
            return
        w.counters.value[C_POLLS] += 1
        w.now_ns = monotonic_ns()
        esp_batch_ctx_set_time(w.esp, w.now_ns)
        ah_batch_ctx_set_time(w.ah, w.now_ns)
        epoch_enter(w.epoch)
        tables = <dataplane_tables *>atomic_get_pointer(&w.tables)
        if w.held_bytes:
            look_for_held(w, tables)
        if fds[2].revents:
            hand_turn(w, tables)
        if fds[1].revents:
            tun_turn(w, tables, (fds[1].revents & (POLLERR | POLLHUP | POLLNVAL)) != 0)
        if fds[3].revents:
            inject_turn(w, tables)
        for i in range(w.port_count):
            if fds[FIRST_SOCKET + i].revents & POLLNVAL:
                fds[FIRST_SOCKET + i].fd = -1  # closed behind our back: poll would say so for ever
                continue
            if fds[FIRST_SOCKET + i].revents & POLLERR:
                drain_errors(w, i)
            if fds[FIRST_SOCKET + i].revents and w.ports[i].raw:
                raw_turn(w, tables, i)
            elif fds[FIRST_SOCKET + i].revents:
                udp_turn(w, tables, i)
        if w.tun.down == INNER_DOWN_SEEN and tell(w, INNER_DOWN, 0):
            w.tun.down = INNER_DOWN_TOLD
        if w.count > 1:
            wake_owners(w)


cdef class Worker:
    """One thread without the GIL between a `Tun` or `PacketSocket` and some sockets (indexes as in `set_endpoint`).

    `engine` is only shown: SAs bring theirs. Descriptors stay the caller's, who closes them after `stop`; until then `close` of a
    port raises StateError. `index` of `count`: each worker has its own queue and sockets, in the same order (see dataplane.workers).
    A `crew` does its part of large batches of SAs that have keys for it.

    From `publish` on the worker holds the SAs that it sends or receives on: every other user of one gets a StateError. It
    lets go when it stops, or has passed a quiescent point with tables without that SA. `tables` are those published last.
    A child of fork has no worker: there every method but `stop`, `counters` and `running` raises StateError; the parent's goes on.
    """

    def __cinit__(self):
        self.state = <worker_state *>calloc(1, sizeof(worker_state))
        if self.state is NULL:
            raise MemoryError
        self.state.stop_fd = self.state.hand_fd = -1

    def __init__(self, InnerPort tun not None, sockets, *, str engine="auto", offload=Offload(), int index=0, int count=1, Crew crew=None):
        global workers_made
        cdef worker_state *w = self.state
        if self._sockets is not None:
            raise StateError("this worker is made already")
        sockets = tuple(sockets)
        if not 0 < count <= WORKERS_MAX or not 0 <= index < count:
            raise UsageError(f"worker {index} of {count}: there are 1 to {WORKERS_MAX}, counted from 0")
        if not 0 < len(sockets) <= MAX_SOCKETS:
            raise UsageError(f"a worker has 1 to {MAX_SOCKETS} sockets, not {len(sockets)}")
        if crew is not None:
            crew.need_threads()
        for i, sock in enumerate(sockets):
            w.ports[<Py_ssize_t>i] = &(<RawSocket?>sock).port_ if isinstance(sock, RawSocket) else &(<UdpSocket?>sock).port_
        w.index, w.count = index, count
        self._tun, self._sockets, self._to, self._from = tun, sockets, (), {}
        # what is shown is the engine that runs: the best one where nobody chose
        self.engine = next(iter(engines())) if engine == "auto" else engine
        self._punt, self._notify = Ring(PUNT_RING_BYTES), Ring(NOTIFY_RING_BYTES)
        self._inject = Ring(INJECT_RING_BYTES)
        w.punt, w.notify, w.inject = &(<Ring>self._punt).ring, &(<Ring>self._notify).ring, &(<Ring>self._inject).ring
        memcpy(w.cookie, <const char *><bytes>COOKIE, 8)
        w.tun, w.tun_fd = &tun.port, tun.port.fd
        if not offload.coalesce:
            tun.port.merge_tcp = tun.port.merge_udp = 0
        for i in range(len(sockets)):
            if not offload.udp_segment:
                w.ports[<Py_ssize_t>i].udp_segment = 0
        w.port_count = <uint32_t>len(sockets)
        self._allocate()
        self._crew = crew
        if crew is not None:
            esp_batch_ctx_set_crew(w.esp, &crew.state, <uint32_t>crew.size)
        w.stop_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._hand = Wake()
        w.hand_fd = (<Wake>self._hand).fd
        w.epoch = epoch_join()
        self.forks = fork_count[0]
        workers_made += 1
        self.number = workers_made % HOLDER_LEAVING
        tables = Tables((), ())
        self._holding = hold_sas(tables, self.number, index, count)
        w.tables = &(<Tables>tables).c
        self._tables = tables  # last: what has none was never made

    cdef int _allocate(self) except -1:
        cdef worker_state *w = self.state
        w.esp, w.ah = esp_batch_ctx_new(), ah_batch_ctx_new()
        w.read_buffer = <uint8_t *>aligned_alloc(64, 65536 + 4096)
        w.scratch = <uint8_t *>aligned_alloc(64, 65536 + 4096)
        w.receive_memory = <uint8_t *>aligned_alloc(4096, (max(GRO_MESSAGES * GRO_BYTES, PLAIN_MESSAGES * PLAIN_BYTES) + 4095) & ~4095)
        w.held = <uint8_t *>aligned_alloc(64, HOLD_BYTES)
        w.cache = <flow_entry *>calloc(FLOW_CACHE_SIZE, sizeof(flow_entry))
        seed = int.from_bytes(os.urandom(8), "big")
        w.track_out = track_new(TRACK_ENTRIES, TRACK_TIMEOUT_NS, seed)
        w.track_in = track_new(TRACK_ENTRIES, TRACK_TIMEOUT_NS, seed)
        if (
            w.esp is NULL or w.read_buffer is NULL or w.scratch is NULL or w.receive_memory is NULL or w.held is NULL or w.cache is NULL
            or w.track_out is NULL or w.track_in is NULL or w.ah is NULL
            or not tx_queue_init(&w.queue, w.esp, &w.counters)
        ):
            raise MemoryError
        w.queue.ah, w.queue.piece_id = w.ah, <uint32_t>(seed & 0xFFFFFFFF)
        w.queue.owner = w
        w.queue.flush = flush_queue
        w.merge.tun = w.tun
        w.merge.counters = &w.counters
        w.answers_left, w.errors_left = ANSWERS_BURST, TOLD_ERRORS_BURST
        return 0

    def __dealloc__(self):
        cdef worker_state *w = self.state
        if w is NULL:
            return
        if w.epoch is not NULL and self.forks == fork_count[0]:  # a child of fork has slots of its own
            epoch_leave(w.epoch)
        if w.stop_fd >= 0:
            os.close(w.stop_fd)
        tx_queue_free(&w.queue)
        esp_batch_ctx_free(w.esp)
        ah_batch_ctx_free(w.ah)
        free(w.read_buffer)
        free(w.scratch)
        free(w.receive_memory)
        free(w.held)
        free(w.cache)
        track_free(w.track_out)
        track_free(w.track_in)
        free(w)
        self.state = NULL

    cdef int _need(self) except -1:
        if self._tables is None:
            raise UsageError("this worker was never made: Worker.__init__ did not run, or failed")
        if self.forks != fork_count[0]:
            raise StateError("this worker was made before a fork: it runs in the parent process, which shares its descriptors; make one in the child")
        return 0

    cdef record_ring *_ring_from(self, int index) except NULL:
        """The ring into which worker `index` puts what is ours."""
        self._from[index] = Ring(HAND_BYTES, self._hand)
        return &(<Ring>self._from[index]).ring

    def receive_from(self, Worker other not None):
        """Let `other` hand over what this worker's SAs carry; before either starts."""
        cdef worker_state *w = self.state
        cdef worker_state *o = other.state
        self._need()
        other._need()
        if self._thread is not None or other._thread is not None:
            raise StateError("workers are told of each other before they start")
        if w.count != o.count or w.index == o.index:
            raise UsageError(f"worker {o.index} of {o.count} cannot hand packets to worker {w.index} of {w.count}")
        w.hand_from[o.index] = self._ring_from(o.index)
        o.hand_to[w.index] = w.hand_from[o.index]
        other._to = (*other._to, self._from[o.index])

    def start(self):
        """Start the thread, once. StateError if a port is closed, or somebody else uses an SA of the tables."""
        self._need()
        if self._thread is not None:
            raise StateError("this worker runs already, or ran: make a new one")
        if self.state.tun.fd < 0 or any(sock.fd < 0 for sock in self._sockets):
            raise StateError("this worker's TUN or a socket of it is closed")
        self._holding.take()  # again, if it was stopped before it began
        self.state.tun_fd = self.state.tun.fd
        self._use_ports()
        self._thread = threading.Thread(target=self._run, name="ipsec-fast-worker", daemon=True)
        try:
            self._thread.start()
        except BaseException:  # no thread is to be had
            self._thread = None
            self._leave_ports()
            raise

    def _use_ports(self):
        self._uses_ports = True
        port_use(&(<InnerPort>self._tun).users)
        for sock in self._sockets:
            port_use(&(<RawSocket>sock).users if isinstance(sock, RawSocket) else &(<UdpSocket>sock).users)

    cdef void _leave_ports(self):
        if not self._uses_ports:
            return
        self._uses_ports = False
        port_leave(&(<InnerPort>self._tun).users)
        for sock in self._sockets:
            port_leave(&(<RawSocket>sock).users if isinstance(sock, RawSocket) else &(<UdpSocket>sock).users)

    def _run(self):
        if self._thread is not threading.current_thread():
            raise StateError("this is the worker's own thread: start() runs it")
        _prefer_this_thread()
        with nogil:
            worker_loop(self.state)

    def stop(self):
        """Ends the thread (within 100 ms) and waits for it; twice is fine."""
        if self._tables is None:
            raise UsageError("this worker was never made: Worker.__init__ did not run, or failed")
        if self.forks != fork_count[0]:  # the thread is not here, and the parent's goes on
            return
        if self._thread is not None:
            os.eventfd_write(self.state.stop_fd, 1)
            self._thread.join()
        epoch_rest(self.state.epoch)
        self._leave_ports()
        self._holding.leave()
        retire(None)

    @property
    def running(self):
        """Whether its thread is there."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def tables(self):
        """Those published last."""
        return self._tables

    def publish(self, Tables tables not None):
        """Swap in new tables; the old ones are freed after the worker has passed a quiescent point.

        Raises StateError, and leaves everything as it was, if another worker or a call uses an SA of the tables that would be this
        worker's, or an SA was made before a fork. UsageError for an SA without an owner if there are several workers.
        """
        cdef Holding new, old
        self._need()
        new = hold_sas(tables, self.number, self.state.index, self.state.count)
        ended = self._thread is not None and not self._thread.is_alive()
        if not ended:
            new.take()
        # from here on no other thread runs until all of it is done
        old, self._holding = self._holding, new
        self._tables = tables
        atomic_set_pointer(&self.state.tables, &tables.c)
        old.begin_to_leave()
        retire(old)

    def resume_inner(self):
        """Read from the inner port again after TUN_LOST, once its device exists again (`Tun.reattach`)."""
        self._need()
        self.state.tun_fd = self.state.tun.fd
        os.eventfd_write(self.state.hand_fd, 1)

    def inject(self, int tag, bytes packet):
        """An inner packet to leave on the outbound SA with this tag, whatever `max_inner` is. False: no room; it is as good as lost."""
        self._need()
        return self._inject.push(tag.to_bytes(8, sys.byteorder) + packet)

    @property
    def punt_fd(self):
        """Readable when take_punted has something."""
        self._need()
        return self._punt.fd

    @property
    def notify_fd(self):
        """Readable when take_notices has something."""
        self._need()
        return self._notify.fd

    def take_punted(self):
        """Datagrams that are not ESP (IKE), oldest first."""
        self._need()
        return [self._punted(record) for record in (<Ring>self._punt).take_records()]

    cdef object _punted(self, bytes record):
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
        """What control must know, oldest first."""
        self._need()
        retire(None)
        return [_notice(record) for record in (<Ring>self._notify).take_records()]

    def counters(self):
        """Every counter by name (port.COUNTER_NAMES); a drop is `drop_` and the name of its verdict."""
        cdef int i
        retire(None)
        found = {name: statistic(&self.state.counters.value[<Py_ssize_t>i]) for i, name in enumerate(COUNTER_NAMES)}
        for i, name in enumerate(NAMES):
            if i != VERDICT_OK:
                found[f"drop_{name}"] = statistic(&self.state.counters.drops[i])
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
    remote = _address(at.remote_version, at.remote)
    if not at.has_local:
        return Notice(NoticeKind(at.kind), at.value, remote, at.number, at.size, tag=at.tag)
    ports = (at.number >> 16, at.number & 0xFFFF) if at.has_ports else None
    local = _address(at.remote_version, at.local)
    return Notice(NoticeKind(at.kind), at.value, remote, local=local, protocol=at.protocol, ports=ports)
