"""`kanvolution quantize`."""

from __future__ import annotations

import argparse

from kanvolution.cli.command import register_command
from kanvolution.cli.imports import add_import
from kanvolution.cli.text import table

_FILES = {"inductor": "model_int8.pt2", "onnxruntime": "model_int8.onnx", "storage": "model_int8.safetensors"}


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_folder", metavar="RUN", help="folder of a run")
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="other data than the run's: data=NAME data.path=..."
    )
    parser.add_argument("--backend", choices=_FILES, default="inductor", help="what runs the file (inductor)")
    parser.add_argument("--calibration", type=int, default=1024, metavar="N", help="images to calibrate on (1024)")
    parser.add_argument("--qat-steps", type=int, default=0, metavar="N", help="steps of training with rounding (0)")
    parser.add_argument("--lr", type=float, default=1e-4, help="learning rate of those steps (1e-4)")
    parser.add_argument("--repeats", type=int, default=20, metavar="N", help="turns of the times; 0 for none (20)")
    parser.add_argument("--output", metavar="FILE", help="a new file (in RUN: model_int8 and the backend's suffix)")
    parser.add_argument("--report", metavar="FILE", help="a new JSON file for what is printed")
    parser.add_argument("--checkpoint", default="last", metavar="WHICH", help="the last (default) or the best weights")
    add_import(parser)


@register_command("quantize", "write a saved run with 8-bit integers, and measure it", _arguments)
def quantize(options: argparse.Namespace) -> int:
    """Quantise, then print accuracy, size and times beside those of the float network."""
    from dataclasses import asdict
    from itertools import islice
    from pathlib import Path

    import torch
    from torch.utils.data import DataLoader

    from kanvolution.checks import integer_at_least
    from kanvolution.cli.run_data import run_data
    from kanvolution.deploy import compare_quantized, quantize
    from kanvolution.files import write_json
    from kanvolution.train import find_checkpoint, load_run

    integer_at_least("--calibration", options.calibration, 1)
    integer_at_least("--qat-steps", options.qat_steps, 0)
    integer_at_least("--repeats", options.repeats, 0)
    if options.report is not None and Path(options.report).exists():
        raise ValueError(f"{options.report!r} is there already and is not overwritten; choose another name")
    run = load_run(find_checkpoint(options.run_folder, options.checkpoint))
    _, data, task = run_data("quantize", options.run_folder, run, options.overrides)
    torch.manual_seed(0)  # of the augmentation
    random = torch.Generator().manual_seed(0)
    loader = DataLoader(data.train, min(64, options.calibration), shuffle=True, generator=random)
    count = -(-options.calibration // 64)
    done = quantize(
        run.model,
        options.output or Path(options.run_folder) / _FILES[options.backend],
        (images for images, _ in islice(loader, count)),
        backend=options.backend,
        labelled=islice(loader, options.qat_steps) if options.qat_steps else None,
        lr=options.lr,
        data=run.info.to_dict(),
    )
    report = compare_quantized(run, done.path, data, task=task, repeats=options.repeats)
    print(table(report.rows(), right=range(1, 4)))
    print(f"\n{done.path} ({done.layers} layers in int8, {report.threads} threads)")
    if options.report is not None:
        write_json(options.report, {"backend": done.backend, "layers": done.layers, **asdict(report)})
    return 0
