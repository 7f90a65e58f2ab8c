"""What the demo shows while it runs: a live screen on a terminal, plain lines elsewhere.

Both take the same calls: a step begins, a line of the negotiation, a gateway's status with the rate of the moment.
rich is imported where the live screen is wanted only. Called by main.py.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TextIO

if TYPE_CHECKING:
    from rich.table import Table

Tree = dict[str, Any]
LOG_LINES = 14


class View(Protocol):
    def __enter__(self) -> View: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def step(self, text: str) -> None: ...
    def detail(self, text: str) -> None: ...
    def show(self, status: Tree) -> None: ...


class PlainView:
    """One line per step and per detail."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def __enter__(self) -> PlainView:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def step(self, text: str) -> None:
        print(f"demo: {text}", file=self._out, flush=True)

    def detail(self, text: str) -> None:
        print(f"      {text}", file=self._out, flush=True)

    def show(self, status: Tree) -> None:
        """Lines that scroll have no use for a table that changes."""


class LiveView:
    """Steps, negotiation, SA table and throughput, one below the other, redrawn four times a second."""

    def __init__(self) -> None:
        from rich.live import Live  # late: 50 ms that a run without a terminal need not pay

        self._steps: list[str] = []
        self._details: list[str] = []
        self._status: Tree | None = None
        self._rate = RateMeter()
        self._rates: list[float] = []
        self._live = Live(get_renderable=self._render, refresh_per_second=4)

    def __enter__(self) -> LiveView:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, value, trace)

    def step(self, text: str) -> None:
        self._steps.append(text)

    def detail(self, text: str) -> None:
        self._details.append(text)

    def show(self, status: Tree) -> None:
        self._status = status
        gbit_per_s = self._rate.add(status, time.monotonic())
        if gbit_per_s is not None:
            self._rates.append(gbit_per_s)

    def _render(self) -> Any:
        from rich.console import Group
        from rich.panel import Panel
        from rich.text import Text

        steps = [
            Text(
                f"{'>' if at == len(self._steps) - 1 else '+'} {text}",
                style="bold" if at == len(self._steps) - 1 else "",
            )
            for at, text in enumerate(self._steps)
        ]
        parts = [Panel(Group(*steps), title="ipsec-fast demo", title_align="left")]
        if self._details:
            lines = Text("\n".join(self._details[-LOG_LINES:]), style="dim", no_wrap=True, overflow="ellipsis")
            parts.append(Panel(lines, title="negotiation, seen by gw1", title_align="left"))
        if self._status is not None:
            parts.append(Panel(sa_table(self._status), title="SAs of gw1", title_align="left"))
        if self._rates:
            parts.append(
                Panel(
                    Text(f"{self._rates[-1]:6.2f} Gbit/s  {spark(self._rates[-60:])}"),
                    title="through the tunnel",
                    title_align="left",
                )
            )
        return Group(*parts)


def sa_table(status: Tree) -> Table:
    """A row per IKE SA, and below it one per child."""
    from rich.table import Table

    rows = Table(box=None, pad_edge=False)
    for name in ("SA", "state", "algorithms", "SPIs in, out", "sent", "received"):
        rows.add_column(name, no_wrap=name != "algorithms")
    for sa in status["ike_sas"]:
        suite = "/".join(filter(None, (_cipher(sa), sa.get("prf-alg"), sa.get("dh-group"))))
        spis = f"{sa.get('initiator-spi', '')[:8]}.. {sa.get('responder-spi', '')[:8]}.."
        rows.add_row(f"{sa['name']} #{sa['uniqueid']}", str(sa["state"]), suite, spis)
        for child in sa["child-sas"]:
            counts = [f"{int(child.get(f'bytes-{way}', 0)) / 1e6:.1f} MB" for way in ("out", "in")]
            spis = f"{child['spi-in']} {child['spi-out']}"
            rows.add_row(f"  {child['name']} #{child['uniqueid']}", str(child["state"]), _cipher(child), spis, *counts)
    return rows


def _cipher(sa: Tree) -> str:
    size = f" {sa['encr-keysize']}" if "encr-keysize" in sa else ""
    return " ".join(filter(None, (f"{sa.get('encr-alg', '')}{size}", sa.get("integ-alg"))))


class RateMeter:
    """Gbit/s through the children of a gateway, both ways, between two looks at its counters."""

    def __init__(self) -> None:
        self._bytes = 0
        self._at: float | None = None

    def add(self, status: Tree, now: float) -> float | None:
        """None for the first look, and across a rekey, where the counters begin anew."""
        total = sum(
            int(child.get("bytes-in", 0)) + int(child.get("bytes-out", 0))
            for sa in status["ike_sas"]
            for child in sa["child-sas"]
        )
        before, self._bytes = self._bytes, total
        at, self._at = self._at, now
        if at is None or now <= at or total < before:
            return None
        return (total - before) * 8 / (now - at) / 1e9


def spark(values: list[float]) -> str:
    """A row of bars, as high as the values are."""
    top = max(values) or 1.0
    return "".join("▁▂▃▄▅▆▇█"[min(7, int(value / top * 7.99))] for value in values)


def choose_view(*, json: bool, plain: bool) -> View:
    """Live on a terminal; with --json all lines go to stderr, stdout is the document's."""
    if json:
        return PlainView(sys.stderr)
    return PlainView(sys.stdout) if plain or not sys.stdout.isatty() else LiveView()
