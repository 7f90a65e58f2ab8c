"""The UDP sockets of the gateway, and where an SA sends to (RFC 3948, RFC 7296 section 2.23).

A socket sends with DF and without the kernel's path MTU discovery (docs/mtu.md). ICMP errors go to its error queue (IP_RECVERR),
where the worker reads them. It carries our SO_MARK, so that the fail-closed rule lets its packets pass, and takes super-datagrams
(UDP_GRO). A datagram above the interface's MTU leaves by a socket of its own (udp_large.py), because DF is an option of a whole
socket and this one carries the worker's ESP too. UDP_SEGMENT is a control message of a single send, never a socket option.
Options that the kernel refuses are off in `features`. An endpoint is immutable: an SA that moves gets a new one, and the old one
is retired. Called by gateway, worker.
"""

from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.stdint cimport uint8_t, uint16_t, uint64_t
from libc.string cimport memcpy

from ipsec_fast.dataplane.epoch cimport retire
from ipsec_fast.dataplane.forks cimport port_check_free
from ipsec_fast.dataplane.sad cimport MODE_TUNNEL, OUTER_IPV4, OUTER_NONE, PROTOCOL_AH, SA, PeerIds, peer_ids_of, sa_count_for_peer, source_record

import errno
import ipaddress
import os
import socket
import struct

from ..errors import HostError, StateError, UsageError
from .offload import Offload
from .udp_large import LargeSender

cdef extern from "net_io.h" nogil:
    enum:
        AF_INET
        AF_INET6
    void atomic_set_pointer(void **target, void *value) noexcept
    void atomic_set_int_fenced(int *target, int value) noexcept
    void record_read(uint64_t *to, const uint64_t *source, size_t words) noexcept

# linux/in.h, in6.h, udp.h, asm-generic/socket.h: what Python's socket module does not name
cdef int IP_PKTINFO = 8, IP_MTU_DISCOVER = 10, IP_RECVTOS = 13, IPV6_MTU_DISCOVER = 23, IPV6_RECVPKTINFO = 49
cdef int IP_RECVERR = 11, IPV6_RECVERR = 25, IPV6_PKTINFO = 50, IPV6_RECVTCLASS = 66, SO_SNDBUFFORCE = 32, SO_RCVBUFFORCE = 33, SO_MARK = 36
cdef int UDP_SEGMENT = 103, UDP_GRO = 104, PMTUDISC_PROBE = 3
HOP_LIMIT = 64
BUFFER_BYTES = 8 << 20
PENDING_TRIES = 3  # of a send that was refused: errors of earlier datagrams are reported by later sends


