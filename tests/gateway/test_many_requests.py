"""Ten thousand requests for a child whose peer does not answer share one attempt; a timeout names the reason."""

from __future__ import annotations

import asyncio

import pytest

from ipsec_fast.gateway.vici.codec import Decoded
from ipsec_fast.gateway.vici.commands import Commands
from ipsec_fast.gateway.vici.control import ControlLog
from ipsec_fast.ike.events import NO_ANSWER, Progress
from tests.support.fake_control import FakeControl

REQUESTS = 10_000
SENTENCE = f"{NO_ANSWER}192.0.2.2 to 6 requests in 9 s; is it up, does a firewall drop UDP 500 and 4500?"


class Dead(FakeControl):
    """Its peer does not answer; `logs` is told of the attempt's lines."""

    def __init__(self) -> None:
        super().__init__()
        self.logs: list[ControlLog] = []

    async def initiate(self, ike: str | None, child: str | None, log: ControlLog) -> None:
        self.logs.append(log)
        await super().initiate(ike, child, log)


class Session:
    def __init__(self) -> None:
        self.posted = 0

    async def send_event(self, name: str, message: object) -> None: ...

    def post_event(self, name: str, message: object) -> None:
        self.posted += 1


def request(timeout_ms: int, child: str = "slow") -> Decoded:
    return {"child": child.encode(), "timeout": str(timeout_ms).encode(), "loglevel": b"1"}


@pytest.mark.parametrize("timeout_ms", [-1, 1])
async def test_ten_thousand_requests_for_a_dead_peer_are_one_attempt(timeout_ms: int) -> None:
    control = Dead()
    commands, session = Commands(control), Session()
    for _ in range(REQUESTS // 100):
        await asyncio.gather(*(commands.run("initiate", request(timeout_ms), session) for _ in range(100)))
    assert len(control.logs) == 1
    assert len(commands._background) == 1
    posted = session.posted
    control.logs[0](Progress(3, "paris", "retransmit 1 of request with message ID 0"))
    assert session.posted == posted, "who does not wait any more gets no lines"
    control.released.set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not commands._initiating
    commands.close()


async def test_all_who_wait_get_the_lines_and_the_result() -> None:
    control = Dead()
    commands, sessions = Commands(control), [Session() for _ in range(20)]
    waiting = [asyncio.ensure_future(commands.run("initiate", request(60_000), one)) for one in sessions]
    await asyncio.sleep(0.01)
    before = [one.posted for one in sessions]
    control.logs[0](Progress(3, "paris", "retransmit 1 of request with message ID 0"))
    assert [one.posted for one in sessions] == [count + 1 for count in before]
    control.released.set()
    assert await asyncio.gather(*waiting) == [{"success": "yes"}] * 20
    commands.close()


async def test_different_children_are_different_attempts_and_a_new_request_after_the_end_is_a_new_one() -> None:
    control = Dead()
    commands, session = Commands(control), Session()
    for child in ("net", "net", "coast"):
        await commands.run("initiate", request(1000, child), session)
    assert [call[2] for call in control.calls if call[0] == "initiate"] == ["net", "net", "coast"]
    commands.close()


async def test_who_runs_out_of_time_is_told_what_is_waited_for() -> None:
    control = Dead()
    commands, session = Commands(control), Session()
    waiting = asyncio.ensure_future(commands.run("initiate", request(50), session))
    await asyncio.sleep(0.01)
    control.logs[0](Progress(3, "paris", SENTENCE, "net", 2))
    answer = await waiting
    assert answer == {"success": "no", "errmsg": f"CHILD_SA 'slow' not established after 50ms: {SENTENCE}"}
    assert session.posted < 3  # a level that nobody asked for is not shown
    commands.close()
