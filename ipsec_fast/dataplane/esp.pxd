# The ESP kernels (RFC 4303). Any number of packets per call; batches of 32 to 64 are best. Nothing here raises, locks or allocates but
# esp_batch_ctx_new.

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from ipsec_fast.dataplane.crew cimport crew_state
from ipsec_fast.dataplane.sad cimport esp_sa


# out: `data`, `length` are the inner packet, with sa.headroom bytes before and sa.tailroom behind it that are the caller's to give. After
#      VERDICT_OK they are the sealed packet; after any other verdict the packet is as it was and no number was used (but CRYPTO_FAILED).
# in:  `data`, `length` start at the ESP header (at the outer IP header if the SA has one, or is of transport mode). After VERDICT_OK they are the inner packet; after
#      BAD_ICV that region is zeros. `sa` NULL gives VERDICT_NO_SA. `verdict` need not be set before.
cdef struct esp_packet:
    uint8_t *data
    esp_sa *sa
    uint32_t length
    uint8_t verdict
    uint8_t next_header      # of the ESP trailer; BEET with options: of the pseudo header
    uint8_t flags            # free for the caller

# One thread's scratch: op array and IV generator.
cdef struct esp_batch_ctx

cdef esp_batch_ctx *esp_batch_ctx_new() noexcept nogil                # NULL: no memory or no randomness
cdef void esp_batch_ctx_free(esp_batch_ctx *ctx) noexcept nogil       # NULL is fine

# What time it is, for SA.last_drop; 0: not known.
cdef void esp_batch_ctx_set_time(esp_batch_ctx *ctx, uint64_t now_ns) noexcept nogil

# Threads that help with large runs of SAs that have keys for them; NULL: none. As many as each such SA has spares.
cdef void esp_batch_ctx_set_crew(esp_batch_ctx *ctx, crew_state *crew, uint32_t size) noexcept nogil

# The IV of every packet from now on, NULL for the kernels' own. It can repeat a nonce.
cdef void esp_batch_ctx_use_iv_for_test(esp_batch_ctx *ctx, const uint8_t *iv) noexcept nogil

# Packets are sealed and opened in order; number, replay check and counters of an SA follow that order.
cdef void esp_outbound(esp_batch_ctx *ctx, esp_packet *packets, uint32_t n) noexcept nogil
# Dummy packets (RFC 4303 section 2.6): the `length` bytes at `data` are overwritten by zeros and sealed with next header 59. Tunnel mode.
cdef void esp_outbound_dummies(esp_batch_ctx *ctx, esp_packet *packets, uint32_t n) noexcept nogil
cdef void esp_inbound(esp_batch_ctx *ctx, esp_packet *packets, uint32_t n) noexcept nogil
