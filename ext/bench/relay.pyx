"""A wire with bad habits: carries UDP datagrams between pairs of connected sockets and delays, reorders, duplicates and loses them on the way.

The two sockets of a pair live in different network namespaces, each bound to the address of the gateway on the other side, so that both gateways
believe to talk to each other; super-datagrams (UDP_GRO, UDP_SEGMENT) pass as such, a packet is copied only where it is held. What happens to a packet is
decided by the seed and by how many came before it in its direction. A reordered packet leaves after up to `reorder_places` later ones, or after 2 ms of silence;
one that is longer than a place of the store passes in its turn. One thread without the GIL. Left out: anything but UDP. Called by bench rekey and the tests.
"""

from libc.errno cimport EAGAIN, EINTR, ENOBUFS, errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from ipsec_fast.bench.batch cimport MESSAGE_BYTES, MESSAGES, batch_message, batch_receive, receive_batch
from ipsec_fast.dataplane.net_io cimport (
    CONTROL_BYTES, MSG_DONTWAIT, POLLIN, POLLOUT, control_add_segment, iovec, monotonic_ns, msghdr, poll, pollfd,
    ppoll, sendmsg, timespec
)

import os
import threading

from ..errors import StateError, UsageError

cdef enum:
    MAX_PAIRS = 8
    PLACE_BYTES = 2048         # of a held packet
    HELD = 256                 # reordered packets of one direction
    PLACES = 512               # given out in turn: one that is free again is not written before the send that still points to it
    LATE_POWER = 14            # delayed packets of one direction: 2^14 places
    SEGMENTS = 64              # of one send
    SEND_BYTES = 65000
    SPI_OF_IKE_BYTES = 4

cdef uint64_t SILENCE_NS = 2000000

cdef struct impairments:
    uint64_t delay_ns
    uint32_t reorder           # shares are out of 2^32
    uint32_t reorder_places
    uint32_t duplicate
    uint32_t loss
    uint32_t ike_loss

cdef struct held_packet:
    uint64_t due               # held: number of the packet after which it leaves; late: the time
    uint32_t length
    uint32_t pair
    uint8_t *data

cdef struct lane:
    # one direction
    int fds[MAX_PAIRS]         # where its packets go
    uint64_t number            # packets that came
    uint64_t random
    uint64_t last_ns
    uint32_t held_count
    held_packet held[HELD]
    uint8_t *places[PLACES]
    uint32_t next_place
    held_packet *late          # a ring, in the order of their times
    uint32_t late_first
    uint32_t late_count
    uint8_t *memory
    # the send that is being gathered
    uint32_t out_pair
    uint32_t out_count
    uint32_t out_bytes
    iovec out[SEGMENTS]
    uint64_t received, sent, lost, duplicated, reordered, overflowed, refused

cdef struct relay_state:
    impairments how
    lane lanes[2]
    int fds[2][MAX_PAIRS]      # of each side
    uint32_t pair_count
    int stop_fd
    receive_batch batch


cdef inline uint32_t draw(lane *l) noexcept nogil:
    """xorshift64*"""
    l.random ^= l.random >> 12
    l.random ^= l.random << 25
    l.random ^= l.random >> 27
    return <uint32_t>((l.random * 0x2545F4914F6CDD1DULL) >> 32)


# --- sending


cdef void flush(lane *l) noexcept nogil:
    """What was gathered, in one send."""
    cdef msghdr message
    cdef uint8_t control[CONTROL_BYTES]
    cdef size_t used = 0
    cdef pollfd room
    cdef int tries = 0
    if l.out_count == 0:
        return
    memset(&message, 0, sizeof(message))
    memset(control, 0, sizeof(control))
    message.msg_iov = l.out
    message.msg_iovlen = l.out_count
    if l.out_count > 1:
        message.msg_control = control
        control_add_segment(&message, &used, <uint16_t>l.out[0].iov_len)
    room.fd = l.fds[l.out_pair]
    room.events = POLLOUT
    while sendmsg(room.fd, &message, MSG_DONTWAIT) < 0:
        tries += 1
        # an ICMP of an earlier datagram is reported once, in place of a send
        if tries > 20:
            l.refused += l.out_count
            l.sent -= l.out_count
            break
        if errno == EAGAIN or errno == ENOBUFS:
            poll(&room, 1, 10)
    l.sent += l.out_count
    l.out_count = l.out_bytes = 0


