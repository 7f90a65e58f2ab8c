"""A queue of a TUN device with virtio-net headers: super-packets of 64 KB in, super-packets out.

Always IFF_MULTI_QUEUE, so that a second worker can open a second queue of the same device. TSO first, USO on top where the kernel knows it
(6.2); what it refuses is off in `features`. Addresses, MTU and "up" belong to system/links. Called by gateway/daemon and worker.
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import socket
import struct

from ipsec_fast.dataplane.inner cimport VNET_BYTES

from ..errors import HostError, StateError, UsageError
from .offload import Offload

# linux/if_tun.h; the USO bits are newer than the headers of Debian 12
cdef int TUNSETIFF = 0x400454CA
cdef unsigned int TUNSETOFFLOAD = 0x400454D0, TUNSETVNETHDRSZ = 0x400454D8
cdef int IFF_TUN = 0x0001, IFF_NO_PI = 0x1000, IFF_VNET_HDR = 0x4000, IFF_MULTI_QUEUE = 0x0100
cdef int IFF_TUN_EXCL = 0x8000, IFF_PERSIST = 0x0800, SIOCETHTOOL = 0x8946, ETHTOOL_GLINK = 0x0A
cdef unsigned int TUNGETIFF = 0x800454D2
cdef int TUNGETDEVNETNS = 0x54E3
cdef int F_CSUM = 0x01, F_TSO4 = 0x02, F_TSO6 = 0x04, F_TSO_ECN = 0x08, F_USO4 = 0x20, F_USO6 = 0x40
DEVICE = "/dev/net/tun"


cdef class Tun(InnerPort):
    """One queue of a TUN device with virtio-net headers; the device vanishes with its last queue.

    `name` may hold %d. Raises HostError (no /dev/net/tun, no right, name taken by something else). `exclusive`: also where another
    process has a queue of it, or somebody made such a device and it is in use.
    """

    def __init__(self, str name, *, offload=Offload(), bint exclusive=False):
        if self._name is not None:
            raise StateError(f"this TUN queue is made already, of {self._name}")
        if not 0 < len(name.encode()) < 16 or "/" in name:
            raise UsageError(f"TUN name {name!r}: a device name has 1 to 15 characters and no slash, for example ipsec0")
        fd = _open_device()
        try:
            self._offload = offload
            self._begin(fd, name, exclusive)
        except BaseException:
            os.close(fd)
            raise
        self.port.fd = fd
        self.port.merge_tcp = self.port.merge_udp = bool(offload.coalesce)

    def _begin(self, fd, name, exclusive):
        self._name = _attach_alone(fd, name) if exclusive else _attach(fd, name)
        fcntl.ioctl(fd, TUNSETVNETHDRSZ, struct.pack("i", VNET_BYTES))
        self._tso, self._uso = _set_offload(fd, self._offload)

    @property
    def is_attached(self):
        """Whether the device is still there, under its name and in our network namespace."""
        try:
            answer = fcntl.ioctl(self.port.fd, TUNGETIFF, bytes(40))
        except OSError:
            return False
        return _name_in(answer) == self._name and _is_in_our_namespace(self.port.fd)

    def reattach(self, *, bint exclusive=False):
        """Make the device again, or join it, on the same descriptor, where it is not attached. HostError, StateError.

        A device that was renamed or moved to another network namespace loses this queue, and vanishes with its last one.
        """
        if self.port.fd < 0:
            raise StateError("this TUN queue is closed")
        if self.is_attached:
            raise StateError(f"this TUN queue is attached to {self._name}")
        fd = _open_device()
        try:
            self._begin(fd, self._name, exclusive)
            os.dup2(fd, self.port.fd, inheritable=False)  # a worker that waits for the old one is woken by `resume_inner`
        finally:
            os.close(fd)

    @property
    def name(self):
        """The device."""
        return self._name

    @property
    def features(self):
        """Tso, uso, coalesce as they are now."""
        return {"tso": self._tso, "uso": self._uso, "coalesce": bool(self.port.merge_tcp or self.port.merge_udp)}


def _open_device():
    try:
        return os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise HostError(
            f"there is no {DEVICE}: load the tun module (modprobe tun), or give the container --device {DEVICE}"
        ) from None
    except OSError as error:
        if error.errno in (errno.ENODEV, errno.ENXIO):
            raise HostError(f"{DEVICE} has no driver behind it: load the tun module (modprobe tun)") from None
        raise HostError(f"cannot open {DEVICE}: {error.strerror}; its mode should be 0666, or run as root") from None


def _attach_alone(fd, name):
    """The first queue of a device that nobody else has: a new one, or one that was made to stay and waits for its program.

    With several queues the kernel lets any process in, and two gateways would take each other's packets.
    """
    try:
        return _attach(fd, name, IFF_TUN_EXCL)
    except HostError as error:
        if not isinstance(error.__cause__, OSError) or error.__cause__.errno != errno.EBUSY or _is_running(name):
            raise
        busy = error
    found = _attach(fd, name)
    if not struct.unpack_from("H", fcntl.ioctl(fd, TUNGETIFF, bytes(40)), 16)[0] & IFF_PERSIST:
        raise busy
    return found


def _is_running(name):
    """Whether it has a carrier: of a TUN device, whether a queue is open. Not by /sys, which may be that of another network namespace."""
    value = ctypes.create_string_buffer(struct.pack("II", ETHTOOL_GLINK, 0), 8)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        with contextlib.suppress(OSError):  # it went meanwhile
            fcntl.ioctl(any_socket, SIOCETHTOOL, struct.pack("16sP16x", name.encode(), ctypes.addressof(value)))
    return bool(struct.unpack("II", value.raw)[1])


def _attach(fd, name, flags=0):
    request = struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI | IFF_VNET_HDR | IFF_MULTI_QUEUE | flags)
    try:
        answer = fcntl.ioctl(fd, TUNSETIFF, request)
    except OSError as error:
        reasons = {
            errno.EPERM: "CAP_NET_ADMIN is missing: run as root, or in a namespace of your own (unshare -Urnm)",
            errno.EBUSY: "another process holds it, or it is no TUN device; stop that process, or set another name as [gateway] tun",
            errno.EINVAL: "a device of that name and another kind exists; set another name as [gateway] tun",
            errno.E2BIG: "it has no free queue; run fewer workers",
        }
        raise HostError(f"cannot create TUN device {name}: {reasons.get(error.errno, error.strerror)}") from error
    return _name_in(answer)


def _name_in(request):
    return request[:16].split(b"\0", 1)[0].decode()


def _is_in_our_namespace(fd):
    """An old kernel does not say, nor does a host without /proc: yes then."""
    try:
        namespace = fcntl.ioctl(fd, TUNGETDEVNETNS)
    except OSError:
        return True
    try:
        ours = os.stat("/proc/thread-self/ns/net")
        return os.path.samestat(os.fstat(namespace), ours)
    except OSError:
        return True
    finally:
        os.close(namespace)


def _set_offload(fd, offload):
    """(tso, uso) as the kernel took them. USO without TSO is asked for too: the bits are independent."""
    wanted = F_CSUM
    if offload.tso:
        wanted |= F_TSO4 | F_TSO6 | F_TSO_ECN
    steps = [(wanted, offload.tso, False), (F_CSUM, False, False), (0, False, False)]
    if offload.uso:
        steps.insert(0, (wanted | F_USO4 | F_USO6, offload.tso, True))
    for bits, tso, uso in steps:
        try:
            fcntl.ioctl(fd, TUNSETOFFLOAD, bits)
        except OSError:
            continue
        return bool(tso), bool(uso)
    return False, False
