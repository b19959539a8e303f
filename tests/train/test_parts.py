"""Files and run folders."""

import json
import threading

import pytest
import torch

import kanvolution as kv
from kanvolution.files import atomic, write_json, write_json_lines, write_text
from kanvolution.train.run_folder import environment, make_run_folder


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
    write_json_lines(tmp_path / "b.jsonl", [{"loss": float("nan"), "n": 1}, {"loss": 0.5, "n": 2}])
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
