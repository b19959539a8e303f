"""A data set and a network that train in no time."""

import torch

import kanvolution as kv
from kanvolution.data import DataInfo, DataSets, TensorImages

CHANNELS = [4, 4, 4, 4]


def toy_data(count: int = 32, classes: int = 4) -> DataSets:
    """Images 8x8 whose bright row tells the class, normalised."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % classes
    images = 0.1 * torch.rand(count, 1, 8, 8, generator=generator)
    images[torch.arange(count), 0, labels] = 0.9
    names = tuple(f"row {i}" for i in range(classes))
    info = DataInfo("toy", 1, (8, 8), names, mean=(0.15,), std=(0.3,))
    return DataSets(
        TensorImages(info.normalise(images), labels), TensorImages(info.normalise(images[:12]), labels[:12]), info
    )


def toy_model(conv: object = "gram", classes: int = 4) -> torch.nn.Module:
    torch.manual_seed(0)
    return kv.create_model("simple4", conv, num_classes=classes, in_chans=1, channels=CHANNELS)
