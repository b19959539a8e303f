"""The text of `kanvolution train --help`, made from the registries."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Sequence
from importlib import resources
from typing import Any

from kanvolution.configs.compose import compose
from kanvolution.configs.groups import GROUPS, Key, Root, dataclass_keys

_HEAD = """\
usage: kanvolution train [GROUP=CHOICE ...] [KEY=VALUE ...] [--import FILE ...]

Train a network. Without arguments: a 4-layer network on scikit-learn's handwritten digits, about a minute on 2 cores.

examples:
  kanvolution train conv=spline conv.grid_size=8 seed=1 output_dir=runs/a
  kanvolution train model=simple8 data=cifar10 data.path=DIR data.download=true trainer.epochs=50
  kanvolution train data=image_folder data.path=DIR data.image_size=64 trainer.num_workers=4
  kanvolution train data=npz data.path=FILE.npz model.channels=[16,32,64,128] optim.lr=1e-3
  kanvolution train --import my_model.py model=mine
  kanvolution train conv=jacobi --help          the keys below, for these choices

options:
  --import FILE   a Python file of yours that registers models, bases, data sets, ...; may be given more than once
  --debug         show the traceback of an error
  -h, --help      this text

A key is set with KEY=VALUE; lists are written [1,2], nothing is null, a value with spaces goes in quotes.
"""


def manual(overrides: Sequence[str] = ()) -> str:
    """Groups, their choices, and all keys with the values they have under `overrides`."""
    composed = compose(overrides, allow_missing=True)
    lines = [_HEAD, "groups (the choice in brackets):"]
    names = {name: sorted({*group.names(), *_files(name)}) for name, group in GROUPS.items()}
    for name, group in GROUPS.items():
        lines.append(f"  {name:<11}{group.help} [{composed.choices[name]}]")
        lines.append(_wrapped(", ".join(names[name])))
    lines.append(f"  {'experiment':<11}settings of several groups at once [none]")
    lines.append(_wrapped(", ".join(_files("experiment"))))
    lines.append("\nkeys:")
    lines += _key_lines(composed.values, {f.name: f.metadata.get("help", "") for f in dataclasses.fields(Root)})
    return "\n".join(lines)


def _key_lines(values: dict[str, Any], help: dict[str, str]) -> list[str]:
    rows = []
    for name, value in values.items():
        if name not in GROUPS:
            rows.append((name, _shown(value), help[name]))
            continue
        # A preset has the keys of the entry that it builds on, which the entry's own name tells.
        entry = next(iter(value.values())) if name != "trainer" else "default"
        texts = _helps(GROUPS[name].keys(entry))
        for key, v in value.items():
            inner = {f"{key}.{k}": w for k, w in v.items()} if isinstance(v, dict) else {}
            shown = inner if inner.keys() & texts.keys() else {key: v}
            rows += [(f"{name}.{k}", _shown(w), texts.get(k, "")) for k, w in shown.items()]
    width = max(len(f"{key}={value}") for key, value, _ in rows)
    return [f"  {f'{key}={value}':<{width}}  {text}".rstrip() for key, value, text in rows]


def _helps(keys: list[Key]) -> dict[str, str]:
    """The help of each key by name, with those of keys inside of keys ("penalties.weight_l1")."""
    helps = {key.name: key.help for key in keys}
    for key in keys:
        if dataclasses.is_dataclass(key.type):
            helps |= {f"{key.name}.{name}": text for name, text in _helps(dataclass_keys(key.type)).items()}
    return helps


def _shown(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return "[" + ",".join(map(_shown, value)) + "]"
    return "VALUE (must be given)" if value == "???" else str(value)


def _files(group: str) -> list[str]:
    folder = resources.files("kanvolution.configs") / group
    if not folder.is_dir():
        return []
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 118, initial_indent=" " * 13, subsequent_indent=" " * 13)
