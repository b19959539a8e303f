"""What a command is, and the registry of commands."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass

from kanvolution.registry import Registry

FAILED, USER_ERROR, INTERRUPTED = 1, 2, 130

Run = Callable[[argparse.Namespace], int]
AddArguments = Callable[[argparse.ArgumentParser], None]


def no_arguments(parser: argparse.ArgumentParser) -> None:
    """For a command without arguments."""


@dataclass(frozen=True)
class Command:
    """A command.

    Args:
        help: a line of help.
        run: what it does with its arguments; returns the exit code.
        add_arguments: adds its arguments to a parser.
        own_help: it handles `--help` itself, as `options.help`.
    """

    help: str
    run: Run
    add_arguments: AddArguments = no_arguments
    own_help: bool = False


COMMANDS: Registry[Command] = Registry("command")


def register_command(
    name: str, help: str, add_arguments: AddArguments = no_arguments, *, own_help: bool = False
) -> Callable[[Run], Run]:
    """Decorator: makes a function the command `kanvolution name`. See `Command` for the arguments.

    ValueError, TypeError, ImportError and OSError that the function raises are a user's mistakes: their message is
    printed as one line, and the exit code is 2.
    """

    def enter(run: Run) -> Run:
        COMMANDS.register(name)(Command(help, run, add_arguments, own_help))
        return run

    return enter


def fail(message: str, code: int = USER_ERROR) -> int:
    """Print an error; returns the exit code."""
    print(f"kanvolution: error: {message}", file=sys.stderr)
    return code
