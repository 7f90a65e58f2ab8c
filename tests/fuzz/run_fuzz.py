"""libFuzzer over the C core that ships: builds each fuzz_*.c target, runs it, keeps what it found in corpus/. `./run fuzz` calls it.

run_fuzz.py [--seconds N] [TARGET ...]; N seconds for each target, all targets at once. Standard library only. A finding stays in
build/fuzz/found and ends the call with 1. The corpus that is kept is a covering set: small inputs that together reach what was reached.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "tests" / "fuzz"
BUILD = ROOT / "build" / "fuzz"
TARGETS = ("decap", "header", "fragment")
LONGEST = 4096  # bytes of an input; a kept one is at most 2 KB
FLAGS = [
    "-std=gnu11",
    "-g",
    "-O1",
    "-Wno-unknown-attributes",
    "-fsanitize=fuzzer,address,undefined",
    "-fno-sanitize-recover=all",
]


def call(arguments: list[str], log: Path) -> str:
    done = subprocess.run(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=BUILD, errors="replace")
    log.write_text(done.stdout)
    if done.returncode:
        last = [
            line
            for line in done.stdout.splitlines()
            if re.search(r"must hold|ERROR|error:|Test unit|cannot find", line)
        ]
        raise SystemExit(
            f"fuzz: {Path(arguments[0]).name} ended with {done.returncode}: {' | '.join(last[:4])} (log: {log})"
        )
    return done.stdout


def build(target: str) -> Path:
    program = BUILD / target
    source = HERE / f"fuzz_{target}.c"
    call(
        [os.environ.get("CLANG", "clang"), *FLAGS, f"-I{ROOT}/ext/include", str(source), "-o", str(program)],
        BUILD / f"{target}.build.log",
    )
    return program


def fuzz(target: str, seconds: int) -> str:
    program, work, seeds, found = build(target), BUILD / "work" / target, BUILD / "seeds" / target, BUILD / "found"
    kept = HERE / "corpus" / target
    for folder in (work, seeds, found, kept):
        folder.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, str(HERE / "fuzz_seeds.py"), target, str(seeds)], check=True)
    limits = [f"-max_len={LONGEST}", "-timeout=10", "-rss_limit_mb=2048", f"-artifact_prefix={found}/{target}-"]
    text = call(
        [str(program), f"-max_total_time={seconds}", "-print_final_stats=1", *limits, str(work), str(kept), str(seeds)],
        BUILD / f"{target}.log",
    )
    keep(program, kept, work, seeds)
    runs = re.search(r"stat::number_of_executed_units:\s*(\d+)", text)
    covered = re.findall(r"cov: (\d+) ft: (\d+)", text)[-1]
    files = list(kept.iterdir())
    return (
        f"{target}: {seconds} s, {runs[1] if runs else '?'} inputs, no finding; {covered[0]} edges, {covered[1]} features; "
        f"corpus {len(files)} files, {sum(f.stat().st_size for f in files)} bytes"
    )


def keep(program: Path, kept: Path, *found: Path) -> None:
    """A small set with the coverage of all; what was kept before and is still needed stays."""
    fresh = BUILD / "merged" / program.name
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    options = ["-set_cover_merge=1", "-use_counters=0", "-max_len=2048"]
    call([str(program), *options, str(fresh), str(kept), *map(str, found)], BUILD / f"{program.name}.merge.log")
    new = {path.name for path in fresh.iterdir()}
    for path in kept.iterdir():
        if path.name not in new:
            path.unlink()
    for name in new:
        shutil.copy(fresh / name, kept / name)


def main() -> int:
    parser = argparse.ArgumentParser(prog="run fuzz", description="libFuzzer over the C core that ships")
    parser.add_argument("--seconds", type=int, default=600, help="for each target (default 600)")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)} (default: all)")
    chosen = parser.parse_args()
    unknown = set(chosen.targets) - set(TARGETS)
    if unknown:
        parser.error(f"no target {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    BUILD.mkdir(parents=True, exist_ok=True)
    targets = chosen.targets or TARGETS
    with ThreadPoolExecutor(len(targets)) as pool:
        for line in pool.map(lambda target: fuzz(target, chosen.seconds), targets):
            print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
