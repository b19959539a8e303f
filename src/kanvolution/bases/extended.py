"""A basis with further functions, beside those that it has."""

from __future__ import annotations

import inspect

import torch

from kanvolution.bases.basis import CONTEXT, Basis
from kanvolution.checks import integer_at_least


@torch.no_grad()
def extended(basis: Basis, count: int) -> tuple[Basis, tuple[int, ...]]:
    """A larger basis of the same kind that has the functions of `basis`, with what they have learned, among its own.

    Args:
        basis: the basis; it is left as it is. What is attached to it is attached to the larger one as well.
        count: degrees, frequencies or wavelets to add; of a basis with a grid, functions at either end of the grid.

    Returns:
        The larger basis, and which of its functions those of `basis` are, in order.

    Raises:
        TypeError: count is no integer.
        ValueError: count below 1, an option out of range, or a kind of basis that has no larger one with the same
            functions: Bernstein polynomials, where all change with the degree, or one wavelet for each edge.

    Example:
        >>> import kanvolution as kv
        >>> larger, kept = kv.bases.extended(kv.create_basis("spline", grid_size=4, grid_range=(-2, 2)), 1)
        >>> larger.grid_range, kept
        ((-3.0, 3.0), (0, 2, 3, 4, 5, 6, 7, 8))
    """
    integer_at_least("count", count, 1)
    extension = basis.extension(count)
    cls = type(basis)
    shape = {name: getattr(basis, name) for name in CONTEXT if name in inspect.signature(cls).parameters}
    larger = cls(**shape, **extension.options).train(basis.training)
    larger.backend = basis.backend
    like = next((t for t in (*basis.parameters(), *basis.buffers()) if t.is_floating_point()), None)
    if like is not None:
        larger.to(like.device, like.dtype)
    first, count_before = int(basis.base is not None), extension.before
    own = [first + count_before + k for k in range(basis.num_functions)]
    learned = {**dict(basis.named_parameters(recurse=False)), **dict(basis.named_buffers(recurse=False))}
    for name, value in learned.items():
        target = getattr(larger, name)
        # What there is of for each function has them as its last dimension.
        into = target if target.shape == value.shape else target[..., count_before : count_before + value.shape[-1]]
        into.copy_(value)
        target.requires_grad_(value.requires_grad)
    larger.attach(norm=basis.norm, input_dropout=basis.input_dropout, function_dropout=basis.function_dropout)
    return larger, (*range(first), *own)
