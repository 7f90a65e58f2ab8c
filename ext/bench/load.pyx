"""Numbered UDP at a steady rate, and its count: what was sent, what came, what came twice.

The datagrams are those of the demo's stamped.py: run and number, 8 bytes each, big-endian. Both ends are one thread without the GIL that takes and
gives super-datagrams. A sender that was kept from the CPU goes on at its rate and never makes up for it with a burst: the rate is a ceiling. A number counts as
sent once the kernel took it. A receiver keeps one bit for each number. Called by bench rekey, the demo and the tests.
"""

from libc.errno cimport EAGAIN, EINTR, ENOBUFS, errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from ipsec_fast.bench.batch cimport MESSAGE_BYTES, MESSAGES, batch_message, batch_receive, receive_batch
from ipsec_fast.dataplane.net_io cimport (
    CLOCK_MONOTONIC, CONTROL_BYTES, MSG_DONTWAIT, POLLIN, POLLOUT, clock_nanosleep, control_add_segment, iovec,
    monotonic_ns, msghdr, poll, pollfd, sendmsg, timespec
)

import os
import threading

from ..errors import StateError, UsageError

cdef enum:
    STAMP_BYTES = 16
    MAX_SEGMENTS = 32
    MAX_BYTES = 1400

cdef uint64_t SECOND_NS = 1000000000
cdef uint64_t LATE_NS = 2000000  # behind by more, a sender's clock begins anew

cdef struct send_state:
    int fd
    int stopping
    uint32_t size
    uint32_t segments
    uint64_t run
    uint64_t packets_per_s
    uint64_t limit
    uint64_t sent
    uint64_t refused           # sends that the kernel did not take; they were tried again
    uint64_t late              # times the clock began anew
    uint8_t buffer[MAX_SEGMENTS * MAX_BYTES]

cdef struct receive_state:
    int fd
    int stop_fd
    uint64_t run
    uint64_t limit
    uint64_t received
    uint64_t duplicates
    uint64_t overtaken
    uint64_t highest
    uint64_t strays
    uint64_t *seen
    receive_batch batch


cdef inline void store_be64(uint8_t *at, uint64_t value) noexcept nogil:
    cdef int i
    for i in range(8):
        at[i] = <uint8_t>(value >> (56 - 8 * i))


cdef inline uint64_t load_be64(const uint8_t *at) noexcept nogil:
    cdef uint64_t value = 0
    cdef int i
    for i in range(8):
        value = value << 8 | at[i]
    return value


cdef inline int is_stopping(send_state *s) noexcept nogil:
    return (<volatile int *>&s.stopping)[0]