cdef void emit(lane *l, uint32_t pair, uint8_t *data, uint32_t length) noexcept nogil:
    """Into the send that is being gathered: equal lengths, the last one may be shorter. The data must stay until flush()."""
    cdef uint32_t first = <uint32_t>l.out[0].iov_len if l.out_count else 0
    if l.out_count and (
        pair != l.out_pair or length > first or l.out[l.out_count - 1].iov_len < first or l.out_count == SEGMENTS
        or l.out_bytes + length > SEND_BYTES
    ):
        flush(l)
    l.out_pair = pair
    l.out[l.out_count].iov_base = data
    l.out[l.out_count].iov_len = length
    l.out_count += 1
    l.out_bytes += length


cdef void leave(relay_state *r, lane *l, uint32_t pair, uint8_t *data, uint32_t length, uint64_t now) noexcept nogil:
    """On its way: at once, or after the delay."""
    cdef held_packet *place
    if r.how.delay_ns == 0:
        emit(l, pair, data, length)
        return
    if l.late_count == 1 << LATE_POWER or length > PLACE_BYTES:
        l.overflowed += 1
        if length > PLACE_BYTES:
            emit(l, pair, data, length)
        return
    place = &l.late[(l.late_first + l.late_count) & ((1 << LATE_POWER) - 1)]
    place.due, place.length, place.pair = now + r.how.delay_ns, length, pair
    memcpy(place.data, data, length)
    l.late_count += 1


cdef void send_late(lane *l, uint64_t now) noexcept nogil:
    cdef held_packet *place
    while l.late_count:
        place = &l.late[l.late_first]
        if place.due > now:
            break
        emit(l, place.pair, place.data, place.length)
        l.late_first = (l.late_first + 1) & ((1 << LATE_POWER) - 1)
        l.late_count -= 1
    flush(l)


cdef void release(relay_state *r, lane *l, uint64_t number, uint64_t now) noexcept nogil:
    """Reordered packets whose turn has come, and their places to the end of those that are free."""
    cdef uint32_t i = 0
    cdef held_packet *place
    while i < l.held_count:
        place = &l.held[i]
        if place.due > number:
            i += 1
            continue
        leave(r, l, place.pair, place.data, place.length, now)
        l.held_count -= 1
        l.places[(l.next_place + PLACES - l.held_count - 1) & (PLACES - 1)] = place.data
        place[0] = l.held[l.held_count]


# --- what becomes of a packet


cdef inline bint is_ike(uint32_t pair, const uint8_t *data, uint32_t length) noexcept nogil:
    cdef uint32_t spi = 1
    if pair == 0:
        return True
    if length >= SPI_OF_IKE_BYTES:
        memcpy(&spi, data, SPI_OF_IKE_BYTES)
    return spi == 0


cdef void handle_packet(relay_state *r, lane *l, uint32_t pair, uint8_t *data, uint32_t length, uint64_t now) noexcept nogil:
    # every packet draws as often, whatever becomes of it
    cdef uint32_t loss = draw(l), duplicate = draw(l), reorder = draw(l), places = draw(l)
    cdef held_packet *place
    cdef uint64_t number
    l.received += 1
    l.number += 1
    number = l.number
    if loss < (r.how.ike_loss if r.how.ike_loss and is_ike(pair, data, length) else r.how.loss):
        l.lost += 1
    else:
        if reorder < r.how.reorder and l.held_count < HELD and length <= PLACE_BYTES:
            place = &l.held[l.held_count]
            place.data = l.places[l.next_place]
            l.next_place = (l.next_place + 1) & (PLACES - 1)
            place.due, place.length, place.pair = number + 1 + places % r.how.reorder_places, length, pair
            memcpy(place.data, data, length)
            l.held_count += 1
            l.reordered += 1
        else:
            leave(r, l, pair, data, length, now)
        if duplicate < r.how.duplicate:
            leave(r, l, pair, data, length, now)
            l.duplicated += 1
    if l.held_count:
        release(r, l, number, now)


