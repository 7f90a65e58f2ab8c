"""Overhead, largest inner packet, padding and MSS of an SA, by arithmetic alone (docs/mtu.md).

    ESP, tunnel      outer IP | UDP | SPI, sequence number | IV | inner packet, TFC padding, padding, pad length, next header | ICV
    ESP, transport   the packet's IP header | UDP | SPI, sequence number | IV | its payload, padding, pad length, next header | ICV
    ESP, BEET        outer IP | UDP | SPI, sequence number | IV | pseudo header, payload, padding, pad length, next header | ICV
    AH               outer IP, or the packet's | AH: 12 bytes, IV, ICV, padding | inner packet, or its payload

RFC 4303 section 2, RFC 4302 sections 2.2 and 2.6, RFC 3948 section 2.1, draft-nikander-esp-beet-mode-09. What is
encrypted is a multiple of the cipher's block, at least of 4 bytes. ESN changes nothing: its high half is never sent. An
implicit IV is one of 0 bytes (RFC 8750). Called by control.children, the status views, and the `mtu` command.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ..algorithms import AhSuite, EspSuite, esp_suite
from ..errors import UsageError

ESP_HEADER_BYTES = 8
ESP_TRAILER_BYTES = 2  # pad length and next header
AH_FIXED_BYTES = 12
UDP_HEADER_BYTES = 8
IP_HEADER_BYTES = {4: 20, 6: 40}
TCP_HEADER_BYTES = 20
TCP_TIMESTAMP_BYTES = 12  # RFC 7323 appendix A: 10, and two NOPs
LEAST_LINK_MTU = 68  # RFC 791: a link that carries IPv4 at all
IPV4_MIN_MTU = 576  # what every IPv4 host takes (RFC 791); nothing smaller is believed of a path
IPV6_MIN_MTU = 1280
MAX_MTU = 65535
MIN_MTU = {4: IPV4_MIN_MTU, 6: IPV6_MIN_MTU}
BEET_PSEUDO_BYTES = 4
BEET_LEAST_BYTES = 10  # UDP, IV and ICV, where an IPv6 header must fit in place of an IPv4 one and ESP's

DEAREST = esp_suite("aes256-sha512")  # the longest IV, block and ICV

Mss = int | Literal["auto", "off"]
Mode = Literal["tunnel", "transport", "beet"]
Source = Literal["computed", "learned", "probed"]


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes of a sealed packet that belong together, in the order of the wire."""

    name: str
    size: int


@dataclass(frozen=True, slots=True)
class Finding:
    """What is known of a path's MTU, and since when (monotonic seconds; None: since the SA is there)."""

    path_mtu: int
    at: float | None = None


@dataclass(frozen=True, slots=True)
class TunnelMtu:
    """What fits through one SA. `overhead_bytes` is what the largest inner packet grows by; an MSS of 0 means: leave it alone.

    With timestamps a segment carries 12 bytes less than the MSS in the SYN says (RFC 6691 section 2): the MSS itself is the same.
    """

    overhead_bytes: int
    max_inner_bytes: int
    mss_ipv4: int
    mss_ipv6: int

    @property
    def mss_ipv4_timestamps(self) -> int:
        return max(0, self.mss_ipv4 - TCP_TIMESTAMP_BYTES)

    @property
    def mss_ipv6_timestamps(self) -> int:
        return max(0, self.mss_ipv6 - TCP_TIMESTAMP_BYTES)


