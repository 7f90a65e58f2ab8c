"""Horizontal bars by matplotlib: figures with their spread, targets as marks, the numbers beside them. Called by report.py.

No global state of matplotlib is touched: figures are made by themselves, with the backend of the format that is asked for.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator, Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .report import Bar, Chart

COLOURS = ("#2563eb", "#94a3b8", "#f59e0b", "#10b981", "#a855f7", "#ef4444")
INK, QUIET, GRID, MARK = "#1e293b", "#64748b", "#e2e8f0", "#dc2626"
# all lengths are inches
WIDTH, BAR, GAP = 11.0, 0.18, 0.13
EDGE, BETWEEN, SHARE = 0.3, 0.45, 0.6  # margins; between charts side by side; what the left one gets of the width
HEAD, LEGEND, FOOT = 0.5, 0.26, 0.6  # of a chart: its title, then its legend if it has one, above, its axis below
TITLE, CREDIT = 0.95, 0.5
LETTER = 0.078  # of a row's name at 9 points
DPI = 130


def draw(charts: Sequence[Chart], form: str, *, title: str = "", notes: str = "", foot: str = "") -> bytes:
    """The charts below each other (`Chart.beside`: beside the one before it) as one picture, `form` png or svg."""
    lines = list(_lines(charts))
    top, bottom = (TITLE if title else 0.0), (CREDIT if foot else 0.0)
    height = top + bottom + sum(_head(line) + _body(line) + FOOT for line in lines)
    left = EDGE + 0.15 + LETTER * max((len(row) for chart in charts for row in chart.rows), default=0)
    with matplotlib.rc_context(
        {"font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"], "font.size": 9, "svg.fonttype": "path"}
    ):
        figure = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor="white")
        at = height - top
        for line in lines:
            at -= _head(line) + _body(line)
            for chart, (start, width) in zip(line, _columns(line, left), strict=True):
                axes = figure.add_axes((start / WIDTH, at / height, width / WIDTH, _body(line) / height))
                _draw_chart(axes, chart, _body(line), width, _head(line) - HEAD)
                if chart.beside:
                    axes.set_yticklabels([])
            at -= FOOT
        _write_round(figure, height, title, notes, foot)
        out = io.BytesIO()
        figure.savefig(out, format=form, metadata={"Date": None} if form == "svg" else None)
    return out.getvalue()


def _lines(charts: Sequence[Chart]) -> Iterator[list[Chart]]:
    line: list[Chart] = []
    for chart in charts:
        if line and not chart.beside:
            yield line
            line = []
        line.append(chart)
    if line:
        yield line


def _body(line: Sequence[Chart]) -> float:
    """The height of charts that stand side by side: their rows must meet."""
    return len(line[0].rows) * (BAR * max(len(chart.series) for chart in line) + GAP)


def _is_explained(chart: Chart) -> bool:
    return len(chart.series) > 1 or bool(chart.target)


def _head(line: Sequence[Chart]) -> float:
    """What charts that stand side by side have above their rows."""
    return HEAD + LEGEND * any(_is_explained(chart) for chart in line)


def _columns(line: Sequence[Chart], left: float) -> list[tuple[float, float]]:
    """(start, width) of each chart of a line."""
    whole = WIDTH - left - EDGE
    if len(line) == 1:
        return [(left, whole)]
    first = (whole - BETWEEN) * SHARE
    rest = (whole - first - BETWEEN * (len(line) - 1)) / (len(line) - 1)
    return [(left, first)] + [(left + first + BETWEEN + at * (rest + BETWEEN), rest) for at in range(len(line) - 1)]


def _write_round(figure: Figure, height: float, title: str, notes: str, foot: str) -> None:
    """What stands above and below all charts."""
    edge = EDGE / WIDTH
    figure.text(edge, 1 - 0.22 / height, title, fontsize=14, fontweight="bold", color=INK, va="top")
    text = "\n".join(textwrap.wrap(notes, 150)[:2])
    figure.text(edge, 1 - 0.53 / height, text, fontsize=8.5, color=QUIET, va="top", linespacing=1.35)
    text = "\n".join(textwrap.wrap(foot, 170)[:2])
    figure.text(edge, 0.14 / height, text, fontsize=7.5, color=QUIET, va="bottom", linespacing=1.3)


def _draw_chart(axes: Axes, chart: Chart, body: float, width: float, legend: float) -> None:
    """`legend`: the room that the line has for legends, so that titles stand level."""
    step = body / len(chart.rows)
    thick = (step - GAP) / len(chart.series)
    ends: list[tuple[float, Bar, str]] = []
    for order, (name, bars) in enumerate(chart.series.items()):
        places = [row * step + GAP / 2 + (order + 0.5) * thick for row in range(len(chart.rows))]
        found = [(place, bar) for place, bar in zip(places, bars, strict=True) if bar is not None]
        axes.barh(
            [place for place, _ in found], [bar.value for _, bar in found], height=min(thick, 0.24) * 0.86,
            color=COLOURS[order % len(COLOURS)], label=name, zorder=2,
        )  # fmt: skip
        for place, bar in found:
            _draw_ends(axes, place, bar, thick)
            ends.append((place, bar, f"{bar.value:,.{chart.digits}f}"))
    most = max((_last(bar) for _, bar, _ in ends), default=0.0) or 1.0
    room = 0.12 + 0.075 * max((len(text) for _, _, text in ends), default=0)
    axes.set_xlim(0, most * width / (width - room))
    axes.set_ylim(body, 0)
    for place, bar, text in ends:
        end = _label_at(bar, most * (0.12 + 0.075 * len(text)) / (width - room))
        axes.annotate(
            text,
            (end, place),
            (4, 0),
            textcoords="offset points",
            va="center",
            ha="left",
            fontsize=8,
            color=INK,
            zorder=4,
        )
    if chart.baseline is not None:
        axes.axvline(chart.baseline, color=QUIET, linewidth=0.9, linestyle=(0, (4, 3)), zorder=2.5)
    axes.set_yticks([row * step + step / 2 for row in range(len(chart.rows))], list(chart.rows))
    _dress(axes, chart, body, legend)


def _draw_ends(axes: Axes, place: float, bar: Bar, thick: float) -> None:
    """Spread and target of a bar."""
    if bar.low is not None and bar.high is not None:
        axes.plot([bar.low, bar.high], [place, place], color=INK, linewidth=1, solid_capstyle="butt", zorder=3)
        for at in (bar.low, bar.high):
            axes.plot([at, at], [place - 0.04, place + 0.04], color=INK, linewidth=1, zorder=3)
    if bar.target is not None:
        half = min(thick, 0.24) * 0.52
        axes.plot(
            [bar.target] * 2, [place - half, place + half], color=MARK, linewidth=2, solid_capstyle="butt", zorder=3.5
        )


def _last(bar: Bar) -> float:
    """Where all of it ends, spread and target included."""
    return max(end for end in (bar.value, bar.high, bar.target) if end is not None)


def _label_at(bar: Bar, label: float) -> float:
    """Behind the bar and its spread, where a label of this width does not run into the target; otherwise behind that."""
    end = bar.value if bar.high is None else max(bar.value, bar.high)
    return end if bar.target is None or not end - label * 0.2 <= bar.target <= end + label else _last(bar)


def _dress(axes: Axes, chart: Chart, body: float, legend: float) -> None:
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(QUIET)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.tick_params(axis="x", colors=QUIET, labelsize=8)
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlabel(chart.axis, color=QUIET, fontsize=8.5, loc="left")
    handles, labels = axes.get_legend_handles_labels()
    if chart.target:  # its mark comes behind the series
        handles.append(Line2D([], [], color=MARK, linewidth=2))
        labels.append(chart.target)
    if _is_explained(chart):
        axes.legend(
            handles, labels, loc="lower left", bbox_to_anchor=(0, 1 + 0.06 / body), ncols=len(labels), frameon=False,
            fontsize=8.5, labelcolor=INK, handlelength=1.2, columnspacing=1.6, borderaxespad=0, borderpad=0,
        )  # fmt: skip
    axes.set_title(
        chart.title, loc="left", y=1 + (0.1 + legend) / body, pad=0, fontsize=11, fontweight="bold", color=INK
    )
