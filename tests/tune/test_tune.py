"""Studies: spaces that are checked before work, trials that are counted, and folders that go on."""

import json
import signal
import subprocess
import sys

import pytest

pytest.importorskip("hydra")
pytest.importorskip("optuna")

from kanvolution.cli import main
from kanvolution.configs import compose
from kanvolution.train import TrainingInterrupted
from kanvolution.train.progress import Silent
from kanvolution.tune import StudyInterruptedError, Trial, list_spaces, read_space, tune
from kanvolution.tune.report import report

SMALL = ("model.channels=[2,2,2,2]", "trainer.epochs=1", "trainer.batch_size=256")
OPTIONS = {"progress": Silent(), "seed": 0}


def space(tmp_path, text="optim.lr: {low: 0.001, high: 0.1, log: true}\nconv.degree: {low: 1, high: 2}\n"):
    path = tmp_path / "space.yaml"
    path.write_text(text)
    return read_space(path)


@pytest.mark.parametrize("name", list_spaces())
def test_shipped_spaces_name_keys_that_exist(name) -> None:
    base = ["model=simple8", "schedule=polynomial"] if name == "torch_conv_kan" else []
    for settings in read_space(name).extremes():
        compose([*base, *(f"{key}={value}" for key, value in settings.items())])


def test_a_study_goes_on_in_its_folder(tmp_path) -> None:
    folder = tmp_path / "study"
    first = tune(SMALL, space(tmp_path), folder, samples=1, **OPTIONS)
    assert first.trials[0].settings["optim.lr"] == 0.002, "the settings given come first"
    result = tune(SMALL, space(tmp_path), folder, samples=3, **OPTIONS)
    assert [trial.number for trial in result.trials] == [0, 1, 2]
    assert result.best.value == max(trial.value for trial in result.trials if trial.state == "complete")
    stored = json.loads((folder / "study.json").read_text())
    assert stored["best"]["number"] == result.best.number
    compose([*result.overrides])
    assert (folder / "study.png").stat().st_size > 1000
    assert (folder / "trial002" / "result.json").is_file() or result.trials[2].state == "pruned"
    with pytest.raises(ValueError, match="holds a study of other settings"):
        tune(["trainer.epochs=2"], space(tmp_path), folder, samples=3, **OPTIONS)


def test_trials_of_a_dead_process_are_made_up_for(tmp_path) -> None:
    import optuna

    folder = tmp_path / "study"
    tune(SMALL, space(tmp_path), folder, samples=1, **OPTIONS)
    study = optuna.load_study(study_name="study", storage=f"sqlite:///{folder / 'study.db'}")
    study.ask()  # as a process that was killed leaves it
    result = tune(SMALL, space(tmp_path), folder, samples=3, **OPTIONS)
    assert [trial.state for trial in result.trials][1] == "interrupted"
    assert sum(trial.state in ("complete", "pruned") for trial in result.trials) == 3


