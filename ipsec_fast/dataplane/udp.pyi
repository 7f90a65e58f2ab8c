from socket import socket
from typing import Literal

from ..model import Address
from .offload import Offload
from .outside import Outside
from .sad import SA

class UdpSocket:
    """A non-blocking UDP socket of the gateway: DF without path MTU discovery, 8 MB buffers, UDP_GRO, SO_MARK.

    `local` None is the wildcard address of `version`. Raises HostError, naming address and port, if it
    cannot be bound. `beside` is the first socket of a port, for another worker: both are then of one
    SO_REUSEPORT group, and no other program's.
    """

    fd: int
    socket: socket
    local: Address | None
    port: int
    version: int
    features: dict[str, bool]  # udp_segment, udp_gro as they are now
    def __init__(
        self,
        local: Address | None,
        port: int,
        *,
        version: int = 4,
        offload: Offload = ...,
        mark: int | None = None,
        beside: UdpSocket | None = None,
    ) -> None: ...
    def sendto(
        self,
        data: bytes | bytearray | memoryview,
        remote: Address,
        port: int,
        local: Address | None = None,
        cut: Literal["needed", "never"] = "needed",
    ) -> None:
        """Send one datagram as it is (the caller adds the marker). Raises HostError with the kernel's reason.

        `cut`: what is longer than the interface's MTU leaves in IP fragments, or not at all. Fragments leave by a raw
        socket (CAP_NET_RAW), so that what others send by this socket at that moment keeps DF.
        """
    def close(self) -> None:
        """Twice is fine. StateError while a worker runs on it."""

def set_endpoint(
    sa: SA, socket_index: int, local: Address | None, remote: Address, port: int, outside: Outside | None = None
) -> None:
    """Where an outbound SA sends to; may be called while workers use it. `local`:
    the source address of a wildcard socket.

    Of an inbound SA: where its peer is. From then on the worker sends NoticeKind.PEER_MOVED if the newest authentic
    packet came in UDP from another address or port; without an endpoint it does not check.

    `outside`: how IPv6 packets of up to 1280 bytes leave that are longer than `sa.max_inner`;
    None: they are dropped. Raises UsageError.
    """

def set_raw_endpoint(
    sa: SA,
    socket_index: int,
    mtu: int = 0,
    outside_mtu: int = 0,
    remote: Address | None = None,
    port: int = 0,
) -> None:
    """An outbound SA that writes its own outer header (`src`, `dst`, for outer fragments of UDP
    also `encap`) leaves by this `RawSocket`.

    Sealed packets longer than `mtu` leave in fragments where DF is clear; 0: never. IPv6 packets of up to
    1280 bytes that are longer than `sa.max_inner` leave in fragments of at most `outside_mtu` bytes, DF or
    not; 0: they are dropped. `remote`, `port`: where the peer of an SA with `encap` is now, if not where the
    SA was made to send to. Raises UsageError.
    """

def endpoint(sa: SA) -> tuple[int, Address | None, Address, int] | None:
    """(socket_index, local, remote, port) of an SA, None before set_endpoint."""

def newest_source(sa: SA) -> tuple[Address, int, float] | None:
    """Address and port that the newest authentic packet of an inbound SA with an
    endpoint came from, and monotonic seconds when.
    """

def tell_source_again(sa: SA) -> None:
    """The worker may send PEER_MOVED again for this inbound SA: it sends one, then waits for this."""
