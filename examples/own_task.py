"""A task of one's own: classes in an order, where a prediction is the worse the farther it is from the truth.

python examples/own_task.py
kanvolution train --import examples/own_task.py task=ordinal task.power=2
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping

import torch
from torch import Tensor

import kanvolution as kv
from kanvolution.data import DataInfo, create_data
from kanvolution.train import Penalties, Task, TrainerConfig, fit, register_task


@register_task("ordinal")
class Ordinal(Task):
    """The expected distance from the true class is minimised, the distance of the likeliest one measured.

    Args:
        info: of the data set.
        power: of the distance in the loss.
        noise: standard deviation of noise on the training images.
        penalties: strengths of penalties on weights and activations.
    """

    lower_is_better = frozenset({"loss", "mean_distance"})

    def __init__(
        self,
        info: DataInfo,
        power: float = 1.0,
        noise: float = 0.1,
        penalties: Penalties | Mapping[str, float] | None = None,
    ) -> None:
        self.classes = torch.arange(info.num_classes)
        self.power = power
        self.noise = noise
        self.penalties = Penalties.of(penalties)

    def transform_batch(self, inputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        return inputs + self.noise * torch.randn_like(inputs), target

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        distance = (self.classes.to(target.device) - target.unsqueeze(1)).abs() ** self.power
        return (output.softmax(1) * distance).sum(1).mean()

    def reset(self, device: torch.device) -> None:
        self.losses: list[Tensor] = []
        self.distances: list[Tensor] = []

    def update(self, output: Tensor, target: Tensor) -> None:
        self.losses.append(self.loss(output, target) * len(target))
        self.distances.append((output.argmax(1) - target).abs())

    def compute(self) -> dict[str, float | None]:
        distances = torch.cat(self.distances).float()
        return {"loss": float(sum(self.losses)) / len(distances), "mean_distance": float(distances.mean())}


def main() -> None:
    torch.manual_seed(0)
    data = create_data("digits")
    model = kv.create_model("simple4", "gram", num_classes=10, in_chans=1, channels=[8, 8, 16, 16])
    with tempfile.TemporaryDirectory() as folder:
        result = fit(
            model,
            data,
            task={"name": "ordinal", "penalties": {"weight_l2": 1e-5}},
            trainer=TrainerConfig(epochs=3),
            output_dir=f"{folder}/run",
        )
    print(f"the prediction is {result.metrics['mean_distance']:.2f} from the true digit on average")


if __name__ == "__main__":
    main()
