"""A blocking vici client for our own command line; no asyncio, so that `status` starts fast.

It speaks to our gateway and, as far as names agree, to charon. Called by cli.py and the tests.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from types import TracebackType

from ...errors import HostError, StateError
from .codec import (
    Decoded,
    Encodable,
    Packet,
    PacketType,
    decode_message,
    decode_packet,
    encode_message,
    encode_segment,
    segment_length,
)

EventHandler = Callable[[Decoded], None]


class ViciClient:
    """One connection. HostError where no gateway answers, or where it goes away."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.connect(path)
        except OSError as error:
            self._socket.close()
            raise HostError(_cannot_connect(path, error)) from None

    def __enter__(self) -> ViciClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def request(self, command: str, message: Encodable | None = None) -> Decoded:
        """The response to a command, whatever its `success` says."""
        return self.stream(command, "", None, message)

    def stream(
        self, command: str, event: str, handler: EventHandler | None, message: Encodable | None = None
    ) -> Decoded:
        """A command whose answers come as events; each goes to `handler`, the response is returned."""
        if handler is not None:
            self._register(PacketType.EVENT_REGISTER, event)
        self._send(Packet(PacketType.CMD_REQUEST, command, encode_message(message or {})))
        while True:
            packet = self._receive()
            if packet.type == PacketType.EVENT:
                if handler is not None and packet.name == event:
                    handler(decode_message(packet.body))
                continue
            break
        if packet.type == PacketType.CMD_UNKNOWN:
            raise StateError(f"the daemon at {self.path} does not know the command {command!r}")
        if packet.type != PacketType.CMD_RESPONSE:
            raise StateError(f"the daemon at {self.path} answered {command!r} with {packet.type.name}")
        if handler is not None:
            self._register(PacketType.EVENT_UNREGISTER, event)
        return decode_message(packet.body)

    def _register(self, kind: PacketType, event: str) -> None:
        self._send(Packet(kind, event))
        packet = self._receive()
        while packet.type == PacketType.EVENT:
            packet = self._receive()
        if packet.type != PacketType.EVENT_CONFIRM:
            raise StateError(f"the daemon at {self.path} does not know the event {event!r}")

    def _send(self, packet: Packet) -> None:
        try:
            self._socket.sendall(encode_segment(packet))
        except OSError as error:
            raise HostError(f"the gateway at {self.path} went away: {error.strerror or error}") from None

    def _receive(self) -> Packet:
        return decode_packet(self._receive_exactly(segment_length(self._receive_exactly(4))))

    def _receive_exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            try:
                part = self._socket.recv(size - len(data))
            except OSError as error:
                raise HostError(f"the gateway at {self.path} went away: {error.strerror or error}") from None
            if not part:
                raise HostError(f"the gateway at {self.path} closed the connection; its log says why")
            data += part
        return bytes(data)


def _cannot_connect(path: str, error: OSError) -> str:
    if error.errno in (errno.ENOENT, errno.ECONNREFUSED):
        return f"no gateway runs at {path}; start one with `ipsec-fast gateway FILE`, or name its socket with --socket"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"no right to open {path}: only root and the gateway's own user may"
    return f"cannot connect to {path}: {error.strerror or error}"
