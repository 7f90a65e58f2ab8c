"""The kept corpus of the libFuzzer targets, and their first inputs, replayed over the C core under ASan and UBSan, without clang."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import fuzz_seeds
import pytest
import run_fuzz

HERE = Path(__file__).parent
INCLUDE = HERE.parents[1] / "ext" / "include"
TARGETS = sorted(path.stem.removeprefix("fuzz_") for path in HERE.glob("fuzz_*.c") if path.stem != "fuzz_replay")
FLAGS = ["-std=gnu11", "-g", "-O1", "-Wall", "-Wextra", "-Wno-unknown-attributes", "-Wno-unused-function"]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


@pytest.fixture(scope="module")
def compiler(tmp_path_factory) -> list[str]:
    """A compiler and the sanitizers that it can link."""
    probe = tmp_path_factory.mktemp("probe") / "probe.c"
    probe.write_text("int main(void) { return 0; }\n")
    for name in filter(shutil.which, ("gcc", "clang", "cc")):
        for sanitizers in (SANITIZERS, []):
            made = subprocess.run(
                [name, *sanitizers, str(probe), "-o", str(probe.with_suffix(""))], capture_output=True
            )
            if made.returncode == 0:
                return [name, *FLAGS, *sanitizers]
    pytest.skip("no C compiler: apt-get install gcc libc6-dev")


@pytest.fixture(scope="module", params=TARGETS)
def target(request, compiler, tmp_path_factory) -> tuple[str, Path]:
    program = tmp_path_factory.mktemp("fuzz") / request.param
    sources = [str(HERE / f"fuzz_{request.param}.c"), str(HERE / "fuzz_replay.c")]
    made = subprocess.run(
        [*compiler, "-Werror", f"-I{INCLUDE}", *sources, "-o", str(program)], capture_output=True, text=True
    )
    assert made.returncode == 0, made.stderr
    return request.param, program


def replay(program: Path, folder: Path) -> int:
    done = subprocess.run([str(program), str(folder)], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr[-3000:]
    return int(done.stdout.split()[0])


def test_the_corpus_runs_clean(target):
    name, program = target
    folder = HERE / "corpus" / name
    kept = [path for path in folder.iterdir() if not path.name.startswith(".")]
    assert replay(program, folder) == len(kept) > 10
    assert len(kept) < 300
    assert sum(path.stat().st_size for path in kept) < 200_000


def test_the_first_inputs_run_clean(target, tmp_path):
    name, program = target
    made = set(fuzz_seeds.TARGETS[name]())
    for number, data in enumerate(made):
        (tmp_path / str(number)).write_bytes(data)
    assert replay(program, tmp_path) == len(made)


def test_every_target_is_run_by_the_fuzzer():
    assert sorted(run_fuzz.TARGETS) == TARGETS == sorted(fuzz_seeds.TARGETS)
