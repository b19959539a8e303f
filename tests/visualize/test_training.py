import json
import sys

import pytest
import torch

from kanvolution.train import TrainerConfig, fit
from kanvolution.train.metrics import calibration_bins, calibration_error
from kanvolution.train.progress import Silent
from kanvolution.visualize import (
    confusion_figure,
    curves_figure,
    draw_run,
    mistakes_figure,
    overlays_figure,
    reliability_figure,
)
from tests.train.toy import toy_data, toy_model


def texts(figure) -> list[str]:
    figure.draw_without_rendering()
    return [text.get_text() for axis in figure.axes for text in (*axis.texts, *axis.get_xticklabels())]


def records(epochs: int, **extra: object) -> list[dict]:
    return [
        {"epoch": e, "train_loss": 1 / e, "val_loss": 2 / e, "val_top1": 1 - 0.5 / e} | extra
        for e in range(1, epochs + 1)
    ]


def test_curves_show_the_numbers() -> None:
    figure = curves_figure(records(5), title="digits")
    loss, accuracy = figure.axes
    assert {line.get_label() for line in loss.lines} == {"training", "validation"}
    assert list(loss.lines[0].get_ydata()) == [1, 1 / 2, 1 / 3, 1 / 4, 1 / 5]
    assert accuracy.lines[0].get_ydata()[-1] == pytest.approx(90) and "90.00 %" in accuracy.get_title()
    assert loss.get_xlabel() == "epoch" and loss.get_ylabel() and accuracy.get_ylabel()


def test_curves_of_one_epoch_and_without_accuracy() -> None:
    assert len(curves_figure(records(1)).axes) == 2
    figure = curves_figure(records(3, val_top1=None, val_loss=None))
    assert len(figure.axes) == 1
    figure.draw_without_rendering()


def test_curves_show_dice_where_pixels_were_classified() -> None:
    _, dice = curves_figure(records(3, val_top1=None, val_dice=0.75)).axes
    assert dice.lines[0].get_ydata()[-1] == 75 and dice.get_title() == "Validation Dice (last epoch: 75.00 %)"


def test_confusion_shows_counts_names_and_the_accuracy() -> None:
    figure = confusion_figure([[8, 2], [0, 5]], ["cat", "dog"])
    found = texts(figure)
    assert {"8", "2", "5", "cat", "dog"} <= set(found) and "0" not in found
    assert "13 of 15 correct (86.67 %)" in figure.axes[0].get_title()


def test_confusion_of_many_classes_and_of_an_absent_one_is_drawn() -> None:
    many = [[int(i == j) for j in range(100)] for i in range(100)]
    assert "1" not in [t.get_text() for t in confusion_figure(many, [f"class {i}" for i in range(100)]).axes[0].texts]
    texts(confusion_figure([[0, 0], [1, 3]], ["a long name", "b"]))


def predictions() -> tuple[torch.Tensor, torch.Tensor]:
    """Scores of 200 samples of 4 classes, right about as often as they are confident, and the labels."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(200, 4, generator=generator)
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator).flatten()
    return logits.softmax(1), labels


def test_reliability_shows_the_bins_of_the_calibration_error() -> None:
    scores, labels = predictions()
    bins = calibration_bins(scores, labels)
    full = [row for row in bins if row[2]]
    assert sum(row[2] for row in full) == 200 and len(full) < len(bins) == 15
    error = sum(count * abs(accuracy - confidence) for _, _, count, confidence, accuracy in full) / 200
    assert error == pytest.approx(calibration_error(scores, labels), rel=1e-5)
    figure = reliability_figure(bins)
    figure.draw_without_rendering()
    above, below = figure.axes
    assert f"{100 * error:.2f} %" in above.get_title()
    assert [bar.get_height() for bar in above.patches] == [accuracy or 0 for *_, accuracy in bins]
    assert [bar.get_height() for bar in below.patches] == [row[2] for row in bins]
    assert above.get_ylabel() == "accuracy" and "confidence" in below.get_xlabel()


def test_a_confidence_on_the_border_of_two_bins_and_one_of_all_are_counted_once() -> None:
    bins = calibration_bins(torch.tensor([[1.0, 0.0], [0.6, 0.4]]), torch.tensor([0, 1]))
    assert [(row[0], row[4]) for row in bins if row[2]] == [(9 / 15, 0.0), (14 / 15, 1.0)]


def test_mistakes_name_image_predicted_and_true_class() -> None:
    figure = mistakes_figure(
        [torch.rand(1, 4, 4), torch.rand(3, 4, 4)], [[7, 0, 1, 0.98, 0.01], [2, 1, 0, 0.6, 0.4]], "ab"
    )
    assert [axis.get_title() for axis in figure.axes] == ["b (98 %)\nis a\nimage 7", "a (60 %)\nis b\nimage 2"]
    with pytest.raises(ValueError, match="must be as many"):
        mistakes_figure([torch.rand(1, 4, 4)], [], "ab")


def test_masks_are_laid_over_the_image_and_class_0_is_clear() -> None:
    image, mask = torch.full((1, 2, 2), 0.5), torch.tensor([[0, 1], [2, 0]])
    figure = overlays_figure([image], [mask], [torch.zeros_like(mask)], ["ground", "cell", "cup"], ["image 3"])
    grey, true, predicted = (axis.images[0].get_array() for axis in figure.axes)
    assert (grey == 0.5).all() and (predicted == 0.5).all()
    assert (true[0, 0] == 0.5).all() and (true[0, 1] != true[1, 0]).any() and (true[0, 1] != 0.5).any()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["cell", "cup"]
    with pytest.raises(ValueError, match="must be as many"):
        overlays_figure([image], [mask], [], ["a", "b"], ["x"])


def test_a_run_is_drawn_again_with_its_data(tmp_path) -> None:
    data = toy_data()
    fit(toy_model(), data, trainer=TrainerConfig(epochs=1), output_dir=tmp_path / "run", progress=Silent())
    tables = json.loads((tmp_path / "run" / "result.json").read_text())["tables"]
    rows = tables["mistakes"][1:]
    confidence = [row[3] for row in rows]
    assert rows and confidence == sorted(confidence, reverse=True)
    for index, true, predicted, high, low in rows:
        assert data.val[index][1] == true != predicted and high >= low
    wrong = sum(map(sum, tables["confusion"])) - sum(tables["confusion"][i][i] for i in range(4))
    assert len(rows) == wrong
    names = ["curves.png", "confusion.png", "reliability.png", "mistakes.png"]
    assert [path.name for path in draw_run(tmp_path / "run", data)] == names
    assert [path.name for path in draw_run(tmp_path / "run")] == names[:-1]
    assert all(5_000 < (tmp_path / "run" / name).stat().st_size < 150_000 for name in names)


def test_no_global_state_of_matplotlib_is_touched(tmp_path) -> None:
    curves_figure(records(2)).savefig(tmp_path / "a.png")
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []


def test_a_folder_without_a_finished_run(tmp_path) -> None:
    with pytest.raises(ValueError, match="not the folder of a finished run"):
        draw_run(tmp_path)