@pytest.mark.slow
def test_a_killed_study_goes_on(tmp_path) -> None:
    """The command, killed in its second training, makes that trial again with the same settings, and the rest."""
    space(tmp_path)
    folder = tmp_path / "study"
    arguments = ["tune", *SMALL, f"tune.space={tmp_path / 'space.yaml'}", "tune.samples=3", f"output_dir={folder}"]
    code = (
        "import os, signal, sys\n"
        "from kanvolution.tune import objective\n"
        "log = objective._Reporter.log\n"
        "def kill(self, record):\n"
        "    log(self, record)\n"
        f"    if os.path.exists({str(folder / 'trial001')!r}):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "objective._Reporter.log = kill\n"
        "from kanvolution.cli import main\n"
        "main(sys.argv[1:])\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert main(arguments) == 0
    trials = json.loads((folder / "study.json").read_text())["trials"]
    assert [trial["state"] for trial in trials].count("interrupted") == 1
    assert sum(trial["state"] in ("complete", "pruned") for trial in trials) == 3
    assert trials[1]["settings"] == trials[2]["settings"] != trials[3]["settings"]


def test_a_stopped_study_stops(tmp_path, monkeypatch) -> None:
    def stopped(self, record) -> None:
        raise TrainingInterrupted(tmp_path, 0, "SIGINT")

    with monkeypatch.context() as patch:
        patch.setattr("kanvolution.tune.objective._Reporter.log", stopped)
        with pytest.raises(StudyInterruptedError, match="stopped by SIGINT"):
            tune(SMALL, space(tmp_path), tmp_path / "study", samples=2, **OPTIONS)
    result = tune(SMALL, space(tmp_path), tmp_path / "study", samples=1, **OPTIONS)
    assert [trial.state for trial in result.trials] == ["interrupted", "complete"]
    assert result.trials[0].settings == result.trials[1].settings


def test_the_best_settings_are_an_experiment(tmp_path) -> None:
    result = tune([*SMALL, "conv=spline", "seed=3"], spline_space(tmp_path), tmp_path / "study", samples=2, **OPTIONS)
    again = compose([f"experiment={tmp_path / 'study' / 'best.yaml'}"])
    assert again.values == compose(result.overrides).values
    assert again.values["conv"]["grid_size"] == result.best.settings["conv.grid_size"]
    changed = compose([f"experiment={tmp_path / 'study' / 'best.yaml'}", "conv=gram", "trainer.epochs=7"]).values
    assert (changed["conv"]["basis"], changed["trainer"]["epochs"]) == ("gram", 7)


def spline_space(tmp_path):
    return space(tmp_path, "conv.grid_size: {low: 3, high: 6}\nconv.norm: [batch, instance]\n")


def test_importance_finds_the_key_that_matters(tmp_path) -> None:
    searched = space(tmp_path)
    trials = [
        Trial(i, "complete", 0.1 * (i // 2), {"optim.lr": 0.001 * (1 + i // 2), "conv.degree": 1 + i % 2})
        for i in range(12)
    ]
    result = report(trials, searched, tmp_path, "top1", SMALL)
    assert next(iter(result.importance)) == "optim.lr" and result.importance["optim.lr"] > 0.8
    assert report(trials, searched, tmp_path, "loss", SMALL).best.number == 0, "the loss is to be small"
    assert report(trials[:2], searched, tmp_path, "top1", SMALL).importance == {}


def test_a_trial_that_fails_does_not_end_the_study(tmp_path, capsys) -> None:
    broken = space(tmp_path, "model.groups: {choices: [1, 3]}\n")  # 2 channels are not divisible by 3
    result = tune(SMALL, broken, tmp_path / "study", samples=5, **OPTIONS)
    assert result.best.settings == {"model.groups": 1}
    failed = [trial for trial in result.trials if trial.settings["model.groups"] == 3]
    assert failed and {trial.state for trial in failed} == {"failed"}
    assert "must be divisible by groups (=3)" in str(failed[0].error)
    assert "failed: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("optim.lrr: {low: 0.1, high: 0.2}", r"unknown key 'optim.lrr'\. Did you mean 'optim.lr'"),
        ("optim.lr: {low: 0.2, high: 0.1}", "must be numbers with low < high"),
        ("optim.lr: {low: 0, high: 0.1, log: true}", "needs low"),
        ("optim.lr: {lo: 0, high: 0.1}", r"unknown option 'lo'\. Did you mean 'low'"),
        ("optim.lr: {choices: []}", "must be a list of values"),
        ("trainer.epochs: {choices: [two]}", "could not be converted to Integer"),
    ],
)
def test_bad_spaces(text, message, tmp_path) -> None:
    with pytest.raises(ValueError, match=message):
        tune(SMALL, space(tmp_path, text), tmp_path / "study", **OPTIONS)
    assert not (tmp_path / "study").exists()


def test_bad_calls(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"unknown space 'defalt'\. Did you mean 'default'"):
        read_space("defalt")
    with pytest.raises(ValueError, match="samples"):
        tune(SMALL, space(tmp_path), tmp_path / "study", samples=0, **OPTIONS)
    with pytest.raises(ValueError, match="every trial has its own"):
        tune(["output_dir=a"], space(tmp_path), tmp_path / "study", **OPTIONS)
    with pytest.raises(ValueError, match="not empty and holds no study"):
        tune(SMALL, space(tmp_path), tmp_path, **OPTIONS)
    with pytest.raises(ValueError, match=r"unknown metric 'topp1'\. Did you mean 'top1'"):
        tune(SMALL, space(tmp_path), tmp_path / "study", samples=1, metric="topp1", **OPTIONS)


def test_trainings_that_fall_behind_are_stopped(tmp_path) -> None:
    """Not before `grace_epochs`, and by the metric after the same number of epochs."""
    searched = space(tmp_path, "optim.lr: {choices: [0.02, 0.0000001]}\n")
    overrides = ["model.channels=[2,2,2,2]", "trainer.epochs=4", "trainer.max_steps=3", "optim.lr=0.02"]
    keys = {"samples": 4, "metric": "loss", "grace_epochs": 2, "seed": 1}
    result = tune(overrides, searched, tmp_path / "study", **keys, progress=Silent())
    slow = [trial for trial in result.trials if trial.settings["optim.lr"] < 1e-3]
    assert slow and {trial.state for trial in slow} == {"pruned"}
    for trial in slow:
        lines = (tmp_path / "study" / f"trial{trial.number:03d}" / "metrics.jsonl").read_text().splitlines()
        assert len(lines) == 1, "the second epoch was its last, and did not come to its line"
    assert result.best.settings["optim.lr"] == 0.02
    assert (tmp_path / "study" / "trial000" / "result.json").is_file()


def test_command(tmp_path, capsys) -> None:
    space(tmp_path)
    arguments = ["tune", *SMALL, f"tune.space={tmp_path / 'space.yaml'}", "tune.samples=2"]
    assert main([*arguments, f"output_dir={tmp_path / 'study'}"]) == 0
    out = capsys.readouterr().out
    assert "best" in out and f"kanvolution train experiment={tmp_path / 'study' / 'best.yaml'}" in out
    assert main(["tune", "--help"]) == 0
    out = capsys.readouterr().out
    assert "tune.samples=20" in out and "tune.address=null" in out


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["tune.space=none"], "unknown space 'none'"),
        (["tune.sample=2"], "unknown key 'tune.sample'. Did you mean 'tune.samples'?"),
        (["tune.samples=two"], "tune.samples: Value 'two' of type 'str' could not be converted to Integer"),
        (["tune.backend=rya"], "unknown backend 'rya'. Did you mean 'ray'?"),
        (["tune.address=auto"], "tune.address is a key of tune.backend=ray"),
        (["tune.grace_epochs=0"], "grace_epochs (=0)"),
        (["tune.reduction=1"], "reduction (=1)"),
    ],
)
def test_bad_commands(overrides, message, tmp_path, capsys) -> None:
    assert main(["tune", *overrides, f"output_dir={tmp_path / 'study'}"]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "study").exists()


def test_options_of_another_back_end_are_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="option of backend 'optuna' 'address'"):
        tune(SMALL, space(tmp_path), tmp_path / "study", address="auto", **OPTIONS)
