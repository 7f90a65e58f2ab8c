from typing_extensions import Buffer

def fragment_packet(packet: Buffer, mtu: int, ident: int | None = None) -> list[bytes]:
    """The fragments of an IPv4 or IPv6 packet, each at most `mtu` bytes with its header; [packet] where it fits.

    `ident` is the identification of an IPv6 packet's fragments (None: random); IPv4 has its own in the header. Bytes behind
    the packet's own length are left out. Raises UsageError: no IP packet, DF set, a fragment of IPv6, an `mtu` too small for
    the headers (RFC 791 section 3.2, RFC 8200 section 4.5, RFC 7112).
    """
