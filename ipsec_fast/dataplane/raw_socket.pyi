from typing import Literal

from ..model import Address

class RawSocket:
    """A non-blocking raw socket for ESP (50) or AH (51) without UDP; whole packets
    leave, with the header that their SA wrote.

    `local` None is every address of `version`. Raises HostError where CAP_NET_RAW is missing or the address is not this
    host's. Without `receive` it only sends: the kernel gives every raw socket a copy of each packet.
    """

    fd: int
    local: Address | None
    protocol: int
    version: int
    port: int  # 0
    features: dict[str, bool]
    def __init__(
        self,
        local: Address | None,
        *,
        protocol: Literal[50, 51] = 50,
        version: int = 4,
        mark: int | None = None,
        receive: bool = True,
    ) -> None: ...
    def close(self) -> None:
        """Twice is fine. StateError while a worker runs on it."""
