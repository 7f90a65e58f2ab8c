"""The outbound queue of a worker: packets are copied into 64 KB slots, sealed there in place as a batch, and sent one UDP_SEGMENT send per slot.

Join rules of a slot: tx_reserve in port.pxd. UDP_SEGMENT is refused at run time by some kernels and NICs (EIO, EINVAL): then the slot's packets
are sent one by one, and if that works the socket never tries again. A send that would block waits for POLLOUT up to 100 ms, then drops and counts.
Called by segment (tx_reserve) and worker (tx_seal, tx_send). The raw driver will send the same slots without UDP_SEGMENT.
"""

from libc.errno cimport (
    EACCES, EAGAIN, ECONNREFUSED, EHOSTUNREACH, EINTR, EINVAL, EIO, EMSGSIZE, ENETUNREACH, ENOBUFS, EPERM, errno
)
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memmove, memset

from ipsec_fast.dataplane.esp cimport esp_outbound
from ipsec_fast.dataplane.net_io cimport (
    CONTROL_BYTES, POLLIN, POLLOUT, control_add_segment, control_add_source, control_add_tos, iovec, mmsghdr,
    msghdr, poll, pollfd, sendmmsg
)
from ipsec_fast.dataplane.status cimport VERDICT_OK, VERDICT_SEND_FAILED

cdef extern from "stdlib.h" nogil:
    void *aligned_alloc(size_t alignment, size_t size) noexcept

cdef enum:
    NO_BUFFERS_TRIES = 8

COUNTER_NAMES = (
    "polls", "tun_reads", "tun_read_bytes", "tun_writes", "tun_write_bytes", "tun_write_failed",
    "udp_sends", "udp_messages_out", "udp_bytes_out", "udp_receives", "udp_messages_in", "udp_bytes_in",
    "udp_truncated", "udp_too_big", "udp_no_route", "udp_blocked", "udp_segment_refused",
    "packets_out", "bytes_out", "packets_in", "bytes_in", "keepalives_in", "punted", "punt_overflow", "notice_overflow",
    "merged", "merge_refused", "mss_clamped", "too_big_answered", "too_big_unanswered", "fragmented",
    "bypass_not_routable", "udp_empty", "held", "held_opened",
)
assert len(COUNTER_NAMES) == COUNTER_COUNT


cdef bint tx_queue_init(tx_queue *queue, esp_batch_ctx *esp, io_counters *counters) noexcept nogil:
    cdef int i
    queue.memory = <uint8_t *>aligned_alloc(4096, SLOT_COUNT * SLOT_BYTES)
    if queue.memory is NULL:
        return False
    for i in range(SLOT_COUNT):
        queue.slots[i].base = queue.memory + i * SLOT_BYTES
    queue.esp = esp
    queue.counters = counters
    tx_queue_clear(queue)
    return True


cdef void tx_queue_free(tx_queue *queue) noexcept nogil:
    free(queue.memory)
    queue.memory = NULL


cdef void tx_queue_clear(tx_queue *queue) noexcept nogil:
    queue.used = queue.packet_count = queue.sealed = queue.bytes = 0


cdef void tx_seal(tx_queue *queue) noexcept nogil:
    """All packets that are not sealed yet, as one batch."""
    if queue.packet_count > queue.sealed:
        if queue.esp is not NULL:
            esp_outbound(queue.esp, &queue.packets[queue.sealed], queue.packet_count - queue.sealed)
        queue.sealed = queue.packet_count


cdef uint32_t close_gaps(tx_queue *queue, tx_slot *slot) noexcept nogil:
    """Packets without VERDICT_OK leave their slot, counted; the others move up. How many are left. No move where all are well."""
    cdef uint32_t i, kept = 0, at = 0
    cdef esp_packet *packet
    for i in range(slot.first, slot.first + slot.count):
        packet = &queue.packets[i]
        if packet.verdict != VERDICT_OK:
            queue.counters.drops[packet.verdict] += 1
            continue
        if packet.data != slot.base + at:
            memmove(slot.base + at, packet.data, packet.length)
        at += packet.length
        if kept == 0:
            slot.segment = packet.length
        kept += 1
    slot.count = kept
    slot.length = at
    return kept


cdef void fill_message(
    mmsghdr *message, iovec *vector, uint8_t *control, tx_slot *slot, udp_port *port,
    uint8_t *data, uint32_t length, bint segmented
) noexcept nogil:
    cdef size_t used = 0
    cdef msghdr *head = &message.msg_hdr
    memset(message, 0, sizeof(mmsghdr))
    vector.iov_base = data
    vector.iov_len = length
    head.msg_iov = vector
    head.msg_iovlen = 1
    head.msg_name = slot.to.name
    head.msg_namelen = slot.to.name_bytes
    head.msg_control = control
    if port.wildcard and slot.to.has_local:
        control_add_source(head, &used, port.family, slot.to.local)
    if slot.tos:
        control_add_tos(head, &used, port.family, slot.tos)
    if segmented:
        control_add_segment(head, &used, <uint16_t>slot.segment)
    if used == 0:
        head.msg_control = NULL


cdef bint wait_writable(int fd, int stop_fd) noexcept nogil:
    cdef pollfd fds[2]
    fds[0].fd = fd
    fds[0].events = POLLOUT
    fds[1].fd = stop_fd
    fds[1].events = POLLIN
    fds[0].revents = fds[1].revents = 0
    return poll(fds, 2, 100) > 0 and fds[1].revents == 0


