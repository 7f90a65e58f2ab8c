"""The outbound queue of a worker: packets are copied into 64 KB slots, sealed there in place as a batch, and sent one UDP_SEGMENT send per slot.

Join rules of a slot: tx_reserve in port.pxd. Some kernels and NICs refuse UDP_SEGMENT at run time (EIO, EINVAL). Then the slot's
packets are sent one by one, and if that works the socket never tries UDP_SEGMENT again. A send also fails if it reports the error
of an earlier datagram (ICMP), which anybody can cause: it is repeated up to PENDING_TRIES times, so that no packet is lost. A send that would block waits
for POLLOUT up to 100 ms, then drops and counts. A raw socket takes the packets of a slot one by one, with the header that the
kernel of their SA wrote, in fragments if its endpoint says so (ip_cut.h). So do the few packets of other SAs that must be
fragmented outside (udp_endpoint.cut); their outer headers are written here.
Called by segment (tx_reserve) and worker (tx_seal, tx_send).
"""

from libc.errno cimport (
    EACCES, EAGAIN, EHOSTUNREACH, EINTR, EINVAL, EIO, EMSGSIZE, ENETUNREACH, ENOBUFS, EPERM, errno
)
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memmove, memset

from ipsec_fast.dataplane.ah cimport ah_outbound
from ipsec_fast.dataplane.esp cimport esp_outbound
from ipsec_fast.dataplane.fragment cimport CUT_OK, cut_begin, cut_length, cut_next, ip_cutter
from ipsec_fast.dataplane.ip cimport (
    IP_OK, csum_add, csum_fold, csum_ipv4_header, csum_pseudo6, csum_update16, ip_info, ip_parse
)
from ipsec_fast.dataplane.net_io cimport (
    CONTROL_BYTES, POLLIN, POLLOUT, control_add_segment, control_add_source, control_add_tos, iovec, mmsghdr,
    msghdr, poll, pollfd, sendmmsg
)
from ipsec_fast.dataplane.sad cimport PROTOCOL_AH, next_shared_id
from ipsec_fast.dataplane.status cimport VERDICT_OK, VERDICT_SEND_FAILED

cdef extern from "stdlib.h" nogil:
    void *aligned_alloc(size_t alignment, size_t size) noexcept

cdef enum:
    NO_BUFFERS_TRIES = 8
    PENDING_TRIES = 8
    UDP = 17
    IP_DF = 0x40

COUNTER_NAMES = (
    "polls", "tun_reads", "tun_read_bytes", "tun_writes", "tun_write_bytes", "tun_write_failed",
    "udp_sends", "udp_messages_out", "udp_bytes_out", "udp_receives", "udp_messages_in", "udp_bytes_in",
    "udp_truncated", "udp_too_big", "udp_no_route", "udp_blocked", "udp_segment_refused",
    "packets_out", "bytes_out", "packets_in", "bytes_in", "keepalives_in", "punted", "punt_overflow", "notice_overflow",
    "merged", "merge_refused", "mss_clamped", "too_big_answered", "too_big_unanswered", "fragmented",
    "bypass_not_routable", "udp_empty", "held", "held_opened", "raw_messages_out", "raw_messages_in", "outer_fragments",
    "icmp_too_big", "icmp_too_big_untold", "icmp_other", "probes_sent", "probes_unsent", "probes_answered",
    "mss_odd",
    "inner_refused", "inner_no_peer",
    "handed_over", "taken_over",
)
assert len(COUNTER_NAMES) == COUNTER_COUNT


cdef inline void store16(uint8_t *at, uint32_t value) noexcept nogil:
    at[0] = <uint8_t>(value >> 8)
    at[1] = <uint8_t>value


cdef bint tx_queue_init(tx_queue *queue, esp_batch_ctx *esp, io_counters *counters) noexcept nogil:
    cdef int i
    queue.memory = <uint8_t *>aligned_alloc(4096, SLOT_COUNT * SLOT_BYTES)
    queue.pieces = <uint8_t *>aligned_alloc(64, PIECES_BYTES)
    if queue.memory is NULL or queue.pieces is NULL:
        tx_queue_free(queue)
        return False
    for i in range(SLOT_COUNT):
        queue.slots[i].base = queue.memory + i * SLOT_BYTES
    queue.esp = esp
    queue.counters = counters
    tx_queue_clear(queue)
    return True


