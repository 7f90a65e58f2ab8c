"""`--report FILE.png|.html`: what a benchmark found, as plots, and in the .html with its table, the machine and the command.

What is wrong with FILE, or missing here, is said before anything is measured (`check_report`). The drawing is plots.py's, which needs
matplotlib (`pip install ipsec-fast[bench]`). Called by the faces.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import html
import importlib.util
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import HostError, UsageError
from .arguments import command_words

SUFFIXES = (".html", ".png")


@dataclass(frozen=True, slots=True)
class Bar:
    """One figure, the ends of its spread, and what it shall reach at most or at least."""

    value: float
    low: float | None = None
    high: float | None = None
    target: float | None = None


@dataclass(frozen=True, slots=True)
class Chart:
    """Horizontal bars: for each row one of every series that has one there. `axis` names what is drawn and its unit."""

    title: str
    axis: str
    rows: Sequence[str]
    series: Mapping[str, Sequence[Bar | None]]
    target: str = ""  # what the target marks mean, for the legend
    digits: int = 1
    baseline: float | None = None  # a line that all is compared with, 1.0 of a ratio
    beside: bool = False  # to the right of the chart before it, whose rows it has


@dataclass(frozen=True, slots=True)
class Report:
    """`title` says what was measured, `notes` how: batch, sizes, what the spread is."""

    title: str
    notes: str
    charts: Sequence[Chart]
    columns: Sequence[str]
    table: Sequence[Sequence[object]]
    versions: Mapping[str, str] = field(default_factory=dict)  # of others that took part


def check_report(arguments: argparse.Namespace) -> None:
    """UsageError or HostError where `--report` cannot be written later; nothing is left behind."""
    if arguments.report is None:
        return
    path = Path(arguments.report)
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"--report {path}: the name must end in {' or '.join(SUFFIXES)}")
    if importlib.util.find_spec("matplotlib") is None:
        raise HostError("--report needs matplotlib: pip install ipsec-fast[bench]")
    is_new = not path.exists()
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666))
    except OSError as error:
        raise UsageError(f"--report {path}: it cannot be written: {error.strerror}") from None
    if is_new:
        with contextlib.suppress(OSError):
            path.unlink()


def check_outside_run(arguments: argparse.Namespace) -> None:
    """A benchmark in namespaces has a /run of its own, which ends with it; what was written there would be lost."""
    if arguments.report is not None and Path(arguments.report).resolve().is_relative_to("/run"):
        raise UsageError(f"--report {arguments.report}: this benchmark has a /run of its own; name another folder")


def write_report(arguments: argparse.Namespace, report: Report, where: dict[str, Any]) -> None:
    """The file that `--report` names, if it names one; HostError where the disk refuses."""
    if arguments.report is None:
        return
    from .plots import draw  # late: matplotlib is optional, and slow to come

    path = Path(arguments.report)
    try:
        if path.suffix.lower() == ".png":
            path.write_bytes(
                draw(report.charts, "png", title=report.title, notes=report.notes, foot=_machine_line(where, report))
            )
        else:
            path.write_text(_page(arguments, report, where), encoding="utf-8")
    except OSError as error:
        raise HostError(f"--report {path}: {error.strerror}") from None


def _machine_line(where: dict[str, Any], report: Report) -> str:
    from .machine import describe  # late: the kernels are loaded by now, but a check of arguments needs none

    others = "".join(f", {name} {version}" for name, version in report.versions.items())
    return f"{describe(where)}{others}, ipsec-fast {__version__}"


def _page(arguments: argparse.Namespace, report: Report, where: dict[str, Any]) -> str:
    from .plots import draw  # late: as above

    command = shlex.join(["ipsec-fast", "bench", *command_words(arguments)])
    picture = base64.b64encode(draw(report.charts, "svg")).decode()
    facts = {
        **{"ipsec_fast": __version__},
        **{name: value if value is not None else "absent" for name, value in where.items()},
        **report.versions,
    }
    return PAGE.format(
        title=html.escape(report.title),
        notes=html.escape(report.notes),
        command=html.escape(command),
        picture=f'<img alt="{html.escape(report.title)}, plotted" src="data:image/svg+xml;base64,{picture}">',
        head="".join(f"<th>{html.escape(name)}</th>" for name in report.columns),
        rows="\n".join("<tr>" + "".join(_cell(value) for value in row) + "</tr>" for row in report.table),
        facts="\n".join(
            f"<tr><th>{html.escape(name)}</th><td>{html.escape(str(value))}</td></tr>" for name, value in facts.items()
        ),
    )


def _cell(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"<td>{html.escape('-' if value is None else str(value))}</td>"
    return f'<td class="number">{value:,}</td>' if isinstance(value, int) else f'<td class="number">{value:g}</td>'


PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; color: #1e293b; background: #fff; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }}
h1 {{ font-size: 1.5rem; margin-bottom: 0.2rem; }}
h2 {{ font-size: 1.1rem; margin-top: 2.2rem; }}
p {{ color: #475569; margin-top: 0; }}
pre {{ background: #f1f5f9; padding: 0.6rem 0.9rem; border-radius: 4px; overflow-x: auto; }}
figure {{ margin: 1.5rem 0; }}
img {{ width: 100%; height: auto; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: 0.88rem; }}
th, td {{ text-align: left; padding: 0.25rem 0.8rem 0.25rem 0; border-bottom: 1px solid #e2e8f0; white-space: nowrap; }}
th {{ color: #475569; font-weight: 600; }}
td.number {{ text-align: right; font-variant-numeric: tabular-nums; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>{notes}</p>
<pre>{command}</pre>
<figure>{picture}</figure>
<h2>Figures</h2>
<div class="wide"><table>
<thead><tr>{head}</tr></thead>
<tbody>
{rows}
</tbody>
</table></div>
<h2>Machine and versions</h2>
<div class="wide"><table><tbody>
{facts}
</tbody></table></div>
</body>
</html>
"""
