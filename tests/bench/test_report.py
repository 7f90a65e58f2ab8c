"""`--report`: refused before anything is measured, or a picture, or one page that stands alone."""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from base64 import b64decode
from pathlib import Path

import pytest

from ipsec_fast import bench
from ipsec_fast.bench import gateway_face, ike_face, rekey_face, report
from ipsec_fast.bench.gateway import FIGURES, Result, combine
from ipsec_fast.bench.ike import Figures
from ipsec_fast.bench.ike import combine as combine_ike
from ipsec_fast.bench.machine import machine
from ipsec_fast.bench.plots import draw
from ipsec_fast.bench.rekey import Result as RekeyResult
from ipsec_fast.bench.report import Bar, Chart, Report, check_report, write_report
from ipsec_fast.bench.tunnels import Kind
from ipsec_fast.errors import HostError, UsageError

ESP = [
    "esp",
    "--seconds",
    "0.001",
    "--algorithm",
    "aes128gcm16",
    "--size",
    "64",
    "--size",
    "1400",
    "--batch",
    "4",
    "--json",
]
PNG = b"\x89PNG\r\n\x1a\n"


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    return parser.parse_args(words)


def refuse_to_measure(*args: object, **kwargs: object) -> None:
    raise AssertionError("nothing may be measured")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("speed", r"must end in \.html or \.png"),
        ("speed.pdf", r"must end in \.html or \.png"),
        ("missing/speed.png", "cannot be written: No such file"),
        ("folder.png", "cannot be written: Is a directory"),
    ],
)
def test_a_bad_name_is_refused_first(
    name: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder.png").mkdir()
    monkeypatch.setattr("ipsec_fast.bench.esp_face.run_bench_esp", refuse_to_measure)
    with pytest.raises(UsageError, match=reason):
        bench.main(parse(*ESP, "--report", str(tmp_path / name)))
    assert capsys.readouterr().out == ""


def test_a_folder_that_is_closed_to_us_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be written"):
        check_report(parse("esp", "--report", "/proc/version/x.png" if os.geteuid() == 0 else "/etc/x.png"))


def test_the_check_leaves_nothing_and_touches_nothing(tmp_path: Path) -> None:
    check_report(parse("esp", "--report", str(tmp_path / "new.png")))
    assert not list(tmp_path.iterdir())
    (tmp_path / "old.html").write_text("kept")
    check_report(parse("esp", "--report", str(tmp_path / "old.html")))
    assert (tmp_path / "old.html").read_text() == "kept"


def test_without_matplotlib_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(report.importlib.util, "find_spec", lambda name: None if name == "matplotlib" else found(name))
    with pytest.raises(HostError, match=r"pip install ipsec-fast\[bench\]"):
        check_report(parse("esp", "--report", str(tmp_path / "x.png")))


def test_nothing_imports_matplotlib_unless_a_report_is_written() -> None:
    code = (
        "import sys; from ipsec_fast.cli import main; "
        f"assert main(['bench', *{ESP!r}]) == 0; assert 'matplotlib' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_picture_is_a_png(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "speed.PNG"
    assert bench.main(parse(*ESP, "--report", str(path))) == 0
    assert path.read_bytes().startswith(PNG)
    assert capsys.readouterr().out.startswith("{")


def test_a_page_stands_alone_and_holds_plots_table_machine_and_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "speed.html"
    assert bench.main(parse(*ESP, "--report", str(path))) == 0
    page = path.read_text()
    assert not re.findall(r"(?:href|src)=\"(?!data:)", page)
    assert (
        "ipsec-fast bench esp --algorithm aes128gcm16 --size 64 --size 1400 --batch 4 --seconds 0.001 --json"
        in page.replace("--engine auto ", "")
    )
    for value in machine().values():
        assert str(value if value is not None else "absent") in page
    (picture,) = re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', page)
    assert ElementTree.fromstring(b64decode(picture)).tag.endswith("svg")
    assert page.count("<tr>") >= 1 + 4 + len(machine())


def test_what_is_measured_cannot_become_markup(tmp_path: Path) -> None:
    path = tmp_path / "x.html"
    bad = "<script>alert(1)</script>"
    chart = Chart(bad, bad, [bad], {bad: [Bar(1.0)]})
    write_report(parse("esp", "--report", str(path)), Report(bad, bad, [chart], [bad], [[bad]], {bad: bad}), machine())
    assert "<script" not in path.read_text()


@pytest.mark.parametrize(
    "chart",
    [
        Chart("one", "ns", ["a"], {"x": [Bar(1.0)]}),
        Chart("a gap", "ns", ["a", "b"], {"x": [Bar(1.0), None], "y": [None, Bar(2.0, 1.5, 3.0, 2.5)]}, "target"),
        Chart("zero", "packets", ["a"], {"x": [Bar(0)], "y": [Bar(0)]}, digits=0),
        Chart("nothing", "packets", ["a"], {"x": [None]}),
        Chart("$x^2$ and a_b", "$", ["a_$b$"], {"x_$y$": [Bar(1.0)]}),
    ],
    ids=lambda chart: chart.title,
)
def test_odd_charts_are_drawn(chart: Chart) -> None:
    assert draw([chart], "png", title="title", notes="notes", foot="foot").startswith(PNG)


def test_the_reports_of_what_runs_in_namespaces_can_be_drawn() -> None:
    rounds = [dict.fromkeys(FIGURES, value) for value in (1.0, 4.0, 2.0)]
    bare = [{name: one[name] for name in FIGURES if name not in ("cpu_s_per_gbyte", "rss_mbytes")} for one in rounds]
    rows = [
        combine(Kind(name, engine), pinned, bare if name == "veth" else rounds)
        for name, engine in (("veth", None), ("ipsec_fast", "openssl"))
        for pinned in (True, False)
    ]
    assert isinstance(rows[0][0], Result)
    assert len(gateway_face.report_of(rows, 3, {}).charts) == len(FIGURES)
    figures = [Figures(10, 100.0, 1.0, 2.0), Figures(12, 120.0, 1.5, 2.5)]
    found = {("endpoints", "ipsec_fast", "p-x25519"): figures, ("gateways", "charon", "p-x25519"): figures}
    handshakes = ike_face.report_of(combine_ike(found, 8, ["p-x25519"]), 2, {})
    loss = rekey_face.report_of([RekeyResult("charon", 1, 1, 10, 10, 0, 0.5, 0, 0)])
    for one in (gateway_face.report_of(rows, 3, {}), handshakes, loss):
        assert draw(one.charts, "png", title=one.title, notes=one.notes, foot="foot").startswith(PNG)
