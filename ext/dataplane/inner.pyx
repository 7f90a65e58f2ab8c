"""What the inner drivers have in common: one descriptor, read and written frame by frame. The rest stands in inner.pxd, inlined into the worker.

Called by tun and packet_socket, which are InnerPorts, and by worker, which takes any.
"""

import os


cdef class InnerPort:
    """See inner.pyi."""

    def __cinit__(self):
        self.port.fd = -1
        self.port.mtu = self.port.room = 0xFFFF

    def __dealloc__(self):
        if self.port.fd >= 0:
            os.close(self.port.fd)
        self.port.fd = -1

    def close(self):
        if self.port.fd >= 0:
            os.close(self.port.fd)
        self.port.fd = -1

    @property
    def fd(self):
        return self.port.fd
