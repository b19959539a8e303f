"""From overrides on the command line to a checked config."""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kanvolution.configs.experiments import EXPERIMENTS, read_experiment
from kanvolution.configs.groups import JOBS, Job, schema
from kanvolution.configs.resume import resumed
from kanvolution.extras import require
from kanvolution.registry import unknown_name

_EXTRA = "train"


class ConfigError(ValueError):
    """An override that cannot be used; the message is one line and names the nearest that can."""


@dataclass(frozen=True)
class Composed:
    """A config: as plain dictionaries, as the YAML text that is saved, and the choice of each group."""

    values: dict[str, Any]
    text: str
    choices: dict[str, str]


def compose(
    overrides: Sequence[str] = (),
    *,
    allow_missing: bool = False,
    base: Mapping[str, Any] | None = None,
    groups: Sequence[str] | None = None,
    job: str = "train",
) -> Composed:
    """The config of a training run.

    Args:
        overrides: in Hydra's language: `group=choice` and `key=value` ("conv=gram", "conv.degree=3", "seed=1").
        allow_missing: leave keys that must be given as "???" instead of refusing.
        base: values of an earlier config. They stand for the defaults, but for groups that `overrides` choose anew.
        groups: of `base`, those to take; None takes all, and the keys beside the groups.
        job: whose config it is, a name of `JOBS`: "train" or "finetune".

    Raises:
        ConfigError: an unknown group, choice or key (the nearest is named), a value of the wrong type, or a key that
            must be given and is not.

    Example:
        >>> from kanvolution.configs import compose
        >>> compose(["conv=spline", "conv.grid_size=8"]).values["conv"]["grid_size"]
        8
        >>> compose(["conv.degre=2"])
        Traceback (most recent call last):
        ...
        kanvolution.configs.compose.ConfigError: unknown key 'conv.degre'. Did you mean 'conv.degree'? ...
    """
    errors, omegaconf = require("hydra.errors", _EXTRA), require("omegaconf", _EXTRA)
    parsed = _parse(overrides)
    with _hydra(job) as hydra:
        parsed = [hydra.with_file(override) for override in parsed]
        known = hydra.groups()
        chosen = [o for o in parsed if o.get_key_element() in known]
        hydra.chosen.update({o.get_key_element(): o.value() for o in chosen})
        earlier = _Earlier(hydra.job, base or {}, groups, [o.key_or_group for o in parsed])
        for group, choice in [*earlier.choices.items(), *((o.get_key_element(), o.value()) for o in chosen)]:
            _check_choice(hydra.job, group, choice, hydra.group_options(group))
        choices = [f"{group}={choice}" for group, choice in earlier.choices.items()]
        try:
            defaults = hydra.compose([*choices, *(o.input_line for o in chosen)])
            lines = [o.input_line if o in chosen else _check_key(hydra.job, o, defaults, known) for o in parsed]
            config = hydra.compose([*choices, *lines])
            earlier.fill(config)
            missing = [] if allow_missing else sorted(omegaconf.OmegaConf.missing_keys(config))
            if missing:
                raise ConfigError(f"{missing[0]} has no default; pass {missing[0]}=VALUE")
            values = omegaconf.OmegaConf.to_container(config, resolve=True)
            if values["resume"] is not None:
                values = resumed(values, [o.key_or_group for o in parsed])
                config = omegaconf.OmegaConf.create(values)
        except (errors.HydraException, omegaconf.errors.OmegaConfBaseException) as error:
            raise ConfigError(_one_line(error)) from error
        return Composed(values, omegaconf.OmegaConf.to_yaml(config, resolve=True), hydra.choices)


def _parse(overrides: Sequence[str]) -> list[Any]:
    parsed = [parse_override(text) for text in overrides]
    for override in parsed:
        if override.is_sweep_override():
            raise ConfigError(
                f"{override.input_line!r} holds several values; a run takes one (-m makes a run of each), and a list "
                "is written [1,2]"
            )
    return parsed


def parse_override(text: str) -> Any:
    """The override of one key as Hydra's parser gives it; ConfigError where it cannot be read."""
    parser = require("hydra.core.override_parser.overrides_parser", _EXTRA).OverridesParser.create()
    errors = require("hydra.errors", _EXTRA)
    if text.startswith("-"):
        raise ConfigError(f"unknown option {text!r}; overrides are written key=value (see --help)")
    try:
        override = parser.parse_override(text)
    except errors.HydraException as error:
        hint = "write key=value" if "=" not in text else "put quotes around a value with special characters"
        raise ConfigError(f"cannot read {text!r}; {hint}, e.g. conv.degree=3 or \"data.path='a b'\"") from error
    if override.is_delete() or override.is_add():
        raise ConfigError(f"{text!r}: keys are set with key=value; none is added or removed")
    return override


