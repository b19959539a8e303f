"""The command line. One file holds one command; importing this package registers those it ships.

The modules import only the standard library and `registry`; what a command needs is imported when it runs.
"""

from kanvolution.cli import (
    baselines,
    bases,
    bench,
    cam,
    convert_checkpoint,
    demo,
    eval,
    export,
    finetune,
    info,
    models,
    predict,
    prune,
    quantize,
    refine,
    report,
    show,
    study,
    train,
    tune,
)
from kanvolution.cli.command import COMMANDS, Command, register_command
from kanvolution.cli.entry import main
from kanvolution.cli.imports import import_file

__all__ = [
    "COMMANDS",
    "Command",
    "baselines",
    "bases",
    "bench",
    "cam",
    "convert_checkpoint",
    "demo",
    "eval",
    "export",
    "finetune",
    "import_file",
    "info",
    "main",
    "models",
    "predict",
    "prune",
    "quantize",
    "refine",
    "register_command",
    "report",
    "show",
    "study",
    "train",
    "tune",
]
