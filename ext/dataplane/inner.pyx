"""What the inner drivers have in common: one descriptor, read and written frame by frame. The rest stands in inner.pxd, inlined into the worker.

Called by tun and packet_socket, which are InnerPorts, and by worker, which takes any.
"""

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy, memset

from ipsec_fast.dataplane.forks cimport port_check_free
from ipsec_fast.dataplane.net_io cimport vnet_header

import os


cdef class InnerPort:
    """The inner side of a worker: a `Tun` or a `PacketSocket`; nothing by itself. `features`: what is on now."""

    def __cinit__(self):
        self.port.fd = -1
        self.port.mtu = self.port.room = 0xFFFF

    def __dealloc__(self):
        if self.port.fd >= 0:
            os.close(self.port.fd)
        self.port.fd = -1

    def close(self):
        """Twice is fine. StateError while a worker runs on it."""
        port_check_free(&self.users, "this inner port")
        if self.port.fd >= 0:
            os.close(self.port.fd)
        self.port.fd = -1

    @property
    def fd(self):
        """-1 once closed."""
        return self.port.fd


def stripped(bytes frame, bytes own):
    """For tests: (what inner_strip says, csum_start then, the peer that was learned) of a frame read by the station `own`."""
    cdef inner_port port
    cdef uint64_t peer = 0
    cdef bytearray copy = bytearray(frame) + bytes(VNET_BYTES + LINK_BYTES + 1)
    cdef uint8_t *at = <uint8_t *><char *>copy
    memset(&port, 0, sizeof(port))
    for i, kind in enumerate((b"\x08\x00", b"\x86\xdd")):
        link = bytes(MAC_BYTES) + own + kind
        memcpy(port.link[<int>i], <const char *>link, LINK_BYTES)
    port.learns = 1
    port.peer = &peer
    said = ("packet", "none", "refused")[inner_strip(&port, at, <long>len(frame))]
    return said, (<vnet_header *>at).csum_start, (<const char *>&peer)[:MAC_BYTES]
