from typing import Literal, final

from typing_extensions import Buffer

from ..crypto.secret import Secret
from ..model import Address

@final
class SA:
    """One security association (RFC 4301 section 4.4.2) of ESP in tunnel mode: the Python face of the struct that kernels use.

    `key` is cipher key, salt, integrity key (RFC 7296 section 2.17), bytes-like or a Secret; what is kept of it is
    wiped at the end. With `src` and `dst` the kernels write and strip the outer header, with `encap` (source port,
    destination port) UDP too; without, ESP alone. `seq` is the last number used (out) or the highest received (in: it
    and all below are refused). `granted` None lets every number be used.
    `window` is the anti-replay window in packets, 64 to 65536 (in).
    Raises AlgorithmError (unknown algorithm, key of a wrong length), UsageError (everything else that is wrong).
    """

    direction: Literal["out", "in"]
    spi: int
    algorithm: str
    engine: str
    mode: str
    src: Address | None
    dst: Address | None
    encap: tuple[int, int] | None
    esn: bool
    window: int
    headroom: int  # bytes that protect writes before a packet
    tailroom: int  # most bytes that it writes behind
    seq: int  # last number used (out), highest valid one received (in)
    granted: int
    soft_limit: int
    hard_limit: int
    mss_ipv4: int  # 0: no clamp; these three are used by the worker
    mss_ipv6: int
    max_inner: int
    tag: int  # the control plane's own
    io: object
    def __init__(
        self,
        direction: Literal["out", "in"],
        spi: int,
        algorithm: str = "aes128gcm16",
        key: Buffer | Secret | None = None,
        mode: Literal["tunnel"] = "tunnel",
        src: Address | str | None = None,
        dst: Address | str | None = None,
        encap: tuple[int, int] | None = None,
        esn: bool = False,
        window: int = 1024,
        seq: int = 0,
        granted: int | None = None,
        engine: str = "auto",
    ) -> None: ...
    def set_grant(self, granted: int) -> None:
        """Numbers up to `granted` may be used (design decision 4); the next grant is wanted at half of what this one adds."""

    def set_limits(
        self, soft_packets: int = 0, hard_packets: int = 0, soft_bytes: int = 0, hard_bytes: int = 0
    ) -> None:
        """What this SA may carry from now on, 0 for no limit; to be called before it is in use.

        From a soft limit on a new SA is wanted; past a hard one every packet gets the verdict `lifetime`. 75 % and the end of
        the sequence numbers hold besides. Bytes are those of inner packets.
        """

    @property
    def soft_limit_reached(self) -> bool:
        """75 % of the numbers are used, or a lifetime: a new SA is wanted."""

    def sealed_length(self, inner_length: int) -> int:
        """Bytes of the sealed packet, outer headers of this SA included."""

    def max_inner_length(self, sealed_length: int) -> int:
        """The largest inner packet whose sealed form is at most this long; 0 if none fits."""

    def counters(self) -> dict[str, int]:
        """`packets`, `bytes` (of inner packets) and one entry per drop reason that occurred."""
