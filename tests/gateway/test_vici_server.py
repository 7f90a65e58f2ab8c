"""The control socket's manners: who may open it, what malformed bytes do, how commands wait, who gets events."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import stat
from collections.abc import AsyncIterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest
import pytest_asyncio

from ipsec_fast.control.paths import PathNews
from ipsec_fast.errors import HostError
from ipsec_fast.gateway.vici import channel as channel_module
from ipsec_fast.gateway.vici import config_commands as config_commands_module
from ipsec_fast.gateway.vici import server as server_module
from ipsec_fast.gateway.vici.announce import Announcer
from ipsec_fast.gateway.vici.codec import (
    MAX_SEGMENT_BYTES,
    Packet,
    PacketType,
    decode_message,
    decode_packet,
    encode_message,
    encode_segment,
)
from ipsec_fast.gateway.vici.server import ViciServer
from ipsec_fast.ike.events import ChildDown, ChildUp, IkeDown, IkeUp, Progress
from ipsec_fast.model import Identity
from tests.support.fake_control import FakeControl, child_view, ike_view


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, kind: PacketType, name: str = "", message: dict[str, object] | None = None) -> None:
        self.writer.write(encode_segment(Packet(kind, name, encode_message(message or {}))))

    async def receive(self) -> Packet:
        length = int.from_bytes(await asyncio.wait_for(self.reader.readexactly(4), 5))
        return decode_packet(await self.reader.readexactly(length))

    async def ask(self, kind: PacketType, name: str, message: dict[str, object] | None = None) -> Packet:
        self.send(kind, name, message)
        return await self.receive()

    async def command(self, name: str, message: dict[str, object] | None = None) -> dict[str, object]:
        packet = await self.ask(PacketType.CMD_REQUEST, name, message)
        assert packet.type == PacketType.CMD_RESPONSE
        return decode_message(packet.body)

    async def register(self, *names: str) -> None:
        for name in names:
            assert (await self.ask(PacketType.EVENT_REGISTER, name)).type == PacketType.EVENT_CONFIRM

    async def event(self) -> tuple[str, dict[str, object]]:
        packet = await self.receive()
        assert packet.type == PacketType.EVENT
        return packet.name, decode_message(packet.body)

    async def is_closed(self) -> bool:
        try:
            return await asyncio.wait_for(self.reader.read(), 5) == b""
        except ConnectionError:
            return True


class Host:
    def __init__(self, path: str) -> None:
        self.path = path
        self.control = FakeControl()
        self.server = ViciServer(path, self.control)

    async def connect(self) -> Client:
        return Client(*await asyncio.open_unix_connection(self.path))


@pytest_asyncio.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    host = Host(str(tmp_path / "v.sock"))
    await host.server.start()
    yield host
    await host.server.close()
    assert not os.path.exists(host.path)


# --- the socket


async def test_socket_is_for_its_owner_alone(host: Host) -> None:
    assert stat.S_IMODE(os.stat(host.path).st_mode) == 0o600


async def test_second_gateway_is_refused(host: Host) -> None:
    with pytest.raises(HostError, match="in use"):
        await ViciServer(host.path, FakeControl()).start()
    assert "version" in await (await host.connect()).command("version")


async def test_stale_socket_is_replaced(tmp_path: Path) -> None:
    path = str(tmp_path / "v.sock")
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(path)
    server = ViciServer(path, FakeControl())
    await server.start()
    await server.close()
    await server.close()


async def test_something_else_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "v.sock"
    file.write_text("precious")
    with pytest.raises(HostError, match="no socket"):
        await ViciServer(str(file), FakeControl()).start()
    assert file.read_text() == "precious"


async def test_missing_folder_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="No such file"):
        await ViciServer(str(tmp_path / "none" / "v.sock"), FakeControl()).start()


async def test_a_successor_s_socket_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "v.sock"
    server = ViciServer(str(path), FakeControl())
    await server.start()
    path.unlink()
    path.write_text("successor")
    await server.close()
    assert path.read_text() == "successor"


async def test_other_users_are_turned_away(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "peer_uid", lambda connection: os.geteuid() + 4711)
    assert await (await host.connect()).is_closed()


async def test_connections_are_limited(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "MAX_CONNECTIONS", 1)
    first = await host.connect()
    await first.command("version")
    assert await (await host.connect()).is_closed()
    await first.command("version")


async def test_the_oldest_idle_connection_gives_way_and_a_listener_does_not(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "MAX_CONNECTIONS", 3)
    listener = await host.connect()
    await listener.register("ike-updown")
    oldest, second = await host.connect(), await host.connect()
    while len(host.server._connections) < 3:
        await asyncio.sleep(0)
    assert "version" in await (await host.connect()).command("version")
    assert await oldest.is_closed()
    assert "version" in await second.command("version")
    host.server.broadcast("ike-updown", lambda: {"up": "yes"})
    assert (await listener.event())[0] == "ike-updown"


async def test_200_listeners_keep_nobody_out_and_half_of_the_places_are_theirs(host: Host) -> None:
    listeners = []
    for _ in range(200):
        listeners.append(await host.connect())
        await listeners[-1].register("log")
    for _ in range(3):
        assert "version" in await (await host.connect()).command("version")
    assert len(host.server._connections) <= server_module.MAX_CONNECTIONS
    host.server.broadcast("log", lambda: {"msg": "x"})
    assert (await listeners[-1].event())[0] == "log"
    for one in listeners:
        one.writer.close()


async def test_a_running_command_does_not_give_way(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "MAX_CONNECTIONS", 1)
    busy = await host.connect()
    busy.send(PacketType.CMD_REQUEST, "initiate", {"child": "slow"})
    while not host.control.calls:
        await asyncio.sleep(0)
    assert await (await host.connect()).is_closed()


@pytest.mark.parametrize("kind", ["silent", "half a header", "half a request"])
async def test_200_stalled_connections_keep_nobody_out(host: Host, kind: str) -> None:
    stalled = [await host.connect() for _ in range(200)]
    for one in stalled:
        one.writer.write({"silent": b"", "half a header": b"\0\0", "half a request": b"\0\0\0\x20\0\7ver"}[kind])
    for _ in range(3):
        assert "version" in await (await host.connect()).command("version")
    assert len(host.server._connections) <= server_module.MAX_CONNECTIONS
    for one in stalled:
        one.writer.close()


@pytest.mark.parametrize("begun", [b"\0", b"\0\0\0\x20\0\7ver"])
async def test_half_a_request_is_dropped_in_time(host: Host, monkeypatch: pytest.MonkeyPatch, begun: bytes) -> None:
    monkeypatch.setattr(channel_module, "PACKET_S", 0.05)
    client, idle = await host.connect(), await host.connect()
    client.writer.write(begun)
    assert await client.is_closed()
    assert "version" in await idle.command("version")  # nothing of it was half here


@pytest.mark.parametrize("command", ["list-conns", "list-sas"])
async def test_a_client_that_is_dropped_while_it_is_written_to_is_no_failure_of_the_command(
    host: Host, caplog: pytest.LogCaptureFixture, command: str
) -> None:
    client = await host.connect()
    for kind in ("list-conn", "list-sa"):
        await client.register(kind)
    for one in host.server._connections:
        one._channel._writable.clear()  # it reads nothing
    client.send(PacketType.CMD_REQUEST, command)
    await asyncio.sleep(0.05)
    for one in list(host.server._connections):
        one.drop()  # as where it gives way
    while host.server._connections:
        await asyncio.sleep(0)
    assert not caplog.records


# --- malformed input


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x00\x00\x00",
        b"\xff\xff\xff\xff",
        b"\x00\x00\x00\x01\x09",
        b"\x00\x00\x00\x01\x00",
        b"\x00\x00\x00\x03\x00\x05a",
        b"\x00\x00\x00\x01\x01",
        b"\x00\x00\x00\x0a\x00\x07version\x02",
        b"\x00\x00\x00\x0b\x00\x07version\x04\x01",
    ],
)
async def test_malformed_bytes_close_that_connection_alone(host: Host, data: bytes) -> None:
    bystander, culprit = await host.connect(), await host.connect()
    culprit.writer.write(data)
    assert await culprit.is_closed()
    assert "version" in await bystander.command("version")


async def test_garbage_never_kills_the_server(host: Host) -> None:
    rng = random.Random(7)
    good = encode_segment(
        Packet(PacketType.CMD_REQUEST, "list-sas", encode_message({"ike": "paris", "x": {"y": ["z"]}}))
    )
    for _ in range(300):
        client = await host.connect()
        data = bytearray(good * 3)
        for _ in range(rng.randrange(1, 6)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        client.writer.write(bytes(data[: rng.randrange(1, len(data))]) if rng.random() < 0.5 else rng.randbytes(40))
        client.writer.close()
    assert "version" in await (await host.connect()).command("version")


async def test_unknown_names(host: Host) -> None:
    client = await host.connect()
    for name in ("load-con", "", "LIST-SAS"):
        assert (await client.ask(PacketType.CMD_REQUEST, name)).type == PacketType.CMD_UNKNOWN
    for name in ("alert", "ike-update", "list-"):
        assert (await client.ask(PacketType.EVENT_REGISTER, name)).type == PacketType.EVENT_UNKNOWN
        assert (await client.ask(PacketType.EVENT_UNREGISTER, name)).type == PacketType.EVENT_UNKNOWN


@pytest.mark.parametrize(
    ("command", "message", "reason"),
    [
        ("initiate", {}, "missing configuration name"),
        ("initiate", {"child": "nte"}, "CHILD_SA config 'nte' not found; there are: net"),
        ("initiate", {"ike": "pairs"}, "IKE_SA config 'pairs' not found; there are: paris, rome"),
        ("initiate", {"ike": "rome", "child": "net"}, "CHILD_SA config 'net' not found"),
        ("initiate", {"child": "refused"}, "aes128gcm16 offered, aes256gcm16 wanted"),
        ("initiate", {"child": "slow", "timeout": 20}, "CHILD_SA 'slow' not established after 20ms"),
        ("initiate", {"child": "net", "timeout": "soon"}, "timeout must be a number"),
        ("initiate", {"child": ["net"]}, "single value"),
        ("terminate", {}, "missing terminate selector"),
        ("terminate", {"ike": "none"}, "no matching SAs to terminate found"),
        ("terminate", {"ike-id": "x"}, "ike-id must be a number"),
        ("rekey", {}, "missing rekey selector"),
        ("rekey", {"child-id": 55}, "no matching SAs to rekey found"),
        ("rekey", {"child": "net", "reauth": "yes"}, "reauthenticated as a whole"),
        ("list-sas", {"ike-id": "x"}, "must be a number"),
    ],
)
async def test_refusals_say_why(host: Host, command: str, message: dict[str, object], reason: str) -> None:
    client = await host.connect()
    response = await client.command(command, message)
    assert response["success"] == b"no"
    assert reason in response["errmsg"].decode()
    assert "version" in await client.command("version")


async def test_a_bug_in_a_command_is_an_answer_too(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    host.control.stats = lambda: 1 / 0  # type: ignore[method-assign,assignment,return-value]
    client = await host.connect()
    assert b"internal error" in (await client.command("stats"))["errmsg"]
    assert "version" in await client.command("version")
    assert "ZeroDivisionError" in caplog.text


# --- waiting


async def test_a_waiting_command_blocks_nobody_else(host: Host) -> None:
    waiting, other = await host.connect(), await host.connect()
    waiting.send(PacketType.CMD_REQUEST, "initiate", {"child": "slow"})
    waiting.send(PacketType.CMD_REQUEST, "version")
    assert "version" in await other.command("version")
    host.control.released.set()
    assert decode_message((await waiting.receive()).body) == {"success": b"yes"}
    assert "version" in decode_message((await waiting.receive()).body)


async def test_timeout_minus_one_returns_at_once_and_the_work_goes_on(host: Host) -> None:
    client = await host.connect()
    assert await client.command("initiate", {"child": "slow", "timeout": -1}) == {"success": b"yes"}
    assert host.control.calls == [("initiate", None, "slow")]


async def test_a_client_that_leaves_ends_its_waiting(host: Host) -> None:
    client = await host.connect()
    client.send(PacketType.CMD_REQUEST, "initiate", {"child": "slow"})
    client.writer.close()
    while host.server._connections:
        await asyncio.sleep(0)
    assert "version" in await (await host.connect()).command("version")


async def test_a_client_that_leaves_in_a_stream_holds_up_nobody_and_leaves_nothing(host: Host) -> None:
    child = {f"child-with-a-long-name-{n}": {"remote_ts": ["10.9.0.0/24"]} for n in range(200)}
    sides = {"local": {"auth": "psk"}, "remote": {"auth": "psk", "id": "%any"}}
    slow, other = await host.connect(), await host.connect()
    for number in range(15):
        assert await other.command("load-conn", {f"c{number}": {**sides, "children": child}}) == {"success": b"yes"}
    await slow.register("list-conn")
    slow.send(PacketType.CMD_REQUEST, "list-conns")
    await slow.event()
    await other.register("list-conn")
    other.send(PacketType.CMD_REQUEST, "list-conns")
    assert [len(await other.event()) for _ in range(17)] == [2] * 17
    assert (await other.receive()).type == PacketType.CMD_RESPONSE
    slow.writer.transport.abort()
    while len(host.server._connections) > 1:
        await asyncio.sleep(0)
    assert len(host.server._tasks) == 1


async def test_requests_that_pile_up_close_that_connection_and_end_its_waiting(host: Host) -> None:
    client = await host.connect()
    for _ in range(200):
        client.send(PacketType.CMD_REQUEST, "initiate", {"child": "slow"})
    assert await client.is_closed()
    while host.server._connections:
        await asyncio.sleep(0)
    assert "version" in await (await host.connect()).command("version")


async def test_a_packet_in_small_pieces_and_the_longest_are_understood(host: Host) -> None:
    client = await host.connect()
    for byte in encode_segment(Packet(PacketType.CMD_REQUEST, "version", encode_message({"a": "b"}))):
        client.writer.write(bytes([byte]))
        await client.writer.drain()
        await asyncio.sleep(0)
    assert "version" in decode_message((await client.receive()).body)
    room = MAX_SEGMENT_BYTES - 1 - len("version") - 1
    items = ["x" * 65000] * (room // 65100)
    response = await client.command("version", {"big": items})
    assert "version" in response


async def test_a_secret_s_buffers_are_wiped(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    wiped: list[object] = []
    real = channel_module.wipe

    def spy(buffer: object) -> None:
        real(buffer)
        wiped.append(buffer)

    for module in (channel_module, server_module, config_commands_module):
        monkeypatch.setattr(module, "wipe", spy)
    client = await host.connect()
    secret = "a long shared secret, swordfish" * 3000  # the buffer grows on its way
    response = await client.command("load-shared", {"type": "ike", "id": "s", "data": secret[:4000]})
    assert response == {"success": b"yes"}
    assert b"longer than" in (await client.command("load-shared", {"type": "ike", "data": secret[:60000]}))["errmsg"]
    filled = [buffer for buffer in wiped if len(buffer) > 3900]  # type: ignore[arg-type]
    assert len(filled) >= 6  # the packet, the message, the value, twice
    assert all(not any(buffer) for buffer in filled)  # type: ignore[call-overload]


async def test_an_answer_that_does_not_fit_is_an_answer_too(host: Host) -> None:
    host.control.messages = {(f"{n:0100}", 35, True, False): 1 for n in range(3000)}
    client = await host.connect()
    response = await client.command("get-counters", {"all": "yes"})
    assert (response["success"], b"does not fit" in response["errmsg"]) == (b"no", True)
    assert (await client.command("get-counters"))["success"] == b"yes"


async def test_control_log_goes_to_whom_it_concerns(host: Host) -> None:
    asking, bystander, deaf = await host.connect(), await host.connect(), await host.connect()
    await asking.register("control-log")
    await bystander.register("control-log")
    asking.send(PacketType.CMD_REQUEST, "initiate", {"child": "net"})
    name, line = await asking.event()
    assert name == "control-log"
    assert line["msg"] == b"initiating IKE_SA paris[3] to 192.0.2.2"
    assert (line["group"], line["level"], line["ikesa-name"]) == (b"IKE", b"1", b"paris")
    assert (await asking.receive()).type == PacketType.CMD_RESPONSE  # level 2 was left out
    assert await deaf.command("initiate", {"child": "net"}) == {"success": b"yes"}
    assert (await bystander.ask(PacketType.EVENT_UNREGISTER, "control-log")).type == PacketType.EVENT_CONFIRM


async def test_slow_reader_is_dropped(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "MAX_UNREAD_BYTES", 10_000)
    slow = await host.connect()
    await slow.register("log")
    for _ in range(20_000):
        host.control.tell(Progress(1, "paris", "x" * 100), None)
        if not host.server._connections or not next(iter(host.server._connections)).events:
            break
    else:
        pytest.fail("a reader that never reads was kept")
    assert "version" in await (await host.connect()).command("version")


# --- events


async def test_up_and_down(host: Host) -> None:
    client = await host.connect()
    await client.register("ike-updown", "child-updown")
    view = ike_view(children=(child_view(),))
    host.control.tell(IkeUp(1, "paris"), ike_view())
    host.control.tell(ChildUp(1, 7, "paris", "net"), view)
    host.control.tell(ChildDown(1, 7, "paris", "net", "deleted"), ike_view())
    host.control.tell(IkeDown(1, "paris", "deleted", False), None)
    name, up = await client.event()
    assert (name, up["up"], up["paris"]["uniqueid"]) == ("ike-updown", b"yes", b"1")
    name, up = await client.event()
    assert (name, up["up"]) == ("child-updown", b"yes")
    assert up["paris"]["child-sas"]["net-7"]["spi-in"] == b"c8fb5536"
    name, down = await client.event()
    assert (name, "up" in down) == ("child-updown", False)
    assert down["paris"]["child-sas"]["net-7"]["spi-in"] == b"c8fb5536"  # as it was last seen
    name, down = await client.event()
    assert (name, "up" in down, down["paris"]["state"]) == ("ike-updown", False, b"ESTABLISHED")


async def test_a_rekey_is_one_event_and_no_down(host: Host) -> None:
    client = await host.connect()
    await client.register("ike-updown", "child-updown", "ike-rekey", "child-rekey", "log")
    host.control.tell(IkeUp(1, "paris"), ike_view(children=(child_view(),)))
    await client.event()
    host.control.tell(IkeUp(5, "paris", replaces=1), ike_view(5))
    host.control.tell(IkeDown(1, "paris", "rekeyed", False), None)
    both = (child_view(7, state="REKEYED"), child_view(8))
    host.control.tell(ChildUp(5, 8, "paris", "net", replaces=7), ike_view(5, children=both))
    host.control.tell(ChildDown(5, 7, "paris", "net", "rekeyed", replaced_by=8), ike_view(5))
    host.control.tell(Progress(5, "paris", "done"), None)
    name, message = await client.event()
    assert name == "ike-rekey"
    assert (message["paris"]["old"]["uniqueid"], message["paris"]["new"]["uniqueid"]) == (b"1", b"5")
    name, message = await client.event()
    assert name == "child-rekey"
    pair = message["paris"]["child-sas"]["net"]
    assert (pair["old"]["uniqueid"], pair["old"]["state"], pair["new"]["uniqueid"]) == (b"7", b"REKEYED", b"8")
    assert (await client.event())[0] == "log"


async def test_an_attempt_that_never_stood_is_no_down(host: Host) -> None:
    client = await host.connect()
    await client.register("ike-updown", "log")
    host.control.tell(IkeDown(4, "paris", "no answer", True), ike_view(4, state="CONNECTING"))
    host.control.tell(Progress(4, "paris", "giving up"), None)
    assert (await client.event())[0] == "log"


async def test_each_step_of_a_path_is_an_event(host: Host) -> None:
    client = await host.connect()
    await client.register("path-mtu")
    local, remote = ip_address("192.0.2.1"), ip_address("192.0.2.2")
    news = PathNews(local, remote, "fell", 1500, 1300, "fallback", (("paris", "net", 7),))
    for listener in host.control.path_listeners:
        listener(news)
    name, message = await client.event()
    assert name == "path-mtu"
    assert message["step"] == b"fell"
    assert (message["before"], message["path-mtu"], message["path-mtu-source"]) == (b"1500", b"1300", b"fallback")
    assert (message["local-host"], message["remote-host"]) == (b"192.0.2.1", b"192.0.2.2")
    assert message["child-sas"] == {"net-7": {"ike": b"paris"}}


@pytest.mark.parametrize(
    ("request_", "answer"),
    [({"child": "net"}, (b"yes", b"1")), ({"child": "nowhere"}, (b"no", b"0")), ({"ike": "rome"}, (b"yes", b"1"))],
)
async def test_paths_are_probed_for_who_is_named(
    host: Host, request_: dict[str, object], answer: tuple[bytes, bytes]
) -> None:
    response = await (await host.connect()).command("probe-mtu", request_)
    assert (response["success"], response["matches"]) == answer


async def test_probing_wants_a_name(host: Host) -> None:
    assert (await (await host.connect()).command("probe-mtu"))["success"] == b"no"


# --- one bad SA


@pytest.mark.parametrize(
    "identity", [Identity(11, b"k" * 1024), Identity(2, b"\x00" * 1024), Identity(2, b"\x00" * 60000)]
)
async def test_long_identities_fit_a_list_of_sas(host: Host, identity: Identity) -> None:
    host.control.sas[0] = replace(host.control.sas[0], remote_id=identity)
    client = await host.connect()
    await client.register("list-sa")
    client.send(PacketType.CMD_REQUEST, "list-sas")
    _, first = await client.event()
    assert len(first["paris"]["remote-id"]) < 600
    assert (await client.event())[1].keys() == {"rome"}
    assert (await client.receive()).type == PacketType.CMD_RESPONSE


@pytest.mark.parametrize(
    "broken", [{"tasks_active": ("q" * 65536,)}, {"tasks_queued": ("q" * 70000,)}, {"spi_i": None}]
)
async def test_one_bad_sa_never_makes_list_sas_fail(host: Host, broken: dict[str, object]) -> None:
    """It says so in its place; the others are listed."""
    host.control.sas[0] = replace(host.control.sas[0], **broken)
    client = await host.connect()
    await client.register("list-sa")
    client.send(PacketType.CMD_REQUEST, "list-sas")
    _, first = await client.event()
    assert first["paris"]["uniqueid"] == b"1"
    assert first["paris"]["state"] == b"ESTABLISHED"
    assert first["paris"]["error"]
    assert (await client.event())[1].keys() == {"rome"}
    response = await client.receive()
    assert response.type == PacketType.CMD_RESPONSE
    assert b"success" not in decode_message(response.body)


async def test_a_key_id_cannot_pass_for_a_name(host: Host) -> None:
    host.control.sas = [
        replace(host.control.sas[0], remote_id=Identity.parse("paris.example")),
        replace(host.control.sas[0], remote_id=Identity(11, b"paris.example")),
    ]
    client = await host.connect()
    await client.register("list-sa")
    client.send(PacketType.CMD_REQUEST, "list-sas")
    sections = [(await client.event())[1]["paris"] for _ in range(2)]
    assert [one["remote-id"] for one in sections] == [b"paris.example", b"keyid:paris.example"]
    assert [one["remote-id-type"] for one in sections] == [b"FQDN", b"KEY_ID"]


async def test_half_open_ike_sas_of_strangers_are_counted_where_they_are_not_shown(host: Host) -> None:
    stats = host.control.stats()
    host.control.stats = lambda: {**stats, "half_open": 4000}  # type: ignore[method-assign]
    answer = await (await host.connect()).command("stats")
    assert answer["ikesas"] == {"total": b"4002", "half-open": b"4000"}


async def test_a_child_that_goes_after_its_ike_sa_leaves_no_view(host: Host) -> None:
    announcer = Announcer(host.control, lambda event, build: None)
    view = host.control.sas[0]
    for number in range(1, 50):
        one = replace(view, ike_id=number)
        announcer.hear(IkeUp(number, "paris"), one)
        announcer.hear(IkeDown(number, "paris", "gone", False), one)
        announcer.hear(ChildDown(number, number, "paris", "net", "deleted while it was being installed"), one)
    assert not announcer._last_seen
    assert not announcer._up
