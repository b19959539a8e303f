"""The kernels for all calls: one launch for a family, and one for each of joined families.

Each of joined families writes its own planes of the result and reads those of its gradient. What all have a part of,
combinations and the gradient of x, the launches add up one after another, in the type of the result.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from kanvolution.ops.evaluation import Call, Planes, conform, empty_expansion, memory_format
from kanvolution.ops.joined import JoinedValues
from kanvolution.ops.triton import expand


def evaluate(values: Callable[..., Planes], call: Call, size: int, out: Tensor | None = None) -> Tensor:
    """The result of a call that `supports` says yes to: in `out` [N, *inner_sizes, *S], or as `empty_expansion` is."""
    if not isinstance(values, JoinedValues):
        return expand.evaluate(values, call, size, out)
    if out is None:
        out = empty_expansion(call.x, size, call.dtype, call.groups)
    for number, share in enumerate(values.shares(call)):
        if call.mix is not None:
            expand.evaluate(share.values, share.call, size, out, adds=number > 0)
        elif (own := out[:, :, share.planes]).shape[2]:
            expand.evaluate(share.values, share.call, own.shape[2], own)
    return out


def evaluate_gradients(
    values: Callable[..., Planes], call: Call, grad: Tensor, wanted: tuple[bool, ...], overwrites: bool = False
) -> list[Tensor]:
    """The gradients of those of `call.differentiable()` that are wanted, of a call that `supports` says yes to.

    Args:
        overwrites: whether the result of the call is written in place of its gradient, in the same memory; that must
            have a single stride over its dimensions of space, as every dense tensor has.
    """
    if not isinstance(values, JoinedValues):
        return expand.evaluate_gradients(values, call, grad, wanted, overwrites)
    dense = call.x.is_contiguous() or memory_format(call.x) != torch.contiguous_format
    dense_call = call if dense else call._replace(x=call.x.contiguous())
    # Combinations are made of all families', and each reads the gradient of all.
    in_place = overwrites and call.mix is None
    pieces: list[list[Tensor]] = [[] for _ in wanted]
    for share in values.shares(dense_call):
        own = tuple(wanted[place] for place in share.places)
        given = grad if call.mix is not None else grad[:, :, share.planes]
        if share.planes.start == share.planes.stop:
            continue
        if any(own):
            onto = pieces[0][0] if pieces[0] else None
            found = expand.evaluate_gradients(share.values, share.call, given, own, in_place, onto)
            for place, value in zip(itertools.compress(share.places, own), found, strict=True):
                if value is not onto:
                    pieces[place].append(value)
        elif in_place:
            expand.evaluate(share.values, share.call, given.shape[2], given)
    if overwrites and not in_place:
        evaluate(values, dense_call, grad.shape[2], grad)
    targets = call.differentiable()
    return [
        conform(torch.cat(those, dim=2) if len(those) > 1 else those[0], target) if those else torch.zeros_like(target)
        for those, target, want in zip(pieces, targets, wanted, strict=True)
        if want
    ]
