"""One packet at a time, for convenience and for vectors: `bytes` in, `bytes` out, by the same kernels that run batches.

Each packet lies in a heap block of exactly its size and room, so that a sanitizer sees a byte too much. Called by: embedders, tests.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from ipsec_fast.dataplane.ah cimport (
    ah_batch_ctx, ah_batch_ctx_free, ah_batch_ctx_new, ah_batch_ctx_set_time, ah_batch_ctx_use_iv_for_test, ah_inbound, ah_outbound
)
from ipsec_fast.dataplane.esp cimport (
    esp_batch_ctx, esp_batch_ctx_free, esp_batch_ctx_new, esp_batch_ctx_set_time, esp_batch_ctx_use_iv_for_test, esp_inbound, esp_outbound,
    esp_packet
)
from ipsec_fast.dataplane.sad cimport (
    PROTOCOL_AH, SA, SA_INBOUND, SA_OUTBOUND, coarse_ns, sa_check_time, sa_enter, sa_enter_late, sa_leave, sa_need, sa_note_use
)
from ipsec_fast.dataplane.status cimport VERDICT_OK

from ipsec_fast.dataplane.status import verdict_text
from ipsec_fast.errors import IntegrityError, StateError, UsageError


def protect_packet(SA sa not None, packet not None):
    """One IP packet sealed (ESP or AH, as the SA is); for pipelines use PacketBatch, which copies nothing.

    Raises UsageError with the verdict for what the SA does not take, StateError if its numbers or its grant are used up,
    another thread or a worker uses it, or it was made before a fork.
    """
    cdef esp_packet one
    need(sa, SA_OUTBOUND, "protect_packet needs an outbound SA")
    result = run_one(sa, packet, NULL, &one)
    if one.verdict != VERDICT_OK:
        raise StateError(verdict_text(one.verdict)) if sa.hot.seq >= sa.hot.granted else UsageError(verdict_text(one.verdict))
    return result


def unprotect_packet(SA sa not None, packet not None):
    """The IP packet inside of one sealed packet, by the SA's window; IntegrityError names the verdict of one that is dropped.

    Raises StateError as protect_packet does.
    """
    cdef esp_packet one
    need(sa, SA_INBOUND, "unprotect_packet needs an inbound SA")
    result = run_one(sa, packet, NULL, &one)
    if one.verdict != VERDICT_OK:
        raise IntegrityError(verdict_text(one.verdict))
    return result


def seal_with_iv_for_test(SA sa not None, bytes packet not None, uint64_t seq, bytes iv not None):
    """The sealed form of `packet` under a sequence number and IV of the caller's choice. It can repeat a nonce, hence its name."""
    cdef esp_packet one
    cdef uint64_t seq_before, granted_before
    need(sa, SA_OUTBOUND, "seal_with_iv_for_test needs an outbound SA")
    if len(iv) != sa.hot.iv_length:
        raise UsageError(f"{sa.algorithm} has an IV of {sa.hot.iv_length} bytes, not {len(iv)}")
    if seq == 0 or seq > sa.hot.hard_limit:
        raise UsageError(f"sequence number {seq}: it is 1 to {sa.hot.hard_limit}")
    enter(sa)  # first: nobody else may number with what is changed here
    seq_before, granted_before = sa.hot.seq, sa.hot.granted
    sa.hot.seq, sa.hot.granted = seq - 1, seq
    try:
        result = run_entered(sa, packet, <const uint8_t *> <const char *> iv if iv else NULL, &one)
    finally:
        sa.hot.seq, sa.hot.granted = seq_before, granted_before
        sa_leave(sa.hot)
    if one.verdict != VERDICT_OK:
        raise UsageError(verdict_text(one.verdict))
    return result


def open_for_test(SA sa not None, bytes packet not None):
    """The inner packet of one sealed packet, by the kernel and with the SA's window; IntegrityError names the verdict."""
    return unprotect_packet(sa, packet)


cdef int need(SA sa, int direction, str message) except -1:
    sa_need(sa)
    if sa.hot.direction != direction:
        raise UsageError(message)
    return 0


cdef int enter(SA sa) except -1:
    return 0 if sa_enter(sa.hot) else sa_enter_late(sa.hot)


cdef object run_one(SA sa, packet, const uint8_t *iv, esp_packet *one):
    enter(sa)
    try:
        return run_entered(sa, packet, iv, one)
    finally:
        sa_leave(sa.hot)


cdef object run_entered(SA sa, packet, const uint8_t *iv, esp_packet *one):
    cdef const uint8_t[::1] given = packet
    cdef size_t before = sa.hot.headroom if sa.hot.direction == SA_OUTBOUND else 0, length = given.shape[0]
    cdef size_t size = before + length + (sa.hot.tailroom if sa.hot.direction == SA_OUTBOUND else 0)
    cdef uint8_t *block
    if length > 65535:
        raise UsageError(f"a packet of {length} bytes: at most 65535")
    block = <uint8_t *> malloc(size if size else 1)
    try:
        if block == NULL:
            raise MemoryError
        memset(block, 0, size)
        if length:
            memcpy(block + before, &given[0], length)
        one.sa, one.data, one.length = sa.hot, block + before, <uint32_t> length
        run_kernel(sa, one, iv)
        return (<char *> one.data)[:one.length] if one.verdict == VERDICT_OK else b""
    finally:
        free(block)


cdef int run_kernel(SA sa, esp_packet *one, const uint8_t *iv) except -1:
    cdef esp_batch_ctx *esp = NULL
    cdef ah_batch_ctx *ah = NULL
    cdef uint64_t now = coarse_ns()
    sa_check_time(sa.hot, now)
    if sa.hot.protocol == PROTOCOL_AH:
        ah = ah_batch_ctx_new()
        if ah == NULL:
            raise MemoryError
        ah_batch_ctx_use_iv_for_test(ah, iv)
        ah_batch_ctx_set_time(ah, now)
        if sa.hot.direction == SA_OUTBOUND:
            ah_outbound(ah, one, 1)
        else:
            ah_inbound(ah, one, 1)
        ah_batch_ctx_free(ah)
        sa_note_use(sa.hot, now)
        return 0
    esp = esp_batch_ctx_new()
    if esp == NULL:
        raise MemoryError
    esp_batch_ctx_use_iv_for_test(esp, iv)
    esp_batch_ctx_set_time(esp, now)
    if sa.hot.direction == SA_OUTBOUND:
        esp_outbound(esp, one, 1)
    else:
        esp_inbound(esp, one, 1)
    esp_batch_ctx_free(esp)
    sa_note_use(sa.hot, now)
    return 0
