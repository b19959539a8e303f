import json
import math
import signal
import statistics
from pathlib import Path

import pytest

import kanvolution as kv
from kanvolution.cli import main
from kanvolution.cli.multirun import Job, Outcome, folder_name, spread_text, summarise
from kanvolution.configs import ConfigError, expand
from tests.train.toy import CHANNELS

TINY = [f"model.channels={CHANNELS}", "trainer.batch_size=512", "trainer.epochs=1", "tracker=none"]


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        (["conv=gram"], [""]),
        (["conv=gram,spline", "seed=0,1"], ["conv=gram,seed=0", "conv=gram,seed=1", "conv=spline,seed=0"]),
        (["seed=range(1,7,2)"], ["seed=1", "seed=3", "seed=5"]),
        (["optim.lr=choice(0.1,0.01)"], ["optim.lr=0.1", "optim.lr=0.01"]),
        (["model.channels=[1,2],[3,4]"], ["model.channels=[1,2]", "model.channels=[3,4]"]),
        (["model=glob(simple?)"], ["model=simple4", "model=simple8"]),
        (["optim.lr=0.1", "seed=3,4"], ["seed=3", "seed=4"]),
    ],
)
def test_overrides_with_several_values_stand_for_all_combinations(overrides: list[str], names: list[str]) -> None:
    variants = expand(overrides)
    assert [variant.name for variant in variants][: len(names)] == names
    assert len(variants) == math.prod(len({v.varied[key] for v in variants}) for key in variants[0].varied)
    assert all(len(variant.overrides) == len(overrides) for variant in variants)


