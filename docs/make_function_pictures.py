"""Trains a small spline network on digits and draws its functions into docs/pictures.

python docs/make_function_pictures.py [FOLDER]
"""

from __future__ import annotations

import runpy
import sys
import tempfile
from pathlib import Path

import torch
from torch.utils.data import DataLoader

import kanvolution as kv
from kanvolution.data import create_data
from kanvolution.train import TrainerConfig, fit
from kanvolution.visualize import (
    compare_functions,
    importance,
    layer_inputs,
    layer_view,
    plot_functions,
    plot_importance,
    plot_kernel,
)

FOLDER = Path(__file__).parent / "pictures"
LAYER = "stages.1.conv"


def network() -> torch.nn.Module:
    """The network before training."""
    torch.manual_seed(0)
    return kv.create_model("simple4", "spline", num_classes=10, in_chans=1, channels=[8, 12, 16, 16])


def main(folder: Path = FOLDER, epochs: int = 20) -> None:
    """Train, and draw."""
    folder.mkdir(parents=True, exist_ok=True)
    before, model, data = network(), network(), create_data("digits")
    with tempfile.TemporaryDirectory() as run:
        optim = {"name": "adamw", "lr": 0.01}
        trainer = TrainerConfig(epochs=epochs, cpu=True)
        fit(model, data, optim=optim, trainer=trainer, output_dir=Path(run) / "run", name="digits")
    inputs = layer_inputs(model, DataLoader(data.val, 64), [LAYER])[LAYER]
    view = layer_view(model, LAYER)
    found = importance(view, inputs)
    best = found.ranked(1)[0]
    save = runpy.run_path(str(Path(__file__).with_name("make_pictures.py")))["save"]
    save(plot_functions(view, inputs, count=8), folder / "functions.png")
    save(plot_kernel(view, best.output, best.input, inputs), folder / "kernel.png")
    save(plot_importance(found), folder / "importance.png")
    save(compare_functions(layer_view(before, LAYER), view, inputs, count=4), folder / "change.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
