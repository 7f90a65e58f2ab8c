"""The values of our one byte in a packet's mark, and their masks (`meta mark` of nftables, `fwmark` of ip-rule(8)).

Other programs' bits of the mark are never read or changed. The byte's eight values share their upper five bits, so that one rule
with a mask leads PROTECTED, AGAIN and DECRYPTED to the TUN's routing table. Called by table, rules and host_policy.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import UsageError

FULL = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Marks:
    """`base` is a multiple of 8 times the lowest bit of `mask`; the mask is eight bits in a row."""

    base: int = 0x48000000
    mask: int = 0xFF000000

    def __post_init__(self) -> None:
        if not 0 < self.mask <= FULL or self.mask // self.unit != 0xFF:
            raise UsageError(f"mark mask {self.mask:#x}: it is eight bits in a row, such as 0xff000000")
        if self.base & ~self.mask or not self.base or self.base // self.unit % 8:
            raise UsageError(
                f"mark {self.base:#x}: it lies in the mask {self.mask:#x} and ends in three zero bits there"
            )

    @property
    def unit(self) -> int:
        return self.mask & -self.mask

    @property
    def arriving(self) -> int:
        """While a packet is looked up in the inbound direction."""
        return self.base

    @property
    def own(self) -> int:
        """SO_MARK of our own sockets: IKE, ESP and AH leave by the main table."""
        return self.base + self.unit

    @property
    def main(self) -> int:
        """A local packet that a source route has led to the TUN, and that no PROTECT policy covers: back to the main table."""
        return self.base + 2 * self.unit

    @property
    def sending(self) -> int:
        """While a packet of this host is looked up in the outbound direction."""
        return self.base + 3 * self.unit

    @property
    def protected(self) -> int:
        """A forwarded packet that a PROTECT policy covers."""
        return self.base + 4 * self.unit

    @property
    def again(self) -> int:
        """As protected, of a local packet or one out of the TUN: its reverse-path look-up may find the TUN."""
        return self.base + 5 * self.unit

    @property
    def decrypted(self) -> int:
        """Out of the TUN: the main table routes it, its reverse-path look-up finds the TUN."""
        return self.base + 6 * self.unit

    @property
    def to_tun(self) -> tuple[int, int]:
        """Value and mask of all that ip-rule(8) leads to the TUN's table."""
        return self.protected, self.mask & ~(3 * self.unit)

    @property
    def protected_or_again(self) -> tuple[int, int]:
        return self.protected, self.mask & ~self.unit