cdef void tx_queue_free(tx_queue *queue) noexcept nogil:
    free(queue.memory)
    free(queue.pieces)
    queue.memory = queue.pieces = NULL


cdef void tx_queue_clear(tx_queue *queue) noexcept nogil:
    queue.used = queue.packet_count = queue.sealed = queue.bytes = 0
    queue.has_ah = False


cdef void tx_seal(tx_queue *queue) noexcept nogil:
    """All packets that are not sealed yet, as one batch."""
    cdef uint32_t end
    cdef uint8_t protocol
    if queue.packet_count == queue.sealed:
        return
    if queue.esp is not NULL and not queue.has_ah:
        esp_outbound(queue.esp, &queue.packets[queue.sealed], queue.packet_count - queue.sealed)
    while queue.has_ah and queue.sealed < queue.packet_count:
        protocol, end = queue.packets[queue.sealed].sa.protocol, queue.sealed
        while end < queue.packet_count and queue.packets[end].sa.protocol == protocol:
            end += 1
        if protocol == PROTOCOL_AH:
            ah_outbound(queue.ah, &queue.packets[queue.sealed], end - queue.sealed)
        else:
            esp_outbound(queue.esp, &queue.packets[queue.sealed], end - queue.sealed)
        queue.sealed = end
    queue.sealed = queue.packet_count


cdef uint32_t close_gaps(tx_queue *queue, tx_slot *slot) noexcept nogil:
    """Count packets without VERDICT_OK and remove them from their slot; the others move up. Returns how many are left.

    Their lengths are what the kernels say, not what tx_reserve has foreseen; `packets` of the slot begins with those that are left."""
    cdef uint32_t i, kept = 0, at = slot.to.front
    cdef bint ended = False
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
        elif ended or packet.length > slot.segment:
            slot.mixed = True
        ended = packet.length != slot.segment
        queue.packets[slot.first + kept].length = packet.length
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
    if port.raw:
        return
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
    cdef uint32_t no_buffers = 0, refused = 0
    error[0] = 0
    while done < count:
        sent = sendmmsg(port.fd, messages + done, count - done, 0)
        counters.value[C_UDP_SENDS] += 1
        if sent > 0:
            if port.raw:
                counters.value[C_RAW_MESSAGES_OUT] += sent
            for i in range(done, done + sent):
                counters.value[C_UDP_BYTES_OUT] += messages[i].msg_len
            counters.value[C_UDP_MESSAGES_OUT] += sent
            done += sent
            no_buffers = refused = 0
            continue
        if errno == EINTR:
            continue
        if errno != EAGAIN and errno != ENOBUFS and errno != EIO and errno != EINVAL and refused < PENDING_TRIES:
            refused += 1  # it may be an earlier datagram's, reported once; anybody can send many such errors
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
    cdef uint32_t i, at = 0, length, done = 0, too_long = SLOT_BYTES
    cdef int error = 0, sent = 0
    for i in range(slot.count):
        length = queue.packets[slot.first + i].length
        fill_message(&messages[i], &vectors[i], controls[i], slot, port, slot.base + at, length, False)
        at += length
    i = 0
    while i < slot.count:
        if queue.packets[slot.first + i].length >= too_long:  # nor would the kernel take this one
            count_failure(queue.counters, EMSGSIZE, 1)
            i += 1
            continue
        sent = send_messages(messages + i, slot.count - i, port, queue.counters, stop_fd, &error)
        done += sent
        i += sent
        if i < slot.count:
            count_failure(queue.counters, error, 1)
            if error == EMSGSIZE:
                too_long = min(too_long, queue.packets[slot.first + i].length)
            i += 1
            if error == EAGAIN:
                count_failure(queue.counters, error, slot.count - i)
                break
    return done


