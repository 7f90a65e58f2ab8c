"""The command line, `ipsec-fast`: parses arguments and prints; no protocol stands here."""

from .main import main

__all__ = ["main"]
