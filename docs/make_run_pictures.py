"""Trains small networks and puts the pictures of their runs into docs/pictures.

python docs/make_run_pictures.py [--nuclei PATH] [--output FOLDER]

PATH holds images/ and masks/ of the 2018 Data Science Bowl, for the picture of a segmentation.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from kanvolution.cli import main as kanvolution

FOLDER = Path(__file__).parent / "pictures"
CLASSIFIER = ("model.channels=[4,8,8,8]", "optim.lr=0.005", "trainer.epochs=12")
SEGMENTER = (
    *("model=unet", "model.width=8", "model.depth=2", "task=segmentation", "optim.lr=0.01"),
    *(
        "data=segmentation_folder",
        "data.image_size=64",
        "data.channels=1",
        "trainer.epochs=20",
        "trainer.batch_size=16",
    ),
)
PICTURES = ("curves", "confusion", "reliability", "mistakes", "segmentation")


def main(folder: Path = FOLDER, nuclei: str | None = None) -> None:
    """Train, and keep the pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as runs:
        _train(CLASSIFIER, Path(runs) / "digits", folder)
        if nuclei is not None:
            _train([*SEGMENTER, f"data.path={nuclei}"], Path(runs) / "nuclei", folder, only="segmentation")


def _train(overrides: Sequence[str], run: Path, folder: Path, only: str | None = None) -> None:
    if kanvolution(["train", *overrides, f"output_dir={run}", "tracker=none", "trainer.cpu=true"]):
        raise SystemExit(1)
    for name in PICTURES:
        if (run / f"{name}.png").is_file() and only in (None, name):
            with Image.open(run / f"{name}.png") as picture:
                picture.convert("RGB").quantize(128).save(folder / f"{name}.png", optimize=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nuclei", metavar="PATH", help="folder of images and masks")
    parser.add_argument("--output", metavar="FOLDER", type=Path, default=FOLDER, help="where the pictures go")
    options = parser.parse_args()
    main(options.output, options.nuclei)
