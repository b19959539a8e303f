"""`kanvolution COMMAND ...`: finds the command, reads its arguments, reports errors."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from kanvolution.cli.command import COMMANDS, INTERRUPTED, USER_ERROR, fail
from kanvolution.cli.imports import import_file
from kanvolution.registry import unknown_name


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line. Returns the exit code: 0; 1 a run failed; 2 a mistake in the arguments; 130 interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0 if arguments else USER_ERROR
    if arguments[0] == "--version":
        from kanvolution import __version__

        print(f"kanvolution {__version__}")
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        return fail(f"{unknown_name('command', name, COMMANDS)} See kanvolution --help.")
    command = COMMANDS[name]
    parser = argparse.ArgumentParser(f"kanvolution {name}", description=command.help, add_help=not command.own_help)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    command.add_arguments(parser)
    options, unknown = parser.parse_known_intermixed_args(rest)
    try:
        if unknown:
            flags = [flag for action in parser._actions for flag in action.option_strings]
            raise ValueError(unknown_name("option", unknown[0], flags))
        for file in getattr(options, "imports", []):
            import_file(file)
        return command.run(options)
    except KeyboardInterrupt:
        return fail("stopped", INTERRUPTED)
    except (ValueError, TypeError, ImportError, OSError) as error:
        if options.debug:
            raise
        return fail(str(error))


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {COMMANDS[name].help}" for name in COMMANDS]
    return "\n".join(
        [
            "usage: kanvolution COMMAND ...",
            "",
            "Convolutional Kolmogorov-Arnold networks for PyTorch.",
            "",
            *lines,
            "",
            "to begin with:",
            "  kanvolution train output_dir=runs/a    train on handwritten digits",
            "  kanvolution eval runs/a                measure what was trained",
            "  kanvolution train --help               what can be chosen, and all options",
            "",
            "kanvolution COMMAND --help tells more; kanvolution --version tells the version.",
        ]
    )
