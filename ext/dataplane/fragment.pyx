"""Packets cut into fragments for embedders: of IPv4 (RFC 791 section 3.2) and IPv6 (RFC 8200 section 4.5), before ESP or after it.

The core is ext/include/ip_cut.h. Before ESP the far gateway has nothing to reassemble, but IPv6 packets and those with DF may not be cut by us;
after it the packet inside stays whole. Called by: embedders; segment and the raw driver use the core.
"""

from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from ipsec_fast.dataplane.ip cimport IP_OK, ip_info, ip_parse

import os

from ..errors import UsageError


def fragment_packet(packet, int mtu, ident=None):
    """The fragments of an IPv4 or IPv6 packet, each at most `mtu` bytes with its header; [packet] where it fits.

    `ident` is the identification of an IPv6 packet's fragments (None: random); IPv4 has its own in the header. Bytes behind
    the packet's own length are left out. Raises UsageError: no IP packet, DF set, a fragment of IPv6, an `mtu` too small for
    the headers (RFC 791 section 3.2, RFC 8200 section 4.5, RFC 7112).
    """
    cdef const uint8_t[::1] view = packet
    cdef ip_info info
    cdef ip_cutter cutter
    cdef uint8_t *block
    cdef uint8_t *place
    cdef uint32_t length, number
    cdef int result = 0
    if view.shape[0] == 0 or view.shape[0] > 65575 or ip_parse(&view[0], <uint32_t> view.shape[0], &info) != IP_OK:
        raise UsageError(f"{view.shape[0]} bytes are no IPv4 or IPv6 packet")
    if info.total_length <= <uint32_t> max(0, mtu):
        return [bytes(view[:info.total_length])]
    if info.version == 4 and info.dont_fragment:
        raise UsageError(f"a packet of {info.total_length} bytes with DF set is not cut (RFC 791); clear DF, or answer its sender")
    if ident is not None and not 0 <= ident <= 0xFFFFFFFF:
        raise UsageError(f"identification {ident}: an IPv6 fragment has 32 bits for it")
    number = ident if ident is not None else int.from_bytes(os.urandom(4), "big") if info.version == 6 else 0
    # cut from and into heap blocks of exactly the right size, so that a sanitizer sees a byte too much
    block = <uint8_t *> malloc(info.total_length)
    if block == NULL:
        raise MemoryError
    memcpy(block, &view[0], info.total_length)
    made = []
    try:
        result = cut_begin(&cutter, block, &info, <uint32_t> max(0, mtu), number)
        if result == CUT_BAD_PACKET:
            raise UsageError("a fragment of IPv6 (or of IPv4 beyond 65535 bytes) is not cut again")
        if result != CUT_OK:
            raise UsageError(f"no fragment of {mtu} bytes holds the headers and 8 bytes of this packet")
        while True:
            length = cut_length(&cutter)
            if length == 0:
                return made
            place = <uint8_t *> malloc(length)
            if place == NULL:
                raise MemoryError
            cut_next(&cutter, place)
            made.append((<char *> place)[:length])
            free(place)
    finally:
        free(block)
