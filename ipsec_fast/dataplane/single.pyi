from typing_extensions import Buffer

from .sad import SA

def protect_packet(sa: SA, packet: Buffer) -> bytes:
    """One IP packet sealed (ESP or AH, as the SA is); for pipelines use PacketBatch, which copies nothing.

    Raises UsageError with the verdict for what the SA does not take, StateError if its numbers or its grant are used
    up, another thread or a worker uses it, or it was made before a fork.
    """

def unprotect_packet(sa: SA, packet: Buffer) -> bytes:
    """The IP packet inside of one sealed packet, by the SA's window; IntegrityError
    names the verdict of one that is dropped.

    Raises StateError as protect_packet does.
    """

def seal_with_iv_for_test(sa: SA, packet: bytes, seq: int, iv: bytes) -> bytes:
    """The sealed form of `packet` under a sequence number and IV of the caller's choice. It can repeat a nonce, hence its name."""

def open_for_test(sa: SA, packet: bytes) -> bytes:
    """The inner packet of one sealed packet, by the kernel and with the SA's window; IntegrityError names the verdict."""
