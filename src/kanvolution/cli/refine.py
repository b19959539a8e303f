"""`kanvolution refine`."""

from __future__ import annotations

import argparse

from kanvolution.cli.command import register_command
from kanvolution.cli.imports import add_import
from kanvolution.cli.text import table


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_folder", metavar="RUN", help="folder of a run")
    parser.add_argument(
        "settings",
        nargs="*",
        metavar="KEY=VALUE",
        help="options of the basis that are to be others (grid_size=10, degree=5), or other data (data=NAME ...)",
    )
    parser.add_argument(
        "--divide", type=int, metavar="N", help="divide each interval of splines into N; nothing changes"
    )
    parser.add_argument(
        "--fit-range", type=float, metavar="SHARE", help="fit each grid to all inputs but this share at either end"
    )
    parser.add_argument("--layer", action="append", metavar="NAME", help="a layer, or a pattern; all by default")
    parser.add_argument("--images", type=int, default=512, metavar="N", help="training images to fit on (512)")
    parser.add_argument("--output", metavar="DIR", help="a new folder (RUN_refined)")
    add_import(parser)


@register_command("refine", "give the functions of a saved run finer grids or other degrees", _arguments)
def refine(options: argparse.Namespace) -> int:
    """Refine, and print what became of each layer and of the metrics."""
    import shutil
    from pathlib import Path

    import torch
    from torch.utils.data import DataLoader, Subset

    from kanvolution.checks import integer_at_least
    from kanvolution.cli.run_data import run_data
    from kanvolution.deploy.refine import RangeCounter, divide_grids, fit_range, refine
    from kanvolution.train import Run, evaluate, load_run, save_run
    from kanvolution.train.run_folder import check_run_folder

    def about_data(setting: str) -> bool:
        return setting.partition("=")[0].partition(".")[0] in ("data", "task")

    wanted = dict(_setting(setting) for setting in options.settings if not about_data(setting))
    ways = [bool(wanted), options.divide is not None, options.fit_range is not None]
    if sum(ways) != 1:
        raise ValueError("say one thing to refine: options of the basis (degree=5), --divide 2, or --fit-range 0.001")
    folder = Path(options.run_folder)
    output = Path(options.output or folder.with_name(f"{folder.name}_refined"))
    check_run_folder(output)
    count = integer_at_least("--images", options.images, 1)
    run = load_run(folder)
    _, data, task = run_data("refine", options.run_folder, run, [s for s in options.settings if about_data(s)])
    random = torch.Generator().manual_seed(0)
    size = len(data.train)  # pyright: ignore[reportArgumentType]
    chosen = torch.randperm(size, generator=random)[:count].tolist()
    images = [inputs for inputs, _ in DataLoader(Subset(data.train, chosen), 64)]
    layers = options.layer or ["*"]
    if wanted:
        found = refine(run.model, images, layers=layers, **wanted)
    elif options.divide is not None:
        found = divide_grids(run.model, options.divide, layers=layers)
    else:
        ends = (options.fit_range, 1 - options.fit_range)
        found = fit_range(run.model, images, quantiles=ends, layers=layers)
    refined = Run(output, found.model, run.info, run.epoch)
    metrics, outside = [], []
    for each in (run, refined):
        with RangeCounter(each.model) as counter:
            metrics.append(evaluate(each, data, task=task).metrics)
        outside.append(counter.outside)
    output.mkdir(parents=True, exist_ok=True)
    save_run(output, found.model.cpu(), run.info, run.epoch)
    if (folder / "config.yaml").is_file():
        shutil.copyfile(folder / "config.yaml", output / "config.yaml")
    rows = [("layer", "functions", "grid", "outside", "change of the functions")]
    for layer in found.layers:
        grid = "-" if layer.grid_range is None else " → ".join(f"[{a:.3g}, {b:.3g}]" for a, b in layer.grid_range)
        shares = "-" if layer.grid_range is None else " → ".join(f"{100 * o[layer.name]:.2g} %" for o in outside)
        functions = " → ".join(map(str, layer.functions))
        rows.append((layer.name, functions, grid, shares, f"{100 * layer.error:.2g} %"))
    print(table(rows, right=(1, 3, 4)))
    print()
    before, after = metrics
    names = [name for name, value in before.items() if value is not None]
    print(table([(name, f"{before[name]:.4f}", "→", f"{after[name]:.4f}") for name in names]))
    print(f"\n{output}")
    return 0


def _setting(text: str) -> tuple[str, object]:
    import yaml

    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ValueError(f"{text!r} is no option of a basis; write key=value, e.g. grid_size=10")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ValueError(f"{text!r} cannot be read: {str(error).splitlines()[0]}") from error
