"""Metrics against scikit-learn, SciPy and MONAI, and what they are where they are not defined."""

import itertools
import math

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from kanvolution.train import metrics
from kanvolution.train.metrics import Counts, defined_mean, hausdorff95


def example(classes: int, count: int = 150, absent: tuple[int, ...] = ()) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(classes)
    labels = torch.cat([torch.arange(classes), torch.randint(classes, (count,))])
    labels = labels[~torch.isin(labels, torch.tensor(absent, dtype=torch.long))]
    logits = 0.5 * torch.randn(len(labels), classes)
    logits[torch.arange(len(labels)), labels] += 0.6
    return logits.double().softmax(1), labels


@pytest.mark.parametrize("classes", [2, 3, 12])
@pytest.mark.parametrize("ties", [False, True])
def test_areas_equal_scikit_learns(classes: int, ties: bool) -> None:
    scores, labels = example(classes)
    if ties:
        scores = (scores * 8).round() + 1
        scores = scores / scores.sum(1, keepdim=True)
    expected = [sk.roc_auc_score(labels == c, scores[:, c]) for c in range(classes)]
    assert metrics.one_vs_rest_auc(scores, labels).tolist() == pytest.approx(expected, abs=1e-6)
    found = metrics.one_vs_one_auc(scores, labels)
    if classes == 2:
        assert found == pytest.approx(expected[1])
    else:
        assert found == pytest.approx(sk.roc_auc_score(labels, scores, multi_class="ovo", average="macro"))


def test_areas_run_over_the_classes_that_occur() -> None:
    scores, labels = example(5, absent=(1, 4))
    areas = metrics.one_vs_rest_auc(scores, labels)
    assert areas.isnan().tolist() == [False, True, False, False, True]
    for c in (0, 2, 3):
        assert float(areas[c]) == pytest.approx(sk.roc_auc_score(labels == c, scores[:, c]), abs=1e-6)
    pairs = []
    for a, b in itertools.permutations((0, 2, 3), 2):
        chosen = (labels == a) | (labels == b)
        pairs.append(sk.roc_auc_score(labels[chosen] == a, scores[chosen, a]))
    assert metrics.one_vs_one_auc(scores, labels) == pytest.approx(np.mean(pairs))
    one = torch.zeros(4, dtype=torch.long)
    assert metrics.one_vs_one_auc(scores[:4], one) is None
    assert metrics.one_vs_rest_auc(scores[:4], one).isnan().all()


@pytest.mark.parametrize("absent", [(), (0, 3)])
def test_recall_f1_precision_and_specificity_equal_scikit_learns(absent: tuple[int, ...]) -> None:
    scores, labels = example(6, absent=absent)
    predicted = scores.argmax(1)
    matrix = metrics.confusion_matrix(predicted, labels, 6)
    np.testing.assert_array_equal(matrix, sk.confusion_matrix(labels, predicted, labels=range(6)))
    counts = Counts.of_confusion(matrix)
    present = sorted(set(labels.tolist()))
    recall = sk.recall_score(labels, predicted, labels=present, average="macro")
    assert defined_mean(counts.sensitivity()) == pytest.approx(recall)
    # scikit-learn's default: the classes that occur in labels or predictions.
    assert defined_mean(counts.dice()) == pytest.approx(sk.f1_score(labels, predicted, average="macro"))
    seen = sorted(set(predicted.tolist()))
    precision = sk.precision_score(labels, predicted, labels=seen, average="macro")
    assert defined_mean(counts.precision()) == pytest.approx(precision)
    assert defined_mean(counts.iou()) == pytest.approx(sk.jaccard_score(labels, predicted, average="macro"))
    inverse = [sk.recall_score(labels != c, predicted != c) for c in range(6)]
    assert counts.specificity().tolist() == pytest.approx(inverse)


def test_a_ratio_of_nothing_by_nothing_is_left_out_and_any_other_counts() -> None:
    # Class 1 is predicted but does not occur; class 2 does neither.
    counts = Counts.of_confusion(torch.tensor([[3, 1, 0], [0, 0, 0], [0, 0, 0]]))
    assert counts.dice()[:2].tolist() == pytest.approx([6 / 7, 0.0]) and counts.dice()[2].isnan()
    assert counts.sensitivity().isnan().tolist() == [False, True, True]
    assert defined_mean(counts.dice()) == pytest.approx(3 / 7)
    assert defined_mean(torch.tensor([math.nan])) is None


@pytest.mark.parametrize("k", [1, 5])
def test_top_k_accuracy_equals_scikit_learns(k: int) -> None:
    scores, labels = example(12)
    expected = sk.top_k_accuracy_score(labels, scores, k=k, labels=range(12))
    assert metrics.top_k_accuracy(scores, labels, k) == pytest.approx(expected)


def test_calibration_error_is_its_formula() -> None:
    scores, labels = example(4, count=400)
    confidence, right = scores.max(1).values.numpy(), (scores.argmax(1) == labels).numpy()
    edges = np.linspace(0, 1, metrics.BINS + 1)
    expected = 0.0
    for low, high in itertools.pairwise(edges):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            expected += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    assert metrics.calibration_error(scores, labels) == pytest.approx(expected, abs=1e-6)


def disc(shape: tuple[int, ...], centre: tuple[float, ...], radius: float) -> np.ndarray:
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
    return np.linalg.norm(grid - np.array(centre), axis=-1) <= radius


@pytest.mark.parametrize("shape", [(32, 40), (12, 14, 16)])
@pytest.mark.filterwarnings("ignore")  # of MONAI and what it imports
def test_hd95_equals_monais(shape: tuple[int, ...]) -> None:
    monai = pytest.importorskip("monai.metrics")
    rng = np.random.default_rng(0)
    for _ in range(4):
        masks = [disc(shape, tuple(rng.uniform(3, n - 3) for n in shape), rng.uniform(2, 6)) for _ in range(2)]
        masks[0] |= rng.random(shape) > 0.99
        tensors = [torch.from_numpy(mask)[None, None].float() for mask in masks]
        expected = monai.compute_hausdorff_distance(*tensors, include_background=True, percentile=95)
        assert hausdorff95(*masks) == pytest.approx(float(expected), rel=1e-5)


def test_hd95_of_moved_and_of_empty_masks() -> None:
    square = np.zeros((20, 30), dtype=bool)
    square[5:10, 5:10] = True
    assert hausdorff95(square, square) == 0.0
    # All pixels of the left border are 3 away from the other square; most of the others are nearer.
    assert hausdorff95(square, np.roll(square, 3, axis=1)) == pytest.approx(3.0)
    empty = np.zeros_like(square)
    assert math.isnan(hausdorff95(empty, empty))
    assert hausdorff95(square, empty) == hausdorff95(empty, square) == pytest.approx(math.hypot(19, 29))
