"""Classification of pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from kanvolution.checks import non_negative
from kanvolution.data.info import DataInfo
from kanvolution.models.segmenter import predicted_mask
from kanvolution.train.metrics import Counts, confusion_matrices, defined_mean, hausdorff95
from kanvolution.train.tasks.labelled import LabelledTask
from kanvolution.train.tasks.task import Penalties, register_task

EXAMPLES = 6
"""How many images are listed, evenly spaced from the worst to the best."""
_RATIOS = ("dice", "iou", "sensitivity", "specificity", "precision")


@register_task("segmentation")
class Segmentation(LabelledTask):
    """One class for each pixel; class 0 is the background.

    The network gives logits [N, C, H, W] (or of any other number of dimensions) for a mask [N, H, W], or one channel
    for two classes. In training it may give a list: the prediction, and side outputs of the same shape.

    Metrics: `loss`, `dice`, `iou`, `sensitivity`, `specificity`, `precision`, `hd95` (in pixels); and tables, see
    `tables`. Each metric is the mean over classes, without the background, of the mean over
    images. A ratio of 0 / 0 is not defined, and left out of means: Dice of an image that neither has a class nor is
    predicted to, for one. A class that an image does not have, but that is predicted, has Dice 0, and the other way
    round; `hd95` then is the diagonal of the image. Pixels with `info.ignore_index` are left out of loss and
    metrics; for `hd95` they belong to no class in both masks.

    Args:
        info: of the data set.
        loss: name of a loss, or a dictionary with `name` and options.
        class_weights: a positive weight for each class in the loss, the background first.
        label_smoothing: share of the target spread over all classes, in [0, 1).
        side_weight: weight of the loss of each side output; that of the prediction has weight 1.
        pooled: add up the pixels of all images before the ratios, instead of the mean over images.
        background: count class 0 in the metrics.
        hd95: measure `hd95`, which costs two distance transforms for each class of an image.
        penalties: strengths of penalties on weights and activations, a dictionary or `Penalties`.
    """

    targets = "masks"
    lower_is_better = frozenset({"loss", "hd95"})

    def __init__(
        self,
        info: DataInfo,
        loss: str | Mapping[str, Any] = "dice_cross_entropy",
        class_weights: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
        side_weight: float = 1.0,
        pooled: bool = False,
        background: bool = False,
        hd95: bool = True,
        penalties: Penalties | Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(info, loss, class_weights, label_smoothing, penalties)
        self.side_weight = non_negative("task.side_weight", side_weight)
        self.pooled = pooled
        self.hd95 = hd95
        self.first = 0 if background else 1
        self.class_names = info.class_names[self.first :]
        self._classes: dict[str, Tensor] = {}
        self._images: list[list[Any]] = []

    def loss(self, output: Any, target: Tensor) -> Tensor:
        if not isinstance(output, (list, tuple)):
            return super().loss(output, target)
        total = super().loss(output[0], target)
        for side in output[1:]:
            total = total + self.side_weight * super().loss(side, target)
        return total

    def reset(self, device: torch.device) -> None:
        super().reset(device)
        self._confusions: list[Tensor] = []
        self._distances: list[list[float]] = []

    def update(self, output: Any, target: Tensor) -> None:
        super().update(output[0] if isinstance(output, (list, tuple)) else output, target)

    def measure(self, output: Tensor, target: Tensor) -> None:
        predicted = predicted_mask(output)
        self._confusions.append(confusion_matrices(predicted, target, self.num_classes, self.ignore_index).cpu())
        if self.hd95:
            if self.ignore_index is not None:
                predicted = predicted.where(target != self.ignore_index, self.ignore_index)
            for p, t in zip(predicted.cpu().numpy(), target.cpu().numpy(), strict=True):
                self._distances.append([hausdorff95(p == c, t == c) for c in range(self.first, self.num_classes)])

    def compute(self) -> dict[str, float | None]:
        confusions = torch.cat(self._confusions)
        counts = Counts.of_confusion(confusions.sum(0, keepdim=True) if self.pooled else confusions)
        of_images = {name: getattr(counts, name)()[:, self.first :] for name in _RATIOS}
        if self.hd95:
            of_images["hd95"] = torch.tensor(self._distances, dtype=torch.float64)
        self._classes = {name: values.nanmean(0) for name, values in of_images.items()}
        self._images = _spread(Counts.of_confusion(confusions).dice()[:, self.first :].nanmean(1))
        return {"loss": self.mean_loss(), **{name: defined_mean(values) for name, values in self._classes.items()}}

    def tables(self) -> dict[str, list[list[Any]]]:
        """Tables of the last validation.

        `classes`: a row of names, and a row of metrics for each class, None where they are not defined. `images`: a row
        of names, and number in the validation set and Dice of some images, evenly spaced from the worst to the best.
        """
        rows = [
            [name, *(None if value.isnan() else float(value) for value in values)]
            for name, values in zip(self.class_names, zip(*self._classes.values(), strict=True), strict=True)
        ]
        return {"classes": [["class", *self._classes], *rows], "images": [["image", "dice"], *self._images]}


def _spread(dice: Tensor) -> list[list[Any]]:
    """[number, Dice] of images from the worst to the best; those without any class are left out."""
    known = (~dice.isnan()).nonzero().flatten()
    order = known[dice[known].argsort(stable=True)]
    places = torch.linspace(0, len(order) - 1, min(EXAMPLES, len(order))).round().long()
    return [[index, float(dice[index])] for index in order[places].tolist()]
