"""Augmentations: whole batches at once, every image with random parameters of its own, masks with their images."""

import pytest
import torch
from torch.utils.data import DataLoader
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

import kanvolution.data as data
from kanvolution.data.batch_transforms import (
    Affine,
    BatchTransform,
    Each,
    Erase,
    Flip,
    Jitter,
    Shift,
    Symmetries,
    uniform,
)

INFO = data.DataInfo("x", 3, (9, 6), ("a", "b"), (0.5,) * 3, (0.5,) * 3)
GEOMETRIC = {
    "flip": Flip(),
    "upside down": Flip(-2),
    "symmetries": Symmetries(),
    "shift": Shift(1 / 4),
    "affine": Affine(15, 0.1, (0.9, 1.1)),
    "each": Each(v2.Compose([v2.RandomHorizontalFlip(), v2.RandomCrop((12, 16), padding=2), v2.ColorJitter(0.01)])),
}


def labels_as_images(masks: torch.Tensor) -> torch.Tensor:
    return masks.unsqueeze(1).float() / 4


@pytest.mark.parametrize("name", data.list_augments())
def test_every_augmentation_keeps_shape_type_and_range(name: str) -> None:
    augment = data.create_augment(name, INFO)
    images = torch.rand(20, 3, 9, 6)
    changed = images if augment is None else augment(images)[0]
    assert changed.shape == images.shape and changed.dtype == images.dtype
    assert changed.min() >= 0 and changed.max() <= 1
    assert (name == "none") == torch.equal(changed, images)


@pytest.mark.parametrize("name", [n for n in data.list_augments() if n != "none"])
def test_images_of_a_batch_are_changed_independently_and_a_seed_repeats_them(name: str) -> None:
    augment = data.create_augment(name, INFO)
    assert augment is not None
    images = torch.rand(1, 3, 9, 6).expand(24, -1, -1, -1)
    torch.manual_seed(5)
    first = augment(images)[0]
    torch.manual_seed(5)
    assert torch.equal(augment(images)[0], first)
    assert not torch.equal(augment(images)[0], first)
    different = len(torch.unique(first.flatten(1), dim=0))
    assert different == {"mirror": 2, "symmetries": 4}.get(name, max(different, 6))


@pytest.mark.parametrize("name", GEOMETRIC)
def test_masks_move_with_their_images(name: str) -> None:
    masks = torch.zeros(16, 12, 16, dtype=torch.long)
    masks[:, 2:8, 4:8], masks[:, 4:6, 8:12] = 2, 4
    images, moved = GEOMETRIC[name](labels_as_images(masks), masks)
    assert moved is not None and moved.dtype == torch.long and moved.shape == masks.shape
    assert set(moved.unique().tolist()) <= {0, 2, 4} and not torch.equal(moved, masks)
    inside = (labels_as_images(moved) - images).abs() < 0.05
    # Interpolation blurs the edges of the image and not those of the mask.
    assert bool(inside.all()) if name != "affine" else inside.float().mean() > 0.8


def test_a_flip_turns_half_of_the_images() -> None:
    images = torch.rand(400, 2, 3, 4)
    flipped = Flip()(images)[0]
    turned = torch.tensor([torch.equal(a, b.flip(-1)) for a, b in zip(flipped, images, strict=True)])
    kept = torch.tensor([torch.equal(a, b) for a, b in zip(flipped, images, strict=True)])
    assert bool((turned ^ kept).all()) and 150 < int(turned.sum()) < 250


def test_a_shift_is_a_crop_of_the_image_with_a_black_border() -> None:
    images = torch.rand(300, 2, 8, 5) + 0.1
    torch.manual_seed(0)
    shifted = Shift(1 / 4)(images)[0]
    torch.manual_seed(0)
    rows, columns = torch.randint(5, (300,)), torch.randint(3, (300,))
    padded = torch.nn.functional.pad(images, [1, 1, 2, 2])
    for i in range(300):
        assert torch.equal(shifted[i], padded[i, :, rows[i] : rows[i] + 8, columns[i] : columns[i] + 5])
    assert set(rows.tolist()) == set(range(5)) and set(columns.tolist()) == set(range(3))


def test_affine_agrees_with_torchvision() -> None:
    images = torch.rand(10, 3, 20, 31)
    torch.manual_seed(0)
    changed = Affine(30, 0.2, (0.7, 1.4))(images)[0]
    torch.manual_seed(0)
    angle, factor = uniform(10, -30, 30), uniform(10, 0.7, 1.4)
    across, down = uniform(10, -0.2, 0.2) * 31, uniform(10, -0.2, 0.2) * 20
    for i in range(10):
        expected = F.affine(
            images[i],
            float(angle[i]),
            [float(across[i]), float(down[i])],
            float(factor[i]),
            [0.0, 0.0],
            interpolation=v2.InterpolationMode.BILINEAR,
        )
        torch.testing.assert_close(changed[i], expected, atol=2e-4, rtol=0)


