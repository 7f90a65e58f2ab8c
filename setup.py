"""Builds ext/<part>/<name>.pyx into ipsec_fast.<part>.<name>: ext/crypto/secret.pyx becomes ipsec_fast.crypto.secret.

The generated C stands in build/cython*/, one folder per set of switches; the .pxd files in ipsec_fast/ are the headers.
A performance hint of Cython (a nogil function that has to take the GIL to look for an exception) fails the build.

Switches, by environment:
  CFLAGS=-O2                            another optimization than -O3; the compiler's usual variable
  IPSEC_FAST_DEBUG=1                    bounds checks, -O1 -g
  IPSEC_FAST_SANITIZE=address,undefined (or thread); `./run asan` uses it
  IPSEC_FAST_COVERAGE=1                 line tracing for coverage's Cython plugin
  IPSEC_FAST_ANNOTATE=1                 cython's HTML beside the generated C
  IPSEC_FAST_ONLY=dataplane.esp,...     builds these modules alone
  IPSEC_FAST_WITHOUT_IPSECMB=1          builds without Intel ipsec-mb though it is there
"""

from __future__ import annotations

import multiprocessing
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

OPENSSL_NEEDED = "3.0.0"
HINT = "performance hint:"


def flag(name: str) -> bool:
    return os.environ.get(name, "") not in ("", "0")


DEBUG, COVERAGE, SANITIZE = (
    flag("IPSEC_FAST_DEBUG"),
    flag("IPSEC_FAST_COVERAGE"),
    os.environ.get("IPSEC_FAST_SANITIZE", ""),
)
# directives change the generated C, so each set of them has its own folder
GENERATED = "build/cython" + ("-debug" if DEBUG else "") + ("-coverage" if COVERAGE else "")


def pkg_config(*arguments: str) -> list[str]:
    if shutil.which("pkg-config") is None:
        raise SystemExit(
            "ipsec_fast: pkg-config is missing; on Debian and Ubuntu: apt-get install pkg-config libssl-dev"
        )
    found = subprocess.run(["pkg-config", *arguments], capture_output=True, text=True)
    if found.returncode != 0:
        raise SystemExit(
            f"ipsec_fast: OpenSSL >= {OPENSSL_NEEDED} with headers is needed (package libssl-dev); "
            f"pkg-config says: {' '.join(found.stderr.split()) or 'nothing'}"
        )
    return found.stdout.split()


def has_ipsecmb() -> bool:
    """Intel ipsec-mb 1.3 or newer, by a program that is compiled and linked: distributions ship no .pc file. Its absence is no error."""
    if flag("IPSEC_FAST_WITHOUT_IPSECMB"):
        return False
    probe = """#include <intel-ipsec-mb.h>
#if IMB_VERSION_NUM < 0x10300
#error too old
#endif
int main(void) { return alloc_mb_mgr(0) == 0; }
"""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "probe.c").write_text(probe)
        cc, before, behind = (
            shlex.split(os.environ.get(name, default))
            for name, default in (("CC", "cc"), ("CFLAGS", ""), ("LDFLAGS", ""))
        )
        command = [*cc, *before, str(Path(folder, "probe.c")), "-o", str(Path(folder, "probe")), *behind, "-lIPSec_MB"]
        try:
            return subprocess.run(command, capture_output=True).returncode == 0
        except OSError:
            return False


class BuildExt(build_ext):
    """Compiles on all cores, and removes the optional engine that an older build left if this build is without it."""

    def finalize_options(self) -> None:
        # An editable install initializes the command a second time and loses setup()'s `options`; without this it compiles serially.
        super().finalize_options()
        self.parallel = self.parallel or os.cpu_count() or 1

    def run(self) -> None:
        if not WITH_IPSECMB:
            Path(self.get_ext_fullpath("ipsec_fast.dataplane.ipsecmb")).unlink(missing_ok=True)
        super().run()


def headers_of(module: str, seen: set[Path] | None = None) -> set[Path]:
    """The .pxd of a module and all it cimports from us. cythonize does not look at a .pxd that stands in another folder than its .pyx."""
    seen = set() if seen is None else seen
    header = Path(*module.split(".")).with_suffix(".pxd")
    if header in seen or not header.exists():
        return seen
    seen.add(header)
    text = header.read_text()
    for cimported in re.findall(
        r"^\s*(?:from\s+(ipsec_fast[\w.]*)\s+cimport|cimport\s+(ipsec_fast[\w.]*))", text, re.MULTILINE
    ):
        headers_of(cimported[0] or cimported[1], seen)
    for package, names in re.findall(r"^\s*from\s+(ipsec_fast[\w.]*)\s+cimport\s+([\w, ]+)$", text, re.MULTILINE):
        for name in names.split(","):
            headers_of(f"{package}.{name.split(' as ')[0].strip()}", seen)
    return seen


