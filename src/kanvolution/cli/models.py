"""`kanvolution models`."""

from __future__ import annotations

import argparse

from kanvolution.cli.command import register_command
from kanvolution.cli.text import signature, table


@register_command("models", "list the networks")
def models(options: argparse.Namespace) -> int:
    """Print the registered networks, their sizes and options."""
    from kanvolution.models import MODELS, create_model, list_models
    from kanvolution.train.checkpoint import parameter_count

    rows = [("model", "parameters (conv=gram, 3 channels, 10 classes)", "options")]
    for name in list_models():
        count = parameter_count(create_model(name, num_classes=10, in_chans=3))
        rows.append((name, f"{count:,}", signature(MODELS[name], ("conv", "num_classes", "in_chans"))))
    print(table(rows))
    return 0
