"""Classification of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2

from kanvolution.checks import non_negative
from kanvolution.data.info import DataInfo
from kanvolution.train import metrics
from kanvolution.train.tasks.labelled import LabelledTask
from kanvolution.train.tasks.task import Penalties, register_task

OVO_CLASSES = 100
"""One-vs-one areas are measured by default up to this number of classes; their cost grows with its square."""
MISTAKES = 24
"""How many of the worst mistakes are listed."""


@register_task("classification")
class Classification(LabelledTask):
    """One class for each image.

    Metrics: `loss` (without label smoothing), `top1`, `top5` (from 10 classes on), `macro_auc` (one-vs-rest), `auc_ovo`
    (one-vs-one), `macro_recall`, `macro_f1`, `calibration_error`; and tables, see `tables`. A mean over classes leaves
    out those for which the value is not defined: recall and areas those that do not occur in the validation set, F1
    those that neither occur nor are predicted. What is defined for no class (an area, with fewer than two) is None.

    Args:
        info: of the data set.
        loss: name of a loss, or a dictionary with `name` and options.
        class_weights: a positive weight for each class in the loss.
        label_smoothing: share of the target spread over all classes, in [0, 1).
        mixup: alpha of MixUp, arXiv 1710.09412; 0 switches it off.
        cutmix: alpha of CutMix, arXiv 1905.04899; with both, each batch gets one of them.
        mix_probability: share of the batches that are mixed.
        auc_ovo: measure `auc_ovo`; None: with at most 100 classes.
        penalties: strengths of penalties on weights and activations, a dictionary or `Penalties`.
    """

    lower_is_better = frozenset({"loss", "calibration_error"})

    def __init__(
        self,
        info: DataInfo,
        loss: str | Mapping[str, Any] = "cross_entropy",
        class_weights: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        mix_probability: float = 1.0,
        auc_ovo: bool | None = None,
        penalties: Penalties | Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(info, loss, class_weights, label_smoothing, penalties)
        if not 0 <= mix_probability <= 1:
            raise ValueError(f"task.mix_probability (={mix_probability}) must be between 0 and 1")
        self.mix_probability = mix_probability
        self.auc_ovo = self.num_classes <= OVO_CLASSES if auc_ovo is None else auc_ovo
        alphas = {
            v2.MixUp: non_negative("task.mixup", mixup),
            v2.CutMix: non_negative("task.cutmix", cutmix),
        }
        mixes = [make(alpha=alpha, num_classes=self.num_classes) for make, alpha in alphas.items() if alpha > 0]
        self._mix = v2.RandomChoice(mixes) if mixes else None
        self._tables: dict[str, list[list[Any]]] = {}

    def transform_batch(self, inputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        if self._mix is None or float(torch.rand(())) >= self.mix_probability:
            return inputs, target
        return self._mix(inputs, target)

    def reset(self, device: torch.device) -> None:
        super().reset(device)
        self._scores: list[Tensor] = []
        self._labels: list[Tensor] = []

    def measure(self, output: Tensor, target: Tensor) -> None:
        self._scores.append(output.softmax(1))
        self._labels.append(target)

    def compute(self) -> dict[str, float | None]:
        scores, labels = torch.cat(self._scores), torch.cat(self._labels)
        confusion = metrics.confusion_matrix(scores.argmax(1), labels, self.num_classes).cpu()
        self._tables = {
            "confusion": confusion.tolist(),
            "calibration": [list(_CALIBRATION), *map(list, metrics.calibration_bins(scores, labels))],
            "mistakes": [list(_MISTAKES), *_worst_mistakes(scores, labels)],
        }
        counts = metrics.Counts.of_confusion(confusion)
        areas = metrics.one_vs_rest_auc(scores, labels)
        found: dict[str, float | None] = {"loss": self.mean_loss(), "top1": metrics.top_k_accuracy(scores, labels, 1)}
        if self.num_classes >= 10:
            found["top5"] = metrics.top_k_accuracy(scores, labels, 5)
        found["macro_auc"] = metrics.defined_mean(areas)
        if self.auc_ovo:
            found["auc_ovo"] = metrics.one_vs_one_auc(scores, labels)
        return {
            **found,
            "macro_recall": metrics.defined_mean(counts.sensitivity()),
            "macro_f1": metrics.defined_mean(counts.dice()),
            "calibration_error": metrics.calibration_error(scores, labels),
        }

    def tables(self) -> dict[str, list[list[Any]]]:
        """Tables of the last validation.

        `confusion`: a row for each true class, a column for each predicted one, numbers of images. `calibration`: a row
        of names, and one for each bin of confidence (see `metrics.calibration_bins`). `mistakes`: a row of names, and
        one for each of the wrongly classified images that the network was most confident of: number of the image in the
        validation set, true class, predicted class, and the probabilities of the predicted and of the true one.
        """
        return self._tables


_CALIBRATION = ("from", "to", "images", "confidence", "accuracy")
_MISTAKES = ("image", "true", "predicted", "confidence", "probability of the true class")


def _worst_mistakes(scores: Tensor, labels: Tensor) -> list[list[Any]]:
    confidence, predicted = scores.max(1)
    wrong = (predicted != labels).nonzero().flatten()
    worst = wrong[confidence[wrong].argsort(descending=True, stable=True)][:MISTAKES]
    columns = (worst, labels[worst], predicted[worst], confidence[worst], scores[worst, labels[worst]])
    return [list(row) for row in zip(*(column.tolist() for column in columns), strict=True)]
