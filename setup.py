"""Builds ext/**/*.pyx into ipsec_fast: ext/crypto/secret.pyx becomes ipsec_fast.crypto.secret.

Switches, by environment:
  IPSEC_FAST_DEBUG=1      bounds checks, -O1 -g
  IPSEC_FAST_SANITIZE=address,undefined (or thread)
  IPSEC_FAST_COVERAGE=1   line tracing for coverage's Cython plugin
  IPSEC_FAST_ANNOTATE=1   cython's HTML beside the sources
  IPSEC_FAST_ONLY=dataplane.esp,...   builds these modules alone
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, find_packages, setup

OPENSSL_NEEDED = "3.0.0"


def flag(name: str) -> bool:
    return os.environ.get(name, "") not in ("", "0")


def pkg_config(*arguments: str) -> list[str]:
    if shutil.which("pkg-config") is None:
        raise SystemExit("ipsec_fast: pkg-config is missing; on Debian and Ubuntu: apt-get install pkg-config libssl-dev")
    found = subprocess.run(["pkg-config", *arguments], capture_output=True, text=True)
    if found.returncode != 0:
        raise SystemExit(
            f"ipsec_fast: OpenSSL >= {OPENSSL_NEEDED} with headers is needed (package libssl-dev); "
            f"pkg-config says: {found.stderr.strip() or 'nothing'}"
        )
    return found.stdout.split()


def extensions() -> list[Extension]:
    pkg_config(f"libcrypto >= {OPENSSL_NEEDED}", "--exists", "--print-errors")
    cflags = pkg_config("--cflags", "libcrypto")
    libs = pkg_config("--libs", "libcrypto")
    debug, sanitize = flag("IPSEC_FAST_DEBUG"), os.environ.get("IPSEC_FAST_SANITIZE", "")
    compile_args = ["-std=gnu11", "-fvisibility=hidden", "-Wno-unused-function", *cflags]
    compile_args += ["-O1", "-g", "-fno-omit-frame-pointer"] if debug or sanitize else ["-O3", "-g"]
    link_args: list[str] = []
    if sanitize:
        compile_args += [f"-fsanitize={sanitize}", "-fno-sanitize-recover=undefined"]
        link_args += [f"-fsanitize={sanitize}"]
    macros = [("CYTHON_TRACE_NOGIL", "1")] if flag("IPSEC_FAST_COVERAGE") else []
    only = [name for name in os.environ.get("IPSEC_FAST_ONLY", "").split(",") if name]
    built = []
    for source in sorted(Path("ext").glob("*/*.pyx")):
        module = f"{source.parent.name}.{source.stem}"
        if only and module not in only:
            continue
        built.append(
            Extension(
                f"ipsec_fast.{module}",
                [str(source)],
                include_dirs=["ext/include"],
                depends=[str(p) for p in [*Path("ext/include").glob("*.h"), *Path("ipsec_fast").glob("**/*.pxd")]],
                extra_compile_args=compile_args,
                extra_link_args=[*link_args, *libs],
                define_macros=macros,
            )
        )
    return cythonize(
        built,
        include_path=["."],
        annotate=flag("IPSEC_FAST_ANNOTATE"),
        nthreads=0,
        compiler_directives={
            "language_level": 3,
            "boundscheck": debug,
            "wraparound": False,
            "cdivision": True,
            "initializedcheck": debug,
            "embedsignature": True,
            "linetrace": flag("IPSEC_FAST_COVERAGE"),
        },
    )


setup(
    ext_modules=extensions(),
    packages=find_packages(include=["ipsec_fast", "ipsec_fast.*"]),
    # an explicit package_dir: without it an editable install hides the .pxd files from embedders (cython issues 5232, 7326)
    package_dir={"": "."},
    package_data={"*": ["*.pxd", "*.pyi", "py.typed"]},
    zip_safe=False,
)
