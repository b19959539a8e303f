"""`kanvolution bases`."""

from __future__ import annotations

import argparse
import inspect

from kanvolution.cli.command import register_command
from kanvolution.cli.text import signature, table


@register_command("bases", "list the bases of a convolution")
def bases(options: argparse.Namespace) -> int:
    """Print the registered bases, their functions and options."""
    from kanvolution.bases import BASES, list_bases
    from kanvolution.bases.basis import option_names

    rows = [("basis", "functions", "options")]
    for name in list_bases():
        cls = BASES[name]
        context = tuple(p for p in inspect.signature(cls).parameters if p not in option_names(cls))
        summary_line = (inspect.getdoc(cls) or "").partition("\n")[0]
        rows.append((name, summary_line.partition(" Source:")[0], signature(cls, context)))
    print(table(rows))
    return 0
