"""Image files: one at a time, and in folders."""

import numpy as np
import pytest
import torch
from PIL import Image

import kanvolution.data as data
from kanvolution.data.images import cover, fit_image, load_image, read_image


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def fill(folder, count: int = 3, size: int = 12) -> None:
    folder.mkdir(parents=True)
    for i in range(count):
        Image.fromarray(noise(size, size, 3, seed=i)).save(folder / f"{i}.png")


@pytest.fixture
def tree(tmp_path):
    for name in ("cat", "dog"):
        fill(tmp_path / "pets" / name, count=5)
    return tmp_path / "pets"


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "LA", "CMYK", "I;16"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_becomes_the_channels_asked_for(tmp_path, mode: str, channels: int) -> None:
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    if mode == "I;16":
        Image.fromarray(np.full((4, 6), 65535, np.uint16)).save(path)
    else:
        Image.new("RGB", (6, 4), "white").convert(mode).save(path)
    image = read_image(path, channels)
    assert image.shape == (channels, 4, 6) and image.dtype == torch.uint8
    assert image.float().mean() > 250


def test_a_photograph_is_turned_upright(tmp_path) -> None:
    image = Image.fromarray(noise(4, 6))
    exif = image.getexif()
    exif[0x0112] = 6  # stored lying on its side
    image.save(tmp_path / "a.png", exif=exif)
    turned = read_image(tmp_path / "a.png", 1)[0].numpy()
    np.testing.assert_array_equal(turned, np.rot90(noise(4, 6), -1))


def test_an_image_of_the_right_size_is_left_as_it_is_and_others_are_covered_and_cut() -> None:
    image = torch.from_numpy(noise(1, 8, 8))
    torch.testing.assert_close(fit_image(image, (8, 8)), image.float() / 255)
    wide = torch.zeros(1, 10, 30)
    wide[..., 10:20] = 1.0
    fitted = fit_image(wide, (5, 5))
    assert fitted.shape == (1, 5, 5) and fitted[..., 1:-1].min() > 0.9


@pytest.mark.parametrize("kind", ["empty", "text", "truncated", "missing", "folder"])
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_file_that_cannot_be_read_is_named(tmp_path, kind: str, suffix: str) -> None:
    path = tmp_path / f"bad{suffix}"
    if kind == "folder":
        path.mkdir()
    elif kind == "truncated":
        Image.fromarray(noise(40, 40, 3)).save(path)
        path.write_bytes(path.read_bytes()[:-400])
    elif kind != "missing":
        path.write_bytes(b"" if kind == "empty" else b"this is a text")
    with pytest.raises(ValueError, match=rf"cannot read image .*bad\{suffix}'"):
        load_image(path, 3, (8, 8))


def test_files_are_read_with_1_or_3_channels(tmp_path) -> None:
    Image.fromarray(noise(4, 4)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"channels \(=2\) must be 1 .*or 3"):
        read_image(tmp_path / "a.png", 2)


def test_one_tree_is_split_by_a_seed_into_disjoint_parts(tree) -> None:
    sets = data.create_data("image_folder", path=str(tree), image_size=8)
    assert sets.info.class_names == ("cat", "dog") and sets.info.image_size == (8, 8) and sets.info.in_chans == 3
    assert len(sets.train) == 8 and len(sets.val) == 2
    assert sorted(sets.val[i][1] for i in range(2)) == [0, 1]
    sets, again, other = (
        data.create_data("image_folder", path=str(tree), image_size=8, in_memory=False, split_seed=seed)
        for seed in (0, 0, 2)
    )
    train, val = (part.images.source.paths for part in (sets.train, sets.val))
    assert len({*train, *val}) == 10
    assert again.val.images.source.paths == val != other.val.images.source.paths


def test_images_in_memory_are_those_of_the_files(tree) -> None:
    kept, read = (
        data.create_data("image_folder", path=str(tree), image_size=[9, 7], in_memory=choice, augment="none")
        for choice in (True, False)
    )
    assert isinstance(kept.train.images, data.TensorImages) and kept.info == read.info
    for i in range(8):
        assert torch.equal(kept.train[i][0], read.train[i][0]) and kept.train[i][1] == read.train[i][1]
    assert kept.train[0][0].shape == (3, 9, 7)


