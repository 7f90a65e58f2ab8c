from .inner import InnerPort
from .offload import Offload

class Tun(InnerPort):
    """One queue of a TUN device with virtio-net headers; the device vanishes with its last queue.

    `name` may hold %d. Raises HostError (no /dev/net/tun, no right, name taken by something else). `exclusive`: also where another
    process has a queue of it, or somebody made such a device and it is in use.
    """

    name: str
    features: dict[str, bool]  # tso, uso, coalesce as they are now
    is_attached: bool  # whether the device is still there, under its name and in our network namespace
    def __init__(self, name: str, *, offload: Offload = ..., exclusive: bool = False) -> None: ...
    def reattach(self, *, exclusive: bool = False) -> None:
        """Make the device again, or join it, on the same descriptor, where it is not attached. HostError, StateError.

        A device that was renamed or moved to another network namespace loses this queue, and vanishes with its last one.
        """
