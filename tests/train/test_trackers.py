import contextlib
import importlib.util
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from kanvolution.train import (
    NonFiniteLossError,
    Tracker,
    TrainerConfig,
    create_tracker,
    fit,
    list_trackers,
    register_tracker,
)
from kanvolution.train.progress import Silent
from kanvolution.train.state import States
from kanvolution.train.trackers import TRACKERS, NoTracker
from tests.train.toy import CHANNELS, toy_data, toy_model


def train(folder: Path, tracker: Any, model: torch.nn.Module | None = None) -> list[dict[str, Any]]:
    """Two epochs; returns the lines of metrics.jsonl."""
    model = toy_model() if model is None else model
    options = TrainerConfig(epochs=2, batch_size=8)
    fit(model, toy_data(), trainer=options, tracker=tracker, output_dir=folder, progress=Silent(), config="seed: 7\n")
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


class Notes(Tracker):
    def __init__(self) -> None:
        self.calls: list[Any] = []

    def start(self, folder: Path, name: str, config: str | None) -> None:
        self.calls.append(("start", folder, name, config))

    def log(self, record: Mapping[str, Any]) -> None:
        self.calls.append(("log", dict(record)))

    def show(self, pictures: Sequence[Path]) -> None:
        assert all(picture.is_file() for picture in pictures)
        self.calls.append(("show", [picture.name for picture in pictures]))

    def finish(self, ok: bool) -> None:
        self.calls.append(("finish", ok))


def test_a_tracker_is_told_of_the_start_every_epoch_the_pictures_and_the_end(tmp_path) -> None:
    notes = Notes()
    records = train(tmp_path / "run", notes)
    assert notes.calls == [
        ("start", tmp_path / "run", "run", "seed: 7\n"),
        ("log", records[0]),
        ("log", records[1]),
        ("show", ["curves.png", "confusion.png", "reliability.png", "mistakes.png"]),
        ("finish", True),
    ]


def test_a_tracker_is_told_of_each_epoch_once_whenever_the_run_was_killed(tmp_path, monkeypatch) -> None:
    class Killed(BaseException):
        pass

    save, saved = States.save, []

    def dying(self: States, *arguments: Any) -> Path:
        saved.append(1)
        if len(saved) in (2, 3):  # with epoch 1 recorded, and no state that has it
            raise Killed
        return save(self, *arguments)

    class Stop(Silent):
        def step(self, epoch: int, images: int) -> None:
            raise Killed

    monkeypatch.setattr(States, "save", dying)
    notes, options = Notes(), {"trainer": TrainerConfig(epochs=2, batch_size=8)}
    for where, progress in (("output_dir", Silent()), ("resume", Stop()), ("resume", Silent()), ("resume", Silent())):
        with contextlib.suppress(Killed):
            fit(toy_model(), toy_data(), tracker=notes, progress=progress, **options, **{where: tmp_path / "run"})
    assert [call[1]["epoch"] for call in notes.calls if call[0] == "log"] == [1, 2]
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]


def test_a_tracker_is_told_that_a_run_failed(tmp_path) -> None:
    notes, model = Notes(), toy_model()
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(NonFiniteLossError):
        train(tmp_path / "run", notes, model)
    assert [call[0] for call in notes.calls] == ["start", "finish"] and notes.calls[-1] == ("finish", False)


def test_a_tracker_of_ones_own_is_a_choice(tmp_path) -> None:
    pytest.importorskip("hydra")
    from kanvolution.configs import compose

    made = []

    @register_tracker("notes")
    def notes(project: str = "a") -> Tracker:
        made.append((project, Notes()))
        return made[-1][1]

    try:
        values = compose(["tracker=notes", "tracker.project=b"]).values["tracker"]
        train(tmp_path / "run", values)
    finally:
        TRACKERS.unregister("notes")
    assert made[0][0] == "b" and made[0][1].calls[-1] == ("finish", True)


def test_without_tensorboard_the_default_writes_metrics_alone(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert isinstance(create_tracker("auto"), NoTracker)
    assert len(train(tmp_path / "run", "auto")) == 2


def test_tensorboard_has_the_metrics_the_config_and_the_pictures(tmp_path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    records = train(tmp_path / "run", "auto")
    events = EventAccumulator(str(tmp_path / "run"), size_guidance={"scalars": 0}).Reload()
    top1 = [(event.step, event.value) for event in events.Scalars("val/top1")]
    assert top1 == [(r["epoch"], pytest.approx(r["val_top1"])) for r in records]
    loss = [event.value for event in events.Scalars("train/loss")]
    assert loss == [pytest.approx(r["train_loss"]) for r in records]
    assert set(events.Tags()["images"]) == {"curves", "confusion", "reliability", "mistakes"}
    assert events.Images("curves")[0].step == 2 and events.Images("curves")[0].width > 500
    assert b"seed: 7" in events.Tensors("config/text_summary")[0].tensor_proto.string_val[0]


@pytest.mark.filterwarnings("default")  # of packages that we do not write
def test_wandb_offline_needs_no_account(tmp_path, monkeypatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    records = train(tmp_path / "run", {"name": "wandb", "mode": "offline", "project": "tests"})
    wandb.teardown()  # ends its process, which may still be writing
    (offline,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    (log,) = offline.glob("*.wandb")
    content = log.read_bytes()
    for part in (b"val/top1", b"train/loss", b"curves", repr(round(records[-1]["lr"], 6)).encode()[:4]):
        assert part in content
    assert (tmp_path / "run" / "wandb_id.txt").read_text() in log.name


def test_trackio_keeps_the_metrics_on_this_machine(tmp_path) -> None:
    pytest.importorskip("trackio")
    pytest.importorskip("hydra")
    # In a process of its own: it reads at import where its database is.
    options = [f"model.channels={CHANNELS}", "trainer.epochs=2", "trainer.batch_size=512", "tracker.project=tests"]
    command = [sys.executable, "-m", "kanvolution.cli", "train", "tracker=trackio", *options]
    environment = {**os.environ, "TRACKIO_DIR": str(tmp_path / "trackio")}
    subprocess.run([*command, f"output_dir={tmp_path / 'run'}"], env=environment, check=True, timeout=300)
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    (file,) = (tmp_path / "trackio").rglob("*.db")
    with contextlib.closing(sqlite3.connect(file)) as database:
        rows = [json.loads(row[0]) for row in database.execute("select metrics from metrics order by step")]
    assert [row["val/top1"] for row in rows if "val/top1" in row] == [r["val_top1"] for r in records]
    assert any("curves" in row for row in rows)


@pytest.mark.parametrize("name", [n for n in list_trackers() if n in ("tensorboard", "wandb", "trackio")])
def test_a_missing_package_is_named_before_the_run_begins(name: str, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=rf"{name}.*kanvolution\[track\]"):
        train(tmp_path / "run", name)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("wanbd", "unknown tracker 'wanbd'. Did you mean 'wandb'"),
        ({"name": "wandb", "mode": "ofline"}, "unknown tracker.mode 'ofline'. Did you mean 'offline'"),
        ({"name": "wandb", "projct": "x"}, "Did you mean 'project'"),
    ],
)
def test_a_mistake_names_the_nearest(choice: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_tracker(choice)