cdef int send_messages(
    mmsghdr *messages, uint32_t count, udp_port *port, io_counters *counters, int stop_fd, int *error
) noexcept nogil:
    """How many left before one was refused (`error` says why; EAGAIN: no room within 100 ms)."""
    cdef uint32_t done = 0, i
    cdef int sent
    cdef bint refused_once = False
    cdef uint32_t no_buffers = 0
    error[0] = 0
    while done < count:
        sent = sendmmsg(port.fd, messages + done, count - done, 0)
        counters.value[C_UDP_SENDS] += 1
        if sent > 0:
            for i in range(done, done + sent):
                counters.value[C_UDP_BYTES_OUT] += messages[i].msg_len
            counters.value[C_UDP_MESSAGES_OUT] += sent
            done += sent
            refused_once = False
            no_buffers = 0
            continue
        if errno == EINTR:
            continue
        if errno == ECONNREFUSED and not refused_once:  # an earlier datagram's ICMP, reported once
            refused_once = True
            continue
        if errno == EAGAIN or errno == ENOBUFS:
            if errno == ENOBUFS:  # the socket may be writable all the while: poll would not wait
                no_buffers += 1
            if no_buffers < NO_BUFFERS_TRIES and wait_writable(port.fd, stop_fd):
                continue
            error[0] = EAGAIN
            return done
        error[0] = errno
        return done
    return done


cdef void count_failure(io_counters *counters, int error, uint32_t packets) noexcept nogil:
    counters.drops[VERDICT_SEND_FAILED] += packets
    if error == EMSGSIZE:
        counters.value[C_UDP_TOO_BIG] += packets
    elif error == ENETUNREACH or error == EHOSTUNREACH or error == EPERM or error == EACCES:
        counters.value[C_UDP_NO_ROUTE] += packets
    elif error == EAGAIN:
        counters.value[C_UDP_BLOCKED] += packets


cdef uint32_t send_apart(tx_queue *queue, tx_slot *slot, udp_port *port, int stop_fd) noexcept nogil:
    """The packets of one slot as a message each. How many left."""
    cdef mmsghdr messages[SLOT_SEGMENTS]
    cdef iovec vectors[SLOT_SEGMENTS]
    cdef uint8_t controls[SLOT_SEGMENTS][CONTROL_BYTES]
    cdef uint32_t i, at = 0, length, done = 0
    cdef int error = 0, sent = 0
    for i in range(slot.count):
        length = min(slot.segment, slot.length - at)
        fill_message(&messages[i], &vectors[i], controls[i], slot, port, slot.base + at, length, False)
        at += length
    i = 0
    while i < slot.count:
        sent = send_messages(messages + i, slot.count - i, port, queue.counters, stop_fd, &error)
        done += sent
        i += sent
        if i < slot.count:
            count_failure(queue.counters, error, 1)
            i += 1
            if error == EAGAIN:
                count_failure(queue.counters, error, slot.count - i)
                break
    return done


cdef uint32_t send_run(
    tx_queue *queue, tx_slot **slots, uint32_t count, udp_port *port, int stop_fd
) noexcept nogil:
    """Slots for one socket, a message each. How many packets left."""
    cdef mmsghdr messages[SLOT_COUNT]
    cdef iovec vectors[SLOT_COUNT]
    cdef uint8_t controls[SLOT_COUNT][CONTROL_BYTES]
    cdef uint32_t i, k, done = 0, packets = 0, apart
    cdef int error = 0, sent
    for i in range(count):
        fill_message(
            &messages[i], &vectors[i], controls[i], slots[i], port, slots[i].base, slots[i].length, slots[i].count > 1
        )
    while done < count:
        sent = send_messages(messages + done, count - done, port, queue.counters, stop_fd, &error)
        for k in range(done, done + sent):
            packets += slots[k].count
        done += sent
        if done == count:
            break
        if slots[done].count > 1 and (error == EIO or error == EINVAL):
            apart = send_apart(queue, slots[done], port, stop_fd)
            packets += apart
            if apart == slots[done].count:  # so it was UDP_SEGMENT that was refused, not a length
                port.udp_segment = 0
                queue.counters.value[C_UDP_SEGMENT_REFUSED] += 1
        else:
            count_failure(queue.counters, error, slots[done].count)
        done += 1
        if error == EAGAIN:
            while done < count:
                count_failure(queue.counters, error, slots[done].count)
                done += 1
    return packets


cdef void tx_send(tx_queue *queue, udp_port **ports, uint32_t port_count, int stop_fd) noexcept nogil:
    """Seals what is left, sends everything, empties the queue."""
    cdef tx_slot *run[SLOT_COUNT]
    cdef uint32_t i, in_run = 0
    cdef int index = -1
    cdef tx_slot *slot
    tx_seal(queue)
    for i in range(queue.used):
        slot = &queue.slots[i]
        if close_gaps(queue, slot) == 0:
            continue
        if slot.to.socket_index >= port_count or ports[slot.to.socket_index].family != slot.to.family:
            queue.counters.drops[VERDICT_SEND_FAILED] += slot.count
            continue
        if slot.to.socket_index != index and in_run:
            queue.counters.value[C_PACKETS_OUT] += send_run(queue, run, in_run, ports[index], stop_fd)
            in_run = 0
        index = slot.to.socket_index
        if not ports[index].udp_segment and slot.count > 1:
            if in_run:
                queue.counters.value[C_PACKETS_OUT] += send_run(queue, run, in_run, ports[index], stop_fd)
                in_run = 0
            queue.counters.value[C_PACKETS_OUT] += send_apart(queue, slot, ports[index], stop_fd)
            continue
        run[in_run] = slot
        in_run += 1
    if in_run:
        queue.counters.value[C_PACKETS_OUT] += send_run(queue, run, in_run, ports[index], stop_fd)
    tx_queue_clear(queue)
