# The AH kernels (RFC 4302), transport and tunnel mode. As those of esp.pxd: any number of packets per call, in order, nothing raises or locks.

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from ipsec_fast.dataplane.esp cimport esp_packet


# One thread's scratch: op array, and the headers while their mutable fields are zero.
cdef struct ah_batch_ctx

cdef ah_batch_ctx *ah_batch_ctx_new() noexcept nogil                  # NULL: no memory
cdef void ah_batch_ctx_free(ah_batch_ctx *ctx) noexcept nogil         # NULL is fine
# What time it is, for SA.last_drop; 0: not known.
cdef void ah_batch_ctx_set_time(ah_batch_ctx *ctx, uint64_t now_ns) noexcept nogil
cdef void ah_batch_ctx_use_iv_for_test(ah_batch_ctx *ctx, const uint8_t *iv) noexcept nogil  # of GMAC; NULL: the sequence number again

# out: as esp_outbound, with an IP packet in either mode; the packet grows by sa.headroom at most, in front.
# in:  `data`, `length` start at the outer IP header. After VERDICT_OK they are the inner packet (transport: the packet without AH); after a failed
#      ICV that region is zeros.
cdef void ah_outbound(ah_batch_ctx *ctx, esp_packet *packets, uint32_t n) noexcept nogil
cdef void ah_inbound(ah_batch_ctx *ctx, esp_packet *packets, uint32_t n) noexcept nogil
