"""`kanvolution convert-checkpoint`."""

from __future__ import annotations

import argparse
import json
from typing import Any

from kanvolution.cli.command import register_command


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="PEER", help="weights of torch-conv-kan: .safetensors, .pt or .pth")
    parser.add_argument("folder", metavar="OUT", help="new folder for the model in the format of this package")
    parser.add_argument("--layers", metavar="NAME", help="family of its layers, where the entries do not tell (KAJN)")
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="a simple network, by default the one of as many layers; or a name of published weights",
    )
    parser.add_argument(
        "--conv",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="option of the basis that the entries do not tell, e.g. kind=morlet; may be given more than once",
    )


@register_command("convert-checkpoint", "write a checkpoint of torch-conv-kan as a saved model", _arguments)
def convert_checkpoint(options: argparse.Namespace) -> int:
    """Convert a checkpoint and say what it is."""
    from kanvolution.compat.torch_conv_kan import convert_simple
    from kanvolution.models import PUBLISHED, create_model, save_pretrained
    from kanvolution.models.pretrained import model_config

    given = dict(_option(text) for text in options.conv)
    if options.model in PUBLISHED:
        if given or options.layers:
            raise ValueError(f"--model {options.model} has its own layers; leave --layers and --conv out")
        model = create_model(options.model, pretrained=options.checkpoint).eval()
    else:
        model = convert_simple(options.checkpoint, layers=options.layers, model=options.model, **given)
    folder = save_pretrained(model, options.folder)
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    config = model_config(model) or {}
    print(f"{config['name']}, basis {config['conv']['basis']}, {count:,} parameters: {folder}")
    return 0


def _option(text: str) -> tuple[str, Any]:
    """KEY=VALUE, the value as JSON where it is."""
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise ValueError(f"--conv {text} must be KEY=VALUE, e.g. --conv kind=morlet")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value