cdef uint32_t receive(relay_state *r, uint32_t side, uint32_t pair) noexcept nogil:
    cdef uint32_t i, at, length = 0, segment = 0, got = batch_receive(&r.batch, r.fds[side][pair])
    cdef uint8_t *data
    cdef lane *l = &r.lanes[side]
    cdef uint64_t now
    if got == 0:
        return 0
    now = monotonic_ns()
    l.last_ns = now
    for i in range(got):
        data = batch_message(&r.batch, i, &length, &segment)
        at = 0
        while at < length:
            handle_packet(r, l, pair, data + at, min(segment, length - at), now)
            at += segment
    flush(l)
    return got


# --- the loop


cdef void settle(relay_state *r, lane *l, uint64_t now, bint ending) noexcept nogil:
    """What time alone sets free."""
    if l.held_count and (ending or now - l.last_ns >= SILENCE_NS):
        release(r, l, <uint64_t>-1, now)
        flush(l)
    if l.late_count:
        send_late(l, <uint64_t>-1 if ending else now)


cdef uint64_t next_ns(relay_state *r, uint64_t now) noexcept nogil:
    """How long to sleep; the largest number: until something comes."""
    cdef uint64_t at = <uint64_t>-1
    cdef uint32_t side
    cdef lane *l
    for side in range(2):
        l = &r.lanes[side]
        if l.held_count:
            at = min(at, l.last_ns + SILENCE_NS)
        if l.late_count:
            at = min(at, l.late[l.late_first].due)
    if at == <uint64_t>-1:
        return at
    return at - now if at > now else 0


