"""A study: a run for each combination of the points of some axes, as a YAML file.

help: Dropout by kind and rate, with two bases.
settings: [trainer.epochs=20]                         overrides of all runs
axes:
  kind:                                               an axis: its points, each with one override or several;
    dropout: conv.dropout=$rate                       $AXIS stands for the point on another axis
    noise: [conv.dropout=$rate, conv.dropout_kind=noise]
  rate: {0.1: [], 0.2: []}
  conv.degree: [2, 3]                                 ... or a key of the configuration, and its values
  conv: glob(*)                                       ... as `kanvolution train -m` takes them
  seed: 0,1,2                                         results are means and deviations over the seeds
"""

from __future__ import annotations

import dataclasses
import difflib
import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Any

from kanvolution.configs import expand
from kanvolution.configs.compose import group_choices
from kanvolution.extras import require
from kanvolution.files import yaml_file
from kanvolution.registry import unknown_name

_SHIPPED = Path(__file__).parent / "studies"
SEED = "seed"
BUDGET = "budget"
"""Name of the column that tells what is held equal."""
HOLDS = ("none", "parameters", "time")
"""What can be held equal: nothing, the number of parameters, or the time of a training step."""

Overrides = tuple[str, ...]


@dataclass(frozen=True)
class Budget:
    """What every point has as much of as a point of reference has.

    Args:
        hold: names of `HOLDS`; with several, all runs are made under each.
        reference: by axis the point of reference. On the other axes it stands where the point itself does.
        key: the key that is fitted, a width.
    """

    hold: tuple[str, ...]
    reference: Mapping[str, Overrides]
    key: str = "model.width_scale"


@dataclass(frozen=True)
class Picture:
    """How results are drawn; see `kanvolution.visualize.comparison_figure`."""

    x: str | None = None
    colour: str | None = None
    panel: str | None = None
    label: str | None = None


@dataclass(frozen=True)
class Point:
    """One setting: by axis where it stands, its overrides, and those of the point that its budget is taken from."""

    setting: dict[str, str]
    overrides: Overrides
    reference: Overrides = ()

    @property
    def name(self) -> str:
        """Axes and points, "kind=noise,conv.degree=2"."""
        return ",".join(f"{axis}={label}" for axis, label in self.setting.items())


