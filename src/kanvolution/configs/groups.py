"""The groups of a config. The choices of a group are the entries of a registry, its keys are their options.

So whatever a user registers - a basis, a model, a data set, an optimiser - is a choice on the command line, with the
types and defaults of its signature, and there is no list to keep up.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kanvolution.bases import BASES
from kanvolution.bases.basis import option_names
from kanvolution.data import DATA
from kanvolution.deploy.adapters import ADAPTERS
from kanvolution.layers import ConvSpec
from kanvolution.models import MODELS
from kanvolution.train import OPTIMS, SCHEDULES, TASKS, TRACKERS, TrainerConfig

REQUIRED = "???"
"""OmegaConf's mark of a key that has no default and must be given."""


@dataclass(frozen=True)
class Key:
    """A key of a config: its name, a type that OmegaConf can check, its default (or `REQUIRED`), and a line of help."""

    name: str
    type: Any
    default: Any
    help: str = ""


@dataclass(frozen=True)
class Group:
    """A group of the config: what it is, its choices, and the keys of each choice."""

    help: str
    names: Callable[[], Iterator[str]]
    keys: Callable[[str], list[Key]]


def function_keys(function: Callable[..., Any], filled: tuple[str, ...] = ()) -> list[Key]:
    """The keys of a function or class: its parameters but those `filled` in by the caller."""
    try:
        signature = inspect.signature(function, eval_str=True)
    except NameError:  # an annotation that exists for type checkers only
        signature = inspect.signature(function)
    keys = []
    for parameter in signature.parameters.values():
        if parameter.name in filled or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        default = REQUIRED if parameter.default is parameter.empty else parameter.default
        keys.append(
            Key(parameter.name, config_type(parameter.annotation), default, option_help(function, parameter.name))
        )
    return keys