@dataclass(frozen=True, slots=True)
class Encapsulation:
    """How an SA wraps its packets. Lengths of inner packets count from their IP header on, in every mode.

    `header_bytes`: the packet's header that stays outside (transport mode: with the extension headers that routers look at) or is
    taken off (BEET: with IPv4 options); 0 means 20 or 40. `tfc`: shorter inner packets are padded to so many bytes (RFC 4303 section 2.7).
    Raises UsageError for what no SA can be.
    """

    suite: EspSuite | AhSuite
    outer_version: int
    encap: bool = False
    mode: Mode = "tunnel"
    inner_version: int = 4
    tfc: int = 0
    header_bytes: int = 0

    def __post_init__(self) -> None:
        if self.is_ah and (self.encap or self.mode == "beet"):
            raise UsageError(
                "AH has tunnel and transport mode, and no UDP: it covers the addresses that a NAT would change"
            )
        if self.mode == "transport" and self.outer_version != self.inner_version:
            raise UsageError("transport mode keeps the packet's own IP header: outer and inner are of one version")
        if self.tfc and (self.is_ah or self.mode != "tunnel"):
            raise UsageError(
                "TFC padding is for ESP in tunnel mode: there the inner packet tells its own length (RFC 4303 section 2.7)"
            )

        added = UDP_HEADER_BYTES * self.encap + self.iv_bytes + self.suite.icv_bytes
        if self.mode == "beet" and self.inner_version == 6 and self.outer_version == 4 and added < BEET_LEAST_BYTES:
            raise UsageError(
                f"{self.suite.name} adds too little for an IPv6 packet in BEET mode over IPv4: "
                "take one with an IV or a longer ICV, or encap"
            )

    @property
    def is_ah(self) -> bool:
        return isinstance(self.suite, AhSuite)

    @property
    def iv_bytes(self) -> int:
        return self.suite.iv_bytes if isinstance(self.suite, AhSuite) else self.suite.encryption.iv_bytes

    @property
    def block_bytes(self) -> int:
        """What the encrypted part is a multiple of; 1: there is no padding."""
        return 1 if isinstance(self.suite, AhSuite) else max(4, self.suite.encryption.block_bytes)

    @property
    def trailer_bytes(self) -> int:
        return 0 if self.is_ah else ESP_TRAILER_BYTES

    @property
    def kept_bytes(self) -> int:
        """Of the inner packet, not sealed."""
        return 0 if self.mode == "tunnel" else self.header_bytes or IP_HEADER_BYTES[self.inner_version]

    @property
    def pseudo_bytes(self) -> int:
        """BEET sends IPv4 options in a header of their own (a multiple of 8 bytes)."""
        options = self.kept_bytes - 20
        return (
            -(-(BEET_PSEUDO_BYTES + options) // 8) * 8
            if self.mode == "beet" and self.inner_version == 4 and options
            else 0
        )

    def padding_bytes(self, inner: int) -> int:
        """What fills the last block behind an inner packet of this length; TFC padding is not in it."""
        return -(self._filled(inner) + self.trailer_bytes) % self.block_bytes

    def sealed_bytes(self, inner: int) -> int:
        """The whole packet on the wire for an inner packet of this length."""
        return sum(part.size for part in self.parts(inner))

    def parts(self, inner: int) -> tuple[Part, ...]:
        """The sealed form of an inner packet of this length, piece by piece in the order of the wire."""
        return (*self._front(), *self._middle(inner), *self._behind())

    def max_inner_bytes(self, path_mtu: int) -> int:
        """The largest inner packet whose sealed form is at most this long; 0 if none fits."""
        around = sum(part.size for part in (*self._front(), *self._behind()))
        room = (path_mtu - around) // self.block_bytes * self.block_bytes - self.trailer_bytes
        if room < max(self.pseudo_bytes, self.tfc) or (room <= 0 and not self.kept_bytes):
            return 0
        return room - self.pseudo_bytes + self.kept_bytes

    def figures(self, path_mtu: int, mss: Mss = "auto") -> TunnelMtu:
        """What fits on a path of `path_mtu` bytes; 0 bytes inside where not even an empty packet fits."""
        inner = self.max_inner_bytes(path_mtu)
        overhead = self.sealed_bytes(max(inner, self.kept_bytes)) - max(inner, self.kept_bytes)
        return TunnelMtu(overhead, inner, _mss(mss, inner, 4), _mss(mss, inner, 6))

    def _filled(self, inner: int) -> int:
        """Bytes of payload that are sealed."""
        return max(inner - self.kept_bytes + self.pseudo_bytes, self.tfc)

    def _front(self) -> tuple[Part, ...]:
        if self.mode == "transport":
            ip = Part(f"the packet's own IPv{self.inner_version} header", self.kept_bytes)
        else:
            ip = Part(f"outer IPv{self.outer_version} header", IP_HEADER_BYTES[self.outer_version])
        if isinstance(self.suite, AhSuite):
            return (ip, *self._ah_header(self.suite))
        udp = (Part("UDP header", UDP_HEADER_BYTES),) if self.encap else ()
        iv = (Part("IV", self.iv_bytes),) if self.iv_bytes else ()
        return (ip, *udp, Part("ESP header: SPI, sequence number", ESP_HEADER_BYTES), *iv)

    def _ah_header(self, suite: AhSuite) -> tuple[Part, ...]:
        """A whole number of 4 bytes, over IPv6 of 8 (RFC 4302 section 2.2)."""
        unit = 8 if self.outer_version == 6 else 4
        filler = -(AH_FIXED_BYTES + suite.iv_bytes + suite.icv_bytes) % unit
        sizes = (
            ("AH header: SPI, sequence number", AH_FIXED_BYTES),
            ("IV", suite.iv_bytes),
            ("ICV", suite.icv_bytes),
            (f"padding of AH to a multiple of {unit}", filler),
        )
        return tuple(Part(name, size) for name, size in sizes if size)

    def _middle(self, inner: int) -> tuple[Part, ...]:
        sealed = inner - self.kept_bytes
        body = Part("inner packet" if self.mode == "tunnel" else "inner packet, without its IP header", sealed)
        pseudo = (Part("pseudo header with the IPv4 options", self.pseudo_bytes),) if self.pseudo_bytes else ()
        if self.is_ah:
            return (body,)
        tfc = (Part(f"TFC padding to {self.tfc}", self._filled(inner) - sealed),) if self.tfc else ()
        padding = Part(f"padding to a multiple of {self.block_bytes}", self.padding_bytes(inner))
        return (*pseudo, body, *tfc, padding, Part("pad length, next header", ESP_TRAILER_BYTES))

    def _behind(self) -> tuple[Part, ...]:
        return () if self.is_ah else (Part("ICV", self.suite.icv_bytes),)


def tunnel_mtu(suite: EspSuite, path_mtu: int, outer_version: int, encap: bool, mss: Mss = "auto") -> TunnelMtu:
    """The figures of one ESP SA in tunnel mode on a path of `path_mtu` bytes."""
    return Encapsulation(suite, outer_version, encap).figures(path_mtu, mss)


def tun_mtu(inner: Sequence[int], path_mtu: int, has_ipv6: bool = True) -> int:
    """The MTU of a TUN that carries SAs with these largest inner packets: that of the largest, since each prefix has its own in
    its route; without an SA as if it had the dearest suite.

    Never below 1280 while a selector is IPv6, or the kernel takes IPv6 from the device; the worker cuts such packets outside.
    """
    most = max(inner) if inner else tunnel_mtu(DEAREST, path_mtu, 6, True).max_inner_bytes
    return min(max(most, IPV6_MIN_MTU if has_ipv6 else IPV4_MIN_MTU), MAX_MTU)


def _mss(wanted: Mss, inner: int, version: int) -> int:
    if wanted == "off":
        return 0
    fits = max(0, inner - IP_HEADER_BYTES[version] - TCP_HEADER_BYTES)
    return fits if wanted == "auto" else min(wanted, fits)