cdef void sleep_until(uint64_t at_ns) noexcept nogil:
    cdef timespec at
    at.tv_sec = <long>(at_ns // SECOND_NS)
    at.tv_nsec = <long>(at_ns % SECOND_NS)
    clock_nanosleep(CLOCK_MONOTONIC, 1, &at, NULL)


cdef uint32_t send_some(send_state *s, uint32_t count) noexcept nogil:
    """`count` packets in one send; how many the kernel took: all or none."""
    cdef msghdr message
    cdef iovec vector
    cdef uint8_t control[CONTROL_BYTES]
    cdef size_t used = 0
    cdef uint32_t i
    cdef pollfd room
    for i in range(count):
        store_be64(s.buffer + i * s.size, s.run)
        store_be64(s.buffer + i * s.size + 8, s.sent + i)
    memset(&message, 0, sizeof(message))
    memset(control, 0, sizeof(control))
    vector.iov_base = s.buffer
    vector.iov_len = count * s.size
    message.msg_iov = &vector
    message.msg_iovlen = 1
    if count > 1:
        message.msg_control = control
        control_add_segment(&message, &used, <uint16_t>s.size)
    if sendmsg(s.fd, &message, MSG_DONTWAIT) >= 0:
        return count
    if errno == EAGAIN or errno == ENOBUFS:
        room.fd = s.fd
        room.events = POLLOUT
        poll(&room, 1, 1)
    s.refused += 1  # an ICMP of an earlier packet is reported in place of a send
    return 0


cdef void send_loop(send_state *s) noexcept nogil:
    cdef uint64_t start = monotonic_ns(), base = 0, now, due, at
    cdef uint32_t count
    while not is_stopping(s) and s.sent < s.limit:
        now = monotonic_ns()
        due = <uint64_t>(<double>(now - start) * 1e-9 * s.packets_per_s) + base
        if due > s.sent and (due - s.sent) * SECOND_NS > LATE_NS * s.packets_per_s + s.segments * SECOND_NS:
            start, base = now, s.sent
            s.late += 1
            due = s.sent + s.segments
        if due < s.sent + s.segments:
            at = start + <uint64_t>(<double>(s.sent + s.segments - base) * 1e9 / s.packets_per_s) + 1
            sleep_until(min(at, now + SECOND_NS // 10))
            continue
        count = <uint32_t>min(<uint64_t>s.segments, s.limit - s.sent)
        if send_some(s, count) == 0:
            if s.refused & 3 == 0:
                sleep_until(monotonic_ns() + SECOND_NS // 1000)
            continue
        (<volatile uint64_t *>&s.sent)[0] += count


cdef inline void count_packet(receive_state *r, const uint8_t *data, uint32_t length) noexcept nogil:
    cdef uint64_t number, bit
    if length < STAMP_BYTES or load_be64(data) != r.run:
        r.strays += 1
        return
    number = load_be64(data + 8)
    if number >= r.limit:
        r.strays += 1
        return
    bit = <uint64_t>1 << (number & 63)
    if r.seen[number >> 6] & bit:
        r.duplicates += 1
        return
    r.seen[number >> 6] |= bit
    r.received += 1
    if number + 1 > r.highest:
        r.highest = number + 1
    else:
        r.overtaken += 1


cdef uint32_t receive_some(receive_state *r) noexcept nogil:
    cdef uint32_t i, at, length = 0, segment = 0, got = batch_receive(&r.batch, r.fd)
    cdef uint8_t *data
    for i in range(got):
        data = batch_message(&r.batch, i, &length, &segment)
        at = 0
        while at < length:
            count_packet(r, data + at, min(segment, length - at))
            at += segment
    return got


cdef void receive_loop(receive_state *r) noexcept nogil:
    cdef pollfd fds[2]
    memset(fds, 0, sizeof(fds))
    fds[0].fd = r.stop_fd
    fds[1].fd = r.fd
    fds[0].events = fds[1].events = POLLIN
    while True:
        if poll(fds, 2, -1) < 0 and errno != EINTR:
            return
        if fds[1].revents:
            receive_some(r)
        if fds[0].revents:
            while receive_some(r):
                pass
            return


cdef class Sender:
    """Sends numbered datagrams on a connected socket, `segments` in one send, until `stop()` or `limit`. Raises UsageError."""

    cdef send_state state
    cdef object _socket, _thread

    def __init__(self, sock, *, run, packets_per_s, size_bytes=1000, segments=8, limit=1 << 32):
        if not STAMP_BYTES <= size_bytes <= MAX_BYTES or not 1 <= segments <= MAX_SEGMENTS or not 1 <= packets_per_s <= 10_000_000:
            raise UsageError(
                f"a sender has packets of {STAMP_BYTES} to {MAX_BYTES} bytes, 1 to {MAX_SEGMENTS} in one send, 1 to 10000000 a second, not "
                f"{size_bytes}, {segments} and {packets_per_s}"
            )
        self._socket = sock
        self.state.fd, self.state.run, self.state.packets_per_s = sock.fileno(), run, packets_per_s
        self.state.size, self.state.segments, self.state.limit = size_bytes, segments, limit

    def start(self):
        """Start the thread."""
        if self._socket is None:
            raise StateError("this sender was never made")
        if self._thread is not None:
            raise StateError("this sender runs already, or ran: make a new one")
        self._thread = threading.Thread(target=self._run, name="sender", daemon=True)
        self._thread.start()

    def _run(self):
        if self._thread is not threading.current_thread():
            raise StateError("this is the sender's own thread: start() runs it")
        with nogil:
            send_loop(&self.state)

    def wait(self, timeout_s=None):
        """Until the limit; whether it was reached in time."""
        if self._thread is None:
            raise StateError("this sender was not started")
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def stop(self):
        """Ends it; how many were sent."""
        self.state.stopping = 1
        if self._thread is not None:
            self._thread.join()
        return self.state.sent

    @property
    def sent(self):
        """Datagrams so far."""
        return self.state.sent

    @property
    def refused(self):
        """Sends that the kernel did not take at once."""
        return self.state.refused

    @property
    def late(self):
        """Times it was kept from the CPU for more than 2 ms."""
        return self.state.late


cdef class Receiver:
    """Counts the datagrams of `run` that a bound socket receives, numbers 0 to `limit` - 1. Raises UsageError."""

    cdef receive_state *state
    cdef object _socket, _thread

    def __cinit__(self):
        self.state = <receive_state *>calloc(1, sizeof(receive_state))
        if self.state is NULL:
            raise MemoryError
        self.state.stop_fd = -1

    def __init__(self, sock, *, run, limit):
        if not 1 <= limit <= 1 << 32:
            raise UsageError(f"a receiver counts 1 to {1 << 32} numbers, not {limit}")
        self._socket = sock
        self.state.fd, self.state.run, self.state.limit = sock.fileno(), run, limit
        self.state.seen = <uint64_t *>calloc((limit + 63) // 64, 8)
        self.state.batch.memory = <uint8_t *>calloc(MESSAGES, MESSAGE_BYTES)
        if self.state.seen is NULL or self.state.batch.memory is NULL:
            raise MemoryError
        self.state.stop_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def __dealloc__(self):
        if self.state is NULL:
            return
        if self.state.stop_fd >= 0:
            os.close(self.state.stop_fd)
        free(self.state.seen)
        free(self.state.batch.memory)
        free(self.state)

    def start(self):
        """Start the thread."""
        if self._socket is None:
            raise StateError("this receiver was never made")
        if self._thread is not None:
            raise StateError("this receiver runs already, or ran: make a new one")
        self._thread = threading.Thread(target=self._run, name="receiver", daemon=True)
        self._thread.start()

    def _run(self):
        if self._thread is not threading.current_thread():
            raise StateError("this is the receiver's own thread: start() runs it")
        with nogil:
            receive_loop(self.state)

    def stop(self):
        """Takes what lies in the socket along, then ends."""
        if self._thread is not None:
            os.eventfd_write(self.state.stop_fd, 1)
            self._thread.join()

    def missing(self, sent, most=1000):
        """The numbers below `sent` that did not come, the first `most` of them."""
        cdef uint64_t number, end = min(sent, self.state.limit)
        found = []
        if self.state.seen is NULL:
            raise StateError("this receiver was never made")
        for number in range(end):
            if not self.state.seen[number >> 6] >> (number & 63) & 1:
                found.append(number)
                if len(found) == most:
                    break
        return found

    @property
    def received(self):
        """Different numbers."""
        return self.state.received

    @property
    def duplicates(self):
        """Numbers that came again."""
        return self.state.duplicates

    @property
    def overtaken(self):
        """Numbers that came after a higher one."""
        return self.state.overtaken

    @property
    def strays(self):
        """Of another run."""
        return self.state.strays
