"""A data set of one's own: images in memory, split, normalised, augmented and trained on.

Run it with `python examples/own_data.py`, or choose the data set on the command line:

    kanvolution train --import examples/own_data.py data=shapes data.noise=0.3

It needs the extra `train`.
"""

from __future__ import annotations

import tempfile

import torch

import kanvolution as kv
from kanvolution.data import DataSets, create_data, register_data, tensor_data_sets


@register_data("shapes", augment="symmetries")
def shapes(count: int = 600, noise: float = 0.2) -> DataSets:
    """Discs, squares and crosses of many sizes.

    Args:
        count: number of images; a fifth of each class is held out.
        noise: standard deviation of the grey values' noise.
    """
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 3
    place = torch.linspace(-1, 1, 16)
    down, across = place.view(1, -1, 1).abs(), place.view(1, 1, -1).abs()
    size = 0.4 + 0.5 * torch.rand(count, 1, 1, generator=generator)
    disc = down.square() + across.square() < size.square()
    square = torch.maximum(down, across) < 0.8 * size
    cross = (torch.minimum(down, across) < 0.2) & (torch.maximum(down, across) < size)
    drawn = torch.stack([disc, square, cross])[labels, torch.arange(count)].float()
    images = drawn + noise * torch.randn(count, 16, 16, generator=generator)
    return tensor_data_sets(
        "shapes", (images.clamp(0, 1).unsqueeze(1), labels), class_names=("disc", "square", "cross")
    )


def main() -> None:
    from kanvolution.train import TrainerConfig, fit

    data = create_data("shapes", noise=0.2)
    print(f"{len(data.train)} training and {len(data.val)} validation images of {', '.join(data.info.class_names)}")
    torch.manual_seed(0)
    model = kv.create_model("simple4", "gram", num_classes=3, in_chans=1, channels=[4, 8, 8, 8])
    with tempfile.TemporaryDirectory() as folder:
        optim = {"name": "adamw", "lr": 0.01}
        result = fit(model, data, optim=optim, trainer=TrainerConfig(epochs=8, cpu=True), output_dir=folder)
    print(f"accuracy on held-out images {result.metrics['top1']:.3f}")


if __name__ == "__main__":
    main()
