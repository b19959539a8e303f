"""The data a command looks at a run with: the run's own, or others by overrides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kanvolution.data import DataSets
    from kanvolution.train import Run


def run_data(command: str, folder: str, run: Run, overrides: Sequence[str]) -> tuple[str, DataSets, dict[str, Any]]:
    """The name of the data, the data, and the values of the task.

    Args:
        command: name of the command, for messages.
        folder: of the run; its `config.yaml` gives what is not overridden.
        run: the run.
        overrides: `key=value` of the groups data and task.

    Raises:
        ValueError: another group, no config and no data named, or what the data set refuses.
    """
    from kanvolution.configs import compose, read_config
    from kanvolution.data import create_data
    from kanvolution.train.options import named_options

    for override in overrides:
        group = override.partition("=")[0].partition(".")[0]
        if group not in ("data", "task"):
            raise ValueError(f"{override!r}: {command} takes keys of data and task, e.g. data.path=DIR; see --help")
    base = None
    if (Path(folder) / "config.yaml").is_file():
        base = read_config(folder)
    elif not any(override.startswith("data=") for override in overrides):
        raise ValueError(f"{folder!r} does not tell its data (no config.yaml); name them: data=NAME ...")
    composed = compose(overrides, base=base, groups=("data", "task"))
    name, options = named_options("data", composed.values["data"])
    # Image files are brought to any size; that of the run is the right one unless another is named.
    if "image_size" in options and not any(o.startswith("data.image_size=") for o in overrides):
        options["image_size"] = run.info.image_size[0]
    return name, create_data(name, **options), composed.values["task"]
