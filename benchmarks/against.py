"""Compares the package in this tree with that of another commit: `python benchmarks/speed.py --against COMMIT`.

Each measurement is a process of its own that runs this tree's benchmark with the package in one of the two trees: the
benchmark may be younger than the commit. The trees take turns.

    PYTHONPATH=TREE/src python benchmarks/against.py BASIS CASE SETTINGS    # one measurement, as one line of JSON
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kanvolution.benchmark import Settings

ROOT = Path(__file__).resolve().parents[1]
TURNS = 3
"""How often a measurement of `Settings.rounds` rounds is made in each tree."""


def compare(commit: str, bases: Sequence[str], cases: Sequence[str], settings: Settings) -> Iterator[str]:
    """Yields a line for each case and backend: the training step here, and how many times as long it takes there.

    Raises:
        ValueError: there is no such commit.
        RuntimeError: the benchmark fails in one of the trees, or a result is wrong there.
    """
    with tempfile.TemporaryDirectory() as folder:
        other = Path(folder) / "tree"
        _git("worktree", "add", "--detach", str(other), commit)
        try:
            for case in cases:
                for basis in bases:
                    times: dict[str, dict[str, list[float]]] = {name: {} for name in settings.backends}
                    for _ in range(TURNS):
                        for tree in (ROOT, other):
                            for name, seconds in one(tree, basis, case, settings).items():
                                times[name].setdefault("here" if tree == ROOT else "there", []).append(seconds)
                    for name, found in times.items():
                        here, there = (statistics.median(found[key]) for key in ("here", "there"))
                        ratio = f"{commit} takes {there / here:.2f} times as long"
                        yield f"{case:8s} {basis:13s} {name:8s} step {1e3 * here:8.1f} ms; {ratio}"
        finally:
            _git("worktree", "remove", "--force", str(other))


def one(tree: Path, basis: str, case: str, settings: Settings) -> dict[str, float]:
    """The median times of a training step by backend, with the package in `tree`, which has to be right first."""
    chosen = json.dumps({**dataclasses.asdict(settings), "peer": None, "profile": False, "cold": False})
    done = subprocess.run(
        [sys.executable, __file__, basis, case, chosen],
        env={**os.environ, "PYTHONPATH": str(tree / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"the benchmark failed with the package in {tree}:\n{done.stderr}")
    results = json.loads(done.stdout.splitlines()[-1])
    for result in results:
        if not result["correct"]:
            raise RuntimeError(f"{result['contestant']} is wrong by {result['error']:.1e} in {tree}: not timed")
    return {r["contestant"]: r["step"]["median"] for r in results if r["contestant"] in settings.backends}


def measure(basis: str, case: str, chosen: dict[str, Any]) -> list[dict[str, Any]]:
    """The results of this tree's benchmark with whichever package is imported."""
    import kanvolution

    folder = ROOT / "src" / "kanvolution" / "benchmark"
    name = f"{kanvolution.__name__}.benchmark"
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None
    benchmark: Any = importlib.util.module_from_spec(spec)
    sys.modules[name] = benchmark
    spec.loader.exec_module(benchmark)
    settings = benchmark.Settings(**{**chosen, "backends": tuple(chosen["backends"])})
    return benchmark.run([basis], [case], settings)["results"]


def _git(*arguments: str) -> None:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"git {arguments[0]} {arguments[1]} failed: {done.stderr.strip()}; name a commit of this tree")


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))))
