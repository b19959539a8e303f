"""Classification of images."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from kanvolution.checks import probability
from kanvolution.data.info import DataInfo
from kanvolution.extras import require
from kanvolution.train.tasks.task import Penalties, Task, register_task


@register_task("classification")
class Classification(Task):
    """One class for each image: cross-entropy, accuracy, and the area under the ROC curve.

    Metrics: `loss` (without label smoothing), `top1`, `top5` (from 10 classes on), `macro_auc`. The last is the mean of
    the one-vs-rest areas over those classes that occur in the validation set; a class that does not occur has no area
    and is left out. With fewer than two classes there it is None.

    Args:
        info: of the data set.
        label_smoothing: share of the target spread over all classes, in [0, 1).
        penalties: strengths of penalties on weights and activations, a dictionary or `Penalties`.
    """

    def __init__(
        self,
        info: DataInfo,
        label_smoothing: float = 0.0,
        penalties: Penalties | Mapping[str, float] | None = None,
    ) -> None:
        self.penalties = Penalties.of(penalties)
        self.num_classes = info.num_classes
        self.label_smoothing = probability("task.label_smoothing", label_smoothing)
        self._confusion = torch.zeros(self.num_classes, self.num_classes, dtype=torch.long)
        self._metrics: Any = None

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output.float(), target, label_smoothing=self.label_smoothing)

    def reset(self, device: torch.device) -> None:
        if self._metrics is None:
            self._metrics = self._make_metrics()
        self._metrics.to(device)
        self._metrics.reset()
        self._loss, self._count = torch.zeros((), device=device), 0

    def update(self, output: Tensor, target: Tensor) -> None:
        output = output.float()
        self._loss += F.cross_entropy(output, target, reduction="sum")
        self._count += len(target)
        # torchmetrics takes values in [0, 1] for probabilities and anything else for logits: leave it no choice.
        self._metrics.update(output.softmax(1), target)

    def compute(self) -> dict[str, float | None]:
        with warnings.catch_warnings():
            # The classes without samples are left out below; torchmetrics warns of them.
            warnings.filterwarnings("ignore", message="No (positive|negative) samples", category=UserWarning)
            values = self._metrics.compute()
        self._confusion = values.pop("confusion").cpu()
        occurring = self._confusion.sum(1) > 0
        areas = values.pop("auc").cpu()[occurring]
        area = float(areas.mean()) if len(areas) > 1 else None
        metrics = {name: float(value) for name, value in values.items()}
        return {"loss": float(self._loss) / self._count, **metrics, "macro_auc": area}

    def tables(self) -> dict[str, list[list[int]]]:
        """`confusion`: one row for each true class, one column for each predicted one, numbers of images."""
        return {"confusion": self._confusion.tolist()}

    def _make_metrics(self) -> Any:
        c = require("torchmetrics.classification", "train")
        # Outputs are gathered from all processes before they come here.
        common = {"num_classes": self.num_classes, "sync_on_compute": False, "validate_args": False}
        metrics = {"top1": c.MulticlassAccuracy(average="micro", **common)}
        if self.num_classes >= 10:
            metrics["top5"] = c.MulticlassAccuracy(average="micro", top_k=5, **common)
        metrics["auc"] = c.MulticlassAUROC(average="none", **common)
        metrics["confusion"] = c.MulticlassConfusionMatrix(**common)
        return require("torchmetrics", "train").MetricCollection(metrics, compute_groups=False)