def test_a_glob_of_a_group_is_every_choice() -> None:
    assert {variant.varied["conv"] for variant in expand(["conv=glob(*)"])} == set(kv.list_bases())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.lr=interval(0,1)", "names no values"),
        ("conv=glob(zzz*)", "stands for no value"),
        ("conv", "write key=value"),
    ],
)
def test_what_stands_for_no_runs_is_refused(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        expand([override])


def test_folder_names_are_unique_and_plain() -> None:
    assert folder_name("data.path='a b/c'") == "data.path=a_b_c"
    assert folder_name("x", ["x", "x-2"]) == "x-3" and folder_name("") == "run"


def outcome(conv: str, seed: int, top1: float | None) -> Outcome:
    job = Job(f"{conv}-{seed}", (), {"conv": conv, "seed": str(seed)})
    result = None if top1 is None else {"metrics": {"top1": top1}, "parameters": 5, "seconds": 2.0}
    return Outcome(job, Path(job.name), result, None if top1 is not None else "it failed")


def test_the_summary_is_mean_and_sample_deviation_over_seeds() -> None:
    scores = [0.9, 0.8, 0.95]
    gram, spline = summarise([*(outcome("gram", i, s) for i, s in enumerate(scores)), outcome("spline", 0, None)])
    assert gram["setting"] == {"conv": "gram"} and gram["runs"] == 3 and gram["failed"] == 0
    assert gram["metrics"]["top1"] == {"mean": statistics.fmean(scores), "std": statistics.stdev(scores)}
    assert spline["runs"] == 0 and spline["failed"] == 1 and spline["errors"] == ["it failed"]
    assert spread_text("top1", gram["metrics"]["top1"]) == "88.33 ± 7.64 %"
    assert spread_text("top1", {"mean": 0.5, "std": None}) == "50.00 %"


def test_each_run_has_its_folder_a_failure_stops_no_other_and_what_is_done_is_skipped(tmp_path, capsys) -> None:
    folder = tmp_path / "sweep"
    command = ["train", "-m", "conv=gram,legendre", "conv.dropout=0,2", "seed=0,1", *TINY, f"output_dir={folder}"]
    assert main(command) == 1
    captured = capsys.readouterr()
    assert captured.err.count("dropout (=2.0) must be in [0, 1)") == 4 and "4 of 8 runs failed" in captured.err
    results = {p.parent.name: json.loads(p.read_text()) for p in folder.glob("*/result.json")}
    assert set(results) == {f"conv={c},conv.dropout=0,seed={s}" for c in ("gram", "legendre") for s in (0, 1)}
    assert "ValueError" in (folder / "conv=gram,conv.dropout=2,seed=0" / "error.txt").read_text()
    losses = [results[f"conv=gram,conv.dropout=0,seed={s}"]["metrics"]["loss"] for s in (0, 1)]
    assert losses[0] != losses[1]
    entry = json.loads((folder / "results.json").read_text())["results"][0]
    assert entry["setting"] == {"conv": "gram", "conv.dropout": "0"}
    assert entry["metrics"]["loss"] == {"mean": statistics.fmean(losses), "std": statistics.stdev(losses)}
    row = next(line for line in captured.out.splitlines() if line.startswith("gram") and "±" in line)
    assert f"{statistics.fmean(losses):.4f} ± {statistics.stdev(losses):.4f}" in row
    assert row.split()[3] in (folder / "results.md").read_text()

    before = {p: p.stat().st_mtime_ns for p in folder.glob("*/model.safetensors")}
    assert main(command) == 1
    assert capsys.readouterr().out.count("done before") == 4
    assert before == {p: p.stat().st_mtime_ns for p in folder.glob("*/model.safetensors")}


def test_after_a_run_that_was_stopped_the_same_command_does_what_is_left(tmp_path, monkeypatch, capsys) -> None:
    from kanvolution import train
    from kanvolution.train import TrainingInterrupted, engine

    folder, command = tmp_path / "sweep", ["train", "-m", "seed=0,1", *TINY]
    command += ["trainer.epochs=2", f"output_dir={folder}"]
    log = engine.write_json_lines
    with monkeypatch.context() as patch:

        def stop(path: Path, records: list[dict]) -> None:
            log(path, records)
            raise TrainingInterrupted(path.parent, 1, "SIGTERM")

        patch.setattr(engine, "write_json_lines", stop)
        assert main(command) == 130
    assert f"output_dir={folder} goes on" in capsys.readouterr().err
    assert not list(folder.glob("*/result.json")) and not (folder / "seed=1").exists()
    assert main(command) == 0
    assert len(list(folder.glob("*/result.json"))) == 2
    assert train.load_run(folder / "seed=0").epoch == 2
    assert len((folder / "seed=0" / "metrics.jsonl").read_text().splitlines()) == 2
    resumed = [
        len(json.loads((folder / f"seed={i}" / "environment.json").read_text()).get("resumed", [])) for i in (0, 1)
    ]
    assert resumed == [1, 0]


def test_a_signal_after_the_last_step_of_a_run_stops_the_others(tmp_path, monkeypatch, capsys) -> None:
    from kanvolution.train import engine

    draw = engine.draw_run

    def stopped(*arguments):
        signal.raise_signal(signal.SIGTERM)
        return draw(*arguments)

    monkeypatch.setattr(engine, "draw_run", stopped)
    before = signal.getsignal(signal.SIGTERM)
    assert main(["train", "-m", "seed=0,1", *TINY, f"output_dir={tmp_path / 'sweep'}"]) == 130
    assert "stopped by SIGTERM after 1 of 2 runs" in capsys.readouterr().err
    assert [path.parent.name for path in (tmp_path / "sweep").glob("*/result.json")] == ["seed=0"]
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_folder_with_a_run_of_another_config_is_not_touched(tmp_path, capsys) -> None:
    folder = tmp_path / "sweep"
    assert main(["train", "-m", "seed=0", *TINY, f"output_dir={folder}"]) == 0
    before = (folder / "run" / "config.yaml").read_text()
    assert main(["train", "-m", "seed=1", *TINY, f"output_dir={folder}"]) == 2
    assert "holds a run of another config" in capsys.readouterr().err
    assert (folder / "run" / "config.yaml").read_text() == before


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["conv=gram,splne"], "unknown choice of conv 'splne'. Did you mean 'spline'"),
        (["seed=0,1", "conv.degre=2"], "Did you mean 'conv.degree'"),
        (["seed=0,1", "output_dir=a,b"], "output_dir holds several values"),
    ],
)
def test_a_mistake_in_any_run_is_found_before_the_first(overrides, message, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "-m", *overrides]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("runs/*"))


def test_a_folder_of_something_else_is_refused(tmp_path, capsys) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    assert main(["train", "-m", "seed=0,1", *TINY, f"output_dir={tmp_path}"]) == 2
    assert "is not empty" in capsys.readouterr().err and [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_several_runs_are_not_made_by_several_processes(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["train", "-m", "seed=0,1", *TINY, f"output_dir={tmp_path / 'sweep'}"]) == 2
    assert "leave out torchrun" in capsys.readouterr().err