def test_symmetries_of_a_square_are_eight_and_of_a_rectangle_four() -> None:
    for shape, expected in (((5, 5), 8), ((5, 4), 4)):
        image = torch.rand(1, 2, *shape)
        found = torch.unique(Symmetries()(image.expand(300, -1, -1, -1))[0].flatten(1), dim=0)
        assert len(found) == expected
        torch.testing.assert_close(found.sum(1), image.sum().expand(expected))


def test_jitter_agrees_with_torchvision() -> None:
    images = torch.rand(10, 3, 6, 5)
    torch.manual_seed(0)
    changed = Jitter(0.4, 0.3)(images)[0]
    torch.manual_seed(0)
    light, spread = uniform(10, 0.6, 1.4), uniform(10, 0.7, 1.3)
    for i in range(10):
        expected = F.adjust_contrast(F.adjust_brightness(images[i], float(light[i])), float(spread[i]))
        torch.testing.assert_close(changed[i], expected)


def test_erase_paints_one_rectangle_of_the_wanted_share_of_the_images() -> None:
    images = torch.zeros(1000, 2, 24, 30)
    erased = Erase(0.3, (0.25, 0.75), area=(0.1, 0.2), ratio=2)(images)[0]
    painted = erased[:, 0] > 0
    changed = painted.flatten(1).any(1)
    assert 220 < int(changed.sum()) < 380
    assert set(erased[:, 0].unique().tolist()) == {0, 0.25} and set(erased[:, 1].unique().tolist()) == {0, 0.75}
    rows, columns = painted.any(2).sum(1)[changed], painted.any(1).sum(1)[changed]
    assert torch.equal(painted[changed].sum((1, 2)), rows * columns)  # it is a rectangle
    share = rows * columns / (24 * 30)
    assert share.min() > 0.08 and share.max() < 0.23 and share.std() > 0.02
    assert bool(painted.any(0).any(0).all()) and bool(painted.any(0).any(1).all())  # up to every edge


@pytest.mark.parametrize("name", ["autoaugment", "randaugment", "trivialaugment"])
def test_colour_policies_are_for_grey_and_rgb(name: str) -> None:
    info = data.DataInfo("x", 4, (8, 8), ("a", "b"), (0.5,) * 4, (0.5,) * 4)
    with pytest.raises(ValueError, match=r"in_chans \(=4\) must be 1 or 3"):
        data.create_augment(name, info)
    grey = data.create_augment(name, data.DataInfo("x", 1, (8, 8), ("a", "b"), (0.5,), (0.5,)))
    assert grey is not None and grey(torch.rand(20, 1, 8, 8))[0].shape == (20, 1, 8, 8)


def test_a_transform_of_torchvision_a_function_and_a_batch_transform_can_be_registered() -> None:
    class Darker(BatchTransform):
        def __call__(self, images, masks=None):
            return images / 2, masks

    images = torch.rand(4, 3, 9, 6)
    made = {"library": v2.RandomInvert(p=1.0), "function": lambda batch: 1 - batch, "own": Darker()}
    expected = {"library": 1 - images, "function": 1 - images, "own": images / 2}
    for name, augment in made.items():
        data.register_augment(name)(lambda info, augment=augment: augment)
        try:
            created = data.create_augment(name, INFO)
            assert created is not None
            torch.testing.assert_close(created(images)[0], expected[name])
        finally:
            data.AUGMENTS.unregister(name)


def test_a_function_of_images_refuses_masks() -> None:
    made = data.batch_transform(lambda images: images.flip(-1))
    assert made is not None
    with pytest.raises(ValueError, match="cannot augment images with masks; use a BatchTransform"):
        made(torch.rand(2, 1, 4, 4), torch.zeros(2, 4, 4, dtype=torch.long))


@pytest.mark.parametrize("augment", ["none", "affine"])
def test_a_loader_gets_the_images_of_a_batch_together(augment: str, monkeypatch) -> None:
    sets = data.create_data("digits", augment=augment)
    raw, asked = sets.train.images, []
    take = raw.take
    monkeypatch.setattr(raw, "take", lambda indices: asked.append(list(indices)) or take(indices))
    images, labels = next(iter(DataLoader(sets.train, 32, sampler=range(50, 100))))
    assert asked == [list(range(50, 82))]
    assert images.shape == (32, 1, 8, 8) and images.dtype == torch.float32
    assert labels.dtype == torch.int64 and labels.tolist() == raw.targets[50:82].tolist()
    if augment == "none":
        torch.testing.assert_close(images[3], sets.train[53][0])


def test_images_are_the_same_in_a_batch_and_alone() -> None:
    sets = data.create_data("digits", augment="none")
    for prepared in (sets.train, sets.val):
        together = prepared.__getitems__([4, 0, 4])
        for (image, label), i in zip(together, (4, 0, 4), strict=True):
            assert torch.equal(image, prepared[i][0]) and label == prepared[i][1]
