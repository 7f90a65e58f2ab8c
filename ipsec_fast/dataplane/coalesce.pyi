def merged(packets: list[bytes], fd: int) -> None:
    """For tests: writes one batch of packets to `fd` (a datagram socket) as a TUN would get them."""
