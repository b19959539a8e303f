"""Masks of images by a saved run: their sizes, their files, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import kanvolution as kv
from kanvolution.cli import main
from kanvolution.data import DataInfo, read_image, read_mask
from kanvolution.models import MODELS
from kanvolution.models.segmenter import predicted_mask
from kanvolution.train import load_run, predict, save_run, segment
from kanvolution.train.segment import save_masks
from tests.train.toy import toy_data, toy_model

INFO = DataInfo("x", 1, (8, 12), ("ground", "grey", "bright"), (0.4,), (0.2,), targets="masks")


class Levels(nn.Module):
    """Class 0 below 0.3, class 1 below 0.7, class 2 above, of images normalised as INFO says."""

    def __init__(self, conv: object, num_classes: int, in_chans: int) -> None:
        super().__init__()
        self.levels = nn.Parameter(torch.tensor([0.15, 0.5, 0.85]))

    def forward(self, x: Tensor) -> Tensor:
        return -(x * INFO.std[0] + INFO.mean[0] - self.levels.view(-1, 1, 1)).abs()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("levels")
    kv.register_model("test_levels")(Levels)
    try:
        save_run(folder, kv.create_model("test_levels", num_classes=3, in_chans=1), INFO)
        yield folder
    finally:
        MODELS.unregister("test_levels")


@pytest.fixture
def files(tmp_path) -> list[Path]:
    """Three images, of the size of the run, larger, and of another shape; each with bars of the three classes."""
    paths = []
    for number, size in enumerate(((8, 12), (32, 48), (30, 17))):
        image = np.zeros(size, np.uint8)
        image[:, size[1] // 3 :] = 128
        image[:, 2 * size[1] // 3 :] = 240
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(image).save(paths[-1])
    return paths


def test_each_mask_has_the_size_of_its_image(run, files) -> None:
    for file, mask in zip(files, segment(run, files), strict=True):
        levels = read_image(file, 1)[0]
        expected = (levels > 77).long() + (levels > 178).long()
        assert mask.shape == levels.shape and mask.dtype == torch.long
        wrong = (mask != expected).float().mean()
        assert wrong == 0 if file.stem == "0" else wrong < 0.12  # edges, where the scaled image is blurred


def test_at_the_size_of_the_run_it_is_what_validation_sees(tmp_path) -> None:
    torch.manual_seed(0)
    model = kv.create_model("unet", "gram", num_classes=3, in_chans=1, width=4, depth=2)
    save_run(tmp_path, model, INFO)
    image = torch.rand(1, 8, 12)
    (mask,) = segment(tmp_path, [image])
    assert torch.equal(mask, predicted_mask(model.eval()(INFO.normalise(image).unsqueeze(0)))[0])
    (inverted,) = segment(tmp_path, [1 - image], invert=True)
    assert torch.equal(mask, inverted)


def test_the_command_prints_areas_and_writes_masks_and_overlays(run, files, tmp_path, capsys) -> None:
    arguments = ["predict", str(run), *map(str, files[:2])]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "ground 33.3 %  grey 33.3 %  bright 33.3 %" in printed and "--output DIR" in printed
    folder = tmp_path / "new" / "masks"
    assert main([*arguments, "--output", str(folder), "--json"]) == 0
    records = json.loads(capsys.readouterr().out)
    assert sorted(path.name for path in folder.iterdir()) == [
        f"{i}_{k}.png" for i in (0, 1) for k in ("mask", "overlay")
    ]
    for record, mask in zip(records, segment(run, files[:2]), strict=True):
        assert torch.equal(read_mask(record["mask"]).long(), mask)
        assert sum(record["areas"].values()) == pytest.approx(1)
    shown = read_image(records[0]["overlay"], 3)
    assert (shown[:, :, :4] == 0).all() and len(shown[:, 0, 4:].unique(dim=1)[0]) == 2
    assert main([*arguments, "--output", str(folder)]) == 2
    assert "0_mask.png' exists already; remove it, or choose another folder" in capsys.readouterr().err


def test_mistakes(run, files, tmp_path, capsys) -> None:
    (tmp_path / "bad.png").write_bytes(files[0].read_bytes()[:60])
    with pytest.raises(ValueError, match=r"cannot read image .*bad\.png"):
        segment(run, [*files, tmp_path / "bad.png"])
    with pytest.raises(ValueError, match=r"must be \[1, H, W\] for this run"):
        segment(run, [torch.zeros(3, 8, 12)])
    with pytest.raises(ValueError, match="gives a class to every pixel; use segment"):
        predict(run, files)
    with pytest.raises(ValueError, match="2 images are named '0'"):
        save_masks(tmp_path / "masks", [files[0], tmp_path / "other" / "0.jpg"], [], load_run(run).info)
    assert main(["predict", str(run), str(files[0]), "--top", "2"]) == 2
    assert "--top is for runs that classify" in capsys.readouterr().err
    (tmp_path / "classes").mkdir()
    save_run(tmp_path / "classes", toy_model(), toy_data().info)
    with pytest.raises(ValueError, match="use predict"):
        segment(tmp_path / "classes", files)
    assert main(["predict", str(tmp_path / "classes"), str(files[0]), "--output", str(tmp_path / "masks")]) == 2
    assert "--output is for runs that segment" in capsys.readouterr().err and not (tmp_path / "masks").exists()
