"""Folders of images with masks."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

import kanvolution as kv
import kanvolution.data as data
from kanvolution.train import TrainerConfig, evaluate, fit, load_run
from kanvolution.train.progress import Silent


def write(root: Path, count: int = 5, size: tuple[int, int] = (10, 14), values: tuple[int, ...] = (0, 255)) -> Path:
    """Images whose brighter part is what the mask marks."""
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        index = rng.integers(0, len(values), size)
        Image.fromarray((index * 100 + i).astype(np.uint8)).save(root / "images" / f"{i}.png")
        Image.fromarray(np.array(values, np.uint8)[index]).save(root / "masks" / f"{i}.png")
    return root


def load(root: Path, **options: object) -> data.DataSets:
    return data.create_data("segmentation_folder", path=str(root), channels=1, **options)


@pytest.mark.parametrize("in_memory", [True, False, None])
def test_binary_masks_of_any_value_are_background_and_foreground(tmp_path, in_memory: bool | None) -> None:
    sets = load(write(tmp_path, values=(0, 255)), in_memory=in_memory, augment="none")
    assert sets.info.class_names == ("background", "foreground") and sets.info.targets == "masks"
    assert sets.info.image_size == (10, 14) and len(sets.train) == 4 and len(sets.val) == 1
    image, mask = sets.train[2]
    assert image.shape == (1, 10, 14) and image.dtype == torch.float32
    assert mask.shape == (10, 14) and mask.dtype == torch.int64
    assert torch.equal(mask == 1, image[0] > 0)  # normalised: what is marked is brighter than the mean
    images, masks = next(iter(DataLoader(sets.train, 4)))
    assert images.shape == (4, 1, 10, 14) and masks.shape == (4, 10, 14) and masks.dtype == torch.int64
    assert abs(float(images.mean())) < 0.01 and abs(float(images.std()) - 1) < 0.01


@pytest.mark.parametrize("mode", ["1", "P"])
def test_binary_files_and_palettes_are_masks(tmp_path, mode: str) -> None:
    write(tmp_path, values=(0, 1))
    for file in (tmp_path / "masks").iterdir():
        index = np.asarray(Image.open(file)).copy()
        image = Image.fromarray(index == 1) if mode == "1" else Image.fromarray(index, mode="P")
        if mode == "P":
            image.putpalette([0, 0, 0, 200, 30, 0])
        image.save(file)
    sets = load(tmp_path, augment="none")
    assert torch.equal(sets.train[0][1] == 1, sets.train[0][0][0] > 0)


def test_indexed_masks_are_classes_with_numbers_or_names(tmp_path) -> None:
    write(tmp_path, values=(0, 1, 2))
    sets = load(tmp_path, augment="none")
    assert sets.info.class_names == ("0", "1", "2") and sets.train[0][1].unique().tolist() == [0, 1, 2]
    named = load(tmp_path, class_names=["sky", "tree", "road", "car"])
    assert named.info.class_names == ("sky", "tree", "road", "car")
    with pytest.raises(ValueError, match=r"mask .* holds the value 2; data\.class_names has 2 names, for 0 to 1"):
        load(tmp_path, class_names=["sky", "tree"])


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_value_that_is_no_class_is_kept_apart(tmp_path, in_memory: bool) -> None:
    options = {"in_memory": in_memory, "augment": "none", "ignore_index": 255}
    indexed = load(write(tmp_path / "indexed", values=(0, 1, 2, 255)), **options)
    assert indexed.info.class_names == ("0", "1", "2") and indexed.info.ignore_index == 255
    assert indexed.train[0][1].unique().tolist() == [0, 1, 2, 255]
    binary = load(write(tmp_path / "binary", values=(0, 100, 255)), **options)
    assert binary.info.class_names == ("background", "foreground")
    assert binary.train[0][1].unique().tolist() == [0, 1, 255]
    nothing = write(tmp_path / "nothing", values=(255,))
    with pytest.raises(ValueError, match=r"no mask has a pixel that belongs to a class; check data\.ignore_index"):
        load(nothing, **options)
    with pytest.raises(ValueError, match="must not be a class"):
        load(tmp_path / "indexed", class_names=[f"c{i}" for i in range(256)], **options)


def test_masks_with_a_value_that_is_no_class_are_trained_on_and_drawn(tmp_path) -> None:
    sets = load(write(tmp_path / "data", size=(8, 8), values=(0, 1, 255)), ignore_index=255)
    result = fit(
        kv.create_model("unet", "gram", num_classes=2, in_chans=1, width=4, depth=2),
        sets,
        task="segmentation",
        trainer=TrainerConfig(epochs=1, batch_size=4),
        output_dir=tmp_path / "run",
        progress=Silent(),
    )
    assert 0 <= result.metrics["dice"] <= 1 and (tmp_path / "run" / "segmentation.png").is_file()
    assert load_run(tmp_path / "run").info.ignore_index == 255
    assert evaluate(tmp_path / "run", sets, task="segmentation").metrics["dice"] == pytest.approx(
        result.metrics["dice"]
    )


def test_training_images_and_masks_are_augmented_together_and_validation_is_not(tmp_path) -> None:
    sets = load(write(tmp_path, size=(8, 8)), augment="symmetries")
    seen = set()
    for _ in range(30):
        image, mask = sets.train[1]
        assert torch.equal(mask == 1, image[0] > 0)
        seen.add(tuple(mask.flatten().tolist()))
    assert len(seen) == 8
    assert all(torch.equal(sets.val[0][1], sets.val[0][1]) for _ in range(20))


@pytest.mark.parametrize("name", ["affine", "shift", "flip", "warp", "affine_jitter", "mirror"])
def test_augmentations_that_move_masks_run_through_the_loader(tmp_path, name: str) -> None:
    sets = load(write(tmp_path), augment=name)
    images, masks = next(iter(DataLoader(sets.train, 4)))
    assert images.shape == (4, 1, 10, 14) and set(masks.unique().tolist()) == {0, 1}


def test_augmentations_that_cannot_move_masks_are_refused_before_training(tmp_path) -> None:
    write(tmp_path)
    with pytest.raises(ValueError, match=r"augmentation 'autoaugment' cannot be used with masks.*data\.augment"):
        load(tmp_path, augment="autoaugment")


def test_images_are_brought_to_one_size_with_their_masks(tmp_path) -> None:
    write(tmp_path, size=(20, 40))
    Image.fromarray(np.zeros((30, 30), np.uint8)).save(tmp_path / "images" / "odd.png")
    Image.fromarray(np.zeros((30, 30), np.uint8)).save(tmp_path / "masks" / "odd.png")
    with pytest.raises(ValueError, match=r"has size \(20, 40\), .*odd\.png' \(30, 30\); pass data\.image_size"):
        load(tmp_path)
    sets = load(tmp_path, image_size=[10, 12])
    assert sets.train[0][0].shape == (1, 10, 12) and sets.train[0][1].shape == (10, 12)
    assert set(sets.train[0][1].unique().tolist()) <= {0, 1}


def test_parts_in_folders_of_their_own_and_names_with_a_suffix(tmp_path) -> None:
    for part, count in (("train", 3), ("val", 2)):
        write(tmp_path / part, count)
        for file in sorted((tmp_path / part / "masks").iterdir()):
            file.rename(file.with_name(f"{file.stem}_mask.png"))
    sets = load(tmp_path, mask_suffix="_mask")
    assert len(sets.train) == 3 and len(sets.val) == 2
    with pytest.raises(ValueError, match=r"3 images without mask, the first is .*0\.png"):
        load(tmp_path)


def test_the_split_is_seeded_and_disjoint(tmp_path) -> None:
    write(tmp_path, count=10)
    first, again, other = (load(tmp_path, split_seed=seed, in_memory=False, val_fraction=0.3) for seed in (0, 0, 1))
    train, val = first.train.images.pairs, first.val.images.pairs
    assert len(val) == 3 and len({*train, *val}) == 10
    assert again.val.images.pairs == val != other.val.images.pairs


def test_folders_that_cannot_be_used(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"is not a folder; name one that holds the folders images and masks"):
        load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="has no folder 'images'; put images into images/ and masks into masks/"):
        load(tmp_path)
    write(tmp_path)
    (tmp_path / "images" / "2.png").rename(tmp_path / "2.png")
    with pytest.raises(ValueError, match=r"1 masks without image, the first is .*masks/2\.png"):
        load(tmp_path)
    (tmp_path / "2.png").rename(tmp_path / "images" / "2.png")
    (tmp_path / "masks" / "3.png").unlink()
    with pytest.raises(ValueError, match=r"1 images without mask, the first is .*images/3\.png"):
        load(tmp_path)
    for file in (tmp_path / "masks").iterdir():
        file.unlink()
    with pytest.raises(ValueError, match=r"masks' holds no image"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (np.zeros((9, 14), np.uint8), r"mask .*1\.png' \(height, width \(9, 14\)\) must have the size of its image"),
        (np.full((10, 14), 7, np.uint8), r"the masks hold the values 0, 7, 255 \(255 in "),
        (np.zeros((10, 14, 3), np.uint8), r"cannot read mask .*1\.png': it has mode RGB; a mask has one 8-bit"),
        (None, r"cannot read mask .*1\.png'"),
    ],
)
def test_masks_that_cannot_be_used_are_named(tmp_path, change: np.ndarray | None, message: str) -> None:
    file = write(tmp_path) / "masks" / "1.png"
    if change is None:
        file.write_bytes(file.read_bytes()[:-30])
    else:
        Image.fromarray(change).save(file)
    with pytest.raises(ValueError, match=message):
        load(tmp_path)


def test_a_truncated_image_and_masks_without_anything_are_named(tmp_path) -> None:
    file = write(tmp_path) / "images" / "1.png"
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"cannot read image .*images/1\.png"):
        load(tmp_path)
    write(tmp_path / "black", values=(0,))
    with pytest.raises(ValueError, match="all masks are 0 everywhere"):
        load(tmp_path / "black")


def test_a_network_learns_to_segment_a_folder(tmp_path) -> None:
    data_sets = load(write(tmp_path / "data", count=20))
    torch.manual_seed(0)
    model = kv.KANConv2d(1, 2, 1, basis="gram")
    trainer = TrainerConfig(epochs=5, batch_size=4, cpu=True)
    optim = {"name": "adamw", "lr": 0.05}
    options = {"task": "segmentation", "optim": optim, "trainer": trainer, "progress": Silent()}
    result = fit(model, data_sets, output_dir=tmp_path / "run", **options)
    assert result.metrics["dice"] is not None and result.metrics["dice"] > 0.95
    assert load_run(tmp_path / "run", kv.KANConv2d(1, 2, 1, basis="gram")).info == data_sets.info
    with pytest.raises(ValueError, match="has masks as targets, and this task needs labels"):
        fit(model, data_sets, output_dir=tmp_path / "other", progress=Silent())
