"""`kanvolution export`."""

from __future__ import annotations

import argparse

from kanvolution.cli.command import register_command
from kanvolution.cli.imports import add_import
from kanvolution.cli.text import table

_FILES = {"onnx": "model.onnx", "torch": "model.pt2", "aoti": "model_aoti.pt2"}


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="RUN", help="folder of a run or of a saved model, or a repository of the hub")
    parser.add_argument("--format", choices=_FILES, default="onnx", help="of the file (onnx)")
    parser.add_argument("--output", metavar="FILE", help="a new file (RUN/model.onnx, model.pt2 or model_aoti.pt2)")
    parser.add_argument("--size", type=int, nargs="+", metavar="PIXELS", help="height and width of images (the run's)")
    parser.add_argument("--dynamic-size", action="store_true", help="let the file take images of any size")
    parser.add_argument("--checkpoint", default="last", metavar="WHICH", help="the last (default) or the best weights")
    add_import(parser)


@register_command("export", "write a saved run as ONNX, a torch.export program, or machine code", _arguments)
def export(options: argparse.Namespace) -> int:
    """Write the file, compare it with the network, and say what was found."""
    from pathlib import Path

    from kanvolution.deploy import export, load_base
    from kanvolution.train import find_checkpoint

    is_folder = Path(options.source).is_dir()
    source = find_checkpoint(options.source, options.checkpoint) if is_folder else options.source
    model, info = load_base(source)
    config = getattr(model, "config", {})
    channels = info.in_chans if info is not None else config.get("in_chans")
    size = options.size or (info.image_size if info is not None else None)
    if channels is None or size is None:
        raise ValueError(f"{options.source!r} does not tell the size of its images; give --size HEIGHT WIDTH")
    size = tuple(size) * 2 if len(size) == 1 else tuple(size)
    if len(size) != 2:
        raise ValueError(f"--size (={' '.join(map(str, size))}) takes one or two numbers: HEIGHT WIDTH")
    folder = Path(options.source) if is_folder else Path.cwd()
    done = export(
        model,
        options.output or folder / _FILES[options.format],
        input_shape=(channels, *size),
        format=options.format,
        dynamic_size=options.dynamic_size,
        data=None if info is None else info.to_dict(),
    )
    shape = done.description.input_shape[1:]
    space = ("height", "width") if options.dynamic_size else shape[1:]
    rows = [
        ("file", str(done.path)),
        ("size", f"{done.path.stat().st_size / 1e6:.2f} MB"),
        ("input", f"[N, {', '.join(map(str, (shape[0], *space)))}], normalised images"),
        ("difference", f"{done.difference:.1e} of the largest output (at most {done.tolerance:.0e} allowed)"),
        ("compared with", ", ".join("x".join(map(str, tried)) for tried in done.tried)),
    ]
    print(table(rows))
    return 0
