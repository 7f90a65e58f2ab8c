"""An AF_PACKET socket with virtio-net headers (PACKET_VNET_HDR): the inner side of a worker on an Ethernet interface, for a bump in the wire.

Super-packets of 64 KB come in and go out whole, as on a TUN, with checksums that nobody has filled in yet. The socket is SOCK_RAW: the kernel gives
SOCK_DGRAM no virtio-net header. So 14 bytes of Ethernet stand before each packet, and csum_start counts from them; inner.pxd takes them off and puts them on.

The kernel's own stack sees every frame as well. Ours is only whole, untagged IP that is addressed to this station (or to any, if asked to be
promiscuous); a classic BPF program picks it before it is queued. ARP, ND (RFC 4861), broadcast and multicast are left to the kernel, which
answers for the interface's own addresses, which are the next hop of the host behind it. Of ARP and ND that are meant for us only the Ethernet header is
read: it says where the peer is. Frames with a VLAN tag are refused and counted (a tag of VID 0 is none). Where the kernel would forward, plaintext
could leave beside the tunnel, so that is refused. Left out: what is not IP on its way from one interface to another (a bridge's work), several stations behind one interface (put a router there), group
addresses on the way in (they go to the peer too), super-packets of tunnels such as VXLAN (dropped as bad_inner). Called by pipelines and worker.
"""

import ctypes
import errno
import fcntl
import os
import socket
import struct

from libc.stdint cimport uint64_t
from libc.string cimport memcpy

from ipsec_fast.dataplane.forks cimport port_check_free
from ipsec_fast.dataplane.inner cimport LINK_BYTES, MAC_BYTES, PEER_KNOWN
from ipsec_fast.dataplane.net_io cimport atomic_get_u64

from ..errors import HostError, StateError, UsageError
from .offload import Offload

# linux/if_packet.h, if_arp.h, sockios.h, asm-generic/socket.h: what Python's socket module does not name
cdef int SOL_PACKET = 263, PACKET_ADD_MEMBERSHIP = 1, PACKET_STATISTICS = 6, PACKET_VNET_HDR = 15, PACKET_FANOUT = 18
cdef int PACKET_QDISC_BYPASS = 20, PACKET_IGNORE_OUTGOING = 23, PACKET_MR_PROMISC = 1, FANOUT_HASH = 0, FANOUT_UNIQUE_ID = 0x2000
cdef int SIOCGIFFLAGS = 0x8913, SIOCGIFMTU = 0x8921, IFF_UP = 1, ARPHRD_ETHER = 1, ETH_P_ALL = 3
cdef int SO_ATTACH_FILTER = 26, SO_SNDBUFFORCE = 32, SO_RCVBUFFORCE = 33
BUFFER_BYTES, DISCARD_PORT = 8 << 20, 9
TAGGED_BYTES, HEADER_BYTES, WHOLE_BYTES = 13, 14, 0x40000
SYSCTL = "/proc/sys/net/{}/conf/{}/forwarding"


cdef class PeerWord:
    """The station that the sockets of one interface write to: one 64-bit word, read and written atomically (inner.pxd)."""