cdef bint send_cut(tx_queue *queue, tx_slot *slot, udp_port *port, uint8_t *data, uint32_t length, int stop_fd) noexcept nogil:
    """A packet in fragments of the endpoint's MTU, or whole if it fits. Whether all of it left."""
    cdef mmsghdr messages[SLOT_SEGMENTS]
    cdef iovec vectors[SLOT_SEGMENTS]
    cdef ip_info info
    cdef ip_cutter cutter
    cdef uint32_t count = 0, used = 0, size
    cdef int error = 0
    if length <= slot.to.mtu:
        fill_message(&messages[0], &vectors[0], NULL, slot, port, data, length, False)
        if send_messages(messages, 1, port, queue.counters, stop_fd, &error) == 1:
            return True
        count_failure(queue.counters, error, 1)
        return False
    if ip_parse(data, length, &info) != IP_OK or cut_begin(&cutter, data, &info, slot.to.mtu, queue.piece_id) != CUT_OK:
        count_failure(queue.counters, EMSGSIZE, 1)
        return False
    queue.piece_id += 1
    while True:
        size = cut_length(&cutter)
        if count and (size == 0 or count == SLOT_SEGMENTS or used + size > PIECES_BYTES):
            if send_messages(messages, count, port, queue.counters, stop_fd, &error) < <int>count:
                count_failure(queue.counters, error, 1)
                return False
            queue.counters.value[C_OUTER_FRAGMENTS] += count
            count = used = 0
        if size == 0:
            return True
        cut_next(&cutter, queue.pieces + used)
        fill_message(&messages[count], &vectors[count], NULL, slot, port, queue.pieces + used, size, False)
        used += size
        count += 1


cdef void put_front(tx_queue *queue, tx_slot *slot) noexcept nogil:
    """Outer IP and UDP header before the one packet of a slot."""
    cdef uint8_t *at = slot.base
    cdef uint32_t ip_length = slot.to.front - 8
    cdef uint16_t check
    cdef uint64_t sum
    memcpy(at, slot.to.header, slot.to.front)
    store16(at + ip_length + 4, slot.length - ip_length)
    if at[0] >> 4 == 4:
        at[1] = slot.tos
        store16(at + 2, slot.length)
        store16(at + 4, next_shared_id(slot.to.ids))
        check = csum_ipv4_header(at, 20)
        memcpy(at + 10, &check, 2)
        return
    at[0] |= slot.tos >> 4
    at[1] |= <uint8_t>(slot.tos << 4)
    store16(at + 4, slot.length - 40)
    # not optional over IPv6 (RFC 8200 section 8.1)
    sum = csum_pseudo6(at + 8, at + 24, UDP, slot.length - 40)
    check = <uint16_t>~csum_fold(csum_add(sum, at + 40, slot.length - 40))
    if check == 0:
        check = 0xFFFF
    memcpy(at + 46, &check, 2)


cdef inline uint16_t put_mended(uint8_t *at, const uint8_t *bytes_, uint32_t length, uint16_t check) noexcept nogil:
    """Stores 16-bit words and updates the checksum that covers them."""
    cdef uint32_t i
    cdef uint16_t before, after
    for i in range(0, length, 2):
        memcpy(&before, at + i, 2)
        memcpy(&after, bytes_ + i, 2)
        check = csum_update16(check, before, after)
        memcpy(at + i, &after, 2)
    return check


cdef inline void clear_df(uint8_t *packet, uint64_t *ids) noexcept nogil:
    """Without DF, set an identification that no other SA to the peer uses. AH covers the field, so AH's is not changed."""
    cdef uint16_t check
    cdef uint8_t fields[4]
    if packet[0] >> 4 != 4 or not packet[6] & IP_DF:
        return
    memcpy(fields, packet + 4, 4)
    fields[2] &= ~<uint8_t>IP_DF
    if packet[9] != PROTOCOL_AH:
        store16(fields, next_shared_id(ids))
    memcpy(&check, packet + 10, 2)
    check = put_mended(packet + 4, fields, 4, check)
    memcpy(packet + 10, &check, 2)


