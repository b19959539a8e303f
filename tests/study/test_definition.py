import math
from pathlib import Path

import pytest

import kanvolution as kv
from kanvolution.configs import EXPERIMENTS, compose
from kanvolution.study import Study, list_studies, read_study


def written(folder: Path, text: str) -> Study:
    path = folder / "mine.yaml"
    path.write_text(text)
    return read_study(path)


AXES = """
settings: [trainer.epochs=3]
axes:
  kind: {noise: [conv.dropout=$rate, conv.dropout_kind=noise], dropout: conv.dropout=$rate}
  rate: {0.1: [], 0.2: []}
  conv.degree: [2, 3]
  seed: 0,1
points: {none: conv.dropout=0}
"""


def test_points_are_all_combinations_and_the_further_ones_with_every_seed(tmp_path) -> None:
    points = written(tmp_path, AXES).combinations()
    assert len(points) == 2 * 2 * 2 * 2 + 2
    assert points[3].setting == {"kind": "noise", "rate": "0.1", "conv.degree": "3", "seed": "1"}
    assert points[3].overrides == (
        *("trainer.epochs=3", "conv.dropout=0.1", "conv.dropout_kind=noise", "conv.degree=3", "seed=1"),
    )
    assert [p.setting for p in points[-2:]] == [{"kind": "none", "seed": "0"}, {"kind": "none", "seed": "1"}]
    assert points[-1].overrides == ("trainer.epochs=3", "conv.dropout=0", "seed=1")
    assert len({point.name for point in points}) == len(points)


def test_further_points_have_names_where_seed_is_the_first_axis_too(tmp_path) -> None:
    text = "axes: {seed: [0, 1], conv: [gram, rbf]}\npoints: {none: conv=identity}"
    points = written(tmp_path, text).combinations()
    assert [p.setting for p in points[-2:]] == [{"conv": "none", "seed": "0"}, {"conv": "none", "seed": "1"}]


def test_what_is_named_twice_is_there_once(tmp_path) -> None:
    text = "axes: {conv: [gram, rbf]}\nbudget: {hold: [time, time], reference: {conv: gram}}"
    study = written(tmp_path, text)
    assert study.budget.hold == ("time",)
    assert len(study.changed(["conv=rbf,rbf", "budget=time,time"]).combinations()) == 1


def test_the_command_line_chooses_points_gives_values_and_adds_axes_and_settings(tmp_path) -> None:
    study = written(tmp_path, AXES).changed(
        ["kind=noise", "conv.degree=4", "optim.lr=0.1,0.2", "trainer.epochs=5", "seed=7", "data.augment=none"]
    )
    assert {axis: list(points) for axis, points in study.axes.items()} == {
        "kind": ["noise"],
        "rate": ["0.1", "0.2"],
        "conv.degree": ["4"],
        "seed": ["7"],
        "optim.lr": ["0.1", "0.2"],
    }
    assert study.settings == ("trainer.epochs=5", "data.augment=none")


def test_values_are_written_as_on_the_command_line(tmp_path) -> None:
    study = written(tmp_path, 'axes: {conv: glob(*), seed: "range(0,3)", conv.norm: [null, batch], a: {yes: b=1}}')
    assert list(study.axes["conv"]) == kv.list_bases() and list(study.axes["seed"]) == ["0", "1", "2"]
    assert study.axes["conv.norm"] == {"null": ("conv.norm=null",), "batch": ("conv.norm=batch",)}
    assert list(study.axes["a"]) == ["yes"]


def test_a_budget_names_what_is_held_and_its_reference(tmp_path) -> None:
    text = "axes: {size: {s: model.width_scale=0.5}, conv: [gram, rbf]}\nbudget: {hold: [parameters, time], reference: "
    study = written(tmp_path, text + "{conv: gram}}")
    gram, rbf = study.combinations()
    assert gram.reference == gram.overrides == rbf.reference == ("model.width_scale=0.5", "conv=gram")
    # The reference need not be among the points that are chosen.
    only = study.changed(["conv=rbf", "budget=time"])
    assert only.budget is not None and only.budget.hold == ("time",)
    assert only.combinations()[0].reference == gram.overrides
    with pytest.raises(ValueError, match=r"unknown budget 'tim'. Did you mean 'time'"):
        study.changed(["budget=tim"])