def config_type(annotation: Any) -> Any:
    """The type that OmegaConf checks for an annotation; `Any` where it knows none."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in (int, float, bool, str) or dataclasses.is_dataclass(annotation):
        return annotation
    if origin in (typing.Union, types.UnionType):
        members = [config_type(a) for a in arguments if a is not type(None)]
        if members == [dict[str, Any]]:
            return members[0]
        keys_of_its_own = [m for m in members if dataclasses.is_dataclass(m)]
        if keys_of_its_own:  # or a dictionary of the same keys
            return keys_of_its_own[0]
        if Any in members or (len(members) > 1 and not all(m in (int, float, bool, str) for m in members)):
            return Any
        inner = typing.Union[tuple(members)]  # noqa: UP007 - built at run time
        return typing.Optional[inner] if type(None) in arguments else inner  # noqa: UP045
    if origin in (list, tuple, collections.abc.Sequence):
        members = {config_type(a) for a in arguments if a is not ...}
        return list[members.pop()] if len(members) == 1 else list[Any]
    if origin in (dict, collections.abc.Mapping):
        return dict[str, Any]
    return Any


def option_help(function: Callable[..., Any], name: str) -> str:
    """The line on `name` in the Args section of a docstring, or ""."""
    while hasattr(function, "func"):
        function = function.func  # pyright: ignore[reportFunctionMemberAccess] - functools.partial
    for described in getattr(function, "__mro__", (function,)):  # an option may be that of a class below
        found = re.search(
            rf"^ +(?:\w+, )*{re.escape(name)}(?:, \w+)*: (.+)$", described.__doc__ or "", flags=re.MULTILINE
        )
        if found:
            return found.group(1).rstrip(".")
    return ""


def _named(name: str, keys: list[Key]) -> list[Key]:
    return [Key("name", str, name), *keys]


def _conv_keys(name: str) -> list[Key]:
    cls = BASES[name]
    spec = [key for key in function_keys(ConvSpec) if key.name not in ("basis", "ndim", "options")]
    wanted = option_names(cls)
    options = [key for key in function_keys(cls) if key.name in wanted]
    return [Key("basis", str, name), *options, *spec]


def _data_keys(name: str) -> list[Key]:
    source = DATA[name]
    augment = Key("augment", str, source.augment, "augmentation of the training images")
    return _named(name, [*function_keys(source.load), augment])


def _optim_keys(name: str) -> list[Key]:
    no_decay = Key("no_decay", list[str], [], "patterns of names of further parameters without decay, e.g. [head.*]")
    return _named(name, [*function_keys(OPTIMS[name], ("params",)), no_decay])


def dataclass_keys(cls: Any) -> list[Key]:
    """The keys of a dataclass whose fields say in their metadata what they are for."""
    types_by_name = typing.get_type_hints(cls)
    return [Key(f.name, types_by_name[f.name], f.default, f.metadata["help"]) for f in dataclasses.fields(cls)]


GROUPS: dict[str, Group] = {
    "model": Group(
        "the network",
        lambda: iter(MODELS),
        lambda n: _named(n, function_keys(MODELS[n], ("conv", "num_classes", "in_chans"))),
    ),
    "conv": Group("the basis of its convolutions, with norm, activation, dropout", lambda: iter(BASES), _conv_keys),
    "data": Group("the images", lambda: iter(DATA), _data_keys),
    "task": Group(
        "the loss and the metrics",
        lambda: iter(TASKS),
        lambda n: _named(n, function_keys(TASKS[n], ("info",))),
    ),
    "optim": Group("the optimiser", lambda: iter(OPTIMS), _optim_keys),
    "schedule": Group(
        "the learning rate over the run",
        lambda: iter(SCHEDULES),
        lambda n: _named(n, function_keys(SCHEDULES[n], ("steps", "epochs"))),
    ),
    "trainer": Group("the loop", lambda: iter(["default"]), lambda n: dataclass_keys(TrainerConfig)),
    "tracker": Group(
        "where the metrics are shown, beside metrics.jsonl",
        lambda: iter(TRACKERS),
        lambda n: _named(n, function_keys(TRACKERS[n])),
    ),
}


@dataclass(frozen=True)
class Job:
    """What the config of a command is made of. `NAME.yaml` has the choices by default.

    Args:
        groups: by name.
        seed: of what, a line of help.
        folder: name of the folder that is made by default, for the line of help.
        keys: further keys, name to a line of help; strings that may be null.
    """

    groups: dict[str, Group]
    seed: str
    folder: str
    keys: dict[str, str] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def root(self) -> type:
        """The keys beside the groups, and a place for each group, as a dataclass."""

        def key(help: str, default: Any = None) -> Any:
            return dataclasses.field(default=default, metadata={"help": help})

        optional = str | None
        return dataclasses.make_dataclass(
            "Root",
            [
                *((name, optional, key(help)) for name, help in self.keys.items()),
                *((name, Any, dataclasses.field(default_factory=dict)) for name in self.groups),
                ("seed", int, key(self.seed, 0)),
                ("output_dir", optional, key(f"a new or empty folder; null: runs/{self.folder}")),
                ("resume", optional, key("folder of a run that was stopped: go on with it, with its own config")),
            ],
        )


JOBS: dict[str, Job] = {
    "train": Job(GROUPS, "of weights, data order, augmentation, dropout", "TIME-MODEL-CONV-DATA"),
    "finetune": Job(
        {
            "adapter": Group(
                "what is trained of the network",
                lambda: iter(ADAPTERS),
                lambda n: _named(n, function_keys(ADAPTERS[n])),
            ),
            **{name: group for name, group in GROUPS.items() if name not in ("model", "conv")},
        },
        "of new weights, data order, augmentation, dropout",
        "TIME-ADAPTER-MODEL-DATA",
        {"checkpoint": "the network: a run, a saved model, a repository, or published weights"},
    ),
}


def schema(name: str, keys: list[Key]) -> type:
    """A dataclass of the keys, for OmegaConf to check types by."""
    entries: list[tuple[str, Any, Any]] = []
    for key in keys:
        if dataclasses.is_dataclass(key.type):
            inner = schema(key.name, dataclass_keys(key.type))
            entries.append((key.name, inner, dataclasses.field(default_factory=inner)))
            continue
        default = list(key.default) if isinstance(key.default, tuple) else key.default
        if default is None and key.type == dict[str, Any]:
            default = {}  # so that conv.norm_options.eps=1e-3 finds a dictionary
        if isinstance(default, list | dict):
            value = dataclasses.field(default_factory=lambda default=default: default.copy())
        elif isinstance(default, str | int | float | bool | Path | None):
            value = dataclasses.field(default=default)
        else:  # an object: the function's own default stands in for it
            continue
        entries.append((key.name, _nullable(key.type, default), value))
    return dataclasses.make_dataclass(name, entries)


def _nullable(kind: Any, default: Any) -> Any:
    if kind is not Any and default is None:
        return typing.Optional[kind]  # noqa: UP045 - built at run time
    return kind
