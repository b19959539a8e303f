"""Weights on disk: safetensors, and torch's own files as far as they hold nothing but tensors."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from kanvolution.files import saving
from kanvolution.registry import unknown_name

WEIGHTS = "model.safetensors"
"""Name of the file of weights in a saved folder."""

_TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")
_SUFFIXES = (".safetensors", *_TORCH_SUFFIXES)
# Where training scripts put the weights among other things.
_WRAPPERS = ("state_dict", "model_state_dict", "model")
# Metadata: the type of the network, where the file has rounded weights.
_DTYPE = "dtype"
# So many keys of each kind are named in an error.
_SHOWN = 5


def write_weights(path: str | Path, state: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a state dict as safetensors, whole or not at all; an older file stays until then.

    Raises:
        OSError: no space or no permission.
    """
    # Clones, since the format refuses tensors that share memory.
    own = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    with saving(path) as temporary:
        save_file(own, temporary, metadata={"format": "pt", **(metadata or {})})


def rounded(state: Mapping[str, Tensor], dtype: torch.dtype | None) -> tuple[dict[str, Tensor], dict[str, str]]:
    """A state dict with its matrices and kernels in `dtype`, and metadata that tell the type that they had.

    Vectors, such as those of norms, are few and stay as they are. None changes nothing.

    Raises:
        ValueError: a type that is not floating-point, or a network of several types.
    """
    if dtype is None:
        return dict(state), {}
    if not dtype.is_floating_point:
        raise ValueError(f"weights_dtype (={dtype}) must be a floating-point type, such as torch.bfloat16")
    types = {value.dtype for value in state.values() if value.is_floating_point()}
    if len(types) != 1:
        raise ValueError(f"weights_dtype (={dtype}) needs a network of one type; this one has {len(types)}")
    small = {
        name: value.to(dtype) if value.is_floating_point() and value.ndim > 1 else value
        for name, value in state.items()
    }
    return small, {_DTYPE: str(types.pop()).removeprefix("torch.")}


def network_dtype(state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> torch.dtype | None:
    """The type of the network that a file of weights is of: what it says, or the one of all its tensors, or None.

    Raises:
        ValueError: it names no floating-point type.
    """
    if _DTYPE in metadata:
        dtype = getattr(torch, metadata[_DTYPE], None)
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise ValueError(f"the weights say that their network is of type {metadata[_DTYPE]!r}, which is none")
        return dtype
    types = {value.dtype for value in state.values() if value.is_floating_point()}
    return types.pop() if len(types) == 1 else None


def read_weights(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file, on the CPU, and its metadata.

    Args:
        path: a `.safetensors` file, or one of torch.save (`.pt`, `.pth`, `.bin`, `.ckpt`). The latter is read with
            `weights_only=True`: no code in it is run. A state dict under "state_dict", "model_state_dict" or "model"
            is found.

    Raises:
        ValueError: no such file, a file that is damaged, of another format, or holds anything but tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{str(path)!r} is not there; name a file of weights ({', '.join(_SUFFIXES)})")
    if path.suffix in _TORCH_SUFFIXES:
        return _read_torch(path), {}
    if path.suffix != ".safetensors":
        raise ValueError(f"{str(path)!r}: {unknown_name('kind of weights', path.suffix, _SUFFIXES)}")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{str(path)!r} is damaged or no safetensors file: {error}") from error


def load_weights(model: nn.Module, weights: str | Path | Mapping[str, Tensor], source: str | None = None) -> None:
    """Load weights into `model`: all of them fit, or none is loaded.

    Args:
        model: any module.
        weights: a file (see `read_weights`), or a state dict.
        source: where the weights are from, for errors; by default the file.

    Raises:
        ValueError: keys are missing or unexpected, or shapes differ; their numbers and the first of them are listed.

    Example:
        >>> import torch, kanvolution as kv
        >>> conv = kv.KANConv2d(3, 8, 3)
        >>> kv.load_weights(conv, {"weight": torch.zeros(8, 3, 3, 3)})
        Traceback (most recent call last):
        ValueError: the weights do not fit the model. Missing: 2 (bias, basis.beta). Of another shape: 1 (weight, ...
    """
    if not isinstance(weights, Mapping):
        source = source or repr(str(weights))
        weights, _ = read_weights(weights)
    wanted = model.state_dict()
    missing = [name for name in wanted if name not in weights]
    unexpected = [name for name in weights if name not in wanted]
    misshapen = [
        f"{name}, {list(weights[name].shape)} in the file and {list(wanted[name].shape)} in the model"
        for name in wanted
        if name in weights and weights[name].shape != wanted[name].shape
    ]
    problems = {"Missing": missing, "Unexpected": unexpected, "Of another shape": misshapen}
    if any(problems.values()):
        words = " ".join(f"{what}: {_some(names)}." for what, names in problems.items() if names)
        raise ValueError(f"the weights{f' of {source}' if source else ''} do not fit the model. {words}")
    model.load_state_dict(weights)


def _some(names: Sequence[str]) -> str:
    """Their number and the first of them: 7 (a, b, c, d, e, and 2 more)."""
    separator = "; " if any(", " in name for name in names) else ", "  # a shape has commas of its own
    more = [f"and {len(names) - _SHOWN} more"] if len(names) > _SHOWN else []
    return f"{len(names)} ({separator.join([*names[:_SHOWN], *more])})"


def _read_torch(path: Path) -> dict[str, Tensor]:
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise ValueError(
            f"{str(path)!r} is damaged, or holds more than tensors, which would have to be unpickled and is not: save "
            f"its state dict alone. ({str(error).splitlines()[0]})"
        ) from error
    for key in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise ValueError(f"{str(path)!r} holds no state dict: a dictionary of names and tensors")
    return dict(content)
