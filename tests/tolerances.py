"""The one table of tolerances: relative to the largest absolute value of what is expected."""

import torch
from torch import Tensor

RELATIVE = {torch.float64: 1e-9, torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 4e-3}
GOLDEN = 1e-4  # against torch-conv-kan, whose knots and polynomials are computed in float32 by other formulas


def assert_close(actual: Tensor, expected: Tensor, relative: float | None = None) -> None:
    """`actual` equals `expected` within the tolerance of its dtype (or `relative`) times the largest entry."""
    assert actual.shape == expected.shape, f"shape {tuple(actual.shape)} instead of {tuple(expected.shape)}"
    limit = relative if relative is not None else RELATIVE[actual.dtype]
    wide = torch.promote_types(actual.dtype, expected.dtype)
    error = (actual.detach().to(wide) - expected.detach().to(wide)).abs().max() if actual.numel() else torch.zeros(())
    scale = expected.detach().abs().max().clamp_min(1e-30) if expected.numel() else torch.ones(())
    assert torch.isfinite(error), "not finite"
    assert error <= limit * scale, f"relative error {float(error / scale):.2e} > {limit:.0e}"
