"""A model of one's own on images of one's own, in a file for the command line.

    kanvolution train --import examples/own_model.py model=mine data=image_folder data.path=photos

This program makes a folder of images and runs that command on it, then the evaluation of what it trained.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor, nn

import kanvolution as kv


@kv.register_model("mine")
class Mine(nn.Module):
    """Two convolutions, and a linear head on the average.

    Args:
        width: channels of the first layer.
    """

    def __init__(self, conv: kv.layers.ConvFactory, num_classes: int, in_chans: int, width: int = 8) -> None:
        super().__init__()
        self.features = nn.Sequential(
            conv(in_chans, width, 3, padding=1), conv(width, 2 * width, 3, stride=2, padding=1)
        )
        self.head = nn.Linear(2 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))


def make_images(folder: Path, count: int = 30) -> None:
    """Squares and stripes, in a folder each."""
    random = np.random.default_rng(0)
    for name in ("squares", "stripes"):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            image = random.integers(0, 60, (24, 24, 3), dtype=np.uint8)
            row, column = random.integers(0, 12, 2)
            if name == "squares":
                image[row : row + 8, column : column + 8] += 150
            else:
                image[row % 4 :: 4] += 150
            Image.fromarray(image).save(folder / name / f"{i}.png")


def kanvolution(*arguments: str) -> None:
    """The command line, as in a shell."""
    subprocess.run([sys.executable, "-m", "kanvolution.cli", *arguments], check=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        make_images(Path(place) / "photos")
        options = [f"data.path={place}/photos", "data.image_size=24", "trainer.epochs=4", "trainer.batch_size=8"]
        command = ["train", "--import", __file__, "model=mine", "model.width=6", "data=image_folder", "optim.lr=0.01"]
        kanvolution(*command, *options, "tracker=none", f"output_dir={place}/run")
        kanvolution("eval", f"{place}/run", "--import", __file__)


if __name__ == "__main__":
    main()
