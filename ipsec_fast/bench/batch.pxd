"""A batch of super-datagrams in one recvmmsg, for both of bench's threads without the GIL. Called by load and relay."""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memset

from ipsec_fast.dataplane.net_io cimport CONTROL_BYTES, MSG_DONTWAIT, control_read, control_view, iovec, mmsghdr, recvmmsg

cdef enum:
    MESSAGES = 16
    MESSAGE_BYTES = 65536

cdef struct receive_batch:
    uint8_t *memory            # MESSAGES * MESSAGE_BYTES
    mmsghdr messages[MESSAGES]
    iovec vectors[MESSAGES]
    uint8_t controls[MESSAGES][CONTROL_BYTES]


# How many messages came; 0: none was there.
cdef inline uint32_t batch_receive(receive_batch *b, int fd) noexcept nogil:
    cdef uint32_t i
    cdef int got
    cdef mmsghdr *message
    for i in range(MESSAGES):
        message = &b.messages[i]
        memset(message, 0, sizeof(mmsghdr))
        b.vectors[i].iov_base = b.memory + i * MESSAGE_BYTES
        b.vectors[i].iov_len = MESSAGE_BYTES
        message.msg_hdr.msg_iov = &b.vectors[i]
        message.msg_hdr.msg_iovlen = 1
        message.msg_hdr.msg_control = b.controls[i]
        message.msg_hdr.msg_controllen = CONTROL_BYTES
    got = recvmmsg(fd, b.messages, MESSAGES, MSG_DONTWAIT, NULL)
    return <uint32_t>got if got > 0 else 0


# Of message i: its bytes, how many, and of how many each of its datagrams but the last is.
cdef inline uint8_t *batch_message(receive_batch *b, uint32_t i, uint32_t *length, uint32_t *segment) noexcept nogil:
    cdef control_view view
    control_read(&b.messages[i].msg_hdr, &view)
    length[0] = b.messages[i].msg_len
    segment[0] = <uint32_t>view.segment if view.segment > 0 else length[0]
    return b.memory + i * MESSAGE_BYTES
