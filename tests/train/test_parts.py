"""Optimisers, schedules, files and run folders."""

import itertools
import json
import threading

import pytest
import torch
from torch import nn

import kanvolution as kv
from kanvolution.files import append_json_line, atomic, write_json, write_text
from kanvolution.train import create_optim, create_schedule, list_optims, list_schedules
from kanvolution.train.run_folder import environment, make_run_folder


@pytest.mark.parametrize("name", list_optims())
def test_norms_biases_and_parameters_of_a_basis_do_not_decay(name: str) -> None:
    model = nn.Sequential(kv.KANConv2d(3, 4, 3, basis="wavelet"), nn.BatchNorm2d(4), nn.Linear(4, 2))
    optimizer = create_optim({"name": name, "weight_decay": 0.3}, model)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert set(decay) == {id(p) for p in model.parameters()}
    decaying = {n for n, p in model.named_parameters() if decay[id(p)]}
    assert decaying == {"0.weight", "2.weight"}
    assert {d for d in decay.values() if d} == {0.3}


def test_frozen_parameters_are_left_out_and_nothing_to_train_is_an_error() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    assert sum(len(g["params"]) for g in create_optim("adamw", model).param_groups) == 2
    with pytest.raises(ValueError, match="no trainable parameter"):
        create_optim("adamw", model.requires_grad_(False))


def test_unknown_names_and_options_name_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"unknown optimiser 'adam'. Did you mean 'adamw'"):
        create_optim("adam", nn.Linear(1, 1))
    with pytest.raises(ValueError, match=r"unknown option of optimiser 'sgd' 'momentun'. Did you mean 'momentum'"):
        create_optim({"name": "sgd", "momentun": 0.1}, nn.Linear(1, 1))
    with pytest.raises(ValueError, match=r"unknown schedule 'cosin'. Did you mean 'cosine'"):
        create_schedule("cosin", 10, 1)
    with pytest.raises(ValueError, match="Did you mean 'final'"):
        create_schedule({"name": "cosine", "finale": 0.1}, 10, 1)
    with pytest.raises(TypeError, match="must be a name or a dictionary"):
        create_optim(["adamw"], nn.Linear(1, 1))  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"schedule.final \(=2\)"):
        create_schedule({"name": "cosine", "final": 2}, 10, 1)


@pytest.mark.parametrize("name", list_schedules())
@pytest.mark.parametrize(("steps", "epochs"), [(1, 1), (2, 1), (7, 3), (100, 10)])
def test_every_schedule_stays_within_0_and_1_and_reaches_the_top(name: str, steps: int, epochs: int) -> None:
    factors = [create_schedule(name, steps, epochs)(step) for step in range(steps + 1)]
    assert all(0 < f <= 1 for f in factors)
    assert steps < 100 or max(factors) > 0.99


def test_cosine_rises_over_the_warm_up_and_falls_to_the_end() -> None:
    factor = create_schedule({"name": "cosine", "warmup_epochs": 2, "final": 0.1}, 100, 10)
    values = [factor(step) for step in range(100)]
    assert values[0] == pytest.approx(1 / 20) and values[19] == pytest.approx(1.0)
    assert all(a < b for a, b in itertools.pairwise(values[:20]))
    assert all(a >= b for a, b in itertools.pairwise(values[20:]))
    assert values[60] == pytest.approx(0.1 + 0.9 * 0.5, abs=0.02) and values[99] == pytest.approx(0.1)


def test_onecycle_starts_low_peaks_at_its_share_and_ends_near_zero() -> None:
    factor = create_schedule({"name": "onecycle", "warmup_share": 0.25, "start": 0.1, "final": 0.001}, 101, 1)
    assert factor(0) == pytest.approx(0.1) and factor(25) == pytest.approx(1.0) and factor(100) == pytest.approx(0.001)


def test_constant_is_constant_after_its_warm_up() -> None:
    factor = create_schedule({"name": "constant", "warmup_epochs": 1}, 20, 5)
    assert [factor(s) for s in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(OSError, match="disk full"), atomic(path) as temporary:
        temporary.write_text("half of the n")
        raise OSError("disk full")
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    write_text(path, "new")
    assert path.read_text() == "new" and [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_written_files_have_ordinary_rights(tmp_path) -> None:
    write_text(tmp_path / "a", "x")
    (tmp_path / "b").write_text("x")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_json_is_valid_whatever_the_numbers_and_names(tmp_path) -> None:
    values = {"table": [[1, 2], [3, 4]], "names": ["a [b,\n c]", '"]'], "deep": {"x": [], "y": [[]], "z": [{"k": [1]}]}}
    write_json(tmp_path / "a.json", values)
    assert json.loads((tmp_path / "a.json").read_text()) == values
    assert "[1, 2]" in (tmp_path / "a.json").read_text()
    append_json_line(tmp_path / "b.jsonl", {"loss": float("nan"), "n": 1})
    append_json_line(tmp_path / "b.jsonl", {"loss": 0.5, "n": 2})
    lines = [json.loads(line) for line in (tmp_path / "b.jsonl").read_text().splitlines()]
    assert lines == [{"loss": None, "n": 1}, {"loss": 0.5, "n": 2}]


def test_a_run_folder_is_never_one_that_holds_something(tmp_path) -> None:
    assert make_run_folder(tmp_path / "new" / "deep", "x").is_dir()
    (tmp_path / "empty").mkdir()
    assert make_run_folder(tmp_path / "empty", "x") == tmp_path / "empty"
    (tmp_path / "empty" / "result").write_text("precious")
    with pytest.raises(ValueError, match=r"output_dir .*empty'\) is not empty.*choose another name"):
        make_run_folder(tmp_path / "empty", "x")
    assert (tmp_path / "empty" / "result").read_text() == "precious"
    with pytest.raises(ValueError, match="is a file"):
        make_run_folder(tmp_path / "empty" / "result", "x")
    with pytest.raises(ValueError, match="cannot be made"):
        make_run_folder(tmp_path / "empty" / "result" / "below", "x")


def test_runs_that_start_in_the_same_second_get_folders_of_their_own(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    folders = []
    threads = [threading.Thread(target=lambda: folders.append(make_run_folder(None, "a/b c-gram"))) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(folders)) == 12 and all(f.is_dir() and f.parent.name == "runs" for f in folders)
    assert "a_b_c-gram" in folders[0].name


def test_the_environment_is_recorded(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = environment(torch.device("cpu"))
    assert found["kanvolution"] == kv.__version__ and found["torch"] == torch.__version__ and found["device"]
    assert found["git_commit"] is None
    json.dumps(found)
