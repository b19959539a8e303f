"""The data sets that ship with the package, but for folders of images."""

import struct

import numpy as np
import pytest
import torch

import kanvolution.data as data


def arrays(train: int = 6, test: int = 4, shape: tuple[int, ...] = (5, 7)) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "x_train": rng.integers(0, 256, (train, *shape), dtype=np.uint8),
        "y_train": np.arange(train) % 3,
        "x_test": rng.integers(0, 256, (test, *shape), dtype=np.uint8),
        "y_test": np.arange(test) % 3,
    }


def save(path, values: dict[str, np.ndarray]) -> str:
    np.savez(path, **values)
    return str(path)


def test_digits_hold_out_the_same_fifth_of_every_class_whatever_the_seed() -> None:
    torch.manual_seed(1)
    first = data.create_data("digits")
    torch.manual_seed(2)
    second = data.create_data("digits")
    assert len(first.train) + len(first.val) == 1797
    assert abs(len(first.val) - 1797 / 5) < 2
    for i in range(len(first.val)):
        assert torch.equal(first.val[i][0], second.val[i][0]) and first.val[i][1] == second.val[i][1]
    counts = torch.bincount(torch.tensor([first.val[i][1] for i in range(len(first.val))]))
    assert counts.min() >= 35 and counts.max() <= 37
    assert first.info.class_names == tuple("0123456789") and first.info.image_size == (8, 8)
    assert first.info.in_chans == 1 and first.info.num_classes == 10


def test_digits_are_in_0_1_before_they_are_normalised_to_mean_0_std_1() -> None:
    sets = data.create_data("digits", augment="none")
    raw = torch.stack([sets.train.images[i][0] for i in range(len(sets.train))])
    assert raw.shape[1:] == (1, 8, 8) and raw.min() == 0 and raw.max() == 1
    normal = torch.stack([sets.train[i][0] for i in range(len(sets.train))])
    assert abs(float(normal.mean())) < 1e-3 and abs(float(normal.std()) - 1) < 1e-3


def test_augmentation_moves_training_images_and_never_validation_images() -> None:
    sets = data.create_data("digits", augment="shift")
    assert any(not torch.equal(sets.train[0][0], sets.train[0][0]) for _ in range(20))
    assert all(torch.equal(sets.val[0][0], sets.val[0][0]) for _ in range(20))


def test_the_default_augmentation_is_the_data_sets_own_and_none_switches_it_off() -> None:
    assert data.create_data("digits").train.augment is not None
    assert data.create_data("digits", augment="none").train.augment is None


def test_unknown_names_and_options_name_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"unknown data set 'digit'. Did you mean 'digits'"):
        data.create_data("digit")
    with pytest.raises(ValueError, match=r"unknown option of data set 'npz' 'pth'. Did you mean 'path'"):
        data.create_data("npz", pth="x")
    with pytest.raises(ValueError, match=r"unknown augmentation 'shft'. Did you mean 'shift'"):
        data.create_data("digits", augment="shft")


def test_npz_in_the_layout_of_keras(tmp_path) -> None:
    values = arrays()
    sets = data.create_data("npz", path=save(tmp_path / "a.npz", values))
    assert len(sets.train) == 6 and len(sets.val) == 4
    image, label = sets.val[1]
    assert label == 1 and isinstance(label, int) and image.shape == (1, 5, 7) and image.dtype == torch.float32
    expected = (torch.from_numpy(values["x_test"][1]) / 255 - sets.info.mean[0]) / sets.info.std[0]
    torch.testing.assert_close(image[0], expected)


def test_npz_in_the_layout_of_medmnist_with_rgb_and_columns_of_labels(tmp_path) -> None:
    keras = arrays(shape=(5, 7, 3))
    values = {"train_images": keras["x_train"], "train_labels": keras["y_train"][:, None]}
    for part in ("val", "test"):
        values |= {f"{part}_images": keras["x_test"], f"{part}_labels": keras["y_test"][:, None]}
    values["test_images"] = values["test_images"][:2]
    values["test_labels"] = values["test_labels"][:2]
    path = save(tmp_path / "a.npz", values)
    assert data.create_data("npz", path=path).val[0][0].shape == (3, 5, 7)
    assert len(data.create_data("npz", path=path).val) == 2
    assert len(data.create_data("npz", path=path, val="val").val) == 4


