import numpy as np
import pytest
import torch
from PIL import Image

from kanvolution.data import create_data
from kanvolution.train import TrainerConfig, fit, load_run, predict
from kanvolution.train.progress import Silent
from tests.train.toy import toy_data, toy_model


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    torch.manual_seed(0)
    data = toy_data()
    optim = {"name": "adamw", "lr": 0.02}
    trainer = TrainerConfig(epochs=12, batch_size=8)
    fit(toy_model(), data, output_dir=folder, optim=optim, trainer=trainer, progress=Silent())
    return folder


def row_image(row: int) -> np.ndarray:
    image = np.full((8, 8), 12, np.uint8)
    image[row] = 230
    return image


@pytest.fixture
def files(tmp_path):
    paths = []
    for row in range(4):
        paths.append(tmp_path / f"{row}.png")
        Image.fromarray(row_image(row)).save(paths[-1])
    return paths


def test_files_are_classified_in_order(run, files) -> None:
    found = predict(run, files)
    assert [p.label for p in found] == ["row 0", "row 1", "row 2", "row 3"]
    assert all(0.25 < p.probability <= 1 for p in found)


def test_files_pil_images_and_tensors_agree_whatever_the_batch(run, files) -> None:
    from_files = predict(run, files, top=4)
    tensors = [torch.from_numpy(row_image(row)).unsqueeze(0) for row in range(4)]
    assert predict(run, [Image.fromarray(row_image(row)) for row in range(4)], top=4) == from_files
    assert predict(run, tensors, top=4) == from_files
    for alone, together in zip(predict(load_run(run), files, top=4, batch_size=1), from_files, strict=True):
        assert alone.classes == together.classes
        assert alone.probabilities == pytest.approx(together.probabilities, abs=1e-5)


def test_larger_and_coloured_files_are_brought_to_the_runs_format(run, tmp_path) -> None:
    for row in range(4):
        large = Image.fromarray(row_image(row)).resize((80, 80), Image.Resampling.BOX).convert("RGB")
        large.save(tmp_path / f"{row}.png")
    found = predict(run, [tmp_path / f"{row}.png" for row in range(4)])
    assert [p.label for p in found] == ["row 0", "row 1", "row 2", "row 3"]


def test_invert_swaps_light_and_dark(run, files, tmp_path) -> None:
    Image.fromarray(255 - row_image(2)).save(tmp_path / "dark.png")
    inverted = predict(run, [tmp_path / "dark.png"], invert=True, top=4)[0]
    plain = predict(run, [files[2]], top=4)[0]
    assert inverted.classes == plain.classes
    assert inverted.probabilities == pytest.approx(plain.probabilities, abs=1e-5)


def test_top_gives_the_likeliest_first_and_at_most_all(run, files) -> None:
    found = predict(run, files[:1], top=9)[0]
    assert len(found.classes) == 4 and sum(found.probabilities) == pytest.approx(1, abs=1e-5)
    assert list(found.probabilities) == sorted(found.probabilities, reverse=True)


def test_mistakes(run, files, tmp_path) -> None:
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ValueError, match=r"cannot read image .*text\.png"):
        predict(run, [*files, tmp_path / "text.png"])
    with pytest.raises(ValueError, match=r"image \(shape \(3, 8, 8\)\) must be \[1, H, W\]"):
        predict(run, [torch.zeros(3, 8, 8)])
    with pytest.raises(ValueError, match=r"top \(=0\)"):
        predict(run, files, top=0)
    with pytest.raises(ValueError, match="is not the folder of a saved model"):
        predict(tmp_path, files)
    assert predict(run, []) == []


def test_prediction_prepares_images_as_validation_does(run, tmp_path) -> None:
    digits = create_data("digits")
    raw = digits.val.images[0][0]
    Image.fromarray((raw[0] * 255).round().byte().numpy()).save(tmp_path / "digit.png")
    from kanvolution.data import load_image

    prepared = digits.info.normalise(load_image(tmp_path / "digit.png", 1, (8, 8)))
    torch.testing.assert_close(prepared, digits.val[0][0], atol=0.51 / 255 / digits.info.std[0], rtol=0)
