"""ESP and AH without UDP: raw sockets for protocols 50 and 51 (RFC 4303, RFC 4302), beside the UDP sockets of a worker.

What leaves has the outer header that the SA's kernel wrote (IP_HDRINCL, IPV6_HDRINCL), so all header rules of the SA hold, and the driver can cut it into
fragments where the policy wants that; such a socket sends UDP-encapsulated packets as well. What arrives the kernel has reassembled; over
IPv4 its header stands in front, over IPv6 it does not. There is no UDP_SEGMENT or GRO for these protocols: one packet is one message.
A host's own kernel IPsec sees the same packets. Called by gateway, worker.
"""

import ctypes
import errno
import socket
import struct

from ipsec_fast.dataplane.forks cimport port_check_free
from ipsec_fast.dataplane.udp cimport udp_port

from ..errors import HostError, StateError, UsageError

cdef extern from "net_io.h" nogil:
    enum:
        AF_INET
        AF_INET6

# linux/in.h, in6.h, asm-generic/socket.h: what Python's socket module does not name
cdef int IP_RECVERR = 11, IPV6_RECVERR = 25, IP_MTU_DISCOVER = 10, IPV6_MTU_DISCOVER = 23, IPV6_RECVPKTINFO = 49, IPV6_RECVTCLASS = 66, IPV6_HDRINCL = 36
cdef int SO_SNDBUFFORCE = 32, SO_RCVBUFFORCE = 33, SO_MARK = 36, PMTUDISC_PROBE = 3
cdef int SO_ATTACH_FILTER = 26, BPF_RETURN = 0x06
BUFFER_BYTES = 8 << 20


cdef class RawSocket:
    """A non-blocking raw socket for ESP (50) or AH (51) without UDP; whole packets leave, with the header that their SA wrote.

    `local` None is every address of `version`. Raises HostError where CAP_NET_RAW is missing or the address is not this host's.
    Without `receive` it only sends: the kernel gives every raw socket a copy of each packet.
    """

    def __cinit__(self):
        self.port_.fd = -1

    def __init__(self, local, *, int protocol=50, int version=4, mark=None, bint receive=True):
        if self._socket is not None:
            raise StateError("this raw socket is made already")
        if local is not None:
            version = local.version
        if version not in (4, 6) or protocol not in (50, 51):
            raise UsageError(f"a raw socket is of version 4 or 6 and protocol 50 or 51, not version {version} protocol {protocol}")
        self._local, self._version, self._protocol = local, version, protocol
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        try:
            sock = socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol)
        except PermissionError:
            raise HostError(
                f"cannot open a raw socket for protocol {protocol} (CAP_NET_RAW is missing): run as root, or in a namespace of your own (unshare -Urnm)"
            ) from None
        try:
            _set_options(sock, version, mark)
            if not receive:
                _take_nothing(sock)
            if local is not None:
                sock.bind((str(local), 0))
        except OSError as error:
            sock.close()
            reason = "this host has no such address" if error.errno == errno.EADDRNOTAVAIL else error.strerror
            raise HostError(f"cannot bind protocol {protocol} on {local}: {reason}") from None
        self._socket = sock
        self.port_.family = AF_INET if version == 4 else AF_INET6
        self.port_.raw = <unsigned char> protocol
        self.port_.fd = sock.fileno()

    def close(self):
        """Twice is fine. StateError while a worker runs on it."""
        port_check_free(&self.users, "this raw socket")
        self.port_.fd = -1
        if self._socket is not None:
            self._socket.close()

    @property
    def fd(self):
        """-1 once closed."""
        return self.port_.fd

    @property
    def local(self):
        """The address that it is bound to, None: every one."""
        return self._local

    @property
    def version(self):
        """4 or 6."""
        return self._version

    @property
    def protocol(self):
        """50 or 51."""
        return self._protocol

    @property
    def port(self):
        """0."""
        return 0

    @property
    def features(self):
        """What is on now: nothing, packets leave one by one."""
        return {"udp_segment": False, "udp_gro": False}


def _take_nothing(sock):
    """Every raw socket of a protocol gets a copy of each packet; one that only sends wants none (classic BPF: return 0)."""
    code = ctypes.create_string_buffer(struct.pack("=HBBI", BPF_RETURN, 0, 0, 0), 8)
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("@HP", 1, ctypes.addressof(code)))


def _set_options(sock, version, mark):
    for forced, plain in ((SO_RCVBUFFORCE, socket.SO_RCVBUF), (SO_SNDBUFFORCE, socket.SO_SNDBUF)):
        try:
            sock.setsockopt(socket.SOL_SOCKET, forced, BUFFER_BYTES)
        except OSError:  # without CAP_NET_ADMIN net.core.*mem_max counts
            sock.setsockopt(socket.SOL_SOCKET, plain, BUFFER_BYTES)
    if version == 4:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_HDRINCL, 1)
        sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, PMTUDISC_PROBE)
        sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_HDRINCL, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, PMTUDISC_PROBE)
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVPKTINFO, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVTCLASS, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVERR, 1)
    if mark is not None:
        sock.setsockopt(socket.SOL_SOCKET, SO_MARK, mark)
