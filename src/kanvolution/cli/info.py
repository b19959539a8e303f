"""`kanvolution info`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from functools import partial
from typing import Any

from kanvolution.cli.command import register_command
from kanvolution.cli.imports import add_import
from kanvolution.cli.text import table

_NAMES = {"conv": "conv.basis", "conv.structure": "conv.structure.name"}


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a name of `kanvolution models`")
    parser.add_argument(
        "options",
        nargs="*",
        metavar="KEY=VALUE",
        help="conv=BASIS, conv.degree=5, conv.structure.name=bottleneck, num_classes=10, width_scale=0.5, ...",
    )
    parser.add_argument("--size", default="224", metavar="HxW", help="size of the image (224, that is 224x224)")
    add_import(parser)


@register_command("info", "show the layers of a network", _arguments)
def info(options: argparse.Namespace) -> int:
    """Print name, kind, output shape, parameters and FLOPs of each layer."""
    from kanvolution.layers import ConvSpec
    from kanvolution.models import PUBLISHED, create_model, describe

    given = parse_options(options.options)
    conv = given.pop("conv", None)
    if isinstance(conv, dict):
        conv = ConvSpec(**conv)
    height, width = _size(options.size)
    entry = PUBLISHED[options.model] if options.model in PUBLISHED else None  # noqa: SIM401 (a registry has no get)
    in_chans = given.get("in_chans", 3 if entry is None else entry.in_chans)
    create = partial(create_model, options.model, conv, **given)
    found = describe(create, (1, in_chans, height, width))
    rows = [("layer", "type", "output", "parameters", "MFLOPs")]
    for layer in found.layers:
        shape = "x".join(map(str, layer.shape[1:]))
        rows.append((layer.name, layer.kind, shape, f"{layer.parameters:,}", f"{layer.flops / 1e6:,.2f}"))
    rows.append(("all", "", "", f"{found.parameters:,}", f"{found.flops / 1e6:,.2f}"))
    print(table(rows, right=(3, 4)))
    if entry is not None:
        place = "with this package" if entry.ships else f"{entry.repo}, as stated there"
        print(f"published: {place}; top-1 {entry.top1:.2f} %, top-5 {entry.top5:.2f} %")
    return 0


def parse_options(texts: Sequence[str]) -> dict[str, Any]:
    """KEY=VALUE texts as a dictionary: values are JSON where they can be, dots make inner dictionaries.

    conv=NAME stands for conv.basis=NAME, and conv.structure=NAME for conv.structure.name=NAME, as in training.

    Raises:
        ValueError: a text that is no KEY=VALUE, or a key inside another that is no dictionary.
    """
    found: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise ValueError(f"{text!r} must be KEY=VALUE, e.g. num_classes=10")
        try:
            parsed = json.loads(value)
        except ValueError:
            parsed = value
        if isinstance(parsed, str):
            key = _NAMES.get(key, key)
        *parents, last = key.split(".")
        inner = found
        for parent in parents:
            inner = inner.setdefault(parent, {})
            if not isinstance(inner, dict):
                raise ValueError(f"{text!r}: {parent} is {inner!r} already and has no keys inside")
        inner[last] = parsed
    return found


def _size(text: str) -> tuple[int, int]:
    numbers = text.split("x")
    if len(numbers) not in (1, 2) or not all(n.isdecimal() and int(n) > 0 for n in numbers):
        raise ValueError(f"--size {text} must be a number of pixels or HxW, e.g. 224 or 192x256")
    return int(numbers[0]), int(numbers[-1])
