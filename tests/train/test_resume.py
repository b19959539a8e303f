"""A run that is stopped at any moment and resumed ends with the bits of one that was not."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import kanvolution as kv
from kanvolution.data import DataSets
from kanvolution.data.batch_transforms import Affine
from kanvolution.data.registry import PreparedImages
from kanvolution.train import Classification, TrainerConfig, TrainingInterrupted, fit, list_optims, load_run
from kanvolution.train.progress import Silent
from kanvolution.train.state import States, check_settings, load_state
from kanvolution.train.tasks import TASKS
from tests.train.toy import CHANNELS, toy_data, toy_model

STEPS = 4  # of an epoch of toy data in batches of 8
KILLING = Path(__file__).with_name("killing.py")
TIMES = ("seconds", "images_per_second", "memory_gib")


@pytest.fixture(scope="module", autouse=True)
def _no_task_stays_behind():
    """The task of `killing.py`, which tests of the command import, is not left to other tests."""
    yield
    for name in [name for name in sys.modules if name.startswith("kanvolution_import_killing")]:
        del sys.modules[name]
        TASKS.unregister("killing")


class Killed(BaseException):
    """Ends a run without any of its own handling, as SIGKILL does."""


class KillAt(Silent):
    def __init__(self, step: int) -> None:
        self.left = step

    def step(self, epoch: int, images: int) -> None:
        self.left -= 1
        if not self.left:
            raise Killed


def augmented() -> DataSets:
    data = toy_data()
    return DataSets(PreparedImages(data.train, data.info, Affine(10, 0.1, (0.9, 1.1))), data.val, data.info)


def train(folder: Path, resume: bool = False, progress: Silent | None = None, **options: Any) -> nn.Module:
    """A run with every source of randomness: augmentation, dropout, data order."""
    model = toy_model(kv.ConvSpec("gram", dropout=0.2))
    trainer = {"epochs": 3, "batch_size": 8, **options.pop("trainer", {})}
    where = {"resume": folder} if resume else {"output_dir": folder}
    torch.manual_seed(int(time.time()))  # what happened before does not matter
    options = {"trainer": TrainerConfig(**trainer), "progress": progress or Silent(), **where, **options}
    fit(model, augmented(), tracker="none", **options)
    return model


def records(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMES} for line in lines]


def assert_equal_runs(one: Path, other: Path) -> None:
    a, b = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    assert records(one) == records(other)
    results = [json.loads((folder / "result.json").read_text()) for folder in (one, other)]
    assert results[0]["metrics"] == results[1]["metrics"] and results[0]["tables"] == results[1]["tables"]


ALL = {"ema": 0.9, "accumulation": 3, "batch_size": 4, "checkpoint_steps": 1}
CASES = {
    "between states": ({}, STEPS + 2),
    "within an epoch, with accumulation and ema": ({"trainer": ALL}, 5),
}
SLOW_CASES = {
    "before the first epoch ends": ({}, 2),
    "in the last epoch": ({}, 2 * STEPS + 3),
    "states within epochs": ({"trainer": {"checkpoint_steps": 3}}, STEPS + 3),
    "workers": ({"trainer": {"num_workers": 1, "checkpoint_steps": 1}}, STEPS + 2),
    "limited steps": ({"trainer": {"max_steps": 2, "checkpoint_steps": 1}}, 3),
    "bf16": ({"trainer": {"mixed_precision": "bf16"}}, STEPS + 1),
    "channels last": ({"trainer": {"channels_last": True, "grad_checkpointing": True}}, STEPS + 1),
    **{f"optim={name}": ({"optim": name}, STEPS + 2) for name in list_optims()},
}


@pytest.mark.parametrize("case", [*CASES, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW_CASES)])
def test_a_resumed_run_ends_with_the_same_bits(tmp_path, case: str) -> None:
    options, step = {**CASES, **SLOW_CASES}[case]
    whole = train(tmp_path / "whole", **options)
    with pytest.raises(Killed):
        train(tmp_path / "run", progress=KillAt(step), **options)
    # A first resumption that is killed as well.
    with pytest.raises(Killed):
        train(tmp_path / "run", resume=True, progress=KillAt(1), **options)
    model = train(tmp_path / "run", resume=True, **options)
    assert_equal_runs(tmp_path / "whole", tmp_path / "run")
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), model.state_dict().values(), strict=True))


@pytest.mark.parametrize("moment", ["weights", "metrics", "state", "result"])
def test_a_kill_while_an_epoch_is_saved(tmp_path, monkeypatch, moment: str) -> None:
    from kanvolution.train import engine

    train(tmp_path / "whole")
    calls = []

    def dying(function):
        def call(*arguments, **options):
            calls.append(1)
            if len(calls) == (1 if moment == "result" else 2):
                raise Killed
            return function(*arguments, **options)

        return call

    target = {"weights": "save_weights", "metrics": "write_json_lines", "result": "write_json"}.get(moment)
    with monkeypatch.context() as patch:
        if target is None:
            patch.setattr(States, "save", dying(States.save))
        elif moment == "result":
            patch.setattr(engine, "write_json", dying(engine.write_json))
        else:
            patch.setattr(engine, target, dying(getattr(engine, target)))
        with pytest.raises(Killed):
            train(tmp_path / "run")
    train(tmp_path / "run", resume=True)
    assert_equal_runs(tmp_path / "whole", tmp_path / "run")


def test_a_signal_saves_the_state_at_once(tmp_path) -> None:
    class Stop(KillAt):
        def step(self, epoch: int, images: int) -> None:
            self.left -= 1
            if not self.left:
                signal.raise_signal(signal.SIGTERM)

    train(tmp_path / "whole")
    with pytest.raises(TrainingInterrupted, match=f"Continue with resume={tmp_path / 'run'}"):
        train(tmp_path / "run", progress=Stop(STEPS + 1))
    newest = States(tmp_path / "run", 1).newest()
    assert newest.name == f"step-{STEPS + 2:09d}.pt"  # the step after the one in which the signal came
    assert load_state(newest)[1].step == 2
    train(tmp_path / "run", resume=True)
    assert_equal_runs(tmp_path / "whole", tmp_path / "run")


def test_states_are_kept_as_asked_and_removed_when_the_run_is_finished(tmp_path) -> None:
    for keep in (1, 3):
        folder = tmp_path / str(keep)
        with pytest.raises(Killed):
            train(folder, progress=KillAt(2 * STEPS + 1), trainer={"keep_last": keep, "checkpoint_steps": 2})
        names = sorted(path.name for path in (folder / "checkpoints").iterdir())
        assert names == [f"step-{step:09d}.pt" for step in (4, 6, 8)[-keep:]]
    train(folder, resume=True, trainer={"keep_last": 3, "checkpoint_steps": 2})
    assert not (folder / "checkpoints").exists()


def test_an_older_state_is_used_when_the_newest_is_removed(tmp_path) -> None:
    options = {"trainer": {"keep_last": 2}}
    train(tmp_path / "whole", **options)
    with pytest.raises(Killed):
        train(tmp_path / "run", progress=KillAt(2 * STEPS + 1), **options)
    newest = States(tmp_path / "run", 2).newest()
    newest.write_bytes(newest.read_bytes()[:1000])
    with pytest.raises(
        ValueError, match=rf"{newest.name}' cannot be read: .*remove it to continue from the one before"
    ):
        train(tmp_path / "run", resume=True, **options)
    newest.unlink()
    train(tmp_path / "run", resume=True, **options)
    assert_equal_runs(tmp_path / "whole", tmp_path / "run")


def test_a_run_killed_before_its_first_state_begins_again(tmp_path) -> None:
    train(tmp_path / "whole")
    with pytest.raises(Killed):
        train(tmp_path / "run", progress=KillAt(1))
    States(tmp_path / "run", 1).clear()
    train(tmp_path / "run", resume=True)
    assert_equal_runs(tmp_path / "whole", tmp_path / "run")


def test_other_settings_are_refused_by_name_and_those_without_effect_are_not(tmp_path) -> None:
    with pytest.raises(Killed):
        train(tmp_path / "run", progress=KillAt(STEPS + 1))
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    for options, message in (
        ({"trainer": {"epochs": 4}}, "trainer.epochs is 3 there and 4 here"),
        ({"seed": 1}, "seed is 0 there and 1 here"),
        ({"optim": {"name": "adamw", "lr": 0.1}}, "optim.lr is not set there and 0.1 here"),
        ({"schedule": "constant"}, 'schedule.name is "cosine" there and "constant" here'),
    ):
        with pytest.raises(ValueError, match=message):
            train(tmp_path / "run", resume=True, **options)
    with pytest.raises(ValueError, match="goes on in its own folder"):
        train(tmp_path / "run", resume=True, output_dir=tmp_path / "other")
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    train(tmp_path / "run", resume=True, trainer={"keep_last": 2, "num_workers": 0})


def test_a_run_of_a_version_without_an_option_goes_on_while_the_option_is_off(tmp_path) -> None:
    stored = {"trainer": {"epochs": 3}, "seed": 0}
    for off in (None, False, 0.0):
        check_settings(tmp_path, stored, {"trainer": {"epochs": 3, "new": off}, "seed": 0})
    with pytest.raises(ValueError, match=r"trainer\.new is not set there and true here"):
        check_settings(tmp_path, stored, {"trainer": {"epochs": 3, "new": True}, "seed": 0})
    with pytest.raises(ValueError, match="seed is 0 there and not set here"):
        check_settings(tmp_path, stored, {"trainer": {"epochs": 3}})


def test_finished_and_missing_runs_say_so(tmp_path) -> None:
    train(tmp_path / "run", trainer={"epochs": 1})
    with pytest.raises(ValueError, match="this run is finished"):
        train(tmp_path / "run", resume=True, trainer={"epochs": 1})
    with pytest.raises(ValueError, match="is not the folder of a run"):
        train(tmp_path / "nothing", resume=True)


def test_the_environment_of_every_start_is_kept(tmp_path) -> None:
    with pytest.raises(Killed):
        train(tmp_path / "run", progress=KillAt(1))
    train(tmp_path / "run", resume=True)
    facts = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert len(facts["resumed"]) == 1
    for start in (facts, facts["resumed"][0]):
        assert {"command", "git_commit", "device", "cores", "memory_gib", "processes", "torch", "seed"} <= start.keys()


@pytest.mark.parametrize(("metric", "best"), [("loss", 2), ("score", 3)])
def test_the_best_weights_are_kept_beside_the_last(tmp_path, metric: str, best: int) -> None:
    class Scripted(Classification):
        """Measures what it is told to."""

        values = ((0.5, 0.1), (0.2, 0.3), (0.9, 0.8), (0.4, 0.3))
        calls = 0

        def compute(self) -> dict[str, float | None]:
            self.calls += 1
            # The first call asks for the names, before the training.
            return dict(zip(("loss", "score"), self.values[max(self.calls - 2, 0)], strict=True))

    model, data = toy_model(), toy_data()
    trainer = TrainerConfig(epochs=4, batch_size=16, keep_best=metric)
    options = {"tracker": "none", "progress": Silent(), "trainer": trainer}
    fit(model, data, task=Scripted(data.info), output_dir=tmp_path / "run", **options)
    assert load_run(tmp_path / "run").epoch == 4
    assert load_run(tmp_path / "run" / "best").epoch == best
    assert json.loads((tmp_path / "run" / "best" / "metrics.json").read_text())["epoch"] == best
    trainer.keep_best = "scor"
    with pytest.raises(ValueError, match=r"unknown metric trainer.keep_best 'scor'. Did you mean 'score'"):
        fit(model, data, task=Scripted(data.info), output_dir=tmp_path / "other", **options)
    assert not (tmp_path / "other").exists()


def test_a_full_disk_keeps_the_state_before(tmp_path, monkeypatch) -> None:
    train(tmp_path / "whole")
    save = torch.save

    def full(state: Any, file: Any) -> None:
        if state["position"]["epoch"] == 3:
            file.write(b"half of it")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(state, file)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(
            OSError, match=r"step-000000008.pt' cannot be saved: No space left on device; what was"
        ) as e:
            train(tmp_path / "run")
    assert e.value.errno == errno.ENOSPC
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == [f"step-{STEPS:09d}.pt"]
    train(tmp_path / "run", resume=True)
    assert_equal_runs(tmp_path / "whole", tmp_path / "run")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_named(tmp_path) -> None:
    with pytest.raises(Killed):
        train(tmp_path / "run", progress=KillAt(1))
    (tmp_path / "run").chmod(0o500)
    try:
        with pytest.raises(ValueError, match="no permission to write there"):
            train(tmp_path / "run", resume=True)
    finally:
        (tmp_path / "run").chmod(0o700)


def test_a_state_runs_no_code(tmp_path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "executed"),)

    torch.save({"format": 1, "settings": Evil()}, tmp_path / "step-000000001.pt")
    with pytest.raises(ValueError, match="cannot be read"):
        load_state(tmp_path / "step-000000001.pt")
    assert not (tmp_path / "executed").exists()


def command(folder: Path, *more: str) -> list[str]:
    tiny = [f"model.channels={CHANNELS}", "trainer.epochs=3", "trainer.batch_size=16", "trainer.max_steps=3"]
    return ["train", "--import", str(KILLING), "task=killing", *tiny, "tracker=none", f"output_dir={folder}", *more]


def test_kill_9_and_the_command_line(tmp_path, capsys) -> None:
    """The same command with `resume` goes on; without other keys too; other values are refused."""
    from kanvolution.cli import main

    killed = subprocess.run(
        [sys.executable, "-m", "kanvolution.cli", *command(tmp_path / "run", "trainer.checkpoint_steps=1")],
        env={**os.environ, "KILL_AT": "6", "KILL_RANK": "0"},
        stdout=subprocess.PIPE,
    )
    assert killed.returncode == -signal.SIGKILL and b"epoch 1/3" in killed.stdout
    resume = f"resume={tmp_path / 'run'}"
    assert main(["train", resume, "trainer.epochs=4"]) == 2
    assert "trainer.epochs is 3 there and 4 here" in capsys.readouterr().err
    assert main(command(tmp_path / "run", resume, "trainer.keep_last=2")) == 0
    assert main(command(tmp_path / "whole")) == 0
    assert_equal_runs(tmp_path / "whole", tmp_path / "run")
    assert main(["train", resume]) == 2
    assert "this run is finished" in capsys.readouterr().err
