"""`kanvolution tune`."""

from __future__ import annotations

import argparse

from kanvolution.cli.command import register_command
from kanvolution.cli.imports import add_import
from kanvolution.cli.text import table


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="of kanvolution train, for all trials")
    parser.add_argument("--space", default="default", metavar="SPACE", help="a name, or a YAML file (default)")
    parser.add_argument("--samples", type=int, default=20, metavar="N", help="trials in all (20)")
    parser.add_argument("--metric", default="top1", metavar="NAME", help="of validation, in the last epoch (top1)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of settings (0)")
    parser.add_argument("--output", default="runs/tune", metavar="DIR", help="folder of the study (runs/tune)")
    add_import(parser)


@register_command("tune", "search for the best settings of training, with Optuna", _arguments)
def tune(options: argparse.Namespace) -> int:
    """Run the study and print its trials, the best last."""
    from kanvolution.tune import read_space, tune

    result = tune(
        options.overrides,
        read_space(options.space),
        options.output,
        samples=options.samples,
        metric=options.metric,
        seed=options.seed,
    )
    keys = list(result.best.settings)
    rows = [("trial", result.metric, "", *keys)]
    for trial in [*(t for t in result.trials if t is not result.best), result.best]:
        value = "-" if trial.value is None else f"{trial.value:.4f}"
        state = "best" if trial is result.best else "" if trial.state == "complete" else trial.state
        cells = (f"{v:.3g}" if isinstance(v, float) else str(v) for v in (trial.settings.get(k, "") for k in keys))
        rows.append((str(trial.number), value, state, *cells))
    print(f"\n{table(rows, right=(0, 1))}\n\nkanvolution train {' '.join(result.overrides)}\n{result.folder}")
    return 0
