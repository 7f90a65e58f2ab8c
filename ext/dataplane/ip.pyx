"""A face for tests on ext/include/ip_parse.h, ip_checksum.h and ip_ecn.h: every call works on a heap block of exactly the right size.

The worker and the kernels include the headers (by ip.pxd) and never come here.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

_WHY = ("ok", "short", "bad_version", "bad_header", "bad_length", "bad_chain")


cdef uint8_t *exact_copy(bytes data) except NULL:
    cdef uint8_t *block = <uint8_t *> malloc(len(data) if len(data) else 1)
    if block == NULL:
        raise MemoryError
    memcpy(block, <const char *> data, len(data))
    return block


def parse(bytes packet not None):
    """("ok", fields) or (reason, None), by the header parse of the kernels; for tests."""
    cdef ip_info info
    cdef uint8_t *block = exact_copy(packet)
    cdef int result = ip_parse(block, len(packet), &info)
    fields = None
    if result == IP_OK:
        size = 4 if info.version == 4 else 16
        fields = {
            "version": info.version, "protocol": info.protocol, "total_length": info.total_length, "header_length": info.header_length,
            "fragment_offset": info.fragment_offset, "more_fragments": bool(info.more_fragments), "is_fragment": bool(info.is_fragment),
            "dont_fragment": bool(info.dont_fragment), "tos": info.tos, "ttl": info.ttl,
            "ports": (info.src_port, info.dst_port) if info.has_ports else None,
            "src": (<const char *> info.src)[:size], "dst": (<const char *> info.dst)[:size],
        }
    free(block)
    return _WHY[result], fields


def checksum(bytes data not None):
    """The 16-bit sum, not inverted, as two bytes in memory order."""
    cdef uint8_t *block = exact_copy(data)
    cdef uint16_t folded = csum_fold(csum_add(0, block, len(data)))
    free(block)
    return (<const char *> &folded)[:2]


def checksum_copy(bytes data not None):
    """(the copy, its sum) of the loop that does both."""
    cdef uint8_t *block = exact_copy(data)
    cdef uint8_t *target = exact_copy(bytes(len(data)))
    cdef uint16_t folded = csum_fold(csum_copy(0, target, block, len(data)))
    copy = (<const char *> target)[:len(data)]
    free(block)
    free(target)
    return copy, (<const char *> &folded)[:2]


def decapsulate(bytes inner not None, uint8_t outer_tos):
    """The inner packet as RFC 6040 leaves it, None where it must be dropped."""
    cdef uint8_t *block = exact_copy(inner)
    cdef int illegal = ecn_decapsulate(block, outer_tos)
    changed = (<const char *> block)[:len(inner)]
    free(block)
    return None if illegal else changed
