"""What quantising a run costs and gains: metrics, bytes, and times beside the float network in the same minutes."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kanvolution.deploy.quantize import load_quantized
from kanvolution.deploy.timing import in_turns
from kanvolution.inference import optimize
from kanvolution.models.weights import write_weights

if TYPE_CHECKING:
    from kanvolution.data import DataSets
    from kanvolution.train import Run

BATCH_SIZES = (1, 64)


@dataclass(frozen=True)
class QuantizeReport:
    """A quantised file beside its network.

    Args:
        metrics: name to (float, int8), on the validation images.
        bytes: of the float weights and of the quantised file.
        latency_ms: batch size to the median time of one batch, in ms, of "eager", "compiled" (both float32, the latter
            by `optimize(compile=True)`) and "int8", taken in turns.
        speedup: batch size to the median of the ratios compiled / int8 over the turns.
        threads: of torch.
    """

    metrics: Mapping[str, tuple[float, float]]
    bytes: tuple[int, int]
    latency_ms: Mapping[int, Mapping[str, float]]
    speedup: Mapping[int, float]
    threads: int

    def rows(self) -> list[tuple[str, ...]]:
        """The report as rows of a table."""
        rows = [("", "float32", "int8", "")]
        for name, (before, after) in self.metrics.items():
            rows.append((name, f"{before:.4f}", f"{after:.4f}", f"{after - before:+.4f}"))
        full, small = self.bytes
        rows.append(("file, MB", f"{full / 1e6:.2f}", f"{small / 1e6:.2f}", f"{100 * small / full:.0f} %"))
        for batch, times in self.latency_ms.items():
            rows.append(
                (
                    f"ms for {batch} image{'s' if batch > 1 else ''}",
                    f"{times['compiled']:.2f} ({times['eager']:.2f} eager)",
                    f"{times['int8']:.2f}",
                    f"{self.speedup[batch]:.2f} x",
                )
            )
        return rows


def compare_quantized(
    run: Run,
    path: str | Path,
    data: DataSets,
    *,
    task: str | Mapping[str, Any] = "classification",
    repeats: int = 20,
    batch_sizes: Sequence[int] = BATCH_SIZES,
) -> QuantizeReport:
    """Measure a quantised file beside the run it was made from.

    Args:
        run: the run.
        path: the file of `quantize`.
        data: its validation images are evaluated.
        task: as in training.
        repeats: turns for each batch size; 0 measures no times.
        batch_sizes: images in a batch.
    """
    from kanvolution.train import evaluate  # here, so that loading a quantised file needs nothing of it

    network = load_quantized(path)
    before = evaluate(run, data, task=task, device="cpu", batch_size=64).metrics
    after = evaluate(replace(run, model=network), data, task=task, device="cpu", batch_size=64).metrics
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "model.safetensors"
        write_weights(plain, run.model.state_dict())
        sizes = (plain.stat().st_size, Path(path).stat().st_size)
    latency: dict[int, dict[str, float]] = {}
    speedup: dict[int, float] = {}
    if repeats:
        candidates: dict[str, Callable[[Tensor], Tensor]] = {
            "eager": run.model.eval(),
            "compiled": optimize(run.model, compile=True),
            "int8": network,
        }
        for batch in batch_sizes:
            x = torch.randn(batch, *network.description.input_shape[1:])
            with torch.no_grad():
                times = in_turns({name: partial(network, x) for name, network in candidates.items()}, repeats)
            latency[batch] = {name: statistics.median(values) for name, values in times.items()}
            ratios = [a / b for a, b in zip(times["compiled"], times["int8"], strict=True)]
            speedup[batch] = statistics.median(ratios)
    pairs = {name: (value, after[name]) for name, value in before.items()}
    metrics = {name: (a, b) for name, (a, b) in pairs.items() if a is not None and b is not None}
    return QuantizeReport(metrics, sizes, latency, speedup, torch.get_num_threads())
