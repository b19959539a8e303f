import json

import pytest

from kanvolution.cli import main
from kanvolution.study import BudgetFitter, Fitted
from tests.train.toy import CHANNELS

TINY = [f"model.channels={CHANNELS}", "trainer.batch_size=512", "trainer.epochs=1", "tracker=none"]

STUDY = """
help: Two bases by degree.
axes:
  conv: [gram, legendre]
  conv.degree: [1, 2]
  seed: [0, 1]
points: {plain: conv=identity}
picture: {x: conv.degree, colour: conv}
"""
SCALING = """
axes:
  network: {base: conv.degree=2, degree 1: conv.degree=1}
budget: {hold: [none, parameters, time], reference: {network: base}}
picture: {x: budget, colour: network}
"""


@pytest.fixture
def study(tmp_path):
    def write(text: str) -> list[str]:
        (tmp_path / "mine.yaml").write_text(text)
        return ["study", str(tmp_path / "mine.yaml"), *TINY, "--out", str(tmp_path / "out")]

    return write


def test_all_settings_are_run_once_and_compared_in_table_and_picture(study, tmp_path, capsys) -> None:
    command = [*study(STUDY), "conv.degree=3"]
    assert main(command) == 0
    stored = json.loads((tmp_path / "out" / "study.json").read_text())
    assert stored["study"] == "mine" and stored["metric"] == "top1" and stored["data"] == "digits"
    settings = [{"conv": c, "conv.degree": "3"} for c in ("gram", "legendre")] + [{"conv": "plain"}]
    assert [entry["setting"] for entry in stored["results"]] == settings
    for entry in stored["results"]:
        assert entry["runs"] == 2 and entry["failed"] == 0 and entry["metrics"]["top1"]["std"] is not None
    runs = {path.parent.name for path in (tmp_path / "out").glob("*/result.json")}
    assert len(runs) == 6 and {"conv=gram,conv.degree=3,seed=1", "conv=plain,seed=0"} <= runs
    table = (tmp_path / "out" / "study.md").read_text()
    assert table.startswith("| conv | conv.degree | runs | top-1 | parameters | training s |") and "±" in table
    assert (tmp_path / "out" / "study.png").stat().st_size > 5000
    # What is done is not done again, nor what another choice of the points leaves out.
    capsys.readouterr()
    assert main([*command, "conv=legendre"]) == 0
    assert capsys.readouterr().out.count("done before") == 4
    assert len(json.loads((tmp_path / "out" / "study.json").read_text())["results"]) == 2


def test_widths_of_a_budget_are_fitted_once_and_kept(study, tmp_path, monkeypatch, capsys) -> None:
    fit, asked = BudgetFitter.__call__, []

    def fitted(self, point, hold) -> Fitted:
        asked.append(hold)
        return fit(self, point, hold) if hold == "parameters" else Fitted(0.7531, 1.02)

    monkeypatch.setattr(BudgetFitter, "__call__", fitted)
    assert main(study(SCALING)) == 0
    assert asked == ["parameters", "time"]
    stored = json.loads((tmp_path / "out" / "study.json").read_text())["results"]
    base, none, _, equal, _, time = stored
    assert [e["setting"]["budget"] for e in stored] == ["none", "none", "parameters", "parameters", "time", "time"]
    assert "width" not in base and "width" not in none and none["parameters"] < base["parameters"]
    assert equal["parameters"] == round(equal["share"] * base["parameters"])
    assert abs(equal["share"] - 1) < abs(none["parameters"] / base["parameters"] - 1)
    assert (time["width"], time["share"]) == (0.7531, 1.02)
    # The reference is the same network under each budget: one run.
    assert len(list((tmp_path / "out").glob("*/result.json"))) == 4
    name = "budget=time,network=degree_1"
    assert "width_scale: 0.7531" in (tmp_path / "out" / name / "config.yaml").read_text()
    assert "| of reference |" in (tmp_path / "out" / "study.md").read_text()
    capsys.readouterr()
    assert main([*study(SCALING), "seed=0"]) == 0 and asked == ["parameters", "time"]
    assert capsys.readouterr().out.count("done before") == 4
    # They are those of this network: another one has its own.
    assert main(study(SCALING.replace("degree=1", "degree=0"))) == 2 and asked == 2 * ["parameters", "time"]
    assert "holds a run of another config" in capsys.readouterr().err


def test_a_run_that_fails_is_reported_and_stops_no_other(study, tmp_path, capsys) -> None:
    assert main(study("axes: {conv.dropout: [0, 2]}")) == 1
    assert "1 of 2 runs failed" in capsys.readouterr().err
    good, bad = json.loads((tmp_path / "out" / "study.json").read_text())["results"]
    assert good["runs"] == 1 and bad["failed"] == 1 and "dropout (=2.0)" in bad["errors"][0]
    assert "| failed |" in (tmp_path / "out" / "study.md").read_text()


def test_studies_are_listed(capsys) -> None:
    assert main(["study"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("baselines", "bases", "dropout", "penalties", "scaling"))


@pytest.mark.parametrize(
    ("text", "own", "message"),
    [
        ("axes: {conv: [gram, grm]}", [], "unknown choice of conv 'grm'. Did you mean 'gram'"),
        ("axes: {conv.degre: [1, 2]}", [], "Did you mean 'conv.degree'"),
        ("axes: {conv: []}", [], "axis 'conv' has no points"),
        ("axes: {conv: [gram]}", ["trainer.epoch=2"], "Did you mean 'trainer.epochs'"),
        ('axes: {conv: [gram]}\nexperiments: ["{dat}_x"]', [], "must be names, with {GROUP} of: conv, data, "),
        (SCALING, ["model.width_scale=2"], "the budget sets model.width_scale"),
        (
            "axes: {network: {small: model.width_scale=0.01, deep: [model=simple8, conv=spline]}}\n"
            "budget: {hold: parameters, reference: {network: small}}",
            [],
            "point network=deep has",
        ),
    ],
)
def test_a_mistake_is_found_before_the_first_run(text, own, message, study, tmp_path, capsys) -> None:
    command = study(text)
    if "deep" in text:
        command = [word for word in command if not word.startswith("model.channels")]
    assert main([*command, *own]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_not_touched(study, tmp_path, capsys) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    assert main(study(STUDY)) == 2
    assert "is not empty" in capsys.readouterr().err and len(list((tmp_path / "out").iterdir())) == 1
    (tmp_path / "out" / "mine.txt").unlink()
    for header, holds in ({"study": "other"}, "study 'other'"), ({"overrides": []}, "several runs of `train -m`"):
        (tmp_path / "out" / "multirun.json").write_text(json.dumps(header))
        assert main(study(STUDY)) == 2
        assert f"holds {holds}, not study 'mine'" in capsys.readouterr().err


def test_an_unknown_metric_is_named_and_the_runs_are_kept(study, tmp_path, capsys) -> None:
    assert main(study("axes: {conv: gram}\nmetric: top_1")) == 2
    assert "unknown metric 'top_1'. Did you mean 'top1'" in capsys.readouterr().err
    assert main(study("axes: {conv: gram}\nmetric: loss")) == 0
    assert "done before" in capsys.readouterr().out
