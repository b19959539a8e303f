import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kanvolution.cli import main
from kanvolution.data import DataInfo, DataSets, TensorImages, create_data
from kanvolution.train import Run, evaluate, find_checkpoint, load_run, save_run
from kanvolution.train.evaluate import check_same_images, class_results, mean_of_flips
from kanvolution.train.tasks.classification import Classification
from tests.train.toy import CHANNELS, toy_data, toy_model

INFO = DataInfo("a", 1, (8, 8), ("x", "y", "z"), mean=(0.5,), std=(0.25,))


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> str:
    folder = str(tmp_path_factory.mktemp("runs") / "run")
    options = [f"model.channels={CHANNELS}", "trainer.batch_size=128", "trainer.epochs=2", "tracker=none"]
    assert main(["train", *options, f"output_dir={folder}"]) == 0
    return folder


@pytest.fixture
def npz(tmp_path) -> str:
    """The validation digits in uint8, under the names of an .npz file, with other training images."""
    data = create_data("digits").val.images
    images = np.stack([(data[i][0][0].numpy() * 255).round().astype(np.uint8) for i in range(len(data))])
    labels = np.array([data[i][1] for i in range(len(data))])
    path = str(tmp_path / "other.npz")
    bright = np.maximum(images, 128)  # another mean and standard deviation
    np.savez(path, x_train=bright, y_train=labels, x_test=images, y_test=labels)
    return path


def test_by_itself_a_run_is_measured_as_it_was_after_its_last_epoch(run, capsys) -> None:
    assert main(["eval", run, "--json", "--cpu"]) == 0
    found = json.loads(capsys.readouterr().out)
    stored = json.loads(Path(run, "result.json").read_text())
    assert found["epoch"] == 2 and found["data"] == "digits" and found["images"] == 359
    assert found["metrics"] == {name: pytest.approx(value, abs=1e-5) for name, value in stored["metrics"].items()}
    assert found["tables"]["confusion"] == stored["tables"]["confusion"]
    assert len(found["classes"]) == 10 and sum(c["images"] for c in found["classes"]) == 359


