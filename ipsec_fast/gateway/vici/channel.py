"""Packets in and out over one connection of the control socket; what comes in lies in buffers of our own, so that it can be wiped.

asyncio's streams would leave copies of a secret in their buffers. Here the kernel writes straight into one bytearray per packet, which
whoever takes the packet wipes. Reading never rests, so that a client that goes away is noticed whatever it left. Called by server.py.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from typing import cast

from ...crypto.secret import wipe
from .codec import MAX_SEGMENT_BYTES, ViciError, segment_length

HEADER_BYTES = 4
MAX_WAITING_PACKETS, MAX_WAITING_BYTES = 64, 2 * MAX_SEGMENT_BYTES
PACKET_S = 5.0  # from a packet's first byte to its last
FIRST_BYTES = 65536  # of a packet's buffer; the announced length is only believed as it fills


class ClientGone(ConnectionResetError):
    """It went away while something was written to it, which is no failure of the command."""


class Channel(asyncio.BufferedProtocol):
    """`accepted` is called once the connection stands."""

    def __init__(self, accepted: Callable[[Channel], None]) -> None:
        self._accepted = accepted
        self._buffer = bytearray(HEADER_BYTES)
        self._filled = 0
        self._length: int | None = None  # of the packet that is being read; None: its header is
        self._packets: deque[bytearray] = deque()
        self._error: Exception | None = None
        self._late: asyncio.TimerHandle | None = None  # while an incomplete packet waits for its end
        self.stuck_since: float | None = None  # while the client leaves unread what we write
        self._arrived, self._ended = asyncio.Event(), asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()

    # --- in

    async def receive(self) -> bytearray:
        """The next packet, for the caller to wipe."""
        while not self._packets:
            self._arrived.clear()
            await self._arrived.wait()
        return self._packets.popleft()

    async def wait_end(self) -> None:
        """Always raises: EOFError or OSError when the client went away, ViciError when what it sent is no vici."""
        await self._ended.wait()
        assert self._error is not None
        raise self._error

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._accepted(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        return memoryview(self._buffer)[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        self._filled += nbytes
        if self._late is None:
            self._late = asyncio.get_running_loop().call_later(PACKET_S, self._end_late)
        if self._filled < len(self._buffer):
            return
        if self._length is None:
            self._begin_packet()
        elif self._filled < self._length:
            self._grow()
        else:
            self._in_time()
            self._packets.append(self._buffer)
            self._begin_header()
            self._arrived.set()
            if len(self._packets) > MAX_WAITING_PACKETS or sum(map(len, self._packets)) > MAX_WAITING_BYTES:
                self._end(ViciError("requests pile up: vici has one at a time"))

    def _in_time(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _end_late(self) -> None:
        self._late = None
        self._end(ViciError(f"a request did not come whole within {PACKET_S:g} s"))

    def _begin_header(self) -> None:
        self._buffer, self._filled, self._length = bytearray(HEADER_BYTES), 0, None

    def _begin_packet(self) -> None:
        try:
            self._length = segment_length(bytes(self._buffer))
        except ViciError as error:
            self._end(error)
            return
        self._buffer, self._filled = bytearray(min(self._length, FIRST_BYTES)), 0

    def _grow(self) -> None:
        assert self._length is not None
        bigger = bytearray(min(self._length, MAX_SEGMENT_BYTES, 2 * len(self._buffer)))
        bigger[: self._filled] = self._buffer
        wipe(self._buffer)
        self._buffer = bigger

    def eof_received(self) -> bool:
        self._end(EOFError("the client went away"))
        return True  # what is still being written may leave

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(exc or EOFError("the client went away"))
        self._writable.set()
        wipe(self._buffer)
        for packet in self._packets:
            wipe(packet)
        self._packets.clear()

    def _end(self, error: Exception) -> None:
        self._in_time()
        self._error = self._error or error
        if not self._transport.is_closing():
            self._transport.pause_reading()
        self._ended.set()

    # --- out

    def write(self, segment: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(segment)

    async def drain(self) -> None:
        """Until the client has read enough. ClientGone when it went away."""
        await self._writable.wait()
        if self._transport.is_closing():
            raise ClientGone("the client went away")

    def pause_writing(self) -> None:
        self._writable.clear()
        self.stuck_since = asyncio.get_running_loop().time()

    def resume_writing(self) -> None:
        self._writable.set()
        self.stuck_since = None

    @property
    def unread_bytes(self) -> int:
        return self._transport.get_write_buffer_size()

    @property
    def is_closing(self) -> bool:
        return self._transport.is_closing()

    @property
    def socket(self) -> socket.socket:
        return cast(socket.socket, self._transport.get_extra_info("socket"))

    def close(self) -> None:
        """What is written still leaves."""
        self._transport.close()

    def abort(self) -> None:
        self._transport.abort()