cdef class UdpSocket:
    """A non-blocking UDP socket of the gateway: DF without path MTU discovery, 8 MB buffers, UDP_GRO, SO_MARK.

    `local` None is the wildcard address of `version`. Raises HostError, naming address and port, if it cannot be bound.
    `beside` is the first socket of a port, for another worker: both are then of one SO_REUSEPORT group, and no other program's.
    """

    def __cinit__(self):
        self.port_.fd = -1

    def __init__(self, local, int port, *, int version=4, offload=Offload(), mark=None, UdpSocket beside=None):
        if self._socket is not None:
            raise StateError("this UDP socket is made already")
        if local is not None:
            version = local.version
        if version not in (4, 6) or not 0 <= port <= 65535:
            raise UsageError(f"a UDP socket has version 4 or 6 and a port 0..65535, not version {version} port {port}")
        self._local, self._version, self._mark = local, version, mark
        sock = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            _set_options(sock, version, mark)
            if beside is not None:
                beside._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            _bind(sock, version, local, port)
        except BaseException:
            sock.close()
            raise
        self._socket, self._number = sock, sock.getsockname()[1]
        self.port_.udp_segment = bool(offload.udp_segment) and _has(sock, UDP_SEGMENT)
        self.port_.udp_gro = bool(offload.udp_gro) and _try_option(sock, socket.IPPROTO_UDP, UDP_GRO, 1)
        self.port_.wildcard = local is None or local.is_unspecified
        self.port_.family = AF_INET if version == 4 else AF_INET6
        self.port_.fd = sock.fileno()

    def close(self):
        """Twice is fine. StateError while a worker runs on it."""
        port_check_free(&self.users, "this UDP socket")
        self.port_.fd = -1
        if self._socket is not None:
            self._socket.close()
        if self._large is not None:
            self._large.close()
            self._large = None

    @property
    def fd(self):
        """-1 once closed."""
        return self.port_.fd

    @property
    def socket(self):
        """Python's socket."""
        return self._socket

    @property
    def local(self):
        """The address that it is bound to, None: the wildcard."""
        return self._local

    @property
    def port(self):
        """The port that it is bound to."""
        return self._number

    @property
    def version(self):
        """4 or 6."""
        return self._version

    @property
    def features(self):
        """Udp_segment, udp_gro as they are now."""
        return {"udp_segment": bool(self.port_.udp_segment), "udp_gro": bool(self.port_.udp_gro)}

    def sendto(self, data, remote, int port, local=None, cut="needed"):
        """Send one datagram as it is (the caller adds the marker). Raises HostError with the kernel's reason.

        `cut`: what is longer than the interface's MTU leaves in IP fragments, or not at all. Fragments leave by a raw socket
        (CAP_NET_RAW), so that what others send by this socket at that moment keeps DF.
        """
        if self._socket is None:
            raise UsageError("this UDP socket was never made: UdpSocket.__init__ did not run, or failed")
        control = [] if local is None or not self.port_.wildcard else [_source(local)]
        for tries_left in range(PENDING_TRIES, -1, -1):
            try:
                self._socket.sendmsg([data], control, 0, (str(remote), port))
                return
            except OSError as error:
                if tries_left and error.errno not in (errno.EAGAIN, errno.ENOBUFS):
                    continue  # it may be an earlier datagram's ICMP, reported once
                if error.errno != errno.EMSGSIZE or cut != "needed":
                    raise HostError(f"cannot send {len(data)} bytes to {remote}[{port}]: {error.strerror or error}") from None
        try:
            if self._large is None:
                self._large = LargeSender(self._version, self._mark)
            self._large.send(data, local or self._local, self._number, remote, port)
        except OSError as error:
            raise HostError(f"cannot send {len(data)} bytes to {remote}[{port}]: {error.strerror or error}") from None


def _set_options(sock, version, mark):
    for forced, plain in ((SO_RCVBUFFORCE, socket.SO_RCVBUF), (SO_SNDBUFFORCE, socket.SO_SNDBUF)):
        if not _try_option(sock, socket.SOL_SOCKET, forced, BUFFER_BYTES):  # without CAP_NET_ADMIN net.core.*mem_max counts
            _try_option(sock, socket.SOL_SOCKET, plain, BUFFER_BYTES)
    _discover(sock, version, PMTUDISC_PROBE)
    if version == 4:
        sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        sock.setsockopt(socket.IPPROTO_IP, IP_RECVTOS, 1)
        sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVPKTINFO, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVTCLASS, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVERR, 1)
    if mark is not None and not _try_option(sock, socket.SOL_SOCKET, SO_MARK, mark):
        raise HostError(
            f"cannot set mark {mark:#x} on a socket (CAP_NET_ADMIN is missing): run as root, or in a namespace of your own "
            "(unshare -Urnm); without it our own packets would be routed into the tunnel"
        )


def _discover(sock, version, value):
    if version == 4:
        sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, value)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, value)


def _try_option(sock, level, option, value):
    try:
        sock.setsockopt(level, option, value)
    except OSError:
        return False
    return True


def _has(sock, option):
    try:
        sock.getsockopt(socket.IPPROTO_UDP, option)
    except OSError:
        return False
    return True


def _bind(sock, version, local, port):
    address = str(local) if local is not None else "0.0.0.0" if version == 4 else "::"
    try:
        sock.bind((address, port))
    except OSError as error:
        reasons = {
            errno.EADDRINUSE: "another program has it (is strongSwan's charon or another gateway running?)",
            errno.EADDRNOTAVAIL: "this host has no such address",
            errno.EACCES: "ports below 1024 need CAP_NET_BIND_SERVICE",
        }
        raise HostError(
            f"cannot bind UDP {address}[{port}]: {reasons.get(error.errno, error.strerror)}"
        ) from None


def _source(local):
    """The control message that names the source address of one send from a wildcard socket."""
    if local.version == 4:
        return (socket.IPPROTO_IP, IP_PKTINFO, struct.pack("i4s4x", 0, local.packed))
    return (socket.IPPROTO_IPV6, IPV6_PKTINFO, struct.pack("16si", local.packed, 0))


