# A pipeline of somebody else: seals packets and opens them again, all of it without the GIL, on the kernels of ipsec_fast.

from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy

from ipsec_fast.dataplane.esp cimport (
    esp_batch_ctx,
    esp_batch_ctx_free,
    esp_batch_ctx_new,
    esp_inbound,
    esp_outbound,
    esp_packet,
)
from ipsec_fast.dataplane.sad cimport SA, esp_sa, esp_sealed_length
from ipsec_fast.dataplane.status cimport VERDICT_OK

cdef enum:
    BATCH = 32
    SLOT = 2048
    ROOM = 128


def sealed_bytes(SA sa, uint32_t inner) -> int:
    """An inline helper of a .pxd, compiled into this project."""
    return esp_sealed_length(sa.hot, inner)


def loop(SA outbound, SA inbound, bytes packet) -> int:
    """How many of 32 copies of `packet` came back as they were."""
    cdef const uint8_t *inner = packet
    cdef uint32_t length = <uint32_t> len(packet), i
    cdef esp_packet packets[BATCH]
    cdef uint8_t *buffer = <uint8_t *> calloc(BATCH, SLOT)
    cdef esp_batch_ctx *ctx = esp_batch_ctx_new()
    cdef int good = 0
    if buffer == NULL or ctx == NULL or length > SLOT - 2 * ROOM:
        raise MemoryError
    with nogil:
        for i in range(BATCH):
            packets[i].data = buffer + i * SLOT + ROOM
            packets[i].length = length
            packets[i].sa = outbound.hot
            memcpy(packets[i].data, inner, length)
        esp_outbound(ctx, packets, BATCH)
        for i in range(BATCH):
            packets[i].sa = inbound.hot
        esp_inbound(ctx, packets, BATCH)
        for i in range(BATCH):
            if packets[i].verdict == VERDICT_OK and packets[i].length == length:
                good += memcmp(packets[i].data, inner, length) == 0
    esp_batch_ctx_free(ctx)
    free(buffer)
    return good
