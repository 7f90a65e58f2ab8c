from .sad import SA

def seal_with_iv_for_test(sa: SA, packet: bytes, seq: int, iv: bytes) -> bytes:
    """The sealed form of `packet` under a sequence number and IV of the caller's choice. It can repeat a nonce, hence its name."""

def open_for_test(sa: SA, packet: bytes) -> bytes:
    """The inner packet of one sealed packet, by the kernel and with the SA's window; IntegrityError names the verdict."""
