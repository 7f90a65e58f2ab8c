from typing import Literal, final

from typing_extensions import Buffer

from ..crypto.secret import Secret
from ..model import Address, OuterHeader
from .dropped import LastDrop

@final
class SA:
    """One security association (RFC 4301 section 4.4.2) of ESP or AH: the Python face of the struct that kernels use.

    `key` is cipher key, salt, integrity key (RFC 7296 section 2.17), bytes-like or a Secret; what is kept of it is
    wiped at the end. `seq` is the last number used (out) or the highest received (in: it and all below are refused).
    `granted` None lets every number be used. `window` is the anti-replay window, 32 to 1048576 packets (in).

    Modes. "tunnel" seals whole IP packets, IPv4 and IPv6 in either: with `src` and `dst` the kernels write and strip
    the outer header, with `encap` (source port, destination port) UDP too (RFC 3948); without, ESP alone. `header` says
    how the outer header is made (None outside tunnel mode). `tfc`: shorter packets are padded to so many bytes (out).
    "transport" takes whole IP packets and keeps their header outside; `encap` puts UDP in front of ESP. Behind a NAT
    `original` (in) mends the checksums of TCP and UDP (RFC 3948 section 3.1.2): the addresses (source, destination)
    that the sender's packets had, or "recompute". "beet": all packets go from `inner[0]` to `inner[1]`; they travel
    between `src` and `dst`, without an inner header. `crew` is the size of the Crew that may help to seal or open; 0 in
    the end where the engine is too fast for that (`sa.crew`). `protocol` "ah" (RFC 4302): `algorithm` is one such as
    "sha256" or "aes128gmac"; tunnel (with `src`, `dst`) or transport. One thread uses an SA at a time: a call, or the
    worker whose tables hold it. An SA made before a fork belongs to the parent process: in the child `protect`,
    `unprotect`, workers and crews refuse it with StateError. Raises AlgorithmError (unknown algorithm, key of a wrong
    length), UsageError (everything else that is wrong).
    """

    direction: Literal["out", "in"]
    spi: int
    algorithm: str
    engine: str
    mode: str
    protocol: Literal["esp", "ah"]
    crew: int  # threads that may help with this SA
    src: Address | None
    dst: Address | None
    encap: tuple[int, int] | None
    inner: tuple[Address, Address] | None
    original: tuple[Address, Address] | Literal["recompute"] | None
    header: OuterHeader | None  # None outside tunnel mode
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
        mode: Literal["tunnel", "transport", "beet"] = "tunnel",
        src: Address | str | None = None,
        dst: Address | str | None = None,
        encap: tuple[int, int] | None = None,
        esn: bool = False,
        window: int = 1024,
        seq: int = 0,
        granted: int | None = None,
        engine: str = "auto",
        inner: tuple[Address | str, Address | str] | None = None,
        original: tuple[Address | str, Address | str] | Literal["recompute"] | None = None,
        header: OuterHeader | None = None,
        tfc: int = 0,
        protocol: Literal["esp", "ah"] = "esp",
        crew: int = 0,
    ) -> None: ...
    def set_grant(self, granted: int) -> None:
        """Numbers up to `granted` may be used; the next grant is wanted at half of what this one adds."""

    def set_limits(
        self,
        soft_packets: int = 0,
        hard_packets: int = 0,
        soft_bytes: int = 0,
        hard_bytes: int = 0,
        soft_seconds: float = 0,
        hard_seconds: float = 0,
        idle_seconds: float = 0,
    ) -> None:
        """What this SA may carry from now on, 0 for no limit; to be called before it is in use.

        From a soft limit on a new SA is wanted; past a hard one every packet gets the verdict `lifetime`. 75 % and the end of
        the sequence numbers hold besides. Bytes are those of inner packets. Seconds count from now on, those of `idle_seconds`
        from the last good packet on; `protect` and `unprotect` look once a call (4 ms exact), the worker does not: a gateway has timers.
        """

    def check_time(self, now: float | None = None) -> bool:
        """False, from then on, where a hard limit of time or `idle_seconds` is over at `now` (CLOCK_MONOTONIC, None: now).

        For who calls the kernels by cimport or wants to know without a packet.
        """

    @property
    def last_drop(self) -> LastDrop | None:
        """The last packet that this SA dropped, and its headers; None if none was. May be read while a worker uses the SA."""

    @property
    def soft_limit_reached(self) -> bool:
        """75 % of the numbers are used, or a lifetime: a new SA is wanted."""

    def sealed_length(self, inner_length: int, header_length: int | None = None) -> int:
        """Bytes of the sealed packet, outer headers of this SA included. AH in transport mode: at most so many.

        Transport mode: `header_length` is what stays outside (20 where not given); BEET: what is taken off (20 or 40).
        """

    def max_inner_length(self, sealed_length: int, header_length: int | None = None) -> int:
        """The largest inner packet whose sealed form is at most this long; 0 if none fits. `header_length` as above."""

    def counters(self) -> dict[str, int]:
        """`packets`, `bytes` (of inner packets) and one entry per drop reason that occurred.

        `resynchronised`: how often an ESN came back after a gap of 2^32 (RFC 4303 appendix A3), if it ever did.
        """

def next_identification(src: Address, dst: Address, protocol: int) -> int:
    """The IPv4 identification of a packet without DF: 1 to 65535, shared with all SAs from `src` to `dst` (RFC 6864)."""