cdef void readdress(tx_queue *queue, tx_slot *slot) noexcept nogil:
    """The peer is elsewhere than where the SA was made to send to (udp_endpoint.moved): address and UDP port of each packet. No ICV covers them."""
    cdef uint32_t i, at = 0
    cdef uint8_t port[2]
    cdef uint8_t ident[2]
    cdef uint8_t *packet
    cdef uint16_t check
    store16(port, slot.to.peer.port)
    for i in range(slot.count):
        packet = slot.base + at
        at += queue.packets[slot.first + i].length
        if packet[0] >> 4 == 4:
            memcpy(&check, packet + 10, 2)
            check = put_mended(packet + 16, <const uint8_t *>slot.to.peer.address, 4, check)
            if not packet[6] & IP_DF:  # those of its SA count what went to where the peer was
                store16(ident, next_shared_id(slot.to.ids))
                check = put_mended(packet + 4, ident, 2, check)
            memcpy(packet + 10, &check, 2)
            memcpy(packet + 22, port, 2)  # its UDP checksum is zero (RFC 3948 section 2.1)
            continue
        memcpy(&check, packet + 46, 2)
        check = put_mended(packet + 24, <const uint8_t *>slot.to.peer.address, 16, check)
        check = put_mended(packet + 42, port, 2, check)
        if check == 0:
            check = 0xFFFF
        memcpy(packet + 46, &check, 2)


cdef uint32_t send_outside(tx_queue *queue, tx_slot *slot, udp_port *port, int stop_fd) noexcept nogil:
    """Packets whose senders may not be told that they are too long, in fragments. How many left."""
    cdef uint32_t i, at = 0, length, done = 0
    if slot.to.front:
        put_front(queue, slot)
        return send_cut(queue, slot, port, slot.base, slot.length, stop_fd)
    for i in range(slot.count):
        length = queue.packets[slot.first + i].length
        clear_df(slot.base + at, slot.to.ids)
        done += send_cut(queue, slot, port, slot.base + at, length, stop_fd)
        at += length
    return done


cdef uint32_t send_raw(tx_queue *queue, tx_slot *slot, udp_port *port, int stop_fd) noexcept nogil:
    """The packets of one slot through a raw socket. How many left."""
    cdef uint32_t i, at = 0, length, done = 0
    cdef uint8_t *data
    if slot.to.moved:
        readdress(queue, slot)
    if slot.to.outside:
        return send_outside(queue, slot, port, stop_fd)
    if slot.to.mtu == 0 or (slot.segment <= slot.to.mtu and not slot.mixed):
        return send_apart(queue, slot, port, stop_fd)
    for i in range(slot.count):
        length = queue.packets[slot.first + i].length
        data = slot.base + at
        at += length
        if length > slot.to.mtu and data[0] >> 4 == 4 and data[6] & 0x40:  # DF: what does not fit is lost, and counted
            count_failure(queue.counters, EMSGSIZE, 1)
        elif send_cut(queue, slot, port, data, length, stop_fd):
            done += 1
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
        # EMSGSIZE: since Linux 6.14 it is said where EINVAL was, of a slot whose first packet alone is too long
        if slots[done].count > 1 and (error == EIO or error == EINVAL or error == EMSGSIZE):
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
        if (
            slot.to.socket_index >= port_count or ports[slot.to.socket_index].family != slot.to.family
            or (ports[slot.to.socket_index].raw != 0) != slot.to.raw
        ):
            queue.counters.drops[VERDICT_SEND_FAILED] += slot.count
            continue
        if slot.to.socket_index != index and in_run:
            queue.counters.value[C_PACKETS_OUT] += send_run(queue, run, in_run, ports[index], stop_fd)
            in_run = 0
        index = slot.to.socket_index
        if ports[index].raw or (slot.count > 1 and (slot.mixed or not ports[index].udp_segment)):
            if in_run:
                queue.counters.value[C_PACKETS_OUT] += send_run(queue, run, in_run, ports[index], stop_fd)
                in_run = 0
            if ports[index].raw:
                queue.counters.value[C_PACKETS_OUT] += send_raw(queue, slot, ports[index], stop_fd)
                continue
            queue.counters.value[C_PACKETS_OUT] += send_apart(queue, slot, ports[index], stop_fd)
            continue
        run[in_run] = slot
        in_run += 1
    if in_run:
        queue.counters.value[C_PACKETS_OUT] += send_run(queue, run, in_run, ports[index], stop_fd)
    tx_queue_clear(queue)
