"""What files of deployment say of themselves, and the network that one is loaded as."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

KEY = "kanvolution"
"""Under this name a file holds its description, as JSON."""
_VERSION = 1


@dataclass(frozen=True)
class Description:
    """What a file says of itself.

    Args:
        format: name of the format, see `list_formats`.
        input_shape: [N, C, *S] of the example; N may be any number.
        dynamic_size: whether the sizes in space may be others, too.
        output_shape: of the example's output.
        data: what the network was trained on (`DataInfo.to_dict()`): names of classes, mean and std of channels, ...
        model: `model.config`, None for a network made by hand.
        version: of this record.
    """

    format: str
    input_shape: tuple[int, ...]
    dynamic_size: bool
    output_shape: tuple[int, ...]
    data: Mapping[str, Any] | None
    model: Mapping[str, Any] | None
    version: int = _VERSION

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | None, path: Path) -> Description:
        """The record in a file. Raises ValueError for a file without one, and for one of a later version."""
        if text is None:
            raise ValueError(f"{str(path)!r} was not written by kanvolution: it has no description named {KEY!r}")
        values = json.loads(text)
        if values.get("version") != _VERSION:
            raise ValueError(
                f"{str(path)!r} has a description of version {values.get('version')}, this package reads version "
                f"{_VERSION}; export the network again, or update the package"
            )
        return cls(
            **{**values, "input_shape": tuple(values["input_shape"]), "output_shape": tuple(values["output_shape"])}
        )


class Loaded(nn.Module):
    """A network from a file: images [N, C, *S] to outputs, on the CPU and without gradients.

    Attributes:
        description: the file's `Description`.
    """

    def __init__(self, run: Callable[[Tensor], Tensor], description: Description) -> None:
        super().__init__()
        self._run = run
        self.description = description

    def forward(self, x: Tensor) -> Tensor:
        """The outputs. Raises ValueError for inputs of another shape than the file takes."""
        shape = self.description.input_shape
        fixed = 2 if self.description.dynamic_size else len(shape)
        if x.ndim != len(shape) or tuple(x.shape[1:fixed]) != shape[1:fixed]:
            taken = ["N", *(str(size) for size in shape[1:fixed]), *"*" * (len(shape) - fixed)]
            raise ValueError(
                f"input of shape {tuple(x.shape)}: this file takes [{', '.join(taken)}]; bring inputs to it, or "
                "write the file again for such inputs"
            )
        with torch.no_grad():
            return self._run(x)
