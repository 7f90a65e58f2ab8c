"""How far a benchmark is: a bar on stderr where that is a terminal and nobody reads JSON from us, otherwise the plain lines or nothing.

The bar is drawn between measurements, never by a thread beside them, unless the measurement runs in other processes anyway (`ticking`).
Rows of a table go through `row`, so that they stand above the bar. Called by the faces.
"""

from __future__ import annotations

import argparse
import sys
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from .inside import say


class Meter:
    """`with Meter(arguments, total) as meter:`; `total` steps, or None where nobody knows.

    `lines`: without a bar each step is a line on stderr, as programs in a pipe or a log want it.
    """

    def __init__(
        self, arguments: argparse.Namespace, total: int | None, *, lines: bool = False, ticking: bool = False
    ) -> None:
        self._lines = lines
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._is_begun = False
        if sys.stderr.isatty() and not arguments.json:
            self._bar = _bar(ticking)
            self._task = self._bar.add_task("", total=total)

    def __enter__(self) -> Meter:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def begin(self, text: str) -> None:
        """The next step; the one before it is done."""
        if self._is_begun:
            self.step()
        self._is_begun = True
        self.note(text)

    def note(self, text: str) -> None:
        """What is done now."""
        if self._bar is not None:
            self._bar.update(self._task, description=text)
            self._bar.refresh()
        elif self._lines:
            say(text)

    def tell(self, text: str) -> None:
        """A line on stderr that stays, bar or not."""
        if self._bar is not None:
            self._bar.console.print(f"bench: {text}", markup=False, highlight=False, soft_wrap=True)
        else:
            say(text)

    def step(self) -> None:
        """One of the total is done."""
        if self._bar is not None:
            self._bar.advance(self._task)
            self._bar.refresh()

    def expect(self, total: int) -> None:
        """So many steps in all, known only now."""
        if self._bar is not None:
            self._bar.update(self._task, total=total)

    def row(self, text: str) -> None:
        """A line of the result, on stdout."""
        if self._bar is None:
            print(text, flush=True)
            return
        self._bar.stop()  # it leaves nothing behind; stdout may be the same terminal or not
        print(text, flush=True)
        self._bar.start()


def _bar(ticking: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        auto_refresh=ticking,
        refresh_per_second=2,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )
