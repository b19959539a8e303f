"""The 1,797 handwritten digits that come with scikit-learn."""

from __future__ import annotations

import torch

from kanvolution.data.info import DataSets
from kanvolution.data.registry import register_data
from kanvolution.data.tensors import tensor_data_sets
from kanvolution.extras import require

_SPLIT_SEED = 1797


@register_data("digits", augment="shift")
def digits() -> DataSets:
    """scikit-learn's 8x8 digits, light on dark; a fifth of each class is held out, the same fifth for every run.

    Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI repository (its test part).
    """
    bunch = require("sklearn.datasets", "train").load_digits()
    # The values are counts 0..16 of set pixels in 4x4 cells.
    images = torch.from_numpy(bunch.images).float().unsqueeze(1) / 16
    labels = torch.from_numpy(bunch.target)
    return tensor_data_sets("digits", (images, labels), class_names="0123456789", split_seed=_SPLIT_SEED)
