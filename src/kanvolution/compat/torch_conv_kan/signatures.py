"""Functions by torch-conv-kan's names, with its signatures."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from kanvolution.registry import unknown_name

REQUIRED = inspect.Parameter.empty
"""The default of a parameter that has none."""


def named(
    name: str, parameters: Mapping[str, Any], make: Callable[..., Any], result: type, text: str
) -> Callable[..., Any]:
    """`make` by the peer's name and signature.

    Args:
        name: of the peer's function or class.
        parameters: the peer's, in its order, with their defaults (`REQUIRED` for none).
        make: takes those that are given, by keyword.
        result: what it returns.
        text: the documentation.
    """
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    signature = inspect.Signature(
        [inspect.Parameter(key, kind, default=default) for key, default in parameters.items()],
        return_annotation=result,
    )

    def factory(*args: Any, **kwargs: Any) -> Any:
        for key in kwargs:
            if key not in parameters:
                raise TypeError(unknown_name(f"argument of {name}", key, parameters))
        return make(**signature.bind(*args, **kwargs).arguments)

    factory.__signature__ = signature  # type: ignore[attr-defined]
    factory.__name__ = factory.__qualname__ = name
    factory.__module__ = "kanvolution.compat.torch_conv_kan"
    factory.__doc__ = text
    return factory
