"""Metrics of classes of images and of pixels.

A ratio of 0 / 0 is not defined: it is NaN for its class, and left out of means. Everything else is what its formula
says.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kanvolution.extras import require

BINS = 15
"""Number of bins of the calibration error."""


def defined_mean(values: Tensor) -> float | None:
    """The mean of those values that are defined (not NaN); None if there are none."""
    values = values[~values.isnan()]
    return float(values.double().mean()) if len(values) else None


def confusion_matrices(predicted: Tensor, labels: Tensor, num_classes: int, ignore_index: int | None = None) -> Tensor:
    """Counts [N, true class, predicted class] of each image, from two tensors [N, *S] of class indices.

    Labels equal to `ignore_index` are left out.
    """
    images = torch.arange(len(labels), device=labels.device).unsqueeze(1)
    cells = (images * num_classes + labels.long().flatten(1)) * num_classes + predicted.long().flatten(1)
    cells = cells.flatten() if ignore_index is None else cells[labels.flatten(1) != ignore_index]
    counts = torch.bincount(cells, minlength=len(labels) * num_classes**2)
    return counts.view(-1, num_classes, num_classes)


def confusion_matrix(predicted: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Counts [true class, predicted class] of two tensors of class indices of one shape."""
    return confusion_matrices(predicted.unsqueeze(0), labels.unsqueeze(0), num_classes)[0]


@dataclass(frozen=True)
class Counts:
    """True and false positives and negatives, tensors of one shape, whose last dimension are classes.

    Example:
        >>> import torch
        >>> counts = Counts.of_confusion(torch.tensor([[3, 1], [0, 2]]))
        >>> counts.sensitivity()
        tensor([0.7500, 1.0000], dtype=torch.float64)
    """

    tp: Tensor
    fp: Tensor
    fn: Tensor
    tn: Tensor

    @classmethod
    def of_confusion(cls, matrix: Tensor) -> Counts:
        """Each class against the rest, from counts [*, true class, predicted class]."""
        matrix = matrix.double()
        tp = matrix.diagonal(dim1=-2, dim2=-1)
        fp, fn = matrix.sum(-2) - tp, matrix.sum(-1) - tp
        return cls(tp, fp, fn, matrix.sum((-2, -1)).unsqueeze(-1) - tp - fp - fn)

    def sensitivity(self) -> Tensor:
        """TP / (TP + FN), also called recall."""
        return self.tp / (self.tp + self.fn)

    def specificity(self) -> Tensor:
        """TN / (TN + FP)."""
        return self.tn / (self.tn + self.fp)

    def precision(self) -> Tensor:
        """TP / (TP + FP)."""
        return self.tp / (self.tp + self.fp)

    def dice(self) -> Tensor:
        """2 TP / (2 TP + FP + FN), also called F1."""
        return 2 * self.tp / (2 * self.tp + self.fp + self.fn)

    def iou(self) -> Tensor:
        """TP / (TP + FP + FN), also called Jaccard index."""
        return self.tp / (self.tp + self.fp + self.fn)


def top_k_accuracy(scores: Tensor, labels: Tensor, k: int) -> float:
    """Share of samples whose class is among the k of the highest scores [N, C]."""
    best = scores.topk(k, dim=1).indices
    return float((best == labels.unsqueeze(1)).any(1).double().mean())


def calibration_error(scores: Tensor, labels: Tensor) -> float:
    """Mean distance of confidence and accuracy over 15 bins of confidence. Source: Guo et al., arXiv 1706.04599."""
    functional = require("torchmetrics.functional.classification", "train")
    classes = scores.shape[1]
    return float(functional.multiclass_calibration_error(scores, labels, num_classes=classes, n_bins=BINS, norm="l1"))


def calibration_bins(scores: Tensor, labels: Tensor) -> list[tuple[float, float, int, float | None, float | None]]:
    """What `calibration_error` is the mean of: for each bin (from, to, samples, mean confidence, accuracy).

    The confidence of a sample is its highest score. The last two are None where a bin has no samples.

    Example:
        >>> import torch
        >>> calibration_bins(torch.tensor([[0.9, 0.1], [0.7, 0.3]]), torch.tensor([0, 1]))[13]
        (0.8666666666666667, 0.9333333333333333, 1, 0.8999999761581421, 1.0)
    """
    confidence, predicted = scores.max(1)
    right = (predicted == labels).double()
    edges = torch.linspace(0, 1, BINS + 1, dtype=scores.dtype, device=scores.device)
    # As torchmetrics: a bin holds its lower end; a confidence of 1 is in the last.
    bins = (torch.bucketize(confidence.contiguous(), edges, right=True) - 1).clamp(0, BINS - 1)
    rows = []
    for number in range(BINS):
        inside = bins == number
        count = int(inside.sum())
        means = (float(confidence[inside].double().mean()), float(right[inside].mean())) if count else (None, None)
        rows.append((number / BINS, (number + 1) / BINS, count, *means))
    return rows


def one_vs_rest_auc(scores: Tensor, labels: Tensor) -> Tensor:
    """Area under the ROC curve of each class against the rest [C]; NaN for one without samples on both sides."""
    functional = require("torchmetrics.functional.classification", "train")
    classes = scores.shape[1]
    with warnings.catch_warnings():
        # torchmetrics warns of classes without samples, and gives 0.
        warnings.filterwarnings("ignore", message="No (positive|negative) samples", category=UserWarning)
        areas = functional.multiclass_auroc(scores, labels, num_classes=classes, average="none", validate_args=False)
    counts = torch.bincount(labels, minlength=classes)
    return torch.where((counts > 0) & (counts < len(labels)), areas.double(), torch.nan)


def one_vs_one_auc(scores: Tensor, labels: Tensor) -> float | None:
    """Mean area over all ordered pairs of classes (a, b) that occur: a's score, on samples of a and b alone.

    None for fewer than two classes. Source: Hand and Till, Machine Learning 45 (2001), equation 7.
    """
    values, classes = scores.double().cpu().numpy(), labels.cpu().numpy()
    occurring = np.unique(classes)
    areas = []
    for a in occurring:
        of = {b: np.sort(values[classes == b, a]) for b in occurring}
        for b in occurring:
            if a != b:
                below, to = (np.searchsorted(of[b], of[a], side) for side in ("left", "right"))
                areas.append(0.5 * (below + to).mean() / len(of[b]))  # a tie counts half
    return float(np.mean(areas)) if areas else None


def hausdorff95(predicted: np.ndarray, actual: np.ndarray) -> float:
    """95 % Hausdorff distance of the borders of two masks, in pixels.

    The distances of all border pixels of one mask to the border of the other; their 95th percentile; and of both
    directions the larger. Border pixels are those with a neighbour (4 in two dimensions) outside of the mask or image.

    Args:
        predicted: bool array of any dimension.
        actual: of the same shape.

    Returns:
        NaN if both masks are empty; if one is, the diagonal of the image, the largest distance there is.
    """
    if not (predicted.any() and actual.any()):
        diagonal = float(np.linalg.norm(np.array(actual.shape) - 1))
        return diagonal if predicted.any() or actual.any() else float("nan")
    image = require("scipy.ndimage", "train")
    borders = [mask & ~image.binary_erosion(mask) for mask in (predicted, actual)]
    distances = [image.distance_transform_edt(~border) for border in borders]
    return float(max(np.percentile(distances[1][borders[0]], 95), np.percentile(distances[0][borders[1]], 95)))
