"""The folder of a run: a new one for each, and what is written into it at the start."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from kanvolution.files import write_json
from kanvolution.train.checkpoint import CONFIG

RESULT = "result.json"
_PACKAGES = ("torchvision", "accelerate", "torchmetrics", "numpy")


def check_run_folder(path: str | Path) -> None:
    """Raise ValueError if `path` holds anything, or is a file."""
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise ValueError(f"output_dir (={str(path)!r}) is a file; choose another name")
    if path.is_dir() and any(path.iterdir()):
        raise ValueError(
            f"output_dir (={str(path)!r}) is not empty, and a run is never overwritten; "
            "choose another name, or move or remove the folder"
        )


def make_run_folder(path: str | Path | None, name: str) -> Path:
    """Make the folder of a run.

    Args:
        path: the folder; None makes a new one, `runs/TIME-NAME`.
        name: what the run is about ("simple4-gram-digits").

    Raises:
        ValueError: `path` holds something, or the folder cannot be made.
    """
    if path is not None:
        check_run_folder(path)
        try:
            Path(path).mkdir(parents=True, exist_ok=True)
            if not os.access(path, os.W_OK | os.X_OK):
                raise PermissionError("no permission to write there")
        except OSError as error:
            raise ValueError(f"output_dir (={str(path)!r}) cannot be made: {error}; choose another place") from error
        return Path(path)
    time = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    stem = Path("runs") / f"{time}-{re.sub(r'[^A-Za-z0-9_.-]+', '_', name)}"
    attempt = 1
    while True:
        # mkdir is the lock: of two runs that start in the same second one goes on to the next name.
        folder = stem if attempt == 1 else stem.with_name(f"{stem.name}-{attempt}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            attempt += 1
        except OSError as error:
            raise ValueError(f"{str(folder)!r} cannot be made: {error}; choose a place with output_dir=...") from error
        else:
            return folder


def open_run_folder(path: str | Path) -> Path:
    """The folder of a run that is to be continued.

    Raises:
        ValueError: no run is there, it is finished, or it cannot be written to.
    """
    folder = Path(path)
    if not (folder / CONFIG).is_file():
        raise ValueError(f"resume (={str(path)!r}) is not the folder of a run: it has no {CONFIG}; start a new run")
    if (folder / RESULT).is_file():
        raise ValueError(f"resume (={str(path)!r}): this run is finished, its result is in {RESULT}; start a new run")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f"resume (={str(path)!r}): no permission to write there; give it, or copy the folder")
    return folder


def environment(device: torch.device, processes: int = 1) -> dict[str, Any]:
    """What a run depends on beside its config: versions, hardware, commit, command line."""
    from kanvolution import __version__

    return {
        "kanvolution": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{name: _version(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "processes": processes,
        "cores": os.cpu_count(),
        "memory_gib": _memory_gib(device),
        "threads": torch.get_num_threads(),
        "git_commit": _git_commit(),
        "command": sys.argv,
        "time": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def record_environment(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write `environment.json`; where a run goes on, the new facts are added to those of its beginning."""
    path = folder / "environment.json"
    if not path.is_file():
        write_json(path, facts)
        return
    first = json.loads(path.read_text(encoding="utf-8"))
    write_json(path, {**first, "resumed": [*first.get("resumed", []), dict(facts)]})


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _memory_gib(device: torch.device) -> float | None:
    """Memory of the device: of the GPU, or of the machine where the system tells."""
    if device.type == "cuda":
        return round(torch.cuda.get_device_properties(device).total_memory / 2**30, 1)
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        found = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), flags=re.MULTILINE)
        if found:
            return found.group(1)
    return platform.processor() or platform.machine()


def _git_commit() -> str | None:
    git = shutil.which("git")
    if git is None:
        return None
    # The commit of the work tree that the run was started in; "-dirty" where it has changes.
    found = subprocess.run(
        [git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"], capture_output=True, text=True
    )
    return found.stdout.strip() or None