def test_npz_takes_class_names(tmp_path) -> None:
    path = save(tmp_path / "a.npz", {**arrays(), "classes": np.array(["ant", "bee", "cat"])})
    assert data.create_data("npz", path=path).info.class_names == ("ant", "bee", "cat")


def test_npz_is_never_unpickled(tmp_path) -> None:
    marker = tmp_path / "executed"

    class Evil:
        def __reduce__(self) -> tuple:
            return (marker.write_text, ("x",))

    path = save(tmp_path / "a.npz", {**arrays(), "y_train": np.array([Evil()] * 6, dtype=object)})
    with pytest.raises(ValueError, match=r"cannot use .*a\.npz.*allow_pickle"):
        data.create_data("npz", path=path)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x_train": np.zeros((6, 5, 7), np.float32)}, r"x_train \(float32.* must be uint8"),
        (
            {"x_train": np.zeros((6, 3, 5, 7), np.uint8)},
            r"x_train \(shape \(6, 3, 5, 7\)\) must have its channels last",
        ),
        ({"y_train": np.zeros(5, int)}, r"y_train .*shape \(5,\).* must be integers \[6\]"),
        ({"y_train": np.zeros(6)}, r"y_train \(float64.* must be integers"),
        ({"y_train": np.array([0, 2, 2, 0, 2, 0])}, "no sample of class 1"),
        ({"y_test": np.array([0, 1, 2, -1])}, "label -1"),
        ({"x_test": np.zeros((4, 6, 6), np.uint8)}, "images of one size"),
        ({"classes": np.array(["one"])}, "must name 3 classes"),
    ],
)
def test_npz_that_cannot_be_used(tmp_path, change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        data.create_data("npz", path=save(tmp_path / "a.npz", arrays() | change))


def test_npz_that_is_missing_incomplete_or_no_npz(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"data\.path \(=.*nowhere.npz'\) is not a file"):
        data.create_data("npz", path=str(tmp_path / "nowhere.npz"))
    (tmp_path / "text.npz").write_text("no arrays")
    with pytest.raises(ValueError, match=r"cannot use .*text\.npz"):
        data.create_data("npz", path=str(tmp_path / "text.npz"))
    values = arrays()
    del values["y_test"]
    with pytest.raises(ValueError, match=r"it lacks y_test \(it holds .*x_train"):
        data.create_data("npz", path=save(tmp_path / "b.npz", values))
    with pytest.raises(ValueError, match="it holds a, b; expected x_train or train_images"):
        data.create_data("npz", path=save(tmp_path / "c.npz", {"a": np.zeros(1), "b": np.zeros(1)}))
    np.save(tmp_path / "d.npy", np.zeros(3))
    with pytest.raises(ValueError, match=r"no .npz archive"):
        data.create_data("npz", path=str(tmp_path / "d.npy"))
    whole = (tmp_path / "b.npz").read_bytes()
    (tmp_path / "e.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cannot use .*e\.npz"):
        data.create_data("npz", path=str(tmp_path / "e.npz"))


def test_npz_can_split_its_training_images(tmp_path) -> None:
    values = arrays(train=30)
    path = save(tmp_path / "a.npz", {key: values[key] for key in ("x_train", "y_train")})
    with pytest.raises(ValueError, match=r"lacks x_test, y_test .* data\.val chooses test, val or split"):
        data.create_data("npz", path=path)
    sets = data.create_data("npz", path=path, val="split", val_fraction=0.3)
    assert torch.bincount(sets.val.images.targets).tolist() == [3, 3, 3]
    rows = [tuple(image.flatten().tolist()) for part in (sets.train, sets.val) for image in part.images.images]
    assert set(rows) == {tuple(image.flatten().tolist()) for image in values["x_train"]} and len(rows) == 30
    other = data.create_data("npz", path=path, val="split", val_fraction=0.3, split_seed=1)
    assert not torch.equal(other.val.images.images, sets.val.images.images)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "cifar100"])
def test_torchvision_sets_that_are_not_there_say_what_to_do(tmp_path, name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} cannot be loaded from data.path .*data\.download=true"):
        data.create_data(name, path=str(tmp_path))


@pytest.fixture
def mnist(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 4), ("t10k", 2)):
        images = np.arange(count * 784).reshape(count, 28, 28).astype(np.uint8)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(
            struct.pack(">4B3I", 0, 0, 8, 3, count, 28, 28) + images.tobytes()
        )
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">4BI", 0, 0, 8, 1, count) + bytes(range(count)))
    return tmp_path


