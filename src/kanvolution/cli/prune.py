"""`kanvolution prune`."""

from __future__ import annotations

import argparse

from kanvolution.cli.command import register_command
from kanvolution.cli.imports import add_import
from kanvolution.cli.text import table


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_folder", metavar="RUN", help="folder of a run")
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="other data than the run's: data=NAME data.path=..."
    )
    parser.add_argument(
        "--by", choices=("channels", "functions"), default="channels", help="what is left out (channels)"
    )
    parser.add_argument("--flops", type=float, default=0.5, metavar="SHARE", help="part of the operations kept (0.5)")
    parser.add_argument("--steps", type=int, default=2, metavar="N", help="times it is pruned (2)")
    parser.add_argument("--epochs", type=int, default=1, metavar="N", help="epochs trained after each (1)")
    parser.add_argument("--lr", type=float, default=1e-3, help="learning rate of that training (1e-3)")
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="of that training (64)")
    parser.add_argument("--images", type=int, default=512, metavar="N", help="images to measure on (512)")
    parser.add_argument("--least", type=int, metavar="N", help="channels or functions that each layer keeps (4, 1)")
    parser.add_argument("--seed", type=int, default=0, help="of that training (0)")
    parser.add_argument("--output", metavar="DIR", help="a new folder for the runs of all steps (RUN_pruned)")
    add_import(parser)


@register_command("prune", "make a saved run smaller: fewer channels or functions, trained on", _arguments)
def prune(options: argparse.Namespace) -> int:
    """Prune and train in steps, and print what every step cost and gained."""
    from pathlib import Path

    from kanvolution.cli.run_data import run_data
    from kanvolution.configs import read_config
    from kanvolution.deploy.prune_run import prune_run
    from kanvolution.train import load_run

    folder = Path(options.run_folder)
    run = load_run(folder)
    _, data, task = run_data("prune", options.run_folder, run, options.overrides)
    output = Path(options.output or folder.with_name(f"{folder.name}_pruned"))
    steps = prune_run(
        run,
        data,
        output,
        share=options.flops,
        by=options.by,
        steps=options.steps,
        epochs=options.epochs,
        lr=options.lr,
        batch_size=options.batch_size,
        images=options.images,
        least=options.least,
        task=task,
        config=read_config(folder) if (folder / "config.yaml").is_file() else None,
        seed=options.seed,
    )
    metric = next(name for name in steps[0].metrics if name != "loss")
    rows = [(options.by, "parameters", "MFLOPs", "ms for 64", f"{metric}, cut", f"{metric}, trained")]
    for step in steps:
        cut = None if step.cut is None else step.cut[metric]
        rows.append(
            (
                "-".join(map(str, step.sizes.values())),
                f"{step.parameters:,}",
                f"{step.operations / 1e6:.2f}",
                f"{step.latency_ms:.1f}",
                "-" if cut is None else f"{cut:.4f}",
                f"{step.metrics[metric]:.4f}",
            )
        )
    print(table(rows, right=range(1, 6)))
    print(f"\n{output / (steps[-1].folder or '')}")
    return 0
