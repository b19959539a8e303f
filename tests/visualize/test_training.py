import sys

import pytest

from kanvolution.visualize import confusion_figure, curves_figure, draw_run


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


def test_no_global_state_of_matplotlib_is_touched(tmp_path) -> None:
    curves_figure(records(2)).savefig(tmp_path / "a.png")
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []


def test_a_folder_without_a_finished_run(tmp_path) -> None:
    with pytest.raises(ValueError, match="not the folder of a finished run"):
        draw_run(tmp_path)
