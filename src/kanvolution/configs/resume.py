"""The config of a run that is to be continued."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kanvolution.extras import require
from kanvolution.train.run_folder import open_run_folder
from kanvolution.train.state import MAY_DIFFER, check_settings

_OF_THE_COMMAND = ("resume", "output_dir")


def resumed(values: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """The config stored in the folder `values["resume"]`.

    Args:
        values: the config of the command line.
        keys: the keys and groups that the command line sets. They must have the values that the run began with; those
            that change no result (the number of workers, ...) are taken over. So a command can be repeated as it
            was, with `resume` added.

    Raises:
        ValueError: no unfinished run is there, or a key has another value than the run began with; it is named.
    """
    omegaconf = require("omegaconf", "train")
    folder = open_run_folder(values["resume"])
    path = folder / "config.yaml"
    try:
        stored = omegaconf.OmegaConf.to_container(omegaconf.OmegaConf.load(path))
    except Exception as error:  # whatever the reader of YAML raises
        reason = "is not there" if isinstance(error, FileNotFoundError) else f"is damaged: {error}"
        raise ValueError(f"{str(path)!r} {reason}; a run of fit() is continued with fit(resume=...)") from error
    for command, key in (("train", "model"), ("finetune", "checkpoint")):
        if key in stored and key not in values:
            raise ValueError(f"{str(folder)!r} is a run of another command; go on with kanvolution {command}")
    stored.update(resume=str(folder), output_dir=None)
    keys = [key for key in keys if key not in _OF_THE_COMMAND]
    if any(_select(values, key) is _NOTHING for key in keys):  # an experiment sets keys of many groups
        keys = [key for key in values if key not in _OF_THE_COMMAND]
    began = {key: value for key in keys if (value := _select(stored, key)) is not _NOTHING}
    check_settings(folder, began, {key: _select(values, key) for key in keys})
    for key in set(keys) & set(MAY_DIFFER):
        group, _, name = key.partition(".")
        stored[group][name] = _select(values, key)
    return stored


_NOTHING = object()


def _select(values: Any, key: str) -> Any:
    for name in key.split("."):
        if not isinstance(values, Mapping) or name not in values:
            return _NOTHING
        values = values[name]
    return values
