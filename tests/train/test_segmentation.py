"""The segmentation task: its loss with side outputs, its metrics against MONAI, and a training."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn

import kanvolution as kv
from kanvolution.data import DataInfo, DataSets
from kanvolution.models.segmenter import predicted_mask
from kanvolution.train import TrainerConfig, create_loss, create_task, fit, list_losses
from kanvolution.train.metrics import hausdorff95
from kanvolution.train.progress import Silent


def info(classes: int, size: tuple[int, int] = (8, 8)) -> DataInfo:
    return DataInfo("x", 1, size, tuple(f"c{i}" for i in range(classes)), (0.0,), (1.0,), targets="masks")


def measure(output: Tensor, target: Tensor, parts: int = 1, classes: int | None = None, **options):
    task = create_task({"name": "segmentation", **options}, info(classes or max(2, output.shape[1])))
    task.reset(torch.device("cpu"))
    for o, t in zip(output.chunk(parts), target.chunk(parts), strict=True):
        task.update(o, t)
    return task.compute(), task.tables()["classes"]


def example(classes: int, shape: tuple[int, ...] = (6, 16, 16)) -> tuple[Tensor, Tensor]:
    torch.manual_seed(classes)
    target = torch.randint(max(2, classes), (shape[0], 4, *[4] * (len(shape) - 2)))
    for dim in range(1, len(shape)):
        target = target.repeat_interleave(shape[dim] // 4, dim)
    output = torch.randn(shape[0], classes, *shape[1:])
    shares = nn.functional.one_hot(target, max(2, classes)).movedim(-1, 1).float()
    return output + 2 * (shares if classes > 1 else 2 * shares[:, 1:] - 1), target[:, : shape[1]]


@pytest.mark.parametrize("classes", [1, 2, 4])
@pytest.mark.filterwarnings("ignore")  # of MONAI and what it imports
def test_metrics_equal_monais(classes: int) -> None:
    monai = pytest.importorskip("monai.metrics")
    output, target = example(classes)
    values, rows = measure(output, target, parts=3)
    count = max(2, classes)
    predicted = (output[:, 0] > 0).long() if classes == 1 else output.argmax(1)
    one_hot = [nn.functional.one_hot(x, count).movedim(-1, 1).float() for x in (predicted, target)]
    theirs = {
        "dice": monai.compute_dice(*one_hot, include_background=False),
        "iou": monai.compute_iou(*one_hot, include_background=False),
        "hd95": monai.compute_hausdorff_distance(*one_hot, include_background=False, percentile=95),
    }
    counts = monai.get_confusion_matrix(*one_hot, include_background=False)
    for name in ("sensitivity", "specificity", "precision"):
        theirs[name] = monai.compute_confusion_matrix_metric(name, counts)
    for name, by_image in theirs.items():
        by_class = by_image.nanmean(0)
        column = rows[0].index(name)
        assert [row[column] for row in rows[1:]] == pytest.approx(by_class.tolist(), rel=1e-5), name
        assert values[name] == pytest.approx(float(by_class.mean()), rel=1e-5), name
    assert [row[0] for row in rows[1:]] == [f"c{i}" for i in range(1, count)]


def test_a_class_that_is_absent_is_left_out_unless_it_is_predicted() -> None:
    target, predicted = torch.zeros(3, 4, 4, dtype=torch.long), torch.zeros(3, 4, 4, dtype=torch.long)
    target[0, 0] = predicted[0, 0] = 1  # right
    predicted[1, 0, 0] = 1  # predicted, but absent
    output = 10.0 * nn.functional.one_hot(predicted, 2).movedim(-1, 1)
    values, _ = measure(output, target)
    # The third image has nothing and is predicted to: it says nothing about the class.
    assert values["dice"] == values["iou"] == values["precision"] == pytest.approx(0.5)
    assert values["sensitivity"] == 1.0
    assert values["specificity"] == pytest.approx((1 + 15 / 16 + 1) / 3)
    assert values["hd95"] == pytest.approx(math.hypot(3, 3) / 2)
    values, rows = measure(output[2:], target[2:])
    assert values["dice"] is None and values["hd95"] is None and values["specificity"] == 1.0
    assert rows[1][rows[0].index("dice")] is None


def test_pooled_metrics_are_those_of_all_pixels_at_once() -> None:
    output, target = example(3)
    values, _ = measure(output, target, pooled=True, background=True)
    predicted = output.argmax(1)
    dice = [2 * float(((predicted == c) & (target == c)).sum()) for c in range(3)]
    dice = [d / float((predicted == c).sum() + (target == c).sum()) for c, d in enumerate(dice)]
    assert values["dice"] == pytest.approx(sum(dice) / 3)
    assert values["dice"] != measure(output, target, background=True)[0]["dice"]


def test_metrics_do_not_depend_on_batches_and_hd95_can_be_left_out() -> None:
    output, target = example(3)
    whole, split = (measure(output, target, parts=parts)[0] for parts in (1, 3))
    assert whole == pytest.approx(split, rel=1e-5)
    without = measure(output, target, hd95=False)[0]
    assert set(whole) - set(without) == {"hd95"}


def test_volumes_are_measured_alike() -> None:
    output, target = example(2, (2, 8, 8, 8))
    values, _ = measure(output, target)
    assert 0 < values["dice"] < 1 and values["hd95"] > 0


@pytest.mark.parametrize("dtype", [torch.uint8, torch.long])
def test_masks_may_be_of_any_integer_type(dtype: torch.dtype) -> None:
    output, target = example(4)
    task = create_task("segmentation", info(4))
    torch.testing.assert_close(task.loss(output, target.to(dtype)), create_loss("dice_cross_entropy")(output, target))
    assert measure(output, target.to(dtype))[0] == measure(output, target)[0]


def test_side_outputs_are_weighed_in_the_loss_and_take_no_part_in_metrics() -> None:
    output, target = example(3)
    sides = [torch.randn_like(output) for _ in range(2)]
    task = create_task({"name": "segmentation", "loss": "dice", "side_weight": 0.3}, info(3))
    dice = create_loss("dice")
    expected = dice(output, target) + 0.3 * (dice(sides[0], target) + dice(sides[1], target))
    torch.testing.assert_close(task.loss([output, *sides], target), expected)
    results = []
    for given in (output, [output, *sides]):
        task.reset(torch.device("cpu"))
        task.update(given, target)
        results.append(task.compute())
    assert results[0] == results[1]


class Pixels(nn.Module):
    """Logits of each pixel, with a side output in training."""

    def __init__(self) -> None:
        super().__init__()
        self.first = kv.KANConv2d(1, 8, 3, padding=1, basis="gram")
        self.last, self.side = (kv.KANConv2d(8, 2, 3, padding=1, basis="gram") for _ in range(2))

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        x = self.first(x)
        return [self.last(x), self.side(x)] if self.training else self.last(x)


def squares(count: int = 24) -> DataSets:
    """Bright squares on a noisy ground, and their masks."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.randint(8, (count, 2), generator=generator)
    masks = torch.zeros(count, 12, 12, dtype=torch.long)
    for mask, (i, j) in zip(masks, corners.tolist(), strict=True):
        mask[i : i + 4, j : j + 4] = 1
    images = (masks + 0.3 * torch.randn(masks.shape, generator=generator)).unsqueeze(1)
    items = list(zip(images, masks, strict=True))
    return DataSets(items, items[:7], info(2, (12, 12)))  # pyright: ignore[reportArgumentType]


