def segments(frame: bytes, *, mtu: int = 0) -> tuple[int, list[bytes]]:
    """For tests: (verdict, packets) of a frame (virtio-net header, packet) as a TUN delivers it; above `mtu` it is fragmented."""
