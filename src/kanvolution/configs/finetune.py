"""The config of `kanvolution finetune`: what the checkpoint tells stands for the defaults."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from kanvolution.configs.compose import Composed, compose, quoted, read_config
from kanvolution.deploy.adapters import ADAPTERS


def compose_finetune(checkpoint: str | None, overrides: Sequence[str]) -> Composed:
    """The config of a run of fine-tuning.

    Data and task are those of the run in the folder `checkpoint`, if it is one, unless `overrides` choose others; image
    files are brought to the size that the network was trained on; the learning rate of adamw is that of the adapter.

    Args:
        checkpoint: see `kanvolution.deploy.load_base`; None in a run that is resumed.
        overrides: `group=choice` and `key=value`.

    Raises:
        ConfigError: as `compose`.
    """
    given = {override.partition("=")[0]: override.partition("=")[2] for override in overrides}
    if checkpoint is None:
        return compose(overrides, job="finetune")
    lines = [f"checkpoint={quoted(checkpoint)}", *overrides]
    if "resume" in given:
        return compose(lines, job="finetune")
    base = read_config(checkpoint) if (Path(checkpoint) / "config.yaml").is_file() else None
    adapter = given.get("adapter", "lora")
    if "optim.lr" not in given and given.get("optim", "adamw") == "adamw" and adapter in ADAPTERS:
        lines.append(f"optim.lr={ADAPTERS[adapter].learning_rate}")
    composed = compose(lines, base=base, groups=("data", "task"), job="finetune")
    size = _image_size(checkpoint)
    if size is not None and "data.image_size" not in given and "image_size" in composed.values["data"]:
        return compose([*lines, f"data.image_size={size}"], base=base, groups=("data", "task"), job="finetune")
    return composed


def _image_size(checkpoint: str) -> int | None:
    """The height of the images of a saved run, where its folder tells; what is wrong with it is reported later."""
    try:
        return json.loads((Path(checkpoint) / "config.json").read_text(encoding="utf-8"))["data"]["image_size"][0]
    except (OSError, ValueError, LookupError, TypeError):
        return None