def test_a_network_learns_to_segment(tmp_path) -> None:
    torch.manual_seed(0)
    result = fit(
        Pixels(),
        squares(),
        task="segmentation",
        optim={"name": "adamw", "lr": 0.02},
        trainer=TrainerConfig(epochs=6, batch_size=4),
        output_dir=tmp_path / "run",
        progress=Silent(),
    )
    assert result.metrics["dice"] > 0.9 and result.metrics["hd95"] < 4
    assert result.tables["classes"][1][0] == "c1"
    assert result.tables["classes"][1][1] == pytest.approx(result.metrics["dice"])
    images = result.tables["images"][1:]
    assert len({number for number, _ in images}) == len(images) == 6
    dice = [value for _, value in images]
    assert dice == sorted(dice) and dice[0] < result.metrics["dice"] < dice[-1]
    assert (tmp_path / "run" / "segmentation.png").stat().st_size > 5000


def ignoring(classes: int) -> DataInfo:
    return dataclasses.replace(info(max(2, classes), (16, 16)), ignore_index=255)


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("loss", list_losses())
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_pixels_of_no_class_do_not_count_in_any_loss(classes: int, loss: str, smoothing: float) -> None:
    """The loss of a padded image is that of the image, whatever is predicted on the padding."""
    output, target = example(classes, (3, 12, 12))
    weights = [0.5, 1.0, 2.0][: max(2, classes)]
    options = {"loss": loss, "label_smoothing": smoothing}
    padded_target = nn.functional.pad(target, (0, 4, 4, 0), value=255)
    padded = nn.functional.pad(output, (0, 4, 4, 0), value=3.0).requires_grad_()
    for more in ({}, {"class_weights": weights}):
        task = create_task({"name": "segmentation", **options, **more}, ignoring(classes))
        plain = create_task({"name": "segmentation", **options, **more}, info(max(2, classes)))
        value = task.loss(padded, padded_target)
        torch.testing.assert_close(value, plain.loss(output, target))
        (gradient,) = torch.autograd.grad(value, padded)
        assert gradient[:, :, 4:, :12].abs().sum() > 0
        assert gradient[:, :, :4].abs().max() == gradient[:, :, :, 12:].abs().max() == 0
        assert abs(task.loss(output, torch.full_like(target, 255))) < 1e-5