def quoted(text: str) -> str:
    """A string as a value in Hydra's language."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def group_choices(group: str) -> list[str]:
    """The choices of a group, from its registry and its files; none for what is no group."""
    with _hydra("train") as hydra:
        return sorted(hydra.group_options(group)) if group in hydra.groups() else []


class _Earlier:
    """What is taken from an earlier config: the groups not chosen anew, and the keys not given."""

    def __init__(self, job: Job, values: Mapping[str, Any], groups: Sequence[str] | None, given: list[str]) -> None:
        taken = values if groups is None else {name: values[name] for name in groups if name in values}
        self.given = given
        self.values = {name: value for name, value in taken.items() if name not in given}
        self.choices = {name: _entry(name, value) for name, value in self.values.items() if name in job.groups}

    def fill(self, config: Any) -> None:
        """Put the values into a config of the same choices."""
        omegaconf = require("omegaconf", _EXTRA).OmegaConf
        values = omegaconf.create(dict(self.values))
        for key in list(_keys(config)):
            value = omegaconf.select(values, key, default=_ABSENT)
            if value is not _ABSENT and not any(name == key or name.startswith(f"{key}.") for name in self.given):
                omegaconf.update(config, key, value, merge=False)


_ABSENT = object()


def _entry(group: str, values: Mapping[str, Any]) -> str:
    """The choice of a group that values come from: their own name, or the only choice there is."""
    return str(next((values[key] for key in ("name", "basis") if key in values), "default"))


def read_config(folder: str | Path) -> dict[str, Any]:
    """The config that a run was trained with.

    Raises:
        ConfigError: the folder has none, or it is damaged.
    """
    path = Path(folder) / "config.yaml"
    yaml = require("yaml", _EXTRA)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{str(folder)!r} is not the folder of a `kanvolution train` run: no {path.name}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{str(path)!r} is damaged: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{str(path)!r} is damaged: it holds no keys")
    return values


def _check_choice(job: Job, group: str, value: Any, options: list[str]) -> None:
    if value is None and group not in job.groups:
        return
    if not isinstance(value, str) or value not in options:
        raise ConfigError(unknown_name(f"choice of {group}", value, options))


def _check_key(job: Job, override: Any, base: Any, groups: list[str]) -> str:
    """The line that Hydra is given for a key. The key must be there; in a dictionary (norm_options) anything may be."""
    config = require("omegaconf", _EXTRA).OmegaConf
    key = override.key_or_group
    known = list(_keys(base))
    if any(_open(base, name) and (key == name or key.startswith(f"{name}.")) for name in known):
        return f"++{override.input_line.lstrip('+')}"
    if key in known:
        return override.input_line
    if key in job.groups or config.is_dict(config.select(base, key, throw_on_missing=False)):
        raise ConfigError(f"{key!r} holds keys of its own; set one of them, e.g. {next(_keys(base, key), key)}=...")
    # "epochs" is near to "trainer.epochs", "dgree" to "conv.degree"; a name in full is compared in full.
    names = {name.rpartition(".")[2]: name for name in reversed(known)}
    near = difflib.get_close_matches(key, [*known, *groups], n=1, cutoff=0.75)
    near = near or [names[n] for n in difflib.get_close_matches(key.rpartition(".")[2], names, n=1, cutoff=0.6)]
    hint = f" Did you mean {near[0]!r}?" if near else ""
    group = key.partition(".")[0]
    listed = [name for name in known if name.startswith(f"{group}.")] or [*groups, "seed", "output_dir"]
    raise ConfigError(f"unknown key {key!r}.{hint} Known: {', '.join(listed)}.")


def _keys(config: Any, prefix: str = "") -> Iterator[str]:
    """The dotted names of all keys that hold a value, "???" and open dictionaries included."""
    omegaconf = require("omegaconf", _EXTRA).OmegaConf
    node = omegaconf.select(config, prefix) if prefix else config
    for name in node:
        dotted = f"{prefix}.{name}" if prefix else str(name)
        child = node._get_node(name)
        if omegaconf.is_dict(child) and not _open(config, dotted):
            yield from _keys(config, dotted)
        else:
            yield dotted


def _open(config: Any, dotted: str) -> bool:
    """Whether a key is a dictionary[str, Any]."""
    omegaconf = require("omegaconf", _EXTRA).OmegaConf
    parent, _, name = dotted.rpartition(".")
    node = (omegaconf.select(config, parent) if parent else config)._get_node(name)
    return omegaconf.is_dict(node) and bool(parent) and omegaconf.get_type(node) is dict


def _one_line(error: BaseException) -> str:
    """The cause at the bottom, without Hydra's advice and full paths."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    full_key = next((line.partition(":")[2].strip() for line in lines if line.startswith("full_key:")), "")
    recipe = re.match(r"In 'experiment/(\w+)': ConfigKeyError", lines[0])
    if recipe and full_key:
        group = full_key.partition(".")[0]
        return (
            f"experiment={recipe[1]} sets {full_key}, which the chosen {group} does not have; leave out {group}=..., "
            "or leave out the experiment and give its other keys"
        )
    return f"{full_key}: {lines[0]}" if full_key else " ".join(lines)