cdef class PacketSocket(InnerPort):
    """One AF_PACKET socket on an Ethernet interface, with virtio-net headers: the inner side of a worker without a TUN.

    `peer_mac` ("02:00:00:00:00:01") is the station that packets are written to; None: whoever was heard last. `promiscuous` reads
    frames to other stations too. `fanout` makes a group that `another()` can join. `qdisc_bypass` writes straight to the driver. Raises
    HostError (no such interface, not Ethernet, down, no right, the kernel forwards what arrives there and `kernel_forwards` is not set).
    """

    def __init__(
        self, str interface, *, peer_mac=None, bint promiscuous=False, bint fanout=False, bint qdisc_bypass=False,
        bint kernel_forwards=False, offload=Offload(), _beside=None,
    ):
        if self._socket is not None:
            raise StateError("this packet socket is made already")
        if not 0 < len(interface.encode()) < 16 or "/" in interface:
            raise UsageError(f"interface {interface!r}: a device name has 1 to 15 characters and no slash, for example eth1")
        fixed = None if peer_mac is None else _mac_bytes(peer_mac)
        if not kernel_forwards:
            _refuse_forwarding(interface)
        self._name, self._group, self._peer = interface, None, PeerWord() if _beside is None else (<PacketSocket?>_beside)._peer
        self._options = {
            "peer_mac": peer_mac, "promiscuous": promiscuous, "qdisc_bypass": qdisc_bypass, "kernel_forwards": kernel_forwards, "offload": offload,
        }
        sock = _open()
        try:
            _set_options(sock, qdisc_bypass)
            _attach_filter(sock, promiscuous)
            own, mtu = _bind(sock, interface)
            if promiscuous:
                _join(sock, interface)
            if fanout:
                self._group = _join_fanout(sock, interface, None if _beside is None else _beside.group)
        except BaseException:
            sock.close()
            raise
        self._fill(own, mtu, fixed, offload)
        self._socket = sock
        self.port.fd = sock.fileno()

    def _fill(self, bytes own, int mtu, fixed, offload):
        cdef unsigned char *word = <unsigned char *>&self._peer.word
        cdef bytes link
        for i, kind in enumerate((b"\x08\x00", b"\x86\xdd")):
            link = bytes(MAC_BYTES) + own + kind
            memcpy(self.port.link[<int>i], <const char *>link, LINK_BYTES)
        if fixed is not None:
            link = fixed
            memcpy(word, <const char *>link, MAC_BYTES)
            word[MAC_BYTES] = PEER_KNOWN
        self.port.peer = &self._peer.word
        self.port.learns = fixed is None
        self.port.header_bytes = LINK_BYTES
        self.port.mtu, self.port.room = mtu, 0xFFFF - LINK_BYTES  # a longer frame the kernel would cut in software
        self.port.merge_tcp = self.port.merge_udp = bool(offload.coalesce)

    def __dealloc__(self):
        self.port.fd = -1  # the socket object closes it

    def close(self):
        port_check_free(&self.users, f"the packet socket on {self._name}")
        self.port.fd = -1
        if self._socket is not None:
            self._socket.close()

    cdef int _need(self) except -1:
        if self._socket is None:
            raise UsageError("this packet socket was never made: PacketSocket.__init__ did not run, or failed")
        return 0

    def another(self):
        """Another socket of the same fanout group: the kernel gives every frame to one of them, those of one flow to the same."""
        self._need()
        if self._group is None:
            raise StateError(f"the packet socket on {self._name} was opened without fanout=True: there is no group to join")
        return PacketSocket(self._name, fanout=True, _beside=self, **self._options)

    def solicit(self, address):
        """Makes the kernel look for this station on the interface; its answer tells a worker where the peer is.

        For a host that may not have said anything when the first packet for it comes. Raises HostError (no address of its network).
        """
        self._need()
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        try:
            with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as asking:
                asking.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, self._name.encode() + b"\0")
                asking.sendto(b"", (str(address), DISCARD_PORT))
        except OSError as error:
            raise HostError(
                f"cannot ask for {address} on {self._name}: {error.strerror}; the interface needs an address of its network, or give peer_mac"
            ) from None

    def take_dropped(self):
        """Frames that the kernel dropped since this was last asked because the socket's buffer was full."""
        self._need()
        return struct.unpack("II", self._socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))[1]

    @property
    def name(self):
        """The interface."""
        return self._name

    @property
    def group(self):
        """Of the fanout."""
        return self._group

    @property
    def mtu(self):
        """Of the interface when it was opened; longer packets are not written."""
        return self.port.mtu

    @property
    def mac(self):
        """The interface's own address."""
        return (<const char *>self.port.link[0])[MAC_BYTES:2 * MAC_BYTES].hex(":")

    @property
    def peer_mac(self):
        """None as long as nobody was heard."""
        cdef uint64_t word
        cdef const char *at = <const char *>&word
        self._need()
        word = atomic_get_u64(&self._peer.word)
        return at[:MAC_BYTES].hex(":") if at[MAC_BYTES] == PEER_KNOWN else None

    @property
    def features(self):
        return {"tso": True, "uso": bool(self.port.merge_udp), "coalesce": bool(self.port.merge_tcp or self.port.merge_udp)}


def _mac_bytes(text):
    try:
        raw = bytes.fromhex(text.replace(":", "").replace("-", ""))
    except (ValueError, AttributeError):
        raw = b""
    if len(raw) != MAC_BYTES or raw[0] & 1 or not any(raw):
        raise UsageError(f"peer_mac {text!r}: the address of one station is wanted, for example 02:00:00:00:00:01, no group address")
    return raw


def _refuse_forwarding(interface):
    """Plaintext that we seal would be forwarded by the kernel as well."""
    for family in ("ipv4", "ipv6"):
        path = SYSCTL.format(family, interface)
        try:
            with open(path) as file:
                forwards = file.read().strip() != "0"
        except OSError:  # no such interface (said later), or a kernel without the family
            continue
        if forwards:
            raise HostError(
                f"the kernel forwards what arrives on {interface}, so packets could leave in clear beside the tunnel: "
                f"echo 0 > {path}, or stop them in nftables and say kernel_forwards=True"
            )


def _open():
    try:
        return socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)  # protocol 0: nothing before bind
    except PermissionError:
        raise HostError(
            "cannot open a packet socket (CAP_NET_RAW is missing): run as root, or in a namespace of your own (unshare -Urnm)"
        ) from None
    except OSError as error:
        raise HostError(f"cannot open a packet socket: {error.strerror}; the kernel needs CONFIG_PACKET") from None


