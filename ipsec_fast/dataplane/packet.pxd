# A bound batch: buffers held once, scratch allocated once.

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from ipsec_fast.dataplane.ah cimport ah_batch_ctx
from ipsec_fast.dataplane.esp cimport esp_batch_ctx, esp_packet
from ipsec_fast.dataplane.sad cimport esp_sa
from ipsec_fast.dataplane.sad_table cimport SAD


cdef class PacketBatch:
    cdef Py_buffer views[5]  # buffer, offsets, lengths, verdicts, tags
    cdef int held            # how many of them
    cdef uint32_t n
    cdef esp_packet *packets
    cdef uint64_t *regions   # start << 32 | end, for the overlap check
    cdef esp_sa **sas        # with a SAD: those of the call under way
    cdef esp_sa **distinct
    cdef uint32_t distinct_count
    cdef uint32_t *firsts    # of each of them the first packet; NULL with a SAD
    cdef esp_batch_ctx *ctx
    cdef ah_batch_ctx *ah    # NULL: no SA of AH in it
    cdef object owners       # keeps the SAs alive
    cdef object crew         # and the threads that help
    cdef SAD sad             # None, or where each packet's SA is looked up
    cdef uint64_t holder     # as of an SA: a thread is inside a call with this batch