class _Composer:
    """Hydra with our search path and the registries' choices, for one job."""

    def __init__(self, name: str, chosen: dict[str, Any]) -> None:
        self.name, self.job = name, JOBS[name]
        self.chosen = chosen
        self._loader = require("hydra.core.global_hydra", _EXTRA).GlobalHydra.instance().config_loader()
        self.choices: dict[str, str] = {}

    def compose(self, overrides: list[str]) -> Any:
        config = require("hydra", _EXTRA).compose(self.name, overrides, return_hydra_config=True)
        choices = config.hydra.runtime.choices
        omegaconf = require("omegaconf", _EXTRA)
        self.choices = {k: str(v) for k, v in choices.items() if not k.startswith("hydra/")}
        # The config itself is without Hydra's own settings.
        omegaconf.OmegaConf.set_readonly(config, False)
        with omegaconf.open_dict(config):
            config.pop("hydra")
        return config

    def with_file(self, override: Any) -> Any:
        """The override; where it names a file as experiment, that file is made a choice of this config."""
        if override.key_or_group != "experiment" or not str(override.value()).endswith((".yaml", ".yml")):
            return override
        file = Path(str(override.value()))
        content, name, taken = read_experiment(file), re.sub(r"\W", "_", file.stem), self.group_options("experiment")
        while name in taken:
            name += "_file"
        store = require("hydra.core.config_store", _EXTRA).ConfigStore.instance()
        store.repo["experiment"][f"{name}.yaml"] = _experiment_node(name, lambda: content, self.chosen)
        return parse_override(f"experiment={name}")

    def group_options(self, group: str) -> list[str]:
        return self._loader.get_group_options(group)

    def groups(self) -> list[str]:
        own = {*self.job.groups, "experiment"} if self.name == "train" else self.job.groups
        return [name for name in self._loader.list_groups("") if name in own]


class _Nodes(dict):
    """Hydra's tree of nodes by name. A node is made when it is asked for; the tree is not copied for each config."""

    def __getitem__(self, name: str) -> Any:
        value = super().__getitem__(name)
        if callable(value):
            value = self[name] = value()
        return value

    def __deepcopy__(self, memo: Any) -> _Nodes:
        return self


def _schema_node(job: Job, group: str, choice: str) -> Callable[[], Any]:
    return lambda: _node(group, choice, schema(f"{group}_{choice}", job.groups[group].keys(choice)))


def _experiment_node(name: str, read: Callable[[], dict[str, Any]], chosen: Mapping[str, Any]) -> Callable[[], Any]:
    """The experiment, without its keys for other choices than those `chosen` beside it (conv=spline has no degree)."""

    def make() -> Any:
        content = read()
        groups = JOBS["train"].groups
        for group, choice in chosen.items():
            if group in content and choice in groups[group].names():
                known = {key.name for key in groups[group].keys(choice)}
                content[group] = {key: value for key, value in content[group].items() if key in known}
        return _node("experiment", name, content, package="_global_")

    return make


def _node(group: str, name: str, content: Any, package: str | None = None) -> Any:
    config = require("omegaconf", _EXTRA).OmegaConf.structured(content)
    make = require("hydra.core.config_store", _EXTRA).ConfigNode
    return make(name=f"{name}.yaml", node=config, group=group, package=package, provider=None)


@contextlib.contextmanager
def _hydra(name: str) -> Iterator[_Composer]:
    job = JOBS[name]
    hydra = require("hydra", _EXTRA)
    store = require("hydra.core.config_store", _EXTRA).ConfigStore.instance()
    state = require("hydra.core.global_hydra", _EXTRA).GlobalHydra
    # Hydra's store and its instance are global: a program that uses Hydra itself must find both as it left them.
    before, instance, chosen = store.repo, state.instance().hydra, {}
    store.repo = _Nodes({key: value for key, value in before.items() if key == "hydra" or key.startswith("_dummy")})
    state.instance().clear()
    try:
        store.store(name="root", node=job.root)
        for group, entry in job.groups.items():
            store.repo[group] = _Nodes({f"{choice}.yaml": _schema_node(job, group, choice) for choice in entry.names()})
        store.repo["experiment"] = _Nodes(
            {f"{name}.yaml": _experiment_node(name, EXPERIMENTS[name].node, chosen) for name in EXPERIMENTS}
        )
        with hydra.initialize_config_module("kanvolution.configs", version_base="1.3"):
            yield _Composer(name, chosen)
    finally:
        store.repo = before
        state.instance().hydra = instance
