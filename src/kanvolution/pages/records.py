"""What the folder of a run says of it, as a page shows it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kanvolution.extras import require
from kanvolution.models.pretrained import read_config
from kanvolution.pages.svg import TIMES
from kanvolution.train.progress import measured
from kanvolution.train.tasks import Task

_ABSENT = "-"


@dataclass(frozen=True)
class Records:
    """The files of a run. A run that is not finished has no `result`.

    Attributes:
        epochs: the lines of `metrics.jsonl`.
        result: of `result.json`.
        environment: of `environment.json`.
        config: of `config.yaml`.
        model, data: of `config.json`.
    """

    folder: Path
    epochs: list[dict[str, Any]]
    result: dict[str, Any] | None
    environment: dict[str, Any]
    config: dict[str, Any]
    model: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tables(self) -> dict[str, Any]:
        """The tables of the last validation, see `Task.tables`."""
        return {} if self.result is None else self.result["tables"]

    @property
    def metrics(self) -> dict[str, float | None]:
        """The metrics of the last epoch."""
        if self.result is not None:
            return self.result["metrics"]
        last = self.epochs[-1] if self.epochs else {}
        return {key.removeprefix("val_"): value for key, value in last.items() if key.startswith("val_")}


def read_records(folder: str | Path) -> Records:
    """Read the folder of a run. Files that are not there are left out, but for `config.json`.

    Raises:
        ValueError: no run there, or a file that is damaged (it is named).
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise ValueError(f"{str(folder)!r} is not the folder of a run: it has no config.json")
    saved = read_config(folder)
    lines = _text(folder / "metrics.jsonl").splitlines()
    return Records(
        folder,
        [_parsed(line, folder / "metrics.jsonl") for line in lines if line.strip()],
        _json(folder / "result.json"),
        _json(folder / "environment.json") or {},
        _yaml(folder / "config.yaml"),
        saved.model or {},
        saved.data or {},
    )


def run_names(folders: Sequence[Path]) -> list[str]:
    """A short name for each run: the end of its path that tells it from the others."""
    parts = [folder.resolve().parts for folder in folders]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(p[-length:]) for p in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{folder.name} ({number})" for number, folder in enumerate(folders, start=1)]


@dataclass(frozen=True)
class Row:
    """A row of a table over runs: its name, a cell for each run, and which cells are the best (none where equal)."""

    name: str
    cells: tuple[str, ...]
    best: frozenset[int] = frozenset()

    @property
    def differs(self) -> bool:
        """Whether the runs differ in it."""
        return len(set(self.cells)) > 1


def summary_rows(runs: Sequence[Records]) -> list[Row]:
    """What each run is, and what it measured."""
    facts = [_facts(run) for run in runs]
    rows = [Row(name, tuple(fact.get(name, "") for fact in facts)) for name in facts[0]]
    for key in dict.fromkeys(key for run in runs for key in run.metrics):
        values = [run.metrics.get(key) for run in runs]
        label = measured(key, 0.0)[0]
        cells = tuple("" if key not in run.metrics else measured(key, run.metrics[key])[1] for run in runs)
        known = [value for value in values if value is not None]
        target = (min if key in Task.lower_is_better else max)(known) if len(set(known)) > 1 else None
        best = frozenset(i for i, value in enumerate(values) if target is not None and value == target)
        rows.append(Row(label, cells, best))
    return [row for row in rows if any(row.cells)]


def config_rows(runs: Sequence[Records]) -> list[Row]:
    """The keys of the configurations, flat."""
    flat = [_flat(run.config or {"model": run.model}) for run in runs]
    return [Row(key, tuple(values.get(key, _ABSENT) for values in flat)) for key in _keys(flat)]


def environment_rows(runs: Sequence[Records]) -> list[Row]:
    """Versions, hardware, commit and command of each run."""
    flat = []
    for run in runs:
        values = {k: v for k, v in run.environment.items() if v is not None}
        if isinstance(values.get("command"), list):
            values["command"] = shlex.join(map(str, values["command"]))
        flat.append(_flat(values))
    return [Row(key, tuple(values.get(key, _ABSENT) for values in flat)) for key in _keys(flat)]


def _facts(run: Records) -> dict[str, str]:
    conv, data = run.model.get("conv"), run.data
    conv = conv if isinstance(conv, Mapping) else {}
    structure = conv.get("structure")
    size = TIMES.join(map(str, data.get("image_size", [])))
    result = run.result or {}
    seconds = result.get("seconds", sum(record.get("seconds", 0.0) for record in run.epochs))
    options = ", ".join(f"{k} {v}" for k, v in (conv.get("options") or {}).items() if isinstance(v, int | float))
    return {
        "network": str(run.model.get("name") or run.model.get("class") or "of one's own"),
        "basis": str(conv.get("basis", "")) + (f" ({options})" if options else ""),
        "structure": str(structure.get("name", "")) if isinstance(structure, Mapping) else "",
        "data": f"{data.get('name', '')}, {size}" if size else "",
        "classes": str(len(data.get("class_names", [])) or ""),
        "parameters": f"{result['parameters']:,}" if "parameters" in result else "",
        "epochs": str(len(run.epochs) or "") + ("" if run.result else " (not finished)"),
        "training time": _duration(seconds) if seconds else "",
        "begun": str(run.environment.get("time", "")).replace("T", " ")[:16],
    }


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            found.update(_flat(value, f"{prefix}{key}."))
        else:
            found[f"{prefix}{key}"] = value if isinstance(value, str) else json.dumps(value)
    return found


def _keys(flat: Sequence[Mapping[str, str]]) -> list[str]:
    return list(dict.fromkeys(key for values in flat for key in values))


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _json(path: Path) -> dict[str, Any] | None:
    return _parsed(path.read_text(encoding="utf-8"), path) if path.is_file() else None


def _yaml(path: Path) -> dict[str, Any]:
    yaml = require("yaml", "train")
    try:
        return _dictionary(yaml.safe_load(_text(path)) or {})
    except (yaml.YAMLError, TypeError) as error:
        raise ValueError(f"{str(path)!r} is damaged: {error}") from error


def _parsed(text: str, path: Path) -> dict[str, Any]:
    try:
        return _dictionary(json.loads(text))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{str(path)!r} is damaged: {error}") from error


def _dictionary(values: Any) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise TypeError("it is no dictionary")
    return values
