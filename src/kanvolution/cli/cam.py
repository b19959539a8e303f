"""`kanvolution cam`."""

from __future__ import annotations

import argparse
from pathlib import Path

from kanvolution.cli.command import register_command
from kanvolution.cli.imports import add_import

_METHODS = ("grad_cam", "integrated_gradients")


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_folder", metavar="RUN", help="folder of a run")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files")
    parser.add_argument("--method", choices=_METHODS, default=_METHODS[0], help="how places are weighed (grad_cam)")
    parser.add_argument("--layer", metavar="NAME", help="whose feature map grad_cam takes (the last stage)")
    parser.add_argument("--target", metavar="CLASS", help="name of the class; the predicted one by default")
    parser.add_argument("--invert", action="store_true", help="swap light and dark first")
    parser.add_argument("--output", metavar="FILE", help="a new file for the picture (RUN/cam.png)")
    add_import(parser)


@register_command("cam", "show where a saved run looks in image files", _arguments)
def cam(options: argparse.Namespace) -> int:
    """Write one picture with the maps over the images."""
    import torch

    from kanvolution.data.images import load_image
    from kanvolution.registry import unknown_name
    from kanvolution.train import load_run
    from kanvolution.visualize import grad_cam, integrated_gradients, plot_attribution, save_figure

    run = load_run(options.run_folder)
    names = run.info.class_names
    if options.target is not None and options.target not in names:
        raise ValueError(unknown_name("class", options.target, names))
    if options.layer is not None and options.method != "grad_cam":
        raise ValueError(f"--layer {options.layer} needs --method grad_cam; {options.method} looks at the image itself")
    file = Path(options.output or Path(options.run_folder) / "cam.png")
    if file.exists():
        raise ValueError(f"file (={str(file)!r}) is there already; choose another with --output")
    images = torch.stack([load_image(path, run.info.in_chans, run.info.image_size) for path in options.images])
    images = 1 - images if options.invert else images
    inputs = run.info.normalise(images)
    with torch.no_grad():
        output = run.model(inputs)
    target = None if options.target is None else names.index(options.target)
    if options.method == "grad_cam":
        maps = grad_cam(run.model, inputs, layer=options.layer, target=target)
    else:
        maps = integrated_gradients(run.model, inputs, target=target)
    titles = [Path(path).name for path in options.images]
    if output.ndim == 2:
        found = output.softmax(1)
        picked = found.argmax(1).tolist() if target is None else [target] * len(titles)
        titles = [
            f"{name}\n{names[label]} {100 * row[label]:.0f} %"
            for name, label, row in zip(titles, picked, found.tolist(), strict=True)
        ]
    where = "" if options.method != "grad_cam" else f" of {options.layer or 'the last stage'}"
    save_figure(plot_attribution(images, maps, titles, heading=f"{options.method.replace('_', ' ')}{where}"), file)
    print(file)
    return 0
