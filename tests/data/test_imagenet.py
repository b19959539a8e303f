"""ImageNet in its layouts, and Tiny ImageNet as its zip file unpacks; small images made here."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import kanvolution.data as data


def jpeg(seed: int, size: int = 20) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


@pytest.fixture
def folders(tmp_path):
    for part, count in (("train", 4), ("val", 2)):
        for label, name in enumerate(("n01", "n02")):
            for i in range(count):
                write(tmp_path / part / name / f"{i}.JPEG", jpeg(10 * label + i))
    return tmp_path


@pytest.fixture
def shards(tmp_path):
    """The images of `folders`, in shards."""
    for part, count in (("train", 4), ("val", 2)):
        for i in range(count):
            with tarfile.open(tmp_path / f"imagenet-{part}-{i:03}.tar", "w") as tar:
                for label in range(2):
                    for suffix, content in (("jpg", jpeg(10 * label + i)), ("cls", str(label).encode())):
                        member = tarfile.TarInfo(f"{part}/{label}_{i}.{suffix}")
                        member.size = len(content)
                        tar.addfile(member, io.BytesIO(content))
    return tmp_path


@pytest.fixture
def rows(tmp_path):
    """The images of `folders`, as parquet files that `datasets` reads."""
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["n01", "n02"])})
    for part, count in (("train", 4), ("validation", 2)):
        samples = [
            {"image": {"bytes": jpeg(10 * k + i), "path": None}, "label": k} for k in (0, 1) for i in range(count)
        ]
        part_set = datasets.Dataset.from_list(samples, features=features)
        (tmp_path / "set" / "data").mkdir(parents=True, exist_ok=True)
        part_set.to_parquet(tmp_path / "set" / "data" / f"{part}-00000-of-00001.parquet")
    return tmp_path / "set"


@pytest.mark.parametrize("layout", ["folder", "shards", "hub"])
def test_every_layout_gives_the_same_images(layout: str, request, monkeypatch, tmp_path) -> None:
    path = request.getfixturevalue({"folder": "folders", "shards": "shards", "hub": "rows"}[layout])
    if layout == "hub":
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    sets = data.create_data("imagenet1k", path=str(path), layout=layout, image_size=16, augment="none")
    assert len(sets.train) == 8 and len(sets.val) == 4
    assert sets.info.class_names == (("0", "1") if layout == "shards" else ("n01", "n02"))
    assert sets.info.mean == (0.485, 0.456, 0.406) and sets.info.crop_share == 0.875
    assert sorted(sets.train[i][1] for i in range(8)) == [0] * 4 + [1] * 4
    assert sets.train[0][0].shape == (3, 16, 16) and not torch.equal(sets.train[0][0], sets.train[0][0])
    wanted = {}
    for label in (0, 1):
        for i in (0, 1):
            image = torch.from_numpy(np.asarray(Image.open(io.BytesIO(jpeg(10 * label + i)))).copy()).permute(2, 0, 1)
            image = data.cover(image, (16, 16), 0.875).float() / 255
            wanted[tuple(sets.info.normalise(image).flatten().tolist())] = label
    found = {tuple(image.flatten().tolist()): label for image, label in (sets.val[i] for i in range(4))}
    assert found == wanted


def test_shards_written_by_webdataset_are_read(tmp_path) -> None:
    webdataset = pytest.importorskip("webdataset")
    for part in ("train", "val"):
        with webdataset.TarWriter(str(tmp_path / f"{part}-0.tar")) as writer:
            for i in range(4):
                writer.write({"__key__": f"sample{i}", "jpg": jpeg(i), "cls": i % 2})
    sets = data.create_data("imagenet1k", path=str(tmp_path), layout="shards", image_size=8, check=True)
    assert [sets.val[i][1] for i in range(4)] == [0, 1, 0, 1]


def test_shards_that_cannot_be_used_are_named(shards) -> None:
    options = {"path": str(shards), "layout": "shards", "image_size": 8}
    shard = shards / "imagenet-train-001.tar"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:1300])
    with pytest.raises(ValueError, match=r"cannot read shard .*imagenet-train-001\.tar"):
        data.create_data("imagenet1k", **options)
    shard.write_bytes(whole.replace(b"0_1.cls", b"0_1.txt"))
    with pytest.raises(ValueError, match=r"imagenet-train-001\.tar"):
        data.create_data("imagenet1k", **options)
    with tarfile.open(shard, "w") as tar:
        member = tarfile.TarInfo("a.jpg")
        tar.addfile(member)
    with pytest.raises(ValueError, match=r"train-001\.tar': a\.jpg has no label beside it"):
        data.create_data("imagenet1k", **options)
    with tarfile.open(shard, "w") as tar:
        for name, content in (("a.jpg", jpeg(0)[:-300]), ("a.cls", b"0")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    with pytest.raises(ValueError, match=r"cannot read image '.*train-001\.tar:a\.jpg'"):
        data.create_data("imagenet1k", **options, check=True)
    for file in shards.glob("*train*"):
        file.unlink()
    with pytest.raises(ValueError, match=r"has no \.tar file with 'train' in its name"):
        data.create_data("imagenet1k", **options)


def test_what_is_not_there_says_what_to_do(tmp_path, folders) -> None:
    with pytest.raises(ValueError, match=r"unknown data\.layout 'shard'. Did you mean 'shards'"):
        data.create_data("imagenet1k", path=str(tmp_path), layout="shard")
    with pytest.raises(ValueError, match="has no train folder; data=image_folder splits one"):
        data.create_data("imagenet1k", path=str(folders / "train"))
    with pytest.raises(ValueError, match=r"data\.path .* is not a folder"):
        data.create_data("imagenet1k", path=str(tmp_path / "nowhere"), layout="shards")


def test_a_hub_set_is_not_downloaded_unasked(monkeypatch) -> None:
    pytest.importorskip("datasets")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"datasets cannot load data\.path .*pass data\.download=true"):
        data.create_data("imagenet1k", path="someone/some-set", layout="hub")


@pytest.fixture
def tiny(tmp_path):
    for label, name in enumerate(("n01", "n02", "n03")):
        for i in range(3):
            write(tmp_path / "train" / name / "images" / f"{name}_{i}.JPEG", jpeg(10 * label + i, 64))
        write(tmp_path / "train" / name / f"{name}_boxes.txt", b"")
    for i in range(4):
        write(tmp_path / "val" / "images" / f"val_{i}.JPEG", jpeg(100 + i, 64))
    lines = [f"val_{i}.JPEG\tn0{1 + i % 3}\t0\t0\t10\t10" for i in range(4)]
    (tmp_path / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "words.txt").write_text("n01\tgoldfish, Carassius auratus\nn02\tcrane\nn03\tcrane\nn99\tother\n")
    return tmp_path


@pytest.mark.parametrize("in_memory", [True, False])
def test_tiny_imagenet_is_read_as_its_zip_file_unpacks(tiny, in_memory: bool) -> None:
    sets = data.create_data("tiny_imagenet", path=str(tiny), in_memory=in_memory)
    assert len(sets.train) == 9 and [sets.val[i][1] for i in range(4)] == [0, 1, 2, 0]
    assert sets.info.class_names == ("goldfish", "crane (n02)", "crane (n03)")
    assert sets.train[0][0].shape == (3, 64, 64)


def test_tiny_imagenet_that_cannot_be_used(tiny, tmp_path) -> None:
    annotations = tiny / "val" / "val_annotations.txt"
    text = annotations.read_text()
    annotations.write_text(text.replace("n02", "n07"))
    with pytest.raises(ValueError, match=r"val_annotations\.txt', line 2: class 'n07' has no folder in train"):
        data.create_data("tiny_imagenet", path=str(tiny))
    annotations.write_text(text)
    (tiny / "val" / "images" / "val_2.JPEG").unlink()
    with pytest.raises(ValueError, match=r"line 3: there is no image .*val_2\.JPEG"):
        data.create_data("tiny_imagenet", path=str(tiny))
    with pytest.raises(ValueError, match="has no folder train"):
        data.create_data("tiny_imagenet", path=str(tiny / "val"))
