from .inner import InnerPort
from .offload import Offload

class Tun(InnerPort):
    """One queue of a TUN device with virtio-net headers; the device vanishes with its last queue.

    `name` may hold %d. Raises HostError (no /dev/net/tun, no right, name taken by something else).
    """

    name: str
    features: dict[str, bool]  # tso, uso, coalesce as they are now
    def __init__(self, name: str, *, offload: Offload = ...) -> None: ...
