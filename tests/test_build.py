"""What comes out of the build: the wheel's and the sdist's content, a build error that names the package, performance hints that fail the
build, and an outside project that cimports us from a wheel and from an editable install."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from ipsec_fast.dataplane.engine import engines

ROOT = Path(__file__).parents[1]
PROJECT = ROOT / "tests" / "embed" / "project"
LOOP = """
import loopback
from ipsec_fast import SA
key = bytes(range(20))
ends = dict(src="192.0.2.1", dst="192.0.2.2")
out, into = (SA(direction=d, spi=0x1234, algorithm="aes128gcm16", key=key, **ends) for d in ("out", "in"))
packet = bytes.fromhex("45000054000040004001") + bytes(2) + bytes([10, 1, 0, 1, 10, 2, 0, 1]) + bytes(64)
assert loopback.loop(out, into, packet) == 32
assert loopback.sealed_bytes(out, len(packet)) > len(packet)
import ipsec_fast
print(ipsec_fast.__file__)
"""
pytestmark = pytest.mark.timeout(400)


def run(*words: str, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        words, cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=os.environ | environment
    )
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the source as it was checked in, so that no leftover of an older build gets in; generated C may be reused."""
    copy = tmp_path_factory.mktemp("source") / "copy"
    wanted = shutil.ignore_patterns("*.so", "*.egg-info", "__pycache__", "lib.*", "asan", ".*")
    copy.mkdir()
    for name in ("ipsec_fast", "ext", "build"):
        if (ROOT / name).exists():
            shutil.copytree(ROOT / name, copy / name, ignore=wanted)
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy2(path, copy)
    return copy


@pytest.fixture(scope="module")
def wheel(source: Path) -> Path:
    words = ("-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps", "-w", "wheels", ".")
    run(sys.executable, *words, cwd=source, CFLAGS="-O0 -g0")  # its speed is not what is tested, and -O3 takes minutes
    (found,) = (source / "wheels").glob("*.whl")
    return found


def test_wheel_holds_headers_and_types_and_no_source(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {
        f"ipsec_fast/{source.parent.name}/{source.stem}{sysconfig.get_config_var('EXT_SUFFIX')}"
        for source in ROOT.glob("ext/*/*.pyx")
        if source.stem != "ipsecmb" or "ipsecmb" in engines()  # the one that is built where its library is
    }
    assert modules
    assert modules <= names
    faces = {str(path.relative_to(ROOT)) for kind in ("pxd", "pyi") for path in ROOT.glob(f"ipsec_fast/**/*.{kind}")}
    assert faces
    assert faces <= names
    assert "ipsec_fast/py.typed" in names
    assert not [
        name for name in names if name.endswith((".pyx", ".pxi", ".c", ".h")) or name.startswith(("tests/", "ext/"))
    ]


def test_sdist_holds_what_the_build_needs(source: Path) -> None:
    run(sys.executable, "setup.py", "--quiet", "sdist", cwd=source)
    (archive,) = (source / "dist").glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    needed = {
        str(path.relative_to(ROOT)) for kind in ("pyx", "pxi", "pxd", "h") for path in ROOT.glob(f"ext/**/*.{kind}")
    }
    needed |= {str(path.relative_to(ROOT)) for path in ROOT.glob("ipsec_fast/**/*.pxd")}
    assert needed | {"setup.py", "pyproject.toml", "LICENSE", "README.md"} <= names
    assert not [name for name in names if name.startswith("build/") or name.endswith(".so")]


def test_missing_openssl_is_one_line_that_names_the_package(source: Path) -> None:
    done = subprocess.run(
        [sys.executable, "setup.py", "--quiet", "build_ext"],
        cwd=source,
        env=os.environ | {"PKG_CONFIG_LIBDIR": "/nonexistent", "PKG_CONFIG_PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    (line,) = done.stderr.strip().splitlines()
    assert "libssl-dev" in line
    assert "3.0" in line


OLD_HEADER = "#define IMB_VERSION_NUM 0x10200\nstatic inline int alloc_mb_mgr(int flags) { return flags; }\n"


@pytest.mark.parametrize("why", ["refused", "no header", "too old", "no compiler of that name"])
def test_without_the_optional_engine_the_build_goes_on_and_leaves_none_of_an_older_one(source, tmp_path, why):
    left = source / f"ipsec_fast/dataplane/ipsecmb{sysconfig.get_config_var('EXT_SUFFIX')}"
    left.write_bytes(b"of an older build")
    (tmp_path / "intel-ipsec-mb.h").write_text({"too old": OLD_HEADER}.get(why, "#error none\n"))
    more = {
        "refused": {"IPSEC_FAST_WITHOUT_IPSECMB": "1"},
        "no compiler of that name": {"CC": "/nonexistent/cc"},
    }.get(why, {"CPATH": str(tmp_path)})
    only = {"IPSEC_FAST_ONLY": "dataplane.ipsecmb"}  # nothing else, so nothing at all
    run(sys.executable, "setup.py", "--quiet", "build_ext", "--inplace", cwd=source, **only, **more)
    assert not left.exists()


def test_performance_hint_fails_the_build_every_time(source: Path, tmp_path: Path) -> None:
    (tmp_path / "ext" / "dataplane").mkdir(parents=True)
    (tmp_path / "ipsec_fast").mkdir()
    (tmp_path / "ipsec_fast" / "__init__.py").touch()
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(source / name, tmp_path)
    slow = "cdef void f(int x) nogil:\n    pass\n\ndef g():\n    with nogil:\n        f(1)\n"
    (tmp_path / "ext" / "dataplane" / "slow.pyx").write_text(slow)
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "setup.py", "--quiet", "build_ext"], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode != 0
        assert "performance hints fail the build" in done.stderr
        assert "slow.pyx:1" in done.stderr


def build_and_loop(python: str, directory: Path) -> Path:
    """Build the outside project with this Python and run it; returns where ipsec_fast came from."""
    shutil.copytree(PROJECT, directory)
    run(python, "-P", "setup.py", "--quiet", "build_ext", "--inplace", cwd=directory)
    return Path(run(python, "-P", "-c", LOOP, cwd=directory, PYTHONPATH=str(directory)).splitlines()[-1])


def test_outside_project_runs_on_the_wheel(wheel: Path, tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", str(venv), cwd=tmp_path)
    python = str(venv / "bin" / "python")
    # what we depend on comes from the environment the tests run in: a plain path, whose own .pth files are not read
    packages = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip())
    (packages / "parent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = (python, "-m", "pip", "install", "--quiet", "--no-deps", "--ignore-installed", "--no-index")
    run(*pip, str(wheel), cwd=tmp_path)
    assert build_and_loop(python, tmp_path / "project").is_relative_to(packages)


def test_outside_project_runs_on_the_editable_install(tmp_path: Path) -> None:
    # the egg-info beside the source is a distribution too, without an origin
    origins = [found.read_text("direct_url.json") for found in metadata.distributions(name="ipsec-fast")]
    if not any(json.loads(origin or "{}").get("dir_info", {}).get("editable") for origin in origins):
        pytest.skip("ipsec-fast is not installed here in editable form; ./run test does that")
    assert build_and_loop(sys.executable, tmp_path / "project").is_relative_to(ROOT)
