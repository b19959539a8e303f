"""Studies: spaces that are checked before work, trials that are counted, and folders that go on."""

import json

import pytest

pytest.importorskip("hydra")
pytest.importorskip("optuna")

from kanvolution.cli import main
from kanvolution.configs import compose
from kanvolution.train.progress import Silent
from kanvolution.tune import list_spaces, read_space, tune

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
    assert [trial.state for trial in result.trials][1] == "failed"
    assert len(result.trials) == 3


def test_a_trial_that_fails_does_not_end_the_study(tmp_path) -> None:
    broken = space(tmp_path, "model.groups: {choices: [1, 3]}\n")  # 2 channels are not divisible by 3
    result = tune(SMALL, broken, tmp_path / "study", samples=5, **OPTIONS)
    assert result.best.settings == {"model.groups": 1}
    assert {trial.state for trial in result.trials if trial.settings["model.groups"] == 3} <= {"failed"}


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


def test_command(tmp_path, capsys) -> None:
    space(tmp_path)
    arguments = ["tune", *SMALL, "--space", str(tmp_path / "space.yaml"), "--samples", "2"]
    assert main([*arguments, "--output", str(tmp_path / "study")]) == 0
    out = capsys.readouterr().out
    assert "best" in out and "kanvolution train model.channels=[2,2,2,2]" in out
    assert main(["tune", "--space", "none", "--output", str(tmp_path / "other")]) == 2
