"""Runs every proof about ext/include/replay.h with CBMC, then plants faults into copies of the header and wants each refuted.

Called by `./run prove`; standard library only. CBMC comes from the variable CBMC or the PATH; goto-cc and goto-instrument, of the same
package, stand beside it. Exit 0 if all is proved and all faults are refuted, 1 otherwise.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HEADERS = ROOT / "ext" / "include"
BUILD = ROOT / "build" / "prove"
TIMEOUT_S = 1800
CHECKS = [
    "--bounds-check",
    "--pointer-check",
    "--pointer-overflow-check",
    "--undefined-shift-check",
    "--signed-overflow-check",
    "--div-by-zero-check",
]


@dataclass(frozen=True)
class Proof:
    """One run: a prove_* of replay.c, with its loops unrolled so often, or replay_wipe's loop by induction."""

    function: str
    says: str
    count: int = 0  # blocks; 0: sizes are free
    unwind: int = 17  # replay_block_count goes round at most 14 times
    induction: bool = False

    @property
    def name(self) -> str:
        return f"{self.function}{f'_{self.count}' if self.count else ''}{'_induction' if self.induction else ''}"


PROOFS = (
    Proof("block_count", "the ring of blocks is longer than the window, sizes out of range are refused; every size"),
    Proof("new", "a new window refuses all up to top and nothing above; every size"),
    Proof("check", "old, seen, new as in the RFC, nothing read outside; every size"),
    Proof("esn", "the high half is exact over (top - W, top + 2^32 - W], and never outside of it; every size"),
    Proof("resync", "a trial once in 256 failures, for a number above top, moves nothing; every size"),
    Proof("wipe", "a jump wipes the blocks that it passes, each once, no other; every size"),
    Proof("advance", "never twice, never a new one refused, top only grows; window 64", count=2),
    Proof("advance", "the same; windows 65 to 192", count=4),
    Proof(
        "advance", "the same, loop by induction; windows 961 to 1984 (1024 is the default)", count=32, induction=True
    ),
)

# what to change in the header, and the proof that must fall
FAULTS = (
    ("top - seq >= w->size", "top - seq > w->size", "check"),
    ("return REPLAY_OLD;\n    return (w", "return REPLAY_NEW;\n    return (w", "advance_2"),
    ("done < count; done++", "done + 1u < count; done++", "advance_2"),
    ("done < count; done++", "done < count + 1u; done++", "advance_4"),
    ("done < count; done++", "done + 1u < count; done++", "advance_32_induction"),
    ("|= (uint64_t)1 << (seq", "|= (uint64_t)1 << ((seq ^ 1u)", "advance_2"),
    ("__atomic_store_n(&w->top, seq,", "__atomic_store_n(&w->top, seq - 1u,", "advance_2"),
    ("63u) / 64u + 1u, count", "63u) / 64u, count", "block_count"),
    ("UINT64_MAX >> (63u - (top", "UINT64_MAX >> (62u - (top", "new"),
    ("low < bottom", "low <= bottom", "esn"),
    ("top_low >= w->size - 1u", "top_low > w->size - 1u", "esn"),
    ("seq > UINT64_MAX - step", "seq > UINT64_MAX - step + 2u", "resync"),
    ("w->failed = 0;\n    w->trials++", "w->trials++", "resync"),
)


def tool(name: str) -> str:
    cbmc = os.environ.get("CBMC") or shutil.which("cbmc")
    if cbmc is None or shutil.which(cbmc) is None:
        sys.exit("prove: no cbmc; put it into the PATH, or set CBMC=/path/of/cbmc")
    beside = Path(shutil.which(cbmc) or cbmc).parent / name
    return str(beside) if beside.exists() else name


def call(arguments: list[str]) -> str:
    """What a tool of CBMC says; it ends this run if it fails otherwise than by refuting (10)."""
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=TIMEOUT_S)
    if done.returncode not in (0, 10):
        raise RuntimeError(
            f"{Path(arguments[0]).name} ended with {done.returncode}: {(done.stdout + done.stderr)[-800:]}"
        )
    return done.stdout


def run(proof: Proof, headers: Path, name: str) -> tuple[bool, int, float]:
    """Whether it holds, the number of properties checked, seconds."""
    began = time.monotonic()
    source = ROOT / "tests" / "prove" / "replay.c"
    compiled, ready = BUILD / f"{name}.gb", BUILD / f"{name}.ready.gb"
    defines = [f"-DCOUNT={proof.count}"] if proof.count else []
    if proof.induction:
        defines.append("-DLOOP_BY_INDUCTION")
    call(
        [
            tool("goto-cc"),
            f"-I{headers}",
            *defines,
            str(source),
            "--function",
            f"prove_{proof.function}",
            "-o",
            str(compiled),
        ]
    )
    if proof.induction:
        call([tool("goto-instrument"), "--apply-loop-contracts", str(compiled), str(ready)])
        compiled = ready
    text = call(
        [
            tool("cbmc"),
            str(compiled),
            *CHECKS,
            "--no-malloc-may-fail",
            "--unwinding-assertions",
            "--unwind",
            str(proof.unwind),
        ]
    )
    counted = re.search(r"^\*\* (\d+) of (\d+) failed", text, re.MULTILINE)
    if counted is None or ("VERIFICATION SUCCESSFUL" in text) != (counted[1] == "0"):
        raise RuntimeError(f"cbmc gave no verdict: {text[-800:]}")
    return counted[1] == "0", int(counted[2]), time.monotonic() - began


def planted(number: int) -> Path:
    """A folder with the headers, one of them with a fault."""
    right, wrong, _ = FAULTS[number]
    text = (HEADERS / "replay.h").read_text()
    if text.count(right) != 1:
        sys.exit(
            f"prove: fault {number} finds {right!r} {text.count(right)} times in replay.h; prove.py must be brought up to date"
        )
    folder = BUILD / f"fault{number}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "replay.h").write_text(text.replace(right, wrong))
    return folder


def main() -> int:
    BUILD.mkdir(parents=True, exist_ok=True)
    version = call([tool("cbmc"), "--version"]).split()[0]
    by_name = {proof.name: proof for proof in PROOFS}
    began, wrong = time.monotonic(), 0
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        running = [(proof, pool.submit(run, proof, HEADERS, proof.name)) for proof in PROOFS]
        faults = [(i, pool.submit(run, by_name[FAULTS[i][2]], planted(i), f"fault{i}")) for i in range(len(FAULTS))]
        for proof, future in running:
            holds, checks, seconds = future.result()
            wrong += not holds
            print(
                f"{'proved ' if holds else 'REFUTED'} {proof.name:22} {checks:4} checks {seconds:6.1f} s  {proof.says}",
                flush=True,
            )
        for i, future in faults:
            holds, _, seconds = future.result()
            wrong += holds
            what = f"{FAULTS[i][2]:22} {seconds:6.1f} s  {FAULTS[i][1].splitlines()[0]}"
            print(f"{'planted fault NOT FOUND' if holds else 'planted fault refuted'} by {what}", flush=True)
    print(
        f"CBMC {version}: {len(PROOFS)} proofs, {len(FAULTS)} planted faults, {wrong} wrong, {time.monotonic() - began:.0f} s"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