def test_a_torchvision_set_is_read_from_its_own_files(mnist) -> None:
    sets = data.create_data("mnist", path=str(mnist), augment="none")
    assert len(sets.train) == 4 and len(sets.val) == 2 and sets.info.num_classes == 10
    assert sets.train[3][0].shape == (1, 28, 28) and sets.train[3][1] == 3


def test_a_torchvision_set_that_is_damaged_or_a_file_says_so(mnist) -> None:
    with pytest.raises(ValueError, match="class 0 has 1 sample"):  # one of each class cannot be split
        data.create_data("mnist", path=str(mnist), val="split")
    images = mnist / "MNIST" / "raw" / "train-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"mnist cannot be loaded from data\.path .*data\.download=true"):
        data.create_data("mnist", path=str(mnist))
    with pytest.raises(ValueError, match=r"is a file; name the folder that holds mnist"):
        data.create_data("mnist", path=str(images))
    with pytest.raises(ValueError, match=r"unknown data\.val 'tst'. Did you mean 'test'"):
        data.create_data("mnist", path=str(mnist), val="tst")


def test_a_download_that_cannot_be_written_names_the_folder(tmp_path, monkeypatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise PermissionError("Permission denied: 'MNIST'")

    monkeypatch.setattr("torchvision.datasets.MNIST.download", refuse)
    with pytest.raises(ValueError, match=r"Permission denied.*see that .* can be written and has room"):
        data.create_data("mnist", path=str(tmp_path), download=True)


def test_random_split_is_fixed_disjoint_and_complete() -> None:
    train, held_out = data.random_split(10, 0.3, seed=1)
    assert sorted(train + held_out) == list(range(10)) and len(held_out) == 3
    assert (train, held_out) == data.random_split(10, 0.3, seed=1) != data.random_split(10, 0.3, seed=2)
    with pytest.raises(ValueError, match="needs at least 2"):
        data.random_split(1, 0.5, seed=0)


def test_stratified_split_is_fixed_disjoint_and_keeps_shares() -> None:
    labels = [0] * 50 + [1] * 10 + [2] * 3
    train, held_out = data.stratified_split(labels, 0.2, seed=3)
    assert (train, held_out) == data.stratified_split(labels, 0.2, seed=3)
    assert held_out != data.stratified_split(labels, 0.2, seed=4)[1]
    assert sorted(train + held_out) == list(range(63))
    assert [sum(labels[i] == c for i in held_out) for c in range(3)] == [10, 2, 1]
    with pytest.raises(ValueError, match=r"fraction \(=1.2\)"):
        data.stratified_split(labels, 1.2, seed=0)
    with pytest.raises(ValueError, match="class 1 has 1 sample"):
        data.stratified_split([0, 0, 1], 0.5, seed=0)


def test_info_survives_json_and_refuses_nonsense() -> None:
    info = data.DataInfo("x", 3, (4, 5), ("a", "b"), (0.1, 0.2, 0.3), (1.0, 1.0, 0.5))
    assert data.DataInfo.from_dict(info.to_dict()) == info
    with pytest.raises(ValueError, match="lacks std"):
        data.DataInfo.from_dict({k: v for k, v in info.to_dict().items() if k != "std"})
    with pytest.raises(ValueError, match="Did you mean 'mean'"):
        data.DataInfo.from_dict({**info.to_dict(), "meen": 1})
    for change in ({"in_chans": 1}, {"class_names": ("a",)}, {"std": (1.0, 0.0, 1.0)}, {"image_size": (0, 4)}):
        with pytest.raises(ValueError):
            data.DataInfo(**{**info.to_dict(), **change})


def test_a_registered_data_set_is_prepared_like_any_other() -> None:
    @data.register_data("checkers")
    def checkers(count: int = 4) -> data.DataSets:
        labels = torch.arange(count) % 2
        images = (labels * 255).view(-1, 1, 1, 1).expand(-1, 1, 4, 4).to(torch.uint8)
        info = data.DataInfo("checkers", 1, (4, 4), ("dark", "light"), (0.5,), (0.5,))
        return data.DataSets(data.TensorImages(images, labels), data.TensorImages(images, labels), info)

    try:
        sets = data.create_data("checkers", count=6)
        assert len(sets.train) == 6 and sets.train[1][0].unique().tolist() == [1.0]
        assert sets.train[0][0].unique().tolist() == [-1.0]
    finally:
        data.DATA.unregister("checkers")