cdef void relay_loop(relay_state *r) noexcept nogil:
    cdef pollfd fds[1 + 2 * MAX_PAIRS]
    cdef uint32_t side, pair, turns
    cdef uint64_t now, wait
    cdef timespec sleep
    cdef bint ending = False
    memset(fds, 0, sizeof(fds))
    fds[0].fd = r.stop_fd
    fds[0].events = POLLIN
    for side in range(2):
        for pair in range(r.pair_count):
            fds[1 + side * r.pair_count + pair].fd = r.fds[side][pair]
            fds[1 + side * r.pair_count + pair].events = POLLIN
    while not ending:
        wait = next_ns(r, monotonic_ns())
        sleep.tv_sec = <long>(wait // 1000000000)
        sleep.tv_nsec = <long>(wait % 1000000000)
        if ppoll(fds, 1 + 2 * r.pair_count, NULL if wait == <uint64_t>-1 else &sleep, NULL) < 0 and errno != EINTR:
            return
        ending = fds[0].revents != 0
        for side in range(2):
            for pair in range(r.pair_count):
                if fds[1 + side * r.pair_count + pair].revents or ending:
                    turns = 0
                    while receive(r, side, pair) and ending and turns < 1000:  # a stop takes what lies in the sockets along
                        turns += 1
        now = monotonic_ns()
        for side in range(2):
            settle(r, &r.lanes[side], now, ending)


cdef class Relay:
    """Carries datagrams between the two connected UDP sockets of each pair; the first pair's are all taken for IKE.

    Shares are 0 to 1 of the packets; `ike_loss` stands for `loss` where a packet is IKE. Raises UsageError.
    """

    cdef relay_state *state
    cdef object _pairs, _thread

    def __cinit__(self):
        self.state = <relay_state *>calloc(1, sizeof(relay_state))
        if self.state is NULL:
            raise MemoryError
        self.state.stop_fd = -1

    def __init__(self, pairs, *, int seed=1, double delay_s=0, double reorder=0, int reorder_places=64, double duplicate=0, double loss=0,
                 double ike_loss=0):
        cdef relay_state *r = self.state
        cdef uint32_t side, i
        self._pairs = [tuple(pair) for pair in pairs]
        if not 0 < len(self._pairs) <= MAX_PAIRS:
            raise UsageError(f"a relay has 1 to {MAX_PAIRS} pairs of sockets, not {len(self._pairs)}")
        if not all(0 <= share <= 1 for share in (reorder, duplicate, loss, ike_loss)):
            raise UsageError("a share of the packets is 0 to 1")
        if not 1 <= reorder_places <= 256 or not 0 <= delay_s <= 1:
            raise UsageError(f"a packet is reordered by 1 to 256 places and delayed by 0 to 1 s, not {reorder_places} and {delay_s:g}")
        r.pair_count = <uint32_t>len(self._pairs)
        r.how.delay_ns = <uint64_t>(delay_s * 1e9)
        r.how.reorder, r.how.duplicate, r.how.loss = _share(reorder), _share(duplicate), _share(loss)
        r.how.ike_loss, r.how.reorder_places = _share(ike_loss), <uint32_t>reorder_places
        r.batch.memory = <uint8_t *>malloc(MESSAGES * MESSAGE_BYTES)
        if r.batch.memory is NULL:
            raise MemoryError
        for side in range(2):
            self._make_lane(&r.lanes[side], (seed * 2 + side) * 0x9E3779B97F4A7C15 + 1 & 0xFFFFFFFFFFFFFFFF)
            for i in range(r.pair_count):
                r.fds[side][i] = self._pairs[i][side].fileno()
                r.lanes[side].fds[i] = self._pairs[i][1 - side].fileno()
        r.stop_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    cdef _make_lane(self, lane *l, uint64_t seed):
        cdef uint32_t i, late = <uint32_t>(1 << LATE_POWER) if self.state.how.delay_ns else 0
        l.random = seed
        l.memory = <uint8_t *>malloc((PLACES + late) * <size_t>PLACE_BYTES)
        l.late = <held_packet *>calloc(max(late, 1), sizeof(held_packet))
        if l.memory is NULL or l.late is NULL:
            raise MemoryError
        for i in range(PLACES):
            l.places[i] = l.memory + i * PLACE_BYTES
        for i in range(late):
            l.late[i].data = l.memory + (PLACES + i) * <size_t>PLACE_BYTES

    def __dealloc__(self):
        cdef uint32_t side
        if self.state is NULL:
            return
        if self.state.stop_fd >= 0:
            os.close(self.state.stop_fd)
        for side in range(2):
            free(self.state.lanes[side].memory)
            free(self.state.lanes[side].late)
        free(self.state.batch.memory)
        free(self.state)

    def start(self):
        """Start the thread."""
        if self._pairs is None:
            raise StateError("this relay was never made: Relay.__init__ did not run, or failed")
        if self._thread is not None:
            raise StateError("this relay runs already, or ran: make a new one")
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)
        self._thread.start()

    def _run(self):
        if self._thread is not threading.current_thread():
            raise StateError("this is the relay's own thread: start() runs it")
        with nogil:
            relay_loop(self.state)

    def stop(self):
        """Carries what lies in its sockets and its stores, then ends; twice is fine."""
        if self._thread is not None:
            os.eventfd_write(self.state.stop_fd, 1)
            self._thread.join()

    def counters(self):
        """Of each direction, from the pair's first socket to its second and back: what became of how many packets."""
        return tuple(_counters(&self.state.lanes[side]) for side in range(2))


cdef _counters(lane *l):
    return {
        "received": l.received, "sent": l.sent, "lost": l.lost, "duplicated": l.duplicated, "reordered": l.reordered,
        "overflowed": l.overflowed, "refused": l.refused,
    }


cdef uint32_t _share(double share):
    return <uint32_t>min(share * 4294967296.0, 4294967295.0)
