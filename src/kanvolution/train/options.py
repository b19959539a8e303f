"""Options of a registered function: checked by name before it is called."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from kanvolution.registry import unknown_name


def check_options(
    kind: str,
    function: Callable[..., Any],
    given: Iterable[str],
    filled: Iterable[str] = (),
    also: Iterable[str] = (),
) -> None:
    """Raise ValueError, naming the nearest, unless `function` takes every option of `given`.

    Args:
        kind: what it is called in the message ("optimiser 'adamw'").
        function: the registered function.
        given: names of the options.
        filled: parameters that the caller fills in itself; they are no options.
        also: further options, which the caller takes out itself.
    """
    known = [name for name in inspect.signature(function).parameters if name not in filled] + list(also)
    for option in given:
        if option not in known:
            raise ValueError(unknown_name(f"option of {kind}", option, known or ["(none)"]))


def named_options(kind: str, choice: str | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """(name, options) of "adamw" or {"name": "adamw", "lr": 0.01}. Raises TypeError for anything else."""
    if isinstance(choice, str):
        return choice, {}
    if isinstance(choice, Mapping) and isinstance(choice.get("name"), str):
        return choice["name"], {key: value for key, value in choice.items() if key != "name"}
    raise TypeError(f"{kind} (={choice!r}) must be a name or a dictionary with 'name' and options")