@pytest.mark.parametrize("classes", [1, 3])
def test_pixels_of_no_class_do_not_count_in_any_metric(classes: int) -> None:
    output, target = example(classes)
    target[:, 5:9] = 255
    task = create_task({"name": "segmentation", "background": True}, ignoring(classes))
    task.reset(torch.device("cpu"))
    task.update(output, target)
    values = task.compute()
    ignored, predicted = target == 255, predicted_mask(output)
    dice, distance = [], []
    for c in range(max(2, classes)):
        p, t = (predicted == c) & ~ignored, target == c
        dice.append((2 * (p & t).sum((1, 2)) / (p.sum((1, 2)) + t.sum((1, 2)))).mean())
        distance += [hausdorff95(*pair) for pair in zip(p.numpy(), t.numpy(), strict=True)]
    assert values["dice"] == pytest.approx(float(torch.stack(dice).mean()))
    assert values["hd95"] == pytest.approx(sum(distance) / len(distance))
    assert values["loss"] == pytest.approx(float(task.loss(output, target)), rel=1e-5)


def test_ignored_values_are_of_masks_and_no_classes() -> None:
    with pytest.raises(ValueError, match=r"ignore_index \(=1\) must not be a class, and those are 0 to 2"):
        dataclasses.replace(info(3), ignore_index=1)
    with pytest.raises(ValueError, match=r"ignore_index \(=255\) is for masks"):
        dataclasses.replace(info(3), ignore_index=255, targets="labels")


def test_bad_options() -> None:
    with pytest.raises(ValueError, match="Did you mean 'side_weight'"):
        create_task({"name": "segmentation", "side_weigth": 1.0}, info(2))
    with pytest.raises(ValueError, match=r"task.side_weight \(=-1\)"):
        create_task({"name": "segmentation", "side_weight": -1}, info(2))
    with pytest.raises(ValueError, match="Did you mean 'focal_tversky'"):
        create_task({"name": "segmentation", "loss": "focal_tverski"}, info(2))
    with pytest.raises(ValueError, match=r"does not fit .* one of each pixel"):
        create_task("segmentation", info(2)).loss(torch.randn(2, 2, 4, 4), torch.zeros(2, dtype=torch.long))


def test_tasks_refuse_the_targets_of_the_other() -> None:
    with pytest.raises(ValueError, match="data 'x' has masks as targets, and this task needs labels; choose task=segm"):
        create_task("classification", info(3))
    with pytest.raises(ValueError, match="needs masks; choose task=classification, or other data"):
        create_task("segmentation", dataclasses.replace(info(3), targets="labels"))
