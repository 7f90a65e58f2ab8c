"""The last packet that an SA dropped. See ext/dataplane/last_drop.pyx."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from ipsec_fast.dataplane.sad cimport esp_sa

# A packet as it arrived, not opened yet or its front as it was: outer header, SPI, number and IV are kept.
cdef void last_drop_arrived(esp_sa *sa, uint8_t verdict, uint64_t now_ns, const uint8_t *packet, uint32_t length) noexcept nogil
# A packet of which nothing but the number is left to be shown.
cdef void last_drop_numbered(esp_sa *sa, uint8_t verdict, uint64_t now_ns, uint32_t seq) noexcept nogil
# A packet in clear, one that leaves or one that does not belong on its SA: IP header and ports are kept. `length` 0: nothing.
cdef void last_drop_clear(esp_sa *sa, uint8_t verdict, uint64_t now_ns, uint32_t seq, const uint8_t *packet, uint32_t length) noexcept nogil
