"""Overrides with several values for a key, as Hydra writes them: the runs that they stand for."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from kanvolution.configs.compose import ConfigError, group_choices, parse_override
from kanvolution.extras import require


@dataclass(frozen=True)
class Variant:
    """One run of a sweep: its overrides, and those among them that differ between the runs, by key."""

    overrides: tuple[str, ...]
    varied: dict[str, str]

    @property
    def name(self) -> str:
        """The overrides that differ, "conv=gram,seed=0"."""
        return ",".join(f"{key}={value}" for key, value in self.varied.items())


def expand(overrides: Sequence[str]) -> list[Variant]:
    """All combinations of the values that `overrides` name; the last key changes fastest.

    Args:
        overrides: in Hydra's language: lists (`conv=gram,spline`), `choice(1,2)`, `range(0,6,2)`, and for a group
            `glob(*)` or `glob(simple*)`.

    Raises:
        ConfigError: an override that cannot be read, or an interval, which names no values.

    Example:
        >>> from kanvolution.configs.sweep import expand
        >>> [variant.name for variant in expand(["conv=gram,spline", "trainer.epochs=1", "seed=range(0,2)"])]
        ['conv=gram,seed=0', 'conv=gram,seed=1', 'conv=spline,seed=0', 'conv=spline,seed=1']
    """
    glob = require("hydra.core.override_parser.types", "train").Glob
    keys, values, varied = [], [], []
    for text in overrides:
        override = parse_override(text)
        key = override.input_line.partition("=")[0]
        keys.append(key)
        varied.append(override.is_sweep_override())
        if not override.is_sweep_override():
            values.append([text.partition("=")[2]])
        elif isinstance(override.value(), glob):
            values.append(override.value().filter(group_choices(key)))
        elif override.is_discrete_sweep():
            values.append(list(override.sweep_string_iterator()))
        else:
            raise ConfigError(f"{text!r} names no values; write them out, or use range(FIRST,END,STEP)")
        if not values[-1]:
            raise ConfigError(f"{text!r} stands for no value; see kanvolution train --help for the choices")
    variants = []
    for chosen in itertools.product(*values):
        pairs = list(zip(keys, chosen, strict=True))
        different = {key: value for (key, value), vary in zip(pairs, varied, strict=True) if vary}
        variants.append(Variant(tuple(f"{key}={value}" for key, value in pairs), different))
    return variants