@dataclass(frozen=True)
class Study:
    """What is run, how it is held comparable, and how it is shown.

    Args:
        name: of the file.
        help: a line on what it is.
        axes: by name the points, each with its overrides.
        settings: overrides of all runs.
        points: further settings by name beside the combinations, each with its overrides; the seeds are theirs too.
        budget: what is held equal.
        metric: of validation, in the last epoch.
        picture: how it is drawn.
        experiments: patterns of names, such as "{data}_{model}"; the first experiment that there is gives the settings.
        evaluation: whether a pass over the validation images is timed.
        best_first: whether the table has the best rows first, within each point of the first axis.
    """

    name: str
    help: str
    axes: Mapping[str, Mapping[str, Overrides]]
    settings: Overrides = ()
    points: Mapping[str, Overrides] = field(default_factory=dict)
    budget: Budget | None = None
    metric: str = "top1"
    picture: Picture = field(default_factory=Picture)
    experiments: tuple[str, ...] = ()
    evaluation: bool = False
    best_first: bool = False

    @property
    def main_axis(self) -> str:
        """The first axis that results are not summed up over; further points have their names on it."""
        return next(axis for axis in self.axes if axis != SEED)

    def combinations(self) -> list[Point]:
        """All points: the combinations of the axes, the last one changing fastest, then the further ones."""
        found = []
        for labels in itertools.product(*self.axes.values()):
            setting = dict(zip(self.axes, labels, strict=True))
            found.append(Point(setting, self._overrides(setting), self._reference(setting)))
        for name, overrides in self.points.items():
            for seed in self.axes.get(SEED, {"": ()}).items():
                label = {SEED: seed[0]} if seed[0] else {}
                found.append(Point({self.main_axis: name, **label}, (*self.settings, *overrides, *seed[1])))
        return found

    def _overrides(self, setting: Mapping[str, str]) -> Overrides:
        return self._filled((self.axes[axis][label] for axis, label in setting.items()), setting)

    def _filled(self, chosen: Iterable[Overrides], setting: Mapping[str, str]) -> Overrides:
        """The overrides of some points; $AXIS in them stands for the point on that axis."""
        own = (Template(text).safe_substitute(setting) for overrides in chosen for text in overrides)
        return (*self.settings, *own)

    def _reference(self, setting: Mapping[str, str]) -> Overrides:
        if self.budget is None:
            return ()
        reference = self.budget.reference
        chosen = (reference[axis] if axis in reference else self.axes[axis][label] for axis, label in setting.items())
        return self._filled(chosen, setting)

    def changed(self, overrides: Sequence[str]) -> Study:
        """The study with overrides of the command line.

        The name of an axis chooses among its points (`kind=noise`), or gives a key other values (`conv.degree=2,4`);
        `budget=NAME` chooses what is held equal. Any other key with several values is a further axis, with one value a
        setting of all runs.

        Raises:
            ValueError: an unknown point, a key that an axis or the budget sets, or one that a study does not take.
        """
        axes, settings, budget = dict(self.axes), list(self.settings), self.budget
        for text in overrides:
            key, _, value = text.partition("=")
            if budget is not None and key == BUDGET:
                budget = dataclasses.replace(budget, hold=_chosen("budget", value, budget.hold))
                continue
            if key not in axes:
                self._check_free(key, text)
            elif not _is_key(key, axes[key]):
                axes[key] = {label: axes[key][label] for label in _chosen(f"point of axis {key!r}", value, axes[key])}
                continue
            values = _values(text)
            if key in axes or len(values) > 1:
                axes[key] = values
            else:
                settings = [other for other in settings if other.partition("=")[0] != key] + [text]
        return dataclasses.replace(self, axes=axes, settings=tuple(settings), budget=budget)

    def _check_free(self, key: str, text: str) -> None:
        """Raise ValueError if the study itself sets a key."""
        if key in ("output_dir", "resume"):
            raise ValueError(f"{text!r}: every run has its own; the folder of the study is --out")
        if "." not in key and key != SEED and not group_choices(key):
            names = [*self.axes, *([BUDGET] if self.budget else [])]
            if near := difflib.get_close_matches(key, names, n=1):
                raise ValueError(f"{text!r}: no axis and no key. Did you mean {near[0]!r}? Axes: {', '.join(names)}.")
        if key == "experiment" and self.experiments:
            raise ValueError(f"{text!r}: the study chooses it ({', '.join(self.experiments)}); leave it out")
        if self.budget is not None and key == self.budget.key:
            raise ValueError(f"{text!r}: the budget sets {key}; leave it out, or write a study without budget")
        for axis, points in self.axes.items():
            if any(_key(one) == key for overrides in points.values() for one in overrides):
                raise ValueError(f"{text!r}: axis {axis!r} sets {key}; choose with {axis}={next(iter(points))}")


def _key(override: str) -> str:
    return override.partition("=")[0]


def _chosen(what: str, text: str, known: Collection[str]) -> tuple[str, ...]:
    """The names in a text that commas separate."""
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        if name not in known:
            raise ValueError(unknown_name(what, name, known))
    return tuple(dict.fromkeys(names))


def _is_key(name: str, points: Mapping[str, Overrides]) -> bool:
    """Whether an axis is a key of the configuration with its values."""
    return all(overrides == (f"{name}={label}",) for label, overrides in points.items())


def _values(text: str) -> dict[str, Overrides]:
    """The values that an override stands for, as points."""
    key = _key(text)
    return {one.partition("=")[2]: (f"{key}={one.partition('=')[2]}",) for v in expand([text]) for one in v.overrides}


def list_studies() -> list[str]:
    """Names of the studies that the package has."""
    return sorted(path.stem for path in _SHIPPED.glob("*.yaml"))


def read_study(source: str | Path) -> Study:
    """A study by its name, or from a YAML file.

    Raises:
        ValueError: no such study or file, a file that is damaged or holds no axes, an axis without points, or an entry
            that is unknown or does not fit.

    Example:
        >>> from kanvolution.study import read_study
        >>> study = read_study("dropout").changed(["kind=noise", "rate=0.1,0.5", "seed=0"])
        >>> [point.name for point in study.combinations()][:2]
        ['site=full,kind=noise,rate=0.1,seed=0', 'site=full,kind=noise,rate=0.5,seed=0']
    """
    yaml = require("yaml", "train")
    path = yaml_file("study", source, _SHIPPED)
    try:
        # Every scalar stays the text that it is: values are in the language of the command line, not in YAML's.
        entries = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{str(path)!r} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(entries, dict) or not isinstance(entries.get("axes"), dict) or not entries["axes"]:
        raise ValueError(f"{str(path)!r} has no axes; write e.g. axes: {{conv: [gram, spline], seed: [0, 1]}}")
    try:
        return _study(path.stem, _options("study", entries, [f.name for f in dataclasses.fields(Study)][1:]))
    except ValueError as error:
        raise ValueError(f"{str(path)!r}: {error}") from error