def extension(source: Path, openssl_cflags: list[str], openssl_libs: list[str]) -> Extension:
    compile_args = ["-std=gnu11", "-fvisibility=hidden", "-Wno-unused-function", *openssl_cflags]
    if DEBUG or SANITIZE:
        compile_args += ["-O1", "-g", "-fno-omit-frame-pointer"]
    elif not re.search(r"(^| )-O", os.environ.get("CFLAGS", "")):  # a packager's or a test's choice stays
        compile_args += ["-O3", "-g"]
    link_args: list[str] = []
    if SANITIZE:
        compile_args += [f"-fsanitize={SANITIZE}", "-fno-sanitize-recover=undefined"]
        link_args += [f"-fsanitize={SANITIZE}"]
    module = f"ipsec_fast.{source.parent.name}.{source.stem}"
    headers = headers_of(module)
    generated = Path(GENERATED) / source.with_suffix(".c")
    if generated.exists() and any(
        header.stat().st_mtime > generated.stat().st_mtime for header in [*headers, Path("setup.py")]
    ):
        generated.unlink()
    return Extension(
        module,
        [str(source)],
        include_dirs=["ext/include"],
        depends=[str(path) for path in [*Path("ext/include").glob("*.h"), *headers, Path("setup.py")]],
        extra_compile_args=compile_args,
        extra_link_args=[*link_args, *openssl_libs],
        define_macros=[("CYTHON_TRACE_NOGIL", "1")] if COVERAGE else [],
    )


@contextmanager
def hints_fail_the_build() -> Iterator[None]:
    """Cython writes its hints to stderr, its workers too, and has no switch that makes them errors: so read what it writes."""
    sys.stderr.flush()
    real = os.dup(2)
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(real, 2)
            os.close(real)
            log.seek(0)
            text = log.read().decode(errors="replace")
            sys.stderr.write(text)
    hints = [line for line in text.splitlines() if line.startswith(HINT)]
    if not hints or DEBUG or COVERAGE:  # with bounds checks on there are hints about just that
        return
    for source in {match[1] for hint in hints if (match := re.search(r"([\w./-]+\.(?:pyx|pxd)):\d+", hint))}:
        (Path(GENERATED) / source).with_suffix(".c").unlink(missing_ok=True)  # or the next build would pass
        for generated in Path(GENERATED).glob(f"**/{Path(source).stem}.c"):
            generated.unlink()
    raise SystemExit("ipsec_fast: Cython's performance hints fail the build (see setup.py):\n" + "\n".join(hints))


def extensions() -> list[Extension]:
    pkg_config(f"libcrypto >= {OPENSSL_NEEDED}", "--exists", "--print-errors")
    cflags, libs = pkg_config("--cflags", "libcrypto"), pkg_config("--libs", "libcrypto")
    only = [name for name in os.environ.get("IPSEC_FAST_ONLY", "").split(",") if name]
    built = [
        extension(source, cflags, [*libs, "-lIPSec_MB"] if source.stem == "ipsecmb" else libs)
        for source in sorted(Path("ext").glob("*/*.pyx"))
        if (not only or f"{source.parent.name}.{source.stem}" in only) and (WITH_IPSECMB or source.stem != "ipsecmb")
    ]
    workers = os.cpu_count() or 1
    with hints_fail_the_build():
        return cythonize(
            built,
            include_path=["."],
            build_dir=GENERATED,
            annotate=flag("IPSEC_FAST_ANNOTATE"),
            nthreads=workers if len(built) > 1 and workers > 1 and multiprocessing.get_start_method() == "fork" else 0,
            compiler_directives={
                "language_level": 3,
                "boundscheck": DEBUG,
                "wraparound": False,
                "cdivision": True,
                "initializedcheck": DEBUG,
                "embedsignature": True,
                "linetrace": COVERAGE,
            },
        )


WITH_IPSECMB = has_ipsecmb()

setup(
    cmdclass={"build_ext": BuildExt},
    ext_modules=extensions(),
    packages=find_packages(include=["ipsec_fast", "ipsec_fast.*"]),
    # an explicit package_dir: without it an editable install hides the .pxd files from embedders (cython issues 5232, 7326)
    package_dir={"": "."},
    package_data={"": ["*.pxd", "*.pyi", "py.typed"]},
    zip_safe=False,
)
