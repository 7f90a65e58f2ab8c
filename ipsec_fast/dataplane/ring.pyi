class Wake:
    """An eventfd; what several rings wake their one consumer by."""

    fd: int

class Ring:
    """Records of bytes from one producer to one consumer; `fd` is readable while `take` may have something."""

    fd: int
    overflows: int
    def __init__(self, size: int, wake: Wake | None = None) -> None: ...
    def push(self, record: bytes) -> bool:
        """The producer's side for who holds the GIL; False if there was no room."""

    def take(self) -> list[bytes]:
        """All records that are there, oldest first."""