def _set_options(sock, qdisc_bypass):
    for forced, plain in ((SO_RCVBUFFORCE, socket.SO_RCVBUF), (SO_SNDBUFFORCE, socket.SO_SNDBUF)):
        try:
            sock.setsockopt(socket.SOL_SOCKET, forced, BUFFER_BYTES)
        except OSError:  # without CAP_NET_ADMIN net.core.*mem_max counts
            sock.setsockopt(socket.SOL_SOCKET, plain, BUFFER_BYTES)
    wanted = [(PACKET_VNET_HDR, "virtio-net headers (PACKET_VNET_HDR)"), (PACKET_IGNORE_OUTGOING, "PACKET_IGNORE_OUTGOING (Linux 4.20)")]
    if qdisc_bypass:
        wanted.append((PACKET_QDISC_BYPASS, "PACKET_QDISC_BYPASS"))
    for option, name in wanted:
        try:
            sock.setsockopt(SOL_PACKET, option, 1)
        except OSError as error:
            raise HostError(f"the kernel refuses a packet socket {name}: {error.strerror}") from None


def _program(promiscuous):
    """(code, jt, jf, k) of the filter: how much of a frame is queued. Jumps go forward, to labels."""
    ld, ldh, ldb, jeq, jge, alu_and, ret = 0x20, 0x28, 0x30, 0x15, 0x35, 0x54, 0x06
    aux = 0xFFFFF000
    lines = [
        (None, ld, aux + 48, None, None),  # a VLAN tag is present
        (None, jeq, 0, "station", "tag"),
        ("tag", ld, aux + 44, None, None),
        (None, alu_and, 0xFFF, None, None),
        (None, jeq, 0, "station", "tagged"),
        ("station", ld, aux + 4, None, None),  # for whom the frame is: 0 for us, 3 for somebody else
        (None, jeq, 0, "kind", "other"),
        ("other", jeq, 3, "kind" if promiscuous else "none", "none"),
        ("kind", ldh, 12, None, None),
        (None, jeq, 0x0800, "whole", "v6"),
        ("v6", jeq, 0x86DD, "next header", "arp"),
        ("arp", jeq, 0x0806, "header", "tag in data"),
        ("tag in data", jeq, 0x8100, "tagged", "tag of 802.1ad"),
        ("tag of 802.1ad", jeq, 0x88A8, "tagged", "none"),
        ("next header", ldb, 14 + 6, None, None),
        (None, jeq, 58, "icmpv6", "whole"),
        ("icmpv6", ldb, 14 + 40, None, None),
        (None, jge, 133, "not above redirect", "whole"),
        ("not above redirect", jge, 138, "whole", "header"),
        ("whole", ret, WHOLE_BYTES, None, None),
        ("header", ret, HEADER_BYTES, None, None),
        ("tagged", ret, TAGGED_BYTES, None, None),
        ("none", ret, 0, None, None),
    ]
    at = {label: i for i, (label, *_) in enumerate(lines) if label}
    return [
        (code, at[yes] - i - 1 if yes else 0, at[no] - i - 1 if no else 0, k) for i, (_, code, k, yes, no) in enumerate(lines)
    ]


def _attach_filter(sock, promiscuous):
    program = b"".join(struct.pack("HBBI", *line) for line in _program(promiscuous))
    memory = ctypes.create_string_buffer(program, len(program))
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", len(program) // 8, ctypes.addressof(memory)))


def _bind(sock, interface):
    """(own address, MTU)."""
    try:
        sock.bind((interface, ETH_P_ALL))
        flags = struct.unpack_from("H", fcntl.ioctl(sock, SIOCGIFFLAGS, struct.pack("16s16x", interface.encode())), 16)[0]
        mtu = struct.unpack_from("i", fcntl.ioctl(sock, SIOCGIFMTU, struct.pack("16s16x", interface.encode())), 16)[0]
    except OSError as error:
        reasons = {errno.ENODEV: "there is no such interface in this namespace", errno.ENETDOWN: f"it is down: ip link set {interface} up"}
        raise HostError(f"cannot bind to interface {interface}: {reasons.get(error.errno, error.strerror)}") from None
    _, _, _, kind, own = sock.getsockname()
    if kind != ARPHRD_ETHER or len(own) != MAC_BYTES:
        raise HostError(f"interface {interface} is not Ethernet (hardware type {kind}): a packet socket needs Ethernet, a TUN is its own driver")
    if not flags & IFF_UP:
        raise HostError(f"cannot bind to interface {interface}: it is down: ip link set {interface} up")
    return own, min(mtu, 0xFFFF)


def _join(sock, interface):
    request = struct.pack("iHH8s", socket.if_nametoindex(interface), PACKET_MR_PROMISC, 0, b"")
    sock.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, request)


def _join_fanout(sock, interface, group):
    """Its number; a new one is the kernel's choice, so that it cannot be a stranger's."""
    wanted = FANOUT_HASH << 16 | (group if group is not None else FANOUT_UNIQUE_ID << 16)
    try:
        sock.setsockopt(SOL_PACKET, PACKET_FANOUT, wanted)
        return sock.getsockopt(SOL_PACKET, PACKET_FANOUT) & 0xFFFF
    except OSError as error:
        raise HostError(f"cannot join a fanout group on {interface}: {error.strerror}; is the interface up?") from None
