"""All that is measured on a GPU, in order of importance, within so many minutes; results are stored as they come.

    python benchmarks/gpu.py --minutes 12 --peer ~/torch-conv-kan     # -> benchmarks/results/speed_cuda, kernels_gpu

Kernels are compiled first, by several processes at once, so that no measurement waits for a compiler. What there was no
time for is told at the end.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

import torch
from common import ROOT

SPEED = ("benchmarks/speed.py", "--device", "cuda", "--dtype", "bfloat16", "--channels-last", "--backends", "triton")
LAYERS = ("stage1", "first", "small", "stage2", "stage3", "stage4")
NETWORKS = ("--bases", "gram", "spline", "--cases", "simple8", "resnet18", "vgg11v4")
FOLDER = "benchmarks/results/speed_cuda"


def steps(peer: str | None) -> dict[str, list[str]]:
    """The measurements by name: arguments of Python."""
    found = {
        "layers": [*SPEED, "--captured", "--batch", "64", "--rounds", "3", "--cases", *LAYERS],
        "networks": [*SPEED, "--captured", "--batch", "128", "--rounds", "3", *NETWORKS],
        "busy": [*SPEED, "--batch", "256", "--rounds", "3", "--cases", *LAYERS, "--folder", f"{FOLDER}/busy"],
        "first layers": ["benchmarks/kernels.py", "--shapes", "first", "--bases", "gram", "spline", "--rounds", "10"],
        "parts": [*SPEED, "--profile", "--batch", "64", "--rounds", "1", "--cases", *LAYERS],
        "busy networks": [*SPEED, "--batch", "256", "--rounds", "3", *NETWORKS, "--folder", f"{FOLDER}/busy"],
    }
    found["parts"] += ["--folder", f"{FOLDER}/profiles"]
    if peer is not None:
        beside = ["--peer", peer, "--folder", f"{FOLDER}/peer"]
        bases = ["spline", "rbf", "legendre", "chebyshev", "gram", "jacobi", "relu", "wavelet_edge"]
        arguments = ["--batch", "128", "--rounds", "3", "--cases", *LAYERS, "--bases", *bases]
        found["torch-conv-kan"] = [*SPEED, *arguments, *beside]
    first = ("layers", "networks", "torch-conv-kan")
    return {name: found[name] for name in sorted(found, key=lambda name: name not in first)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30, help="at most so long (30)")
    parser.add_argument("--peer", metavar="DIR", help="a checkout of torch-conv-kan to measure beside")
    parser.add_argument("--only", nargs="+", metavar="NAME", help=f"some of: {', '.join(steps(''))}")
    options = parser.parse_args()
    chosen = {name: a for name, a in steps(options.peer).items() if options.only is None or name in options.only}
    unknown = sorted(set(options.only or ()) - set(chosen))
    if unknown:
        parser.error(f"--only: no {', '.join(map(repr, unknown))} among {', '.join(steps(options.peer))}")
    if not torch.cuda.is_available():
        print("benchmarks/gpu.py measures a GPU, and PyTorch finds no CUDA device here", file=sys.stderr)
        return 2
    end = time.monotonic() + 60 * options.minutes
    compile_kernels(end)
    left = []
    for name, arguments in chosen.items():
        print(f"== {name}", flush=True)
        try:
            done = subprocess.run([sys.executable, *arguments], cwd=ROOT, timeout=max(0.1, end - time.monotonic()))
            left += [f"{name} (exit status {done.returncode})"] if done.returncode else []
        except subprocess.TimeoutExpired:
            left.append(f"{name} (no more time)")
    print("not complete: " + ", ".join(left) if left else "complete", flush=True)
    return 1 if left else 0


def compile_kernels(end: float) -> None:
    """Run every layer once, at a small batch, in a process for each case: Triton stores what it compiles."""
    jobs: list[Sequence[str]] = [(*SPEED, "--cases", case, "--batch", "16") for case in LAYERS]
    jobs.append((*SPEED, *NETWORKS, "--batch", "16"))
    with tempfile.TemporaryDirectory() as folder:
        short = ("--rounds", "1", "--repeats", "1", "--folder", folder)
        running = [
            subprocess.Popen([sys.executable, *job, *short], cwd=ROOT, stdout=subprocess.DEVNULL) for job in jobs
        ]
        until = min(end, time.monotonic() + 120)
        for job in running:
            try:
                job.wait(max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                job.kill()
                job.wait()


if __name__ == "__main__":
    sys.exit(main())
