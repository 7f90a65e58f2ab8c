class InnerPort:
    """The inner side of a worker: a `Tun` or a `PacketSocket`; nothing by itself. `features`: what is on now."""

    fd: int  # -1 once closed
    features: dict[str, bool]
    def close(self) -> None:
        """Twice is fine. StateError while a worker runs on it."""

def stripped(frame: bytes, own: bytes) -> tuple[str, int, bytes]:
    """For tests: (what inner_strip says, csum_start then, the peer that was
    learned) of a frame read by the station `own`.
    """