cdef class Endpoint:
    """Owns one udp_endpoint and, as the one behind it, that for packets to be cut."""

    cdef udp_endpoint *at
    cdef object text
    cdef PeerIds ids

    def __cinit__(self):
        self.at = <udp_endpoint *>PyMem_Calloc(2, sizeof(udp_endpoint))
        if self.at is NULL:
            raise MemoryError

    def __dealloc__(self):
        PyMem_Free(self.at)


def set_endpoint(SA sa not None, int socket_index, local, remote, int port, outside=None):
    """Where an outbound SA sends to; may be called while workers use it. `local`: the source address of a wildcard socket.

    Of an inbound SA: where its peer is. From then on the worker sends NoticeKind.PEER_MOVED if the newest authentic packet came in UDP
    from another address or port; without an endpoint it does not check.

    `outside`: how IPv6 packets of up to 1280 bytes leave that are longer than `sa.max_inner`; None: they are dropped. Raises UsageError.
    """
    if not 0 < port <= 65535 or not 0 <= socket_index <= 65535 or (local is not None and local.version != remote.version):
        raise UsageError(f"endpoint {local} - {remote}[{port}] on socket {socket_index}: port 1..65535, addresses of one version")
    cdef Endpoint new = Endpoint()
    cdef bytes name, source
    if remote.version == 4:
        name = struct.pack("=H2s4s8x", socket.AF_INET, port.to_bytes(2, "big"), remote.packed)
    else:
        name = struct.pack("=H2sI16sI", socket.AF_INET6, port.to_bytes(2, "big"), 0, remote.packed, 0)
    new.at.family = AF_INET if remote.version == 4 else AF_INET6
    new.at.name_bytes = <uint8_t>len(name)
    memcpy(new.at.name, <const char *>name, len(name))
    new.at.socket_index = <uint16_t>socket_index
    if local is not None:
        source = local.packed
        new.at.has_local = 1
        memcpy(new.at.local, <const char *>source, len(source))
    fill_peer(&new.at.peer, remote, port)
    new.text = (socket_index, local, remote, port)
    if outside is not None:
        cut_outside(new, outside, remote, port)
    keep_endpoint(sa, new)


cdef cut_outside(Endpoint new, outside, remote, port):
    """The raw endpoint behind `new`, with the outer header that its socket would have written."""
    cdef udp_endpoint *cut = new.at + 1
    cdef bytes header
    if outside.local.version != remote.version or not 0 < outside.local_port <= 65535 or not 68 <= outside.mtu <= 65535:
        raise UsageError(f"{outside}: a local address of the version of {remote}, a port from 1 to 65535, an MTU from 68 to 65535")
    if remote.version == 4:
        header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 0, 0, 0, HOP_LIMIT, 17, 0, outside.local.packed, remote.packed)
        name = struct.pack("=H2x4s8x", socket.AF_INET, remote.packed)
    else:
        header = struct.pack("!IHBB16s16s", 6 << 28, 0, 17, HOP_LIMIT, outside.local.packed, remote.packed)
        name = struct.pack("=H2xI16sI", socket.AF_INET6, 0, remote.packed, 0)
    header += struct.pack("!HHHH", outside.local_port, port, 0, 0)
    cut.front = <uint8_t>len(header)
    memcpy(cut.header, <const char *>header, len(header))
    fill_raw(cut, new.at.family, name, outside.socket_index, outside.mtu)
    cut.outside = 1
    share_ids(new, outside.local, remote, socket.IPPROTO_UDP)
    new.at.cut = cut


cdef fill_peer(packet_source *to, remote, int port):
    cdef bytes address = remote.packed
    memcpy(to.address, <const char *>address, len(address))
    to.port, to.version = <uint16_t>port, remote.version


cdef share_ids(Endpoint new, local, remote, int protocol):
    """What is cut outside needs identifications that no other packet to this peer has."""
    new.ids = peer_ids_of(local, remote, protocol, int.from_bytes(os.urandom(2), "big"))
    new.at[0].ids = new.at[1].ids = &new.ids.next


