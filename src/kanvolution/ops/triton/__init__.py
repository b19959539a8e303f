"""GPU kernels, written in Triton: the fused expansion with its backward, for the families in `DEVICE_FAMILIES`.

Imported where the backend "triton" is in use. With TRITON_INTERPRET=1 in the environment before Triton is imported,
they run on CPU tensors, slowly: that is how they are tested without a GPU.
"""

from kanvolution.ops.triton.families import DEVICE_FAMILIES, Family
from kanvolution.ops.triton.joined import evaluate, evaluate_gradients
from kanvolution.ops.triton.pointwise import DEVICE_POINTWISE
from kanvolution.ops.triton.reorder import reorder
from kanvolution.ops.triton.support import CONDITIONS, supports, unmet, writes_functions_first, zero_channels

__all__ = [
    "CONDITIONS",
    "DEVICE_FAMILIES",
    "DEVICE_POINTWISE",
    "Family",
    "evaluate",
    "evaluate_gradients",
    "reorder",
    "supports",
    "unmet",
    "writes_functions_first",
    "zero_channels",
]
