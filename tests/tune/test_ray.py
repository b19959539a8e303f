"""The back end of Ray Tune. Ray runs in processes of its own, since its warnings would be errors here."""

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("hydra")
pytest.importorskip("optuna")

from kanvolution.train.interrupt import StopFlag
from kanvolution.tune import read_space
from kanvolution.tune.backend_ray import _Course
from kanvolution.tune.objective import TrialObjective
from kanvolution.tune.optuna_study import OptunaStudy
from kanvolution.tune.plan import Plan
from kanvolution.tune.ray_cluster import check_address

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
SPACE = "optim.lr: {low: 0.001, high: 0.1, log: true}\nmodel.groups: {choices: [1, 3]}\n"
SMALL = ["model.channels=[2,2,2,2]", "trainer.epochs=3", "trainer.batch_size=256", "tune.backend=ray"]


@pytest.fixture
def plan(tmp_path) -> Plan:
    (tmp_path / "space.yaml").write_text(SPACE)
    objective = TrialObjective((), "top1")
    space = read_space(tmp_path / "space.yaml")
    return Plan(objective, space, {"optim.lr": 0.002}, tmp_path, 5, 0, epochs=3, grace_epochs=1, reduction=3)


def test_what_ray_tells_of_trials(plan, capsys) -> None:
    """Complete, stopped, failed, lost and interrupted trials, by names that Ray gives them."""
    study, flag = OptunaStudy(plan, together=True), StopFlag()
    course = _Course(study, plan, flag)
    assert course.begin("a")["settings"]["optim.lr"] == 0.002, "the settings given come first"
    configs = {name: course.begin(name) for name in "bcde"}
    assert [config["number"] for config in configs.values()] == [1, 2, 3, 4]
    for name in "aabce":  # one epoch is told of twice
        course.report(name, {"value": 0.5, "epoch": 1})
    course.end("a", {"value": 0.75, "epoch": 3, "last": True})
    course.end("b", {"value": 0.25, "epoch": 2})  # the last epoch is told of at the end alone
    course.end("c", {"trial_error": "ValueError: no"})
    course.end("d", None)
    course.end("a", None)
    assert not course.over
    flag.name = "SIGTERM"
    assert course.over
    course.end("e", {"value": 0.5, "epoch": 1})
    assert [(t.state, t.value) for t in study.trials()] == [
        *(("complete", 0.75), ("pruned", 0.25), ("failed", None), ("failed", None))
    ]
    assert study.missing() == 1
    assert study.trials()[2].error == "ValueError: no"
    assert "its process ended" in str(study.trials()[3].error)
    assert study.histories()[1] == {1: 0.5, 2: 0.25}
    out = capsys.readouterr().out
    assert "trial 0: top1 0.7500" in out and "trial 1 stopped after epoch 2: 0.2500" in out

    again = OptunaStudy(plan, together=True)
    assert [t.state for t in again.trials()][4] == "interrupted"
    assert _Course(again, plan, StopFlag()).begin("f")["settings"] == configs["e"]["settings"]


def test_a_first_trial_that_fails_ends_the_study(plan) -> None:
    course = _Course(OptunaStudy(plan), plan, StopFlag())
    course.begin("a")
    course.end("a", {"trial_error": "ValueError: no"})
    assert course.over and course.first_error == "ValueError: no"


def test_a_dead_address_is_found_at_once() -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        listening.listen()
        check_address(f"127.0.0.1:{port}")
    with pytest.raises(ConnectionError, match=rf"127.0.0.1:{port}.*no Ray cluster answers there.*ray start --head"):
        check_address(f"127.0.0.1:{port}")
    check_address("auto")


@pytest.mark.parametrize("address", ["localhost", "ray://localhost:10001", ":6379", "localhost:ray", "localhost:0"])
def test_bad_addresses(address) -> None:
    with pytest.raises(ValueError, match="must be HOST:PORT"):
        check_address(address)


def command(folder: Path, *overrides: str) -> list[str]:
    space = folder.parent / "space.yaml"
    space.write_text(SPACE)
    run = "import sys\nfrom kanvolution.cli import main\nraise SystemExit(main(sys.argv[1:]))"
    return [*(sys.executable, "-c", run, "tune"), *SMALL, f"tune.space={space}", f"output_dir={folder}", *overrides]


def environment(home: Path) -> dict[str, str]:
    return {**os.environ, "HOME": str(home)}


@needs_ray
@pytest.mark.slow
def test_a_study_of_ray(tmp_path) -> None:
    """Failed trials are reported, the study goes on in its folder, and Ray leaves nothing in the user's."""
    folder, home = tmp_path / "study", tmp_path / "home"
    home.mkdir()
    own = Path(__file__).parents[2] / "examples" / "own_basis.py"
    arguments = [*command(folder), "conv=hermite", "--import", str(own), "tune.cpus_per_trial=0.5"]
    for samples in (2, 5):
        done = subprocess.run(
            [*arguments, f"tune.samples={samples}"], env=environment(home), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    stored = json.loads((folder / "study.json").read_text())
    trials = stored["trials"]
    assert [trial["number"] for trial in trials] == list(range(5))
    assert trials[0]["settings"] == {"optim.lr": 0.002, "model.groups": 1}
    failed = [trial for trial in trials if trial["settings"]["model.groups"] == 3]
    assert failed and all("must be divisible by groups (=3)" in trial["error"] for trial in failed)
    assert {trial["state"] for trial in trials if trial not in failed} <= {"complete", "pruned"}
    assert stored["best"]["value"] == max(trial["value"] for trial in trials if trial["state"] == "complete")
    assert (folder / "best.yaml").is_file() and (folder / "study.png").is_file()
    assert not (folder / "ray").exists() and not (home / "ray_results").exists()


@needs_ray
@pytest.mark.slow
def test_a_killed_study_of_ray_goes_on(tmp_path) -> None:
    folder = tmp_path / "study"
    arguments = command(folder, "tune.samples=3", "model.groups=1", "trainer.epochs=20", "tune.grace_epochs=20")
    with subprocess.Popen(arguments, env=environment(tmp_path), stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not (folder / "trial000" / "metrics.jsonl").is_file():
            time.sleep(0.2)
        process.send_signal(signal.SIGKILL)
    done = subprocess.run(arguments, env=environment(tmp_path), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    trials = json.loads((folder / "study.json").read_text())["trials"]
    assert trials[0]["state"] == "interrupted"
    assert sum(trial["state"] in ("complete", "pruned", "failed") for trial in trials) == 3
    again = [trial["settings"] for trial in trials if trial["state"] != "interrupted"]
    assert trials[0]["settings"] in again


@needs_ray
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_study_of_ray(number, tmp_path) -> None:
    folder = tmp_path / "study"
    arguments = command(folder, "tune.samples=2", "trainer.epochs=200")
    with subprocess.Popen(arguments, env=environment(tmp_path), stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not (folder / "trial000" / "metrics.jsonl").is_file():
            time.sleep(0.2)
        process.send_signal(number)
        _, error = process.communicate(timeout=120)
    assert process.returncode == 130, error
    assert f"stopped by {number.name}" in error and "the same command goes on" in error