@pytest.mark.parametrize("name", list_studies())
def test_settings_of_the_studies_can_be_used(name: str) -> None:
    study = read_study(name)
    assert study.help and math.prod(map(len, study.axes.values())) + len(study.points) > 10
    # Every point of every axis occurs in one of these.
    axes = {axis: list(points) for axis, points in study.axes.items() if axis not in ("conv", "seed")}
    for i in range(max(map(len, axes.values()))):
        setting = {axis: labels[i % len(labels)] for axis, labels in axes.items()}
        point = next(p for p in study.combinations() if setting.items() <= p.setting.items())
        compose(point.overrides)


def test_patterns_of_baselines_find_the_experiments() -> None:
    patterns = read_study("baselines").experiments
    found = [pattern.format(data="mnist", model="simple4", conv="gram") for pattern in patterns]
    assert found == ["mnist_simple4_gram", "mnist_simple4"] and all(name in EXPERIMENTS for name in found)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no axes"),
        ("axes: {}", "has no axes"),
        ("axes: [conv]", "has no axes"),
        ("axes: {conv: }", "axis 'conv' has no points; write conv: "),
        ("axes: {conv: []}", "axis 'conv' has no points"),
        ("axes: {conv: [[1, 2]]}", "put one that is a list in quotes"),
        ("axes: {conv: glob(zzz*)}", "stands for no value"),
        ("axes: {kind: {a: gram}}", "'gram' must be an override, KEY=VALUE"),
        ("axis: {conv: gram}\naxes: {conv: gram}", "unknown entry of study 'axis'. Did you mean 'axes'"),
        ("axes: {conv: gram}\npicture: {x: con}", "unknown picture.x 'con'. Did you mean 'conv'"),
        ("axes: {conv: gram}\npicture: {panel: budget}", "unknown picture.panel 'budget'"),
        ("axes: {conv: gram}\nevaluation: maybe", "evaluation .='maybe'. must be true or false"),
        ("axes: {conv: gram}\npoints: {gram: conv=gram}", "'gram' is a point of axis 'conv' already"),
        ("axes: {conv: gram}\npoints: [a]", "points .* must be names with overrides"),
        ("axes: {conv: gram}\nbudget: {hold: time}", "budget must have hold, of none, parameters, time, and reference"),
        ("axes: {conv: gram}\nbudget: {hold: tim, reference: {conv: gram}}", "Did you mean 'time'"),
        ("axes: {conv: gram}\nbudget: {hold: time, reference: {conv: rbf}}", "unknown point of axis 'conv' 'rbf'"),
        ("axes: {conv: gram}\nbudget: {hold: time, reference: {conv: [gram]}}", "unknown point of axis 'conv'"),
        ("axes: {seed: [0, 1]}", "'seed' alone compares nothing"),
        ("axes: {conv: gram}\nbudget: {hold: time, reference: {cnv: gram}}", "unknown axis .* Did you mean 'conv'"),
        (
            "axes: {conv: gram}\npoints: {a: seed=1}\nbudget: {hold: time, reference: {conv: gram}}",
            "a study with a budget has none",
        ),
        ("axes: {", "cannot be read"),
    ],
)
def test_what_is_no_study_is_refused(text: str, message: str, tmp_path) -> None:
    with pytest.raises(ValueError, match=message):
        written(tmp_path, text)


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"unknown study 'dropuot'. Did you mean 'dropout'.*YAML file"):
        read_study("dropuot")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("kind=nose", "unknown point of axis 'kind' 'nose'. Did you mean 'noise'"),
        ("kind=", "unknown point of axis 'kind' ''"),
        ("conv.dropout=0.3", "axis 'kind' sets conv.dropout; choose with kind=noise"),
        ("output_dir=x", "the folder of the study is --out"),
        ("conv.degree", "write key=value"),
        ("rat=0.1", "no axis and no key. Did you mean 'rate'. Axes: kind, rate, conv.degree, seed"),
    ],
)
def test_an_override_that_does_not_fit_is_refused(override: str, message: str, tmp_path) -> None:
    with pytest.raises(ValueError, match=message):
        written(tmp_path, AXES).changed([override])
