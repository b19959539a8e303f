"""A search space: config keys, each with a range or choices, as a YAML file.

optim.lr: {low: 0.0003, high: 0.02, log: true}     a real number, evenly spread in its logarithm
conv.degree: {low: 2, high: 5}                     an integer, since both ends are
trainer.batch_size: {choices: [32, 64, 128]}       one of these
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from kanvolution.extras import require
from kanvolution.files import yaml_file
from kanvolution.registry import unknown_name

_SHIPPED = Path(__file__).parent / "spaces"
_OPTIONS = ("low", "high", "log", "choices")
_Choice = bool | int | float | str | None


@dataclass(frozen=True)
class Dimension:
    """The values of one key.

    Args:
        low, high: ends of a range, both included; integers if both are. None with `choices`.
        log: whether a range is spread evenly in the logarithm.
        choices: the values, None for a range.
    """

    low: int | float | None = None
    high: int | float | None = None
    log: bool = False
    choices: tuple[_Choice, ...] | None = None

    def contains(self, value: object) -> bool:
        """Whether `value` is one of those searched."""
        if self.choices is not None:
            return value in self.choices
        if self.low is None or self.high is None or isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return self.low <= value <= self.high

    def distribution(self) -> Any:
        """The values as Optuna has them."""
        optuna = require("optuna.distributions", "tune")
        if self.choices is not None:
            return optuna.CategoricalDistribution(self.choices)
        if isinstance(self.low, int) and isinstance(self.high, int):
            return optuna.IntDistribution(self.low, self.high, log=self.log)
        return optuna.FloatDistribution(self.low, self.high, log=self.log)


@dataclass(frozen=True)
class Space:
    """Config keys and what is searched for each."""

    name: str
    dimensions: Mapping[str, Dimension]

    def extremes(self) -> list[dict[str, Any]]:
        """Settings in which every choice and both ends of every range occur: what has to be valid."""
        rows = [list(d.choices) if d.choices is not None else [d.low, d.high] for d in self.dimensions.values()]
        longest = max(map(len, rows))
        return [
            {key: row[i % len(row)] for key, row in zip(self.dimensions, rows, strict=True)} for i in range(longest)
        ]


def list_spaces() -> list[str]:
    """Names of the spaces that the package has."""
    return sorted(path.stem for path in _SHIPPED.glob("*.yaml"))


def read_space(source: str | Path) -> Space:
    """A space by its name, or from a YAML file.

    Raises:
        ValueError: no such space or file, a file that is empty or damaged, or a key whose range or choices are wrong.

    Example:
        >>> from kanvolution.tune import read_space
        >>> read_space("default").dimensions["optim.lr"].log
        True
    """
    yaml = require("yaml", "train")
    path = yaml_file("space", source, _SHIPPED)
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"{str(path)!r} cannot be read: {' '.join(str(error).split())}") from error
    if not entries:
        raise ValueError(f"the space {str(source)!r} is empty; give keys, e.g. optim.lr: {{low: 0.001, high: 0.01}}")
    if not isinstance(entries, dict):
        raise ValueError(f"{str(path)!r} must hold keys with ranges, e.g. optim.lr: {{low: 0.001, high: 0.01}}")
    return Space(path.stem, {str(key): _dimension(str(key), value) for key, value in entries.items()})


def _dimension(key: str, options: Any) -> Dimension:
    if isinstance(options, list):
        options = {"choices": options}
    if not isinstance(options, dict):
        raise ValueError(f"{key}: {options!r} is neither a range, {{low: 1, high: 3}}, nor {{choices: [1, 2]}}")
    for option in options:
        if option not in _OPTIONS:
            raise ValueError(f"{key}: {unknown_name('option', option, _OPTIONS)}")
    if "choices" in options:
        choices = options["choices"]
        if len(options) > 1 or not isinstance(choices, list) or not choices:
            raise ValueError(f"{key}: choices (={choices!r}) must be a list of values, without a range beside it")
        return Dimension(choices=tuple(choices))
    low, high, log = options.get("low"), options.get("high"), options.get("log", False)
    if not _is_number(low) or not _is_number(high) or not low < high:
        raise ValueError(f"{key}: low (={low}) and high (={high}) must be numbers with low < high")
    if not isinstance(log, bool) or (log and low <= 0):
        raise ValueError(f"{key}: log (={log}) must be true or false, and needs low (={low}) > 0")
    return Dimension(low, high, log)


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
