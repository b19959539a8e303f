"""The stem of residual and dense networks: the first convolution, and a max pooling."""

from __future__ import annotations

from torch import nn

from kanvolution.checks import integer_at_least
from kanvolution.layers.spec import ConvFactory
from kanvolution.models.factories import first_conv


def make_stem(
    conv: ConvFactory, in_chans: int, channels: int, kernel_size: int, stride: int, pool: bool
) -> tuple[nn.Module, int]:
    """A convolution without dropout and, with `pool`, a max pooling of kernel 3 and stride 2; and their stride.

    Raises:
        ValueError: an even kernel, or a value below 1.
    """
    if integer_at_least("stem_kernel", kernel_size, 1) % 2 == 0:
        raise ValueError(f"stem_kernel (={kernel_size}) must be odd; e.g. 7 for photographs, 3 for small images")
    integer_at_least("stem_stride", stride, 1)
    first = first_conv(conv)(in_chans, channels, kernel_size, stride=stride, padding=kernel_size // 2)
    if not pool:
        return first, stride
    return nn.Sequential(first, nn.MaxPool2d(3, stride=2, padding=1)), 2 * stride
