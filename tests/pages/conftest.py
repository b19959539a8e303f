"""Small finished runs, and a Chromium without a window where there is one."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import kanvolution as kv
from kanvolution.data import DataInfo, DataSets, TensorImages
from kanvolution.train import TrainerConfig, fit
from kanvolution.train.progress import Silent
from tests.train.toy import toy_model

HOSTILE = "<img src=x onerror=alert(1)>\"'&"
_FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)


def blobs(count: int = 40, masks: bool = False) -> DataSets:
    """Noisy images 16x16 with a bright square: its corner is the class, or its pixels are."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 4
    images = 0.3 * torch.rand(count, 1, 16, 16, generator=generator)
    targets = torch.zeros(count, 16, 16, dtype=torch.long)
    for image, target, label in zip(images, targets, labels.tolist(), strict=True):
        square = (slice(8 * (label // 2) + 2, 8 * (label // 2) + 7), slice(8 * (label % 2) + 2, 8 * (label % 2) + 7))
        image[0][square] += 0.6
        target[square] = 1
    kind = "masks" if masks else "labels"
    names = ("ground", HOSTILE) if masks else ("a", "b", "c", HOSTILE)
    info = DataInfo("blobs", 1, (16, 16), names, mean=(0.2,), std=(0.2,), targets=kind)
    images, targets = info.normalise(images), targets if masks else labels
    return DataSets(TensorImages(images, targets), TensorImages(images[:20], targets[:20]), info)


def train(folder: Path, conv: str = "gram", masks: bool = False) -> tuple[Path, torch.nn.Module, DataSets]:
    """A finished run of one epoch."""
    data = blobs(masks=masks)
    torch.manual_seed(0)
    unet = partial(kv.create_model, "unet", conv, num_classes=2, in_chans=1, width=4, depth=2)
    model = unet() if masks else toy_model(conv)
    task = "segmentation" if masks else "classification"
    options = TrainerConfig(epochs=2, batch_size=8, cpu=True)
    text = f"conv:\n  basis: {conv}\nnote: {json.dumps(HOSTILE)}\n"
    fit(model, data, task=task, trainer=options, output_dir=folder, config=text, tracker="none", progress=Silent())
    return folder, model, data


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """By name: a run's folder, network and data."""
    folder = tmp_path_factory.mktemp("runs")
    return {
        "gram": train(folder / "gram <b>"),
        "spline": train(folder / "spline", "spline"),
        "masks": train(folder / "masks", masks=True),
    }


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium; the test is skipped where it or playwright is missing."""
    api = pytest.importorskip("playwright.sync_api")
    found = map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))
    program = os.environ.get("KANVOLUTION_CHROMIUM") or next(filter(None, found), None)
    if program is None:
        pytest.skip("no Chromium is installed; KANVOLUTION_CHROMIUM names one")
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=list(_FLAGS))
        yield opened
        opened.close()
