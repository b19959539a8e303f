"""Trains small networks and puts the pictures of their runs into docs/pictures.

python docs/make_run_pictures.py [--nuclei PATH] [--output FOLDER]

PATH holds images/ and masks/ of the 2018 Data Science Bowl, for the picture of a segmentation. Pictures of pages need
playwright and Chromium, and are left out without.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import shutil
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from kanvolution.cli import main as kanvolution
from kanvolution.data import create_data
from kanvolution.train import load_run

FOLDER = Path(__file__).parent / "pictures"
CLASSIFIER = ("model.channels=[4,8,8,8]", "optim.lr=0.005", "trainer.epochs=12")
SEGMENTER = (
    *("model=unet", "model.width=8", "model.depth=2", "task=segmentation", "optim.lr=0.01"),
    *(
        "data=segmentation_folder",
        "data.image_size=64",
        "data.channels=1",
        "trainer.epochs=20",
        "trainer.batch_size=16",
    ),
)
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]


def main(folder: Path = FOLDER, nuclei: str | None = None) -> None:
    """Train, and keep the pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        runs = Path(temporary)
        train(CLASSIFIER, runs / "gram")
        keep(runs / "gram", folder, ("curves", "confusion", "reliability", "mistakes"))
        if nuclei is not None:
            train([*SEGMENTER, f"data.path={nuclei}"], runs / "nuclei")
            keep(runs / "nuclei", folder, ("segmentation",))
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        if chromium is None or importlib.util.find_spec("playwright") is None:
            print("no playwright or no Chromium: no pictures of pages")
            return
        train([*CLASSIFIER, "conv=spline"], runs / "spline")
        train((), runs / "digits")  # the default job: it recognises drawings as well
        command("report", str(runs / "gram"), str(runs / "spline"), "--output", str(runs / "report.html"))
        with pages(chromium) as browser:
            photograph_report(browser, (runs / "report.html").as_uri(), folder)
            photograph_demo(browser, runs / "digits", folder)


def train(overrides: Sequence[str], run: Path) -> None:
    """Train into a folder."""
    command("train", *overrides, f"output_dir={run}", "tracker=none", "trainer.cpu=true")


def command(*words: str) -> None:
    """Run a command of Kanvolution."""
    if kanvolution(words):
        raise SystemExit(1)


def keep(run: Path, folder: Path, names: Sequence[str]) -> None:
    """Copy pictures of a run."""
    for name in names:
        save(run / f"{name}.png", folder / f"{name}.png")


def save(source: Path, target: Path) -> None:
    """Save a picture small: few colours are enough."""
    with Image.open(source) as picture:
        picture.convert("RGB").quantize(128).save(target, optimize=True)


@contextlib.contextmanager
def pages(chromium: str) -> Iterator[Any]:
    """A browser without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


def photograph_report(browser: Any, address: str, folder: Path) -> None:
    """The top of a report, and the functions of a layer in the dark."""
    page = browser.new_page(viewport={"width": 1060, "height": 1500})
    page.goto(address)
    photograph(page, folder / "report.png")
    page = browser.new_page(viewport={"width": 1060, "height": 900}, color_scheme="dark")
    page.goto(address)
    page.select_option("#layer", label="stages.1.conv")
    photograph(page.locator("#functions"), folder / "report_functions.png")


def photograph_demo(browser: Any, run: Path, folder: Path) -> None:
    """The demo with a drawing."""
    import uvicorn

    from kanvolution.pages.demo import demo_app, listen

    address = listen("127.0.0.1", 0)
    app = demo_app(load_run(run), create_data("digits").val)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [address.socket]}, daemon=True)
    thread.start()
    page = browser.new_page(viewport={"width": 1060, "height": 1190})
    page.goto(address.url)
    box = page.locator("#pad").bounding_box()
    three = ((95, 65), (140, 50), (180, 80), (140, 130), (185, 180), (140, 230), (90, 210))
    places = [(box["x"] + x, box["y"] + y) for x, y in three]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=8)
    page.mouse.up()
    page.locator("#found").wait_for()
    page.wait_for_timeout(300)
    photograph(page, folder / "demo.png")
    server.should_exit = True
    thread.join(10)


def photograph(what: Any, target: Path) -> None:
    """A picture of a page or a part of it."""
    with tempfile.TemporaryDirectory() as temporary:
        what.screenshot(path=f"{temporary}/page.png")
        save(Path(temporary) / "page.png", target)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nuclei", metavar="PATH", help="folder of images and masks")
    parser.add_argument("--output", metavar="FOLDER", type=Path, default=FOLDER, help="where the pictures go")
    options = parser.parse_args()
    main(options.output, options.nuclei)