def test_the_table_has_the_metrics_and_a_row_for_each_class(run, capsys) -> None:
    assert main(["eval", run, "--cpu", "--batch-size", "7"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "359 images of digits" in lines[0]
    assert any(line.startswith("top-1") and line.endswith("%") for line in lines)
    assert [line.split()[0] for line in lines[-10:]] == list("0123456789")


def test_other_data_are_normalised_as_the_runs_own(run, npz, capsys) -> None:
    assert main(["eval", run, "--json", "--cpu"]) == 0
    own = json.loads(capsys.readouterr().out)
    assert main(["eval", run, "data=npz", f"data.path={npz}", "--json", "--cpu"]) == 0
    other = json.loads(capsys.readouterr().out)
    assert other["data"] == "npz" and other["metrics"]["top1"] == pytest.approx(own["metrics"]["top1"], abs=0.01)


def test_image_files_are_brought_to_the_size_of_the_run(run, tmp_path, capsys) -> None:
    data = create_data("digits").val.images
    for i in range(100):
        image, label = data[i]
        folder = tmp_path / "images" / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        pixels = (image[0].numpy() * 255).astype(np.uint8)
        Image.fromarray(pixels).resize((16, 16), Image.Resampling.NEAREST).save(folder / f"{i}.png")
    overrides = ["data=image_folder", f"data.path={tmp_path / 'images'}", "data.channels=1"]
    assert main(["eval", run, *overrides, "--json", "--cpu"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 20


def test_per_class_results_are_those_of_scikit_learn() -> None:
    report = pytest.importorskip("sklearn.metrics").classification_report
    generator = np.random.default_rng(0)
    truth, guess = generator.integers(0, 4, 50), generator.integers(0, 4, 50)
    confusion = np.zeros((4, 4), int)
    np.add.at(confusion, (truth, guess), 1)
    expected = report(truth, guess, output_dict=True)
    for result in class_results(confusion.tolist(), tuple("0123")):
        row = expected[result.name]
        stated = (result.images, result.recall, result.precision, result.f1)
        assert stated == pytest.approx((row["support"], row["recall"], row["precision"], row["f1-score"]))


def test_a_class_without_images_or_predictions_has_no_score() -> None:
    absent, never = class_results([[0, 0], [0, 3]], ("a", "b"))[0], class_results([[0, 2], [0, 3]], ("a", "b"))[0]
    assert (absent.recall, absent.precision, absent.f1) == (None, None, None)
    assert (never.recall, never.precision, never.f1) == (0.0, None, 0.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_names": ("x", "y", "w")}, r"it has 'w', which the checkpoint does not know; it lacks 'z'"),
        ({"class_names": ("x", "y")}, r"classes of a \(2\) do not match the checkpoint's \(3\): it lacks 'z'"),
        ({"class_names": ("z", "y", "x")}, r"they stand in another order, 'z', 'y', 'x'"),
        ({"in_chans": 3, "mean": (0.5,) * 3, "std": (0.2,) * 3}, r"3 channels, the checkpoint takes 1; .*channels=1"),
        ({"image_size": (8, 9)}, r"8x9, the checkpoint was trained on 8x8"),
    ],
)
def test_data_that_do_not_fit_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_same_images(DataInfo.from_dict({**INFO.to_dict(), **changes}), INFO)


def test_classes_that_do_not_match_are_one_line(run, tmp_path, capsys) -> None:
    images, labels = np.zeros((4, 8, 8), np.uint8), np.array([0, 1, 2, 0])
    np.savez(tmp_path / "few.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    assert main(["eval", run, "data=npz", f"data.path={tmp_path / 'few.npz'}"]) == 2
    error = capsys.readouterr().err
    assert (
        "classes of npz (3) do not match the checkpoint's (10): it lacks '3', '4'" in error and error.count("\n") == 1
    )


def test_the_best_weights_are_those_in_best(tmp_path) -> None:
    data, last, best = toy_data(), toy_model(), toy_model("legendre")
    for folder, model in ((tmp_path / "run", last), (tmp_path / "run" / "best", best)):
        folder.mkdir()
        save_run(folder, model, data.info)
    assert load_run(find_checkpoint(tmp_path / "run", "best")).model.config["conv"]["basis"] == "legendre"
    assert load_run(find_checkpoint(tmp_path / "run")).model.config["conv"]["basis"] == "gram"
    with pytest.raises(ValueError, match="Did you mean 'best'"):
        find_checkpoint(tmp_path / "run", "bst")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--checkpoint", "best"], "has no best checkpoint; take the last, or train with trainer.keep_best"),
        (["conv=gram"], "eval takes keys of data and task"),
        (["data.pth=x"], "unknown key 'data.pth'"),
        (["--batch-size", "0"], "batch_size (=0)"),
    ],
)
def test_a_mistake_is_one_line(run, arguments: list, message: str, capsys) -> None:
    assert main(["eval", run, *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_run_without_a_config_needs_its_data_named(tmp_path, capsys) -> None:
    data = create_data("digits")
    save_run(tmp_path, toy_model(classes=10), data.info)
    assert main(["eval", str(tmp_path)]) == 2
    assert "name them: data=NAME" in capsys.readouterr().err
    assert main(["eval", str(tmp_path), "data=digits", "--cpu"]) == 0


def test_data_prepared_by_the_caller_are_taken_as_they_are() -> None:
    data = toy_data()
    images = torch.stack([data.val[i][0] for i in range(len(data.val))])
    labels = torch.tensor([data.val[i][1] for i in range(len(data.val))])
    model = toy_model().eval()
    found = evaluate(Run(Path(), model, data.info, 0), DataSets(data.train, TensorImages(images, labels), data.info))
    with torch.no_grad():
        expected = (model(images).argmax(1) == labels).float().mean()
    assert found.metrics["top1"] == pytest.approx(float(expected))


def test_flips_average_the_outputs_for_an_image_and_its_mirror_image() -> None:
    data, model = toy_data(), toy_model().eval()
    seen: list[torch.Tensor] = []

    class Seen(Classification):
        def update(self, outputs, target):
            seen.append(outputs)
            super().update(outputs, target)

    found = evaluate(Run(Path("run"), model, data.info, 1), data, task=Seen(data.info), device="cpu", flips=True)
    images = torch.stack([image for image, _ in data.val])
    with torch.no_grad():
        plain, expected = model(images), (model(images) + model(images.flip(3))) / 2
    assert found.images == len(images)
    torch.testing.assert_close(torch.cat(seen), expected)
    assert not torch.allclose(expected, plain, atol=1e-4)


def test_a_map_is_mirrored_back_before_it_is_averaged() -> None:
    """Each pixel is classified by itself, so that mirrored twice it gets the same outputs again."""
    model = torch.nn.Conv2d(1, 2, 1)
    images = torch.rand(3, 1, 4, 5, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(mean_of_flips(model, images), model(images))


def test_the_command_tells_that_it_flipped(run, capsys) -> None:
    assert main(["eval", run, "--cpu", "--flips"]) == 0
    assert "each with its mirror image" in capsys.readouterr().out.splitlines()[0]
    assert main(["eval", run, "--cpu", "--flips", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["flips"] is True
