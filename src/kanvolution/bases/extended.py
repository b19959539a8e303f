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
    take_over(larger, basis, extension.before)
    larger.attach(norm=basis.norm, input_dropout=basis.input_dropout, function_dropout=basis.function_dropout)
    first = int(basis.base is not None)
    return larger, (*range(first), *(first + extension.before + k for k in range(basis.num_functions)))


@torch.no_grad()
def take_over(basis: Basis, other: Basis, before: int = 0) -> None:
    """Give a basis what another one of its kind has learned, of the functions that both have.

    Args:
        basis: the basis that is changed, larger or smaller.
        other: the other one.
        before: which function of the larger one is the first of the smaller.
    """
    for name, value in (*other.named_parameters(recurse=False), *other.named_buffers(recurse=False)):
        target = getattr(basis, name)
        # What there is of for each function has them as its last dimension.
        grown = target.shape[-1] - value.shape[-1]
        if grown > 0:
            target[..., before : before + value.shape[-1]] = value.to(target)
        else:
            target.copy_(value if grown == 0 else value[..., before : before + target.shape[-1]])
        target.requires_grad_(value.requires_grad)
