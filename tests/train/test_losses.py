"""Losses against closed forms, PyTorch and MONAI; soft targets, class weights, one logit for two classes."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from kanvolution.train import create_loss, list_losses
from kanvolution.train.losses import class_shares

SHAPES = {"images": (6, 3), "pixels": (4, 3, 5, 6), "voxels": (2, 3, 3, 4, 5)}


def example(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    torch.manual_seed(sum(shape))
    return torch.randn(shape, dtype=dtype), torch.randint(shape[1], (shape[0], *shape[2:]))


@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 1.0]])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("name", list_losses())
class TestEveryLoss:
    def test_shares_that_are_one_hot_equal_indices(self, name, shape, weights) -> None:
        output, target = example(shape)
        loss = create_loss(name, weights)
        torch.testing.assert_close(loss(output, class_shares(target, 3)), loss(output, target))

    def test_gradients_are_right_and_finite_where_a_sample_is_fully_right(self, name, shape, weights) -> None:
        output, target = example(shape, torch.float64)
        loss = create_loss(name, weights)
        small = output[:2, :, :2, :2] if output.ndim > 2 else output[:2]
        labels = target[:2, :2, :2] if output.ndim > 2 else target[:2]
        assert torch.autograd.gradcheck(lambda x: loss(x, labels), small.clone().requires_grad_())
        sure = (200.0 * (2 * class_shares(target, 3) - 1)).requires_grad_()
        value = loss(sure, target)
        value.backward()
        assert sure.grad is not None and sure.grad.isfinite().all() and float(value.detach()) < 0.01

    def test_worse_predictions_cost_more(self, name, shape, weights) -> None:
        _, target = example(shape)
        loss, direction = create_loss(name, weights), 2 * class_shares(target, 3) - 1
        values = [float(loss(scale * direction, target)) for scale in (-2.0, -0.5, 0.0, 0.5, 2.0)]
        assert values == sorted(values, reverse=True) and len(set(values)) == 5


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 1.0]])
def test_cross_entropy_is_torchs_and_weighs_shares_as_it_does_indices(shape, weights) -> None:
    output, target = example(shape)
    weight = None if weights is None else torch.tensor(weights)
    loss = create_loss("cross_entropy", weights)
    torch.testing.assert_close(loss(output, target), F.cross_entropy(output, target, weight))
    shares = torch.randn(shape).softmax(1)
    w = torch.ones(3) if weight is None else weight
    by_class = (shares * w.view(1, 3, *[1] * (len(shape) - 2))).transpose(1, -1).reshape(-1, 3)
    terms = -output.log_softmax(1).transpose(1, -1).reshape(-1, 3)
    torch.testing.assert_close(loss(output, shares), (by_class * terms).sum() / by_class.sum())


@pytest.mark.parametrize("name", list_losses())
def test_one_logit_stands_for_two_classes(name: str) -> None:
    torch.manual_seed(0)
    z, target = torch.randn(3, 1, 4, 4), torch.randint(2, (3, 4, 4))
    weights = [0.5, 2.0]
    found = create_loss(name, weights)(z, target)
    if name in ("bce", "dice_bce"):
        w = torch.tensor(weights)[target].unsqueeze(1)
        terms = w * F.binary_cross_entropy_with_logits(z, target.unsqueeze(1).float(), reduction="none")
        expected = terms.sum() / w.sum()
        if name == "dice_bce":
            expected = expected + create_loss("dice")(torch.cat([torch.zeros_like(z), z], 1), target)
    else:
        expected = create_loss(name, weights)(torch.cat([torch.zeros_like(z), z], 1), target)
    torch.testing.assert_close(found, expected)
    assert torch.equal(create_loss(name, weights)(z, class_shares(target, 2)), found)


def test_bce_is_the_mean_over_classes_and_samples() -> None:
    output, target = example((5, 4))
    p = output.sigmoid()
    terms = -torch.where(F.one_hot(target, 4) == 1, p.log(), (1 - p).log())
    torch.testing.assert_close(create_loss("bce")(output, target), terms.mean())
    w = torch.tensor([1.0, 2.0, 3.0, 4.0])
    torch.testing.assert_close(create_loss("bce", w.tolist())(output, target), (w * terms).sum() / (5 * w.sum()))


def test_focal_is_its_formula_and_without_gamma_cross_entropy() -> None:
    output, target = example((7, 3))
    p = output.softmax(1).gather(1, target.unsqueeze(1))[:, 0]
    for gamma in (0.0, 0.5, 2.0):
        expected = (-((1 - p) ** gamma) * p.log()).mean()
        torch.testing.assert_close(create_loss({"name": "focal", "gamma": gamma})(output, target), expected)


@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("batch", [True, False])
@pytest.mark.parametrize("classes", [1, 2, 4])
@pytest.mark.filterwarnings("ignore")  # of MONAI and what it imports
def test_dice_and_tversky_equal_monais(classes: int, batch: bool, background: bool) -> None:
    losses = pytest.importorskip("monai.losses")
    torch.manual_seed(classes)
    output = torch.randn(3, classes, 6, 5)
    target = torch.randint(max(2, classes), (3, 6, 5))
    options = {"background": background, "batch": batch, "smooth": 0.7}
    theirs = {
        "include_background": background or classes == 1,
        "to_onehot_y": classes > 1,
        "sigmoid": classes == 1,
        "softmax": classes > 1,
        "batch": batch,
        "smooth_nr": 0.7,
        "smooth_dr": 0.7,
    }
    dice = create_loss({"name": "dice", **options})(output, target)
    torch.testing.assert_close(dice, losses.DiceLoss(**theirs)(output, target.unsqueeze(1)))
    # MONAI's alpha weighs false positives, and beta false negatives.
    tversky = create_loss({"name": "focal_tversky", "alpha": 0.6, "beta": 0.2, "gamma": 1.0, **options})(output, target)
    expected = losses.TverskyLoss(alpha=0.2, beta=0.6, **theirs)(output, target.unsqueeze(1))
    torch.testing.assert_close(tversky, expected)


def test_dice_and_focal_tversky_are_their_formulas_for_one_image() -> None:
    p, t = torch.tensor([0.9, 0.6, 0.2, 0.3]), torch.tensor([1, 1, 0, 1])
    output = torch.logit(p).view(1, 1, 4)
    tp, fp, fn = 1.8, 0.2, 1.2
    dice = create_loss({"name": "dice", "smooth": 0})(output, t.view(1, 4))
    assert float(dice) == pytest.approx(1 - 2 * tp / (2 * tp + fp + fn))
    focal = create_loss({"name": "focal_tversky", "smooth": 0})(output, t.view(1, 4))
    assert float(focal) == pytest.approx((1 - tp / (tp + 0.7 * fn + 0.3 * fp)) ** 0.75)


def test_class_weights_weigh_the_classes_of_a_region_loss() -> None:
    output, target = example((3, 3, 6, 6))
    pairs = [create_loss({"name": "dice", "background": True}, w) for w in ([1, 1e-9, 1e-9], [1e-9, 1, 1e-9])]
    first, second = (float(loss(output, target)) for loss in pairs)
    both = float(create_loss({"name": "dice", "background": True}, [3.0, 1.0, 1e-9])(output, target))
    assert both == pytest.approx((3 * first + second) / 4, rel=1e-5)


def test_combined_losses_are_sums() -> None:
    output, target = example((3, 3, 6, 6))
    dice = float(create_loss("dice")(output, target))
    for name, other in (("dice_bce", "bce"), ("dice_cross_entropy", "cross_entropy")):
        value = float(create_loss({"name": name, "dice_weight": 0.25})(output, target))
        assert value == pytest.approx(0.25 * dice + float(create_loss(other)(output, target)), rel=1e-5)


@pytest.mark.parametrize(
    ("choice", "weights", "message"),
    [
        ("cros_entropy", None, "unknown loss 'cros_entropy'. Did you mean 'cross_entropy'"),
        ({"name": "focal", "gama": 1}, None, "unknown option of loss 'focal' 'gama'. Did you mean 'gamma'"),
        ({"name": "focal", "gamma": -1}, None, r"task.loss.gamma \(=-1\)"),
        ({"name": "focal_tversky", "gamma": 0}, None, r"task.loss.gamma \(=0\) must be positive"),
        ("bce", [1.0, 0.0], r"task.class_weights \(=\[1.0, 0.0\]\) must be positive"),
        ("bce", [1.0, math.inf], "must be positive and finite"),
    ],
)
def test_mistakes_name_the_nearest_or_the_limit(choice, weights, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_loss(choice, weights)