cdef fill_raw(udp_endpoint *at, int family, bytes name, int socket_index, int mtu):
    at.family = family
    at.name_bytes = <uint8_t>len(name)
    memcpy(at.name, <const char *>name, len(name))
    at.socket_index, at.mtu, at.raw = <uint16_t>socket_index, <uint16_t>mtu, 1


def set_raw_endpoint(SA sa not None, int socket_index, int mtu=0, int outside_mtu=0, remote=None, int port=0):
    """An outbound SA that writes its own outer header (`src`, `dst`, for outer fragments of UDP also `encap`) leaves by this `RawSocket`.

    Sealed packets longer than `mtu` leave in fragments where DF is clear; 0: never. IPv6 packets of up to 1280 bytes that are longer
    than `sa.max_inner` leave in fragments of at most `outside_mtu` bytes, DF or not; 0: they are dropped. `remote`, `port`: where
    the peer of an SA with `encap` is now, if not where the SA was made to send to. Raises UsageError.
    """
    cdef bint moved = remote is not None
    if sa.hot.outer == OUTER_NONE or not 0 <= socket_index <= 65535 or not all(n == 0 or 68 <= n <= 65535 for n in (mtu, outside_mtu)):
        raise UsageError(
            f"raw endpoint on socket {socket_index}, MTU {outside_mtu or mtu}: the SA needs src and dst, and an MTU is 68 to 65535, or 0"
        )
    if moved and (sa.encap is None or sa.hot.mode != MODE_TUNNEL or remote.version != sa.dst.version or not 0 < port <= 65535):
        raise UsageError(f"a peer that moved to {remote}[{port}]: tunnel mode in UDP, an address of the version of {sa.dst}, a port from 1 to 65535")
    remote, port = (remote, port) if moved else (sa.dst, sa.encap[1] if sa.encap else 0)
    cdef Endpoint new = Endpoint()
    cdef bytes name
    if sa.hot.outer == OUTER_IPV4:
        name = struct.pack("=H2x4s8x", socket.AF_INET, remote.packed)
    else:
        name = struct.pack("=H2xI16sI", socket.AF_INET6, 0, remote.packed, 0)
    family = AF_INET if sa.hot.outer == OUTER_IPV4 else AF_INET6
    fill_raw(new.at, family, name, socket_index, mtu)
    if outside_mtu:
        fill_raw(new.at + 1, family, name, socket_index, outside_mtu)
        new.at[1].outside = 1
        new.at.cut = new.at + 1
    share_ids(new, sa.src, remote, socket.IPPROTO_UDP if sa.encap else sa.hot.protocol)
    if outside_mtu and sa.hot.protocol == PROTOCOL_AH:
        sa_count_for_peer(sa)
    for i in range(2):
        fill_peer(&new.at[<Py_ssize_t>i].peer, remote, port)
        new.at[<Py_ssize_t>i].moved = moved
    new.text = (socket_index, sa.src, remote, port if moved else 0)
    keep_endpoint(sa, new)


cdef keep_endpoint(SA sa, Endpoint new):
    kept = sa.io if isinstance(sa.io, dict) else {}
    old = kept.get("endpoint")
    sa.io = {**kept, "endpoint": new}
    atomic_set_pointer(&sa.hot.endpoint, new.at)
    retire(old)


def endpoint(SA sa not None):
    """(socket_index, local, remote, port) of an SA, None before set_endpoint."""
    kept = sa.io if isinstance(sa.io, dict) else {}
    box = kept.get("endpoint")
    return (<Endpoint>box).text if box is not None else None


def newest_source(SA sa not None):
    """Address and port that the newest authentic packet of an inbound SA with an endpoint came from, and monotonic seconds when."""
    cdef source_record copy
    record_read(<uint64_t *>&copy, <const uint64_t *>&sa.hot.source, sizeof(source_record) // 8)
    kept = endpoint(sa)
    if kept is None or copy.at_ns == 0:
        return None
    at = copy.at_ns / 1e9
    if not copy.away:
        return kept[2], kept[3], at
    raw = (<const char *>copy.address)[:4 if copy.version == 4 else 16]
    return ipaddress.ip_address(raw), copy.port, at


def tell_source_again(SA sa not None):
    """The worker may send PEER_MOVED again for this inbound SA: it sends one, then waits for this."""
    atomic_set_int_fenced(&sa.hot.source_told, 0)