def test_random_crops_are_of_training_images_alone(tree) -> None:
    sets = data.create_data("image_folder", path=str(tree), image_size=6, crop_scale=[0.2, 0.5], augment="none")
    assert len({tuple(sets.train[0][0].flatten().tolist()) for _ in range(5)}) == 5
    assert len({tuple(sets.val[0][0].flatten().tolist()) for _ in range(5)}) == 1
    whole = data.create_data("image_folder", path=str(tree), image_size=6, augment="none")
    assert sets.info == whole.info and torch.equal(sets.val[1][0], whole.val[1][0])
    for wrong in ([0.5, 0.2], [0, 1], [0.5], [0.5, 1.5]):
        with pytest.raises(ValueError, match=r"data\.crop_scale .*0 < smallest <= largest <= 1"):
            data.create_data("image_folder", path=str(tree), crop_scale=wrong)


def test_a_share_of_the_scaled_image_is_taken() -> None:
    image = torch.zeros(1, 64, 64)
    image[:, 8:-8, 8:-8] = 1.0
    assert cover(image, (48, 48), 0.75).min() == 1.0  # 48 of 64 pixels, unscaled
    assert cover(image, (24, 24), 0.75)[..., 1:-1, 1:-1].min() > 0.99 and cover(image, (24, 24)).min() == 0.0


@pytest.mark.parametrize(
    ("size", "message"), [([1, 2, 3], "number of pixels or"), (0, "must be >= 1"), ([4, 0], "must be >= 1")]
)
def test_image_sizes_that_cannot_be(tree, size: object, message: str) -> None:
    with pytest.raises(ValueError, match=rf"data\.image_size.*{message}"):
        data.create_data("image_folder", path=str(tree), image_size=size)


def test_train_and_val_folders_are_used_as_they_are_in_grey(tmp_path) -> None:
    for part, count in (("train", 4), ("val", 2)):
        for name in ("a", "b", "c"):
            fill(tmp_path / part / name, count)
    sets = data.create_data("image_folder", path=str(tmp_path), image_size=12, channels=1)
    assert len(sets.train) == 12 and len(sets.val) == 6
    assert sets.val[5][0].shape == (1, 12, 12) and sets.val[5][1] == 2
    normal = torch.stack([sets.train.info.normalise(sets.train.images[i][0]) for i in range(12)])
    assert abs(float(normal.mean())) < 1e-3 and abs(float(normal.std()) - 1) < 0.01


@pytest.mark.parametrize("held_out", ["valid", "validation", "test"])
def test_a_train_folder_never_becomes_a_class(tmp_path, held_out) -> None:
    for name in ("a", "b"):
        fill(tmp_path / "train" / name, 4)
    with pytest.raises(ValueError, match=r"has a train folder, but none of val, valid.* beside it"):
        data.create_data("image_folder", path=str(tmp_path))
    for name in ("a", "b"):
        fill(tmp_path / held_out / name, 2)
    sets = data.create_data("image_folder", path=str(tmp_path), image_size=8)
    assert sets.info.class_names == ("a", "b") and len(sets.train) == 8 and len(sets.val) == 4


def test_a_broken_image_is_found_before_training_or_when_it_is_read(tree) -> None:
    (tree / "dog" / "9.png").write_bytes((tree / "dog" / "0.png").read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"cannot read image .*dog/9\.png"):
        data.create_data("image_folder", path=str(tree))


def test_folders_that_cannot_be_used(tree, tmp_path) -> None:
    with pytest.raises(ValueError, match=r"data\.path .* is not a folder"):
        data.create_data("image_folder", path=str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"data\.path .* is a file, not a folder"):
        data.create_data("image_folder", path=str(tree / "cat" / "0.png"))
    (tree / "emu").mkdir()
    with pytest.raises(ValueError, match=r"class folder .*emu' holds no image"):
        data.create_data("image_folder", path=str(tree))
    with pytest.raises(ValueError, match="has 1 class folders; it must have at least 2"):
        data.create_data("image_folder", path=str(tmp_path))
    fill(tmp_path / "b" / "train" / "x")
    fill(tmp_path / "b" / "train" / "y")
    fill(tmp_path / "b" / "val" / "x")
    fill(tmp_path / "b" / "val" / "z")
    with pytest.raises(ValueError, match=r"must have the same classes; only one has \['y', 'z'\]"):
        data.create_data("image_folder", path=str(tmp_path / "b"))
