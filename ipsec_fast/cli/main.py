"""`ipsec-fast`: subcommands, exit codes, and the one place where an error becomes a line on stderr.

Exit 0 ok, 1 the thing failed, 2 bad usage or bad input. `status`, `up` and `down` must start fast, so everything heavy
(pydantic, asyncio, numpy) is imported by the one command that needs it. Called by the console script and `__main__`.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from .. import __version__
from ..errors import ConfigError, IpsecFastError, SecretError, UsageError
from . import control, files

OK, FAILED, USAGE = 0, 1, 2
PROGRAM = "ipsec-fast"
EPILOG = "exit status: 0 ok, 1 the thing failed, 2 bad usage or bad input"
# subcommands that bring their own arguments: module with add_arguments(parser) and main(arguments), one line of help
LATE = {
    "bench": ("ipsec_fast.bench", "measure the kernels on this machine"),
    "demo": ("ipsec_fast.demo.main", "two gateways in network namespaces carry traffic"),
    "mtu": ("ipsec_fast.cli.mtu", "show what fits through an SA, header by header"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        arguments = build_parser(words).parse_args(words)
        status = arguments.run(arguments)
        sys.stdout.flush()
        return int(status or OK)
    except SystemExit as stop:  # argparse: 0 after --help and --version, 2 after bad usage
        return stop.code if isinstance(stop.code, int) else FAILED
    except ConfigError as error:
        for problem in error.problems:
            say(str(problem))
        return USAGE
    except (UsageError, SecretError) as error:
        say(str(error))
        return USAGE
    except IpsecFastError as error:
        say(str(error))
        return FAILED
    except KeyboardInterrupt:
        say("interrupted")
        return FAILED
    except BrokenPipeError:
        # who read our output has gone; Python must not complain about it again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


def say(line: str) -> None:
    """One line on stderr, under the program's name."""
    print(f"{PROGRAM}: {' '.join(line.splitlines())}", file=sys.stderr)


def build_parser(words: Sequence[str]) -> Parser:
    """The parser; of bench, demo and mtu only the one that `words` asks for is imported."""
    parser = Parser(prog=PROGRAM, description="IPsec without kernel IPsec.", epilog=EPILOG)
    parser.add_argument("--version", action=VersionAction, help="print our version and OpenSSL's")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    wanted = next((word for word in words if not word.startswith("-")), None)

    def add(name: str, text: str, run: Callable[[argparse.Namespace], int | None]) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.", epilog=EPILOG)
        command.set_defaults(run=run)
        return command

    files.add_gateway(add("gateway", "run a gateway in the foreground", files.run_gateway))
    control.add_status(add("status", "show the gateway, its SAs and their counters", control.run_status))
    control.add_up(add("up", "set up a child or a connection, showing the negotiation", control.run_up))
    control.add_down(add("down", "take down a child or a connection", control.run_down))
    files.add_check_config(add("check-config", "check a configuration file, every problem at once", files.check_config))
    for name, (module, text) in LATE.items():
        command = add(name, text, lambda arguments: OK)
        if wanted == name:
            late = importlib.import_module(module)
            late.add_arguments(command)
            command.set_defaults(run=late.main)
    return parser


class Parser(argparse.ArgumentParser):
    """argparse, with one line for bad usage instead of the usage text before it."""

    def error(self, message: str) -> NoReturn:
        say(f"{message}; see `{self.prog} --help`")
        self.exit(USAGE)


class VersionAction(argparse.Action):
    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, dest, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *unused: object) -> None:
        import ssl  # late: costs 17 ms that no other command should pay

        print(f"{PROGRAM} {__version__} ({ssl.OPENSSL_VERSION})")
        parser.exit()
