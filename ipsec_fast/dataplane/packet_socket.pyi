from ..model import Address
from .inner import InnerPort
from .offload import Offload

class PacketSocket(InnerPort):
    """One AF_PACKET socket on an Ethernet interface, with virtio-net headers: the inner side of a worker without a TUN.

    `peer_mac` ("02:00:00:00:00:01") is the station that packets are written to; None: whoever was heard last. `promiscuous` reads
    frames to other stations too. `fanout` makes a group that `another()` can join. `qdisc_bypass` writes straight to the driver. Raises
    HostError (no such interface, not Ethernet, down, no right, the kernel forwards what arrives there and `kernel_forwards` is not set).
    """

    name: str
    mac: str
    mtu: int  # of the interface when it was opened; longer packets are not written
    peer_mac: str | None  # None as long as nobody was heard
    group: int | None  # of the fanout
    def __init__(
        self,
        interface: str,
        *,
        peer_mac: str | None = None,
        promiscuous: bool = False,
        fanout: bool = False,
        qdisc_bypass: bool = False,
        kernel_forwards: bool = False,
        offload: Offload = ...,
    ) -> None: ...
    def another(self) -> PacketSocket:
        """Another socket of the same fanout group: the kernel gives every frame to one of them, those of one flow to the same."""

    def solicit(self, address: Address) -> None:
        """Makes the kernel look for this station on the interface; its answer tells a worker where the peer is.

        For a host that may not have said anything when the first packet for it comes. Raises HostError (no address of its network).
        """

    def take_dropped(self) -> int:
        """Frames that the kernel dropped since this was last asked because the socket's buffer was full."""
