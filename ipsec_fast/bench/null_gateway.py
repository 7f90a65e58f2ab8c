"""`python -m ipsec_fast.bench.null_gateway FILE`: the gateway of FILE with the engine `null`, for `bench gateway` alone.

It carries every packet as it is: whoever can read the wire can read them, and whoever can write to it can forge them. Called by tunnels.py.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from ..gateway.config import load_config
from ..gateway.daemon import run
from .null_engine import register


def main(path: str) -> int:
    register()
    config = load_config(Path(path))
    return run(replace(config, settings=replace(config.settings, engine="null")))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
