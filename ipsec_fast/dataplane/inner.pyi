class InnerPort:
    """The inner side of a worker: a `Tun` or a `PacketSocket`; nothing by itself. `features`: what is on now."""

    fd: int  # -1 once closed
    features: dict[str, bool]
    def close(self) -> None: ...

def stripped(frame: bytes, own: bytes) -> tuple[str, int, bytes]: ...
