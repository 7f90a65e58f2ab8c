"""libnftables by ctypes: the text of tables, chains, maps and rules, one transaction per call (its five calls, no header needed).

Called by host_policy.
"""

from __future__ import annotations

import ctypes

from ...errors import HostError

LIBRARY = "libnftables.so.1"
REMEDY = "apt-get install libnftables1"


class NftLibrary:
    """`run` hands a text to the kernel. HostError where the library is missing, or with its first line where it refuses."""

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL(LIBRARY)
        except OSError:
            raise HostError(f"no {LIBRARY} here, which writes the nftables policy: {REMEDY}") from None
        self._library.nft_ctx_new.restype = ctypes.c_void_p
        self._library.nft_ctx_new.argtypes = [ctypes.c_uint32]
        self._library.nft_ctx_free.argtypes = [ctypes.c_void_p]
        self._library.nft_ctx_buffer_error.argtypes = [ctypes.c_void_p]
        self._library.nft_ctx_get_error_buffer.restype = ctypes.c_char_p
        self._library.nft_ctx_get_error_buffer.argtypes = [ctypes.c_void_p]
        self._library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]

    def run(self, what: str, commands: str) -> None:
        """`what` names the request in the HostError."""
        context = self._library.nft_ctx_new(0)
        if not context:
            raise HostError(f"cannot {what}: {LIBRARY} has no memory")
        try:
            self._library.nft_ctx_buffer_error(context)
            if self._library.nft_run_cmd_from_buffer(context, commands.encode()):
                said = (self._library.nft_ctx_get_error_buffer(context) or b"").decode(errors="replace").strip()
                raise HostError(f"cannot {what}: {said.splitlines()[0] if said else 'nftables refused'}")
        finally:
            self._library.nft_ctx_free(context)
