"""Real data sets, where KANVOLUTION_DATA names a folder that holds them; otherwise these tests are skipped.

The folder may hold mnist.npz and cifar10.npz (the layout of Keras), tinyimagenet10/ (ten classes of Tiny ImageNet,
train/ and val/) and dsb2018/ (images/ and masks/).
"""

import os
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

import kanvolution.data as data

pytestmark = pytest.mark.slow


def real(name: str) -> str:
    folder = os.environ.get("KANVOLUTION_DATA")
    if folder is None:
        pytest.skip("KANVOLUTION_DATA names no folder of real data")
    path = Path(folder) / name
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return str(path)


@pytest.mark.parametrize(
    ("file", "size", "mean", "std"),
    [
        ("mnist.npz", (1, 28, 28), (0.1307,), (0.3081,)),
        ("cifar10.npz", (3, 32, 32), (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    ],
)
def test_arrays_have_the_published_mean_and_std(file: str, size: tuple, mean: tuple, std: tuple) -> None:
    sets = data.create_data("npz", path=real(file))
    assert len(sets.val) == 10_000 and len(sets.info.class_names) == 10
    torch.testing.assert_close(torch.tensor(sets.info.mean), torch.tensor(mean), atol=0.01, rtol=0)
    torch.testing.assert_close(torch.tensor(sets.info.std), torch.tensor(std), atol=0.01, rtol=0)
    images, labels = next(iter(DataLoader(sets.train, 64)))
    assert images.shape == (64, *size) and labels.max() < 10


def test_classes_of_tiny_imagenet() -> None:
    sets = data.create_data("tiny_imagenet", path=real("tinyimagenet10"))
    assert len(sets.train) == 5000 and len(sets.val) == 500 and sets.info.image_size == (64, 64)
    assert torch.bincount(sets.train.images.targets).tolist() == [500] * 10


def test_nuclei_with_masks() -> None:
    sets = data.create_data("segmentation_folder", path=real("dsb2018"), channels=1)
    assert len(sets.train) + len(sets.val) == 334 and sets.info.class_names == ("background", "foreground")
    images, masks = next(iter(DataLoader(sets.train, 8)))
    assert images.shape == (8, 1, 256, 256) and masks.shape == (8, 256, 256)
    assert images[:, 0][masks == 1].mean() > images[:, 0][masks == 0].mean() + 0.5  # nuclei shine
