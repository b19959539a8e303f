import json

import pytest

import kanvolution as kv
from kanvolution.cli import main
from kanvolution.configs import EXPERIMENTS
from tests.train.toy import CHANNELS

TINY = [f"model.channels={CHANNELS}", "trainer.batch_size=512", "trainer.epochs=1", "tracker=none"]


def test_every_basis_is_trained_timed_and_compared_once(tmp_path, capsys) -> None:
    command = ["baselines", "--models", "simple4", "--convs", "gram,legendre", "--out", str(tmp_path / "out")]
    command += ["data=digits", "seed=0,1", *TINY]
    assert main(command) == 0
    out = capsys.readouterr().out
    stored = json.loads((tmp_path / "out" / "baselines.json").read_text())
    means = {e["setting"]["conv"]: e["metrics"]["top1"]["mean"] for e in stored["results"]}
    assert list(means) == sorted(("gram", "legendre"), key=lambda conv: -means[conv])
    assert {e["setting"]["model"] for e in stored["results"]} == {"simple4"}
    for entry in stored["results"]:
        assert entry["runs"] == 2 and entry["evaluation_seconds"] > 0 and entry["published"] is None
        assert 0 <= entry["metrics"]["top1"]["mean"] <= 1 and entry["metrics"]["top1"]["std"] is not None
    page = (tmp_path / "out" / "baselines.md").read_text()
    assert page.startswith("| model | conv | runs | top-1 |") and "| simple4 | gram | 2 |" in page and "±" in page
    assert (tmp_path / "out" / "baselines.png").stat().st_size > 5000
    assert "simple4" in out and "training s" in out
    # What is done, the time of evaluation included, is not done again.
    weights = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("*/*.safetensors")}
    assert main(command) == 0
    assert capsys.readouterr().out.count("done before") == 4
    assert weights == {p: p.stat().st_mtime_ns for p in weights}
    assert json.loads((tmp_path / "out" / "baselines.json").read_text()) == stored


def test_the_settings_of_torch_conv_kan_are_taken_where_it_has_some(tmp_path, capsys) -> None:
    # The data are not there: the runs fail, one after the other, and their settings and published numbers are known.
    command = ["baselines", "data=cifar10", f"data.path={tmp_path / 'nowhere'}", "--models", "simple8"]
    assert main([*command, "--convs", "gram,fourier", "--out", str(tmp_path / "out")]) == 1
    assert "2 of 2 runs failed" in capsys.readouterr().err
    gram, fourier = json.loads((tmp_path / "out" / "baselines.json").read_text())["results"]
    assert gram["published"] == EXPERIMENTS["cifar10_simple8_gram"].published["top1"] and fourier["published"] is None
    assert gram["failed"] == 1 and "failed" in (tmp_path / "out" / "baselines.md").read_text()


def test_by_default_all_bases_are_compared(tmp_path, monkeypatch) -> None:
    from kanvolution.cli import multirun

    seen = []

    def note(jobs, folder, *, header):
        seen.extend(jobs)
        raise ValueError("enough")

    monkeypatch.setattr(multirun, "run_all", note)
    assert main(["baselines", "data=mnist", "--out", str(tmp_path / "out")]) == 2
    assert {(job.varied["model"], job.varied["conv"]) for job in seen} == {
        (model, conv) for model in ("simple4", "simple8") for conv in kv.list_bases()
    }
    settings = {job.name: job.overrides[0] for job in seen}
    assert settings["model=simple4,conv=gram"] == "experiment=mnist_simple4_gram"
    assert settings["model=simple4,conv=fourier"] == "experiment=mnist_simple4"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--convs", "grm"], "unknown choice of conv 'grm'. Did you mean 'gram'"),
        (["--models", "simple5"], "unknown choice of model 'simple5'"),
        (["--models", ","], "cannot read 'model=,'"),
        (["output_dir=a"], "the folder of the study is --out"),
        (["experiment=digits"], "the study chooses it"),
        (["trainer.epoch=1"], "Did you mean 'trainer.epochs'"),
    ],
)
def test_a_mistake_is_one_line(arguments, message, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["baselines", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not list(tmp_path.iterdir())
