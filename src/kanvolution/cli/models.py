"""`kanvolution models`."""

from __future__ import annotations

import argparse
from functools import partial

from kanvolution.cli.command import register_command
from kanvolution.cli.imports import add_import
from kanvolution.cli.text import table


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("filter", nargs="?", default="*", metavar="FILTER", help="a pattern of names, e.g. 'vgg*'")
    parser.add_argument("--conv", default="gram", metavar="BASIS", help="basis of the convolutions (gram)")
    parser.add_argument("--size", type=int, default=224, metavar="N", help="images of N x N pixels (224)")
    add_import(parser)


@register_command("models", "list the networks, their sizes and published weights", _arguments)
def models(options: argparse.Namespace) -> int:
    """Print parameters, FLOPs and published accuracy of the registered networks."""
    from kanvolution.models import PUBLISHED, create_model, describe, list_models
    from kanvolution.registry import unknown_name

    names = list_models(options.filter)
    published = list_models(options.filter, pretrained=True)
    if not names and not published:
        raise ValueError(unknown_name("model", options.filter, [*list_models(), *list_models(pretrained=True)]))
    rows = [("model", "parameters", "GFLOPs", "top-1", "top-5")]
    for name in [*names, *published]:
        entry = PUBLISHED[name] if name in published else None
        conv = options.conv if entry is None else None
        in_chans, size = (3, None) if entry is None else (entry.in_chans, entry.image_size)
        size = size or options.size
        found = describe(partial(create_model, name, conv), (1, in_chans, size, size))
        top1, top5 = (None, None) if entry is None else (entry.top1, entry.top5)
        rows.append((name, f"{found.parameters:,}", f"{found.flops / 1e9:.3f}", _percent(top1), _percent(top5)))
    print(table(rows, right=(1, 2, 3, 4)))
    print(f"conv={options.conv}, {options.size}x{options.size} pixels, 3 channels, default classes. A name with a dot")
    print("has published weights, its own convolutions, and may have images and classes of its own:")
    print("create_model(name, pretrained=True).")
    return 0


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
