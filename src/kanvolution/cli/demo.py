"""`kanvolution demo`."""

from __future__ import annotations

import argparse
import sys

from kanvolution.cli.command import register_command
from kanvolution.cli.imports import add_import
from kanvolution.cli.run_data import run_data


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_folder", metavar="RUN", help="folder of a run")
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="data whose images are offered: data=NAME data.path=..."
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1, this machine alone)")
    parser.add_argument("--port", type=int, default=7860, help="port to listen on (7860; 0 takes a free one)")
    parser.add_argument("--allow-host", action="append", default=[], metavar="NAME", help="a name of this machine")
    add_import(parser)


@register_command("demo", "open a page on this machine to try a saved run on", _arguments)
def demo(options: argparse.Namespace) -> int:
    """Serve the page until it is interrupted."""
    from kanvolution.pages.demo import demo_app, is_loopback, listen, serve
    from kanvolution.train import load_run
    from kanvolution.train.evaluate import validation_images

    run = load_run(options.run_folder)
    examples = None
    try:
        examples = validation_images(run, run_data("demo", options.run_folder, run, options.overrides)[1])
    except (ValueError, ImportError, OSError) as error:
        if options.overrides:
            raise
        print(f"without images of the run's data: {error}", file=sys.stderr)
    app = demo_app(run, examples, hosts=[options.host, *options.allow_host])
    address = listen(options.host, options.port)
    if not is_loopback(options.host):
        print(
            f"warning: {options.host} can be reached from other machines; whoever reaches it can use the page",
            file=sys.stderr,
        )
    print(f"{address.url} (Ctrl-C ends it)", flush=True)
    serve(app, address)
    return 0