def _study(name: str, entries: Mapping[str, Any]) -> Study:
    axes = {axis: _axis(axis, points) for axis, points in entries["axes"].items()}
    first = next((axis for axis in axes if axis != SEED), None)
    if first is None:
        raise ValueError(f"axes: {SEED!r} alone compares nothing; add one, e.g. conv: [gram, spline]")
    points = entries.get("points") or {}
    if not isinstance(points, dict):
        raise ValueError(f"points (={points!r}) must be names with overrides, {{NAME: KEY=VALUE}}")
    points = {label: _overrides(label, given) for label, given in points.items()}
    for label in points:
        if label in axes[first]:
            raise ValueError(f"points: {label!r} is a point of axis {first!r} already; choose another name")
    budget = _budget(entries["budget"], axes) if entries.get("budget") else None
    if budget is not None and points:
        raise ValueError("points: a study with a budget has none; make them points of an axis")
    if budget is not None and entries.get("experiments"):
        raise ValueError("experiments: a study with a budget has none; write experiment=NAME into settings or points")
    return Study(
        name,
        str(entries.get("help") or ""),
        axes,
        _overrides("settings", entries.get("settings") or []),
        points,
        budget,
        str(entries.get("metric") or "top1"),
        _picture(entries.get("picture") or {}, [*axes, BUDGET] if budget else axes),
        tuple(_list("experiments", entries.get("experiments") or [])),
        _switch(entries, "evaluation"),
        _switch(entries, "best_first"),
    )


def _axis(name: str, points: Any) -> dict[str, Overrides]:
    if isinstance(points, str) and points:
        return _values(f"{name}={points}")
    if isinstance(points, dict) and points:
        return {label: _overrides(f"{name}: {label}", given) for label, given in points.items()}
    if isinstance(points, list) and points:
        return {value: (f"{name}={value}",) for value in _list(f"axis {name!r}", points)}
    raise ValueError(f"axis {name!r} has no points; write {name}: [A, B], or {name}: {{NAME: KEY=VALUE}}")


def _list(where: str, given: Any) -> list[str]:
    values = [given] if isinstance(given, str) else given
    if not isinstance(values, list) or not all(isinstance(value, str) and value for value in values):
        raise ValueError(f"{where} (={given!r}) must be a list of values; put one that is a list in quotes")
    return values


def _overrides(where: str, given: Any) -> Overrides:
    lines = _list(where, given)
    for line in lines:
        if "=" not in line:
            raise ValueError(f"{where}: {line!r} must be an override, KEY=VALUE")
    return tuple(lines)


def _switch(entries: Mapping[str, Any], name: str) -> bool:
    value = entries.get(name, "false")
    if value not in ("true", "false"):
        raise ValueError(f"{name} (={value!r}) must be true or false")
    return value == "true"


def _options(where: str, given: Any, known: Sequence[str]) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise ValueError(f"{where} (={given!r}) must have entries of: {', '.join(known)}")
    for option in given:
        if option not in known:
            raise ValueError(unknown_name(f"entry of {where}", option, known))
    return given


def _budget(given: Any, axes: Mapping[str, Mapping[str, Overrides]]) -> Budget:
    options = _options("budget", given, [f.name for f in dataclasses.fields(Budget)])
    hold = list(dict.fromkeys(_list("budget.hold", options.get("hold", []))))
    for name in hold:
        if name not in HOLDS:
            raise ValueError(unknown_name("budget.hold", name, HOLDS))
    reference = options.get("reference")
    if not hold or not isinstance(reference, dict) or not reference:
        raise ValueError(f"budget must have hold, of {', '.join(HOLDS)}, and reference, {{AXIS: POINT}}")
    for axis, label in reference.items():
        if axis not in axes:
            raise ValueError(unknown_name("axis of budget.reference", axis, axes))
        if not isinstance(label, str) or label not in axes[axis]:
            raise ValueError(unknown_name(f"point of axis {axis!r}", str(label), axes[axis]))
    found = {axis: axes[axis][label] for axis, label in reference.items()}
    return Budget(tuple(hold), found, options.get("key") or Budget.key)


def _picture(given: Any, axes: Iterable[str]) -> Picture:
    options = _options("picture", given, [f.name for f in dataclasses.fields(Picture)])
    own = [axis for axis in axes if axis != SEED]
    for place, name in options.items():
        known = [*own, "parameters", "seconds"] if place == "x" else own
        if name not in known:
            raise ValueError(unknown_name(f"picture.{place}", name, known))
    return Picture(**options)
