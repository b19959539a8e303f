"""The text of `kanvolution train --help`, made from the registries."""

from __future__ import annotations

import dataclasses
import re
import textwrap
from collections.abc import Sequence
from importlib import resources
from typing import Any

from kanvolution.configs.compose import compose
from kanvolution.configs.experiments import EXPERIMENTS
from kanvolution.configs.groups import JOBS, Group, Job, Key, dataclass_keys

_HEADS = {
    "train": """\
usage: kanvolution train [GROUP=CHOICE ...] [KEY=VALUE ...] [--import FILE ...]

Train a network. Without arguments: a 4-layer network on scikit-learn's handwritten digits, about a minute on 2 cores.

examples:
  kanvolution train conv=spline conv.grid_size=8 seed=1 output_dir=runs/a
  kanvolution train model=simple8 data=cifar10 data.path=DIR data.download=true trainer.epochs=50
  kanvolution train data=image_folder data.path=DIR data.image_size=64 trainer.num_workers=4
  kanvolution train data=npz data.path=FILE.npz model.channels=[16,32,64,128] optim.lr=1e-3
  kanvolution train --import my_model.py model=mine data=image_folder data.path=DIR
  kanvolution train experiment=cifar10_simple8_gram data.download=true      with the settings of a published result
  kanvolution train -m conv=gram,spline seed=0,1,2 output_dir=runs/bases    a run for each, and a table
  kanvolution train conv=jacobi --help          the keys below, for these choices

options:
  --import FILE   a Python file of yours that registers models, bases, data sets, ...; may be given more than once
  -m, --multirun  a run for each combination of several values: KEY=A,B KEY=range(0,3) GROUP=glob(*)
  --debug         show the traceback of an error
  -h, --help      this text

A key is set with KEY=VALUE; lists are written [1,2], nothing is null, a value with spaces goes in quotes.
""",
    "finetune": """\
usage: kanvolution finetune CHECKPOINT [GROUP=CHOICE ...] [KEY=VALUE ...] [--import FILE ...]

Fit a trained network to other data by training few numbers beside it. CHECKPOINT is the folder of a run or of a saved
model, a repository of the Hugging Face Hub, or a name of published weights. Data and task are those of the run, unless
others are named; the learning rate of adamw is that which the adapter proposes (below: that of lora).

examples:
  kanvolution finetune runs/a data=image_folder data.path=DIR
  kanvolution finetune runs/a data=npz data.path=FILE.npz adapter=lora adapter.rank=4 output_dir=runs/b
  kanvolution finetune runs/a data=npz data.path=FILE.npz adapter=functions adapter.functions=[0,-1]
  kanvolution finetune runs/a data=npz data.path=FILE.npz adapter=new_functions trainer.epochs=10
  kanvolution finetune vgg11v4_gram.imagenet1k data=image_folder data.path=DIR adapter=head
  kanvolution finetune resume=runs/b

options:
  --import FILE   a Python file of yours that registers adapters, data sets, ...; may be given more than once
  --debug         show the traceback of an error
  -h, --help      this text

A key is set with KEY=VALUE; lists are written [1,2], nothing is null, a value with spaces goes in quotes.
""",
}


def manual(overrides: Sequence[str] = (), name: str = "train") -> str:
    """The head of the help of a command, its groups, their choices, and all keys with the values under `overrides`."""
    composed, job = compose(overrides, allow_missing=True, job=name), JOBS[name]
    lines = [_HEADS[name], "groups (the choice in brackets):"]
    for key, group in job.groups.items():
        lines.append(f"  {key:<11}{group.help} [{composed.choices[key]}]")
        lines.append(_wrapped(", ".join(_choices(key, group))))
    if name == "train":
        lines.append(f"  {'experiment':<11}settings of several groups at once [none]")
        lines.append(_wrapped(_experiments()))
    lines.append("\nkeys:")
    lines += _key_lines(job, composed.values)
    return "\n".join(lines)


def _experiments() -> str:
    """The experiments by name; the baselines, DATA_MODEL_CONV_VARIANT, are written as one pattern."""
    found = {
        name: re.fullmatch(r"(\w+?)_(simple\d+)(?:_(\w+?))?(?:_(affine|instance|l1))?", name) for name in EXPERIMENTS
    }
    data, model, conv, variant = (
        "{" + ",".join(sorted({match[i] for match in found.values() if match and match[i]})) + "}" for i in range(1, 5)
    )
    others = [name for name in choices_of("experiment") if not found.get(name)]
    return ", ".join([*others, f"{data}_{model}[_{conv}[_{variant}]]"]).replace(",", ", ").replace(",  ", ", ")


def _key_lines(job: Job, values: dict[str, Any]) -> list[str]:
    help = {f.name: f.metadata.get("help", "") for f in dataclasses.fields(job.root)}
    rows = []
    for name, value in values.items():
        if name not in job.groups:
            rows.append((name, _shown(value), help[name]))
            continue
        # A preset has the keys of the entry that it builds on, which the entry's own name tells.
        entry = next(iter(value.values())) if name != "trainer" else "default"
        texts = _helps(job.groups[name].keys(entry))
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


def choices_of(group: str) -> list[str]:
    """The choices of a group of training, "experiment" among them: of its registry and of its folder of files."""
    if group == "experiment":
        return sorted({*EXPERIMENTS, *_files(group)})
    return _choices(group, JOBS["train"].groups[group])


def _choices(name: str, group: Group) -> list[str]:
    return sorted({*group.names(), *_files(name)})


def _files(group: str) -> list[str]:
    folder = resources.files("kanvolution.configs") / group
    if not folder.is_dir():
        return []
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 118, initial_indent=" " * 13, subsequent_indent=" " * 13)
