"""What PyTorch is doing with the code that runs: plain execution, exporting, or transforming it."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def is_exporting() -> bool:
    """Whether torch.export traces this code now.

    `torch.compiler.is_exporting`, but right under torch.compile as well: the compiler of PyTorch 2.11
    takes that function for True. It follows the flag behind the function.
    """
    return torch.compiler._is_exporting_flag


def is_transforming() -> bool:
    """Whether torch.func (vmap, grad, jvp, ...) or forward-mode differentiation follows this code now.

    Operators with a backward of their own have no rules for these; ordinary operators have. Compiled code does not ask:
    its tracer follows torch.func by itself.
    """
    if torch.compiler.is_compiling():
        return False
    functorch = torch._C._functorch.peek_interpreter_stack() is not None  # pyright: ignore
    return functorch or torch.autograd.forward_ad._current_level >= 0


def is_followed(tensors: Iterable[Tensor]) -> bool:
    """Whether something follows the operators called on these tensors: a compiler, a dispatch mode, a subclass of
    Tensor, or the meta device, where nothing is computed.

    It wants to see one operator. Nobody else does, and without PyTorch's dispatcher of operators from Python a call is
    a fraction of the work.
    """
    if (
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or torch._C._len_torch_dispatch_stack()
    ):
        return True
    return any((type(t) is not Tensor and type(t) is not nn.Parameter) or t.is_meta for t in tensors)


def is_batched(grad: Tensor) -> bool:
    """Whether this gradient stands for many, as torch.autograd.functional.jacobian(vectorize=True) asks for them."""
    return is_transforming() or torch._C._functorch.is_legacy_batchedtensor(grad)  # pyright: ignore
