"""The vici server: one command at a time on each connection, events to those who registered.

The number of connections is limited. When all are in use, the one that has been idle longest is closed for a new one.
Idle means that no command runs and no events are registered, or that the client leaves unread what we wrote.

Reading goes on while a command runs, so that a client that goes away ends the waiting. Malformed bytes
close that connection and nothing else. Output nobody reads is bounded. Called by daemon.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable

from ...crypto.secret import wipe
from .announce import Announcer
from .channel import Channel
from .codec import (
    Encodable,
    Packet,
    PacketType,
    ViciError,
    decode_message,
    decode_packet,
    encode_message,
    encode_segment,
)
from .commands import Commands
from .control import GatewayControl
from .listener import file_identity, open_listener, peer_uid, remove_listener

log = logging.getLogger("ipsec_fast.cfg")
EVENTS = frozenset(
    (
        "log", "control-log", "list-sa", "list-mtu", "list-policy", "list-conn", "list-cert", "list-authority",
        "ike-updown", "ike-rekey", "child-updown", "child-rekey", "path-mtu",
    )
)  # fmt: skip
MAX_CONNECTIONS = 64
MAX_UNREAD_BYTES = 1024 * 1024
BETWEEN_S = 1.0  # a client that has been answered may take so long for its next command
STUCK_S = 5.0  # a client that reads nothing for so long is idle, whatever it asked for


class ViciServer:
    """`ViciServer(path, control)`; `await start()`, `await close()`. HostError from start where the socket cannot be had."""

    def __init__(self, path: str, control: GatewayControl) -> None:
        self.path = path
        self._control = control
        self._commands = Commands(control)
        self._connections: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._listener: socket.socket | None = None
        self._identity: tuple[int, int] | None = None
        self._unsubscribe: list[Callable[[], None]] = []

    async def start(self) -> None:
        self._listener = open_listener(self.path)
        self._identity = file_identity(self.path)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(lambda: Channel(self._accept), sock=self._listener)
        announcer = Announcer(self._control, self.broadcast)
        self._unsubscribe = [
            self._control.subscribe(announcer.hear),
            self._control.subscribe_paths(announcer.hear_path),
        ]

    async def close(self) -> None:
        """Ends every connection and removes the socket; a second call does nothing."""
        for unsubscribe in self._unsubscribe:
            unsubscribe()
        self._unsubscribe = []
        if self._server is not None:
            self._server.close()
            self._server = None
        self._commands.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._listener is not None:
            remove_listener(self.path, self._listener, self._identity)
            self._listener = None

    def broadcast(self, event: str, build: Callable[[], Encodable]) -> None:
        """An event to everyone who registered for it; `build` is only called where somebody did."""
        listeners = [connection for connection in self._connections if event in connection.events]
        if not listeners:
            return
        try:
            segment = encode_segment(Packet(PacketType.EVENT, event, encode_message(build())))
        except ViciError as error:
            log.warning("event %s left out: %s", event, error)
            return
        for connection in listeners:
            connection.post(segment)

    def _accept(self, channel: Channel) -> None:
        refusal = self._refuse(channel) or self._make_room()
        if refusal:
            log.warning("control socket: connection refused: %s", refusal)
            channel.abort()
            return
        connection = Connection(channel, self._commands)
        self._connections.add(connection)
        task = asyncio.ensure_future(connection.serve())
        self._tasks.add(task)

        def forget(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            self._connections.discard(connection)
            channel.close()

        task.add_done_callback(forget)

    def _refuse(self, channel: Channel) -> str | None:
        uid = peer_uid(channel.socket)
        return None if uid in (0, os.geteuid()) else f"user {uid} is neither root nor the gateway's own user"

    def _make_room(self) -> str | None:
        """Nothing where there is room, or an idle connection has given way; then listeners, which may have half of the places for good."""
        if len(self._connections) < MAX_CONNECTIONS:
            return None
        found = {one: since for one in self._connections if (since := one.idle_since) is not None}
        if not found:
            found = {one: since for one in self._connections if (since := one.listens_since) is not None}
            if len(found) <= MAX_CONNECTIONS // 2:
                return f"{MAX_CONNECTIONS} are open already, and all of them wait for an answer or for events"
        oldest = min(found, key=lambda one: found[one])
        self._connections.discard(oldest)
        oldest.drop()
        return None


class Connection:
    """One client. `events` is what it registered for."""

    def __init__(self, channel: Channel, commands: Commands) -> None:
        self._channel = channel
        self._commands = commands
        self.events: set[str] = set()
        self._waits_since: float | None = asyncio.get_running_loop().time()  # None while a command runs
        self._was_answered = False

    @property
    def idle_since(self) -> float | None:
        """Since when it is idle; None if a command runs, events are registered, or it was answered just now."""
        now = asyncio.get_running_loop().time()
        stuck_since = self._channel.stuck_since
        if stuck_since is not None and now - stuck_since >= STUCK_S:
            return stuck_since
        if self.events or self._waits_since is None or (self._was_answered and now - self._waits_since < BETWEEN_S):
            return None
        return self._waits_since

    @property
    def listens_since(self) -> float | None:
        """When it last asked for anything, where it only hears events."""
        return self._waits_since if self.events else None

    def drop(self) -> None:
        self._channel.abort()

    async def serve(self) -> None:
        """Until the client goes, misbehaves or stops reading; whatever it waits for then ends."""
        answering = asyncio.ensure_future(self._answer_all())
        reading = asyncio.ensure_future(self._channel.wait_end())
        try:
            await asyncio.wait((answering, reading), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (answering, reading):
                task.cancel()
            results = await asyncio.gather(answering, reading, return_exceptions=True)
        for result in results:
            if isinstance(result, ViciError):
                log.warning("control socket: connection closed: %s", result)
            elif isinstance(result, Exception) and not isinstance(result, OSError | EOFError):
                log.error("control socket: connection closed: %r", result)

    async def send_event(self, name: str, message: Encodable) -> None:
        if name in self.events:
            self._write(Packet(PacketType.EVENT, name, encode_message(message)))
            await self._channel.drain()

    def post_event(self, name: str, message: Encodable) -> None:
        if name in self.events:
            with contextlib.suppress(ViciError):  # a line too long for vici is no reason to fail the command
                self.post(encode_segment(Packet(PacketType.EVENT, name, encode_message(message))))

    def post(self, segment: bytes) -> None:
        if self._channel.is_closing:
            return
        if self._channel.unread_bytes + len(segment) > MAX_UNREAD_BYTES:
            log.warning("control socket: connection closed: it leaves more than %d bytes unread", MAX_UNREAD_BYTES)
            self.events.clear()
            self._channel.abort()
            return
        self._channel.write(segment)

    async def _answer_all(self) -> None:
        while True:
            self._waits_since = asyncio.get_running_loop().time()
            data = await self._channel.receive()
            self._waits_since = None
            try:
                packet = decode_packet(data)
            finally:
                wipe(data)
            try:
                await self._answer(packet)
            finally:
                wipe(packet.body)  # it may hold a secret
            await self._channel.drain()
            self._was_answered = True

    async def _answer(self, packet: Packet) -> None:
        match packet.type:
            case PacketType.CMD_REQUEST:
                await self._answer_command(packet)
            case PacketType.EVENT_REGISTER | PacketType.EVENT_UNREGISTER:
                known = packet.name in EVENTS
                if known and packet.type == PacketType.EVENT_REGISTER:
                    self.events.add(packet.name)
                self._write(Packet(PacketType.EVENT_CONFIRM if known else PacketType.EVENT_UNKNOWN))
                if packet.type == PacketType.EVENT_UNREGISTER:
                    self.events.discard(packet.name)
            case _:
                raise ViciError(f"a client does not send {packet.type.name}")

    async def _answer_command(self, packet: Packet) -> None:
        if packet.name not in self._commands.table:
            self._write(Packet(PacketType.CMD_UNKNOWN))
            return
        response = await self._commands.run(packet.name, decode_message(packet.body), self)
        try:
            segment = encode_segment(Packet(PacketType.CMD_RESPONSE, "", encode_message(response)))
        except ViciError as error:
            answer = {"success": "no", "errmsg": f"the answer does not fit one vici message: {error}"}
            segment = encode_segment(Packet(PacketType.CMD_RESPONSE, "", encode_message(answer)))
        self._channel.write(segment)

    def _write(self, packet: Packet) -> None:
        self._channel.write(encode_segment(packet))
