"""Which code evaluates an expansion and its backward: ordinary operators, a function compiled from them, kernels."""

from __future__ import annotations

import functools
import importlib.util
import itertools
import os
import shutil
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kanvolution.registry import unknown_name

BACKENDS: dict[str, str] = {
    "auto": "triton for CUDA tensors, where it and a C compiler are installed; compile in code that torch.compile "
    "compiles for a CPU, where there is a C++ compiler; eager elsewhere",
    "eager": "ordinary PyTorch operators, in blocks that stay in the cache on a CPU",
    "compile": "one fused loop, compiled by torch.compile at the first call (seconds)",
    "triton": "fused GPU kernels written in Triton; ordinary operators for what those do not do",
}
"""The backends by name, each with what it is."""

HAS_CPP_COMPILER = any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "clang++", "cl"))
"""Whether there is a C++ compiler for torch.compile to use. (A value, since compiled code cannot look for one.)"""

HAS_TRITON = importlib.util.find_spec("triton") is not None
"""Whether Triton is installed."""

HAS_C_COMPILER = any(shutil.which(name) for name in (os.environ.get("CC", "gcc"), "clang"))
"""Whether there is the C compiler that Triton needs to launch a kernel."""

INTERPRETS_TRITON = os.environ.get("TRITON_INTERPRET") == "1"
"""Whether Triton's interpreter runs kernels, on CPU tensors too. (Triton reads this when it is imported.)"""

_numbers = itertools.count()


def check_backend(name: str) -> str:
    """Returns `name`. Raises ValueError if there is no such backend."""
    if name not in BACKENDS:
        raise ValueError(unknown_name("backend", name, BACKENDS))
    return name


def resolve_backend(name: str, device: torch.device) -> str:
    """The backend that `name` stands for on this device.

    Raises:
        ValueError: there is no such backend.
        RuntimeError: it needs something that is not there.
    """
    check_backend(name)
    if name == "auto":
        if device.type == "cuda" and HAS_TRITON and HAS_C_COMPILER:
            return "triton"
        compiled = torch.compiler.is_compiling() and device.type == "cpu" and HAS_CPP_COMPILER
        return "compile" if compiled else "eager"
    if name == "compile" and device.type == "cpu" and not HAS_CPP_COMPILER:
        raise RuntimeError(
            "backend='compile' needs a C++ compiler and none was found; install g++ or name one in the environment "
            "variable CXX, or use backend='eager'"
        )
    if name == "triton" and not HAS_TRITON:
        raise RuntimeError("backend='triton' needs Triton: pip install triton, or use backend='auto'")
    if name == "triton" and device.type not in ("cuda", "meta") and not INTERPRETS_TRITON:
        raise RuntimeError(f"backend='triton' needs tensors on a CUDA device, and x is on {device}; use backend='auto'")
    return name


@functools.cache
def compiled(make: Callable[..., Callable[..., Any]], *constants: Any) -> Callable[..., Any]:
    """`make(*constants)` compiled, for arguments that went through `any_size`; made once for the same constants.

    The code object is its own: torch.compile counts recompilations, and gives up after a few, by code object, and one
    `make` serves many families.
    """
    function = make(*constants)
    assert isinstance(function, types.FunctionType)
    code = function.__code__.replace(co_name=f"{function.__code__.co_name}_{next(_numbers)}")
    own = types.FunctionType(code, function.__globals__, code.co_name, function.__defaults__, function.__closure__)
    return torch.compile(own, fullgraph=True)


def any_size(tensor: Tensor) -> Tensor:
    """`tensor` apart from its graph, with all sizes marked as ones that change from call to call.

    (torch.compile(dynamic=True) would take the numbers that a family depends on for such, too.)
    """
    tensor = tensor.detach()
    for dim in range(tensor.ndim):
        torch._dynamo.maybe_mark_dynamic(tensor, dim)
    return tensor
