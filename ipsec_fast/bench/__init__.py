"""`ipsec-fast bench WHAT [--json] [--report FILE]`: finds the face of the benchmark that was asked for. Called by: cli.

Each benchmark is a measurement (esp.py, crypto.py, ...) and a face (esp_face.py, ...) that checks its arguments and prints.
"""

from __future__ import annotations

import argparse
import importlib

from ..errors import AlgorithmError, UsageError
from .arguments import BENCHES, add_benches


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `ipsec-fast bench`."""
    add_benches(parser)


def main(arguments: argparse.Namespace) -> int:
    """Run what the arguments say; errors are raised for the command line to print."""
    # late: a benchmark pulls in what the others do not need (kernels and numpy, namespaces and gateways)
    face = importlib.import_module(f".{BENCHES[arguments.what].face}", __package__)
    try:
        return int(face.main(arguments))
    except AlgorithmError as error:
        raise UsageError(str(error)) from None  # here it is an argument of the command
