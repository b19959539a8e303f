"""`kanvolution show`: pictures of all layers of a run, and what it says of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import kanvolution as kv
from kanvolution.cli import main
from kanvolution.data import create_data
from kanvolution.train import save_run
from kanvolution.visualize import show_functions

pytest.importorskip("matplotlib")
pytest.importorskip("scipy")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    pytest.importorskip("sklearn")
    torch.manual_seed(0)
    model = kv.create_model("simple4", "spline", num_classes=10, in_chans=1, channels=[2, 2, 2, 2])
    folder = tmp_path / "run"
    folder.mkdir()
    save_run(folder, model, create_data("digits").info)
    return folder


def test_pictures_and_a_line_for_each_layer(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(run), "data=digits", "--count", "2", "--layer", "stages.[01].conv", "--fits", "1"]) == 0
    names = sorted(path.name for path in (run / "functions").iterdir())
    kinds = ("functions.png", "importance.png", "kernel.png", "symbolic.txt")
    assert names == [f"stages.{i}.conv-{kind}" for i in (0, 1) for kind in kinds]
    printed = capsys.readouterr().out
    assert "stages.0.conv" in printed and "outside the grid" in printed and "8 files in" in printed
    assert "align*" in (run / "functions" / "stages.0.conv-symbolic.txt").read_text()


def test_nothing_is_overwritten_and_unknown_layers_are_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["show", str(run), "data=digits", "--count", "1", "--layer"]
    assert main([*command, "stages.0.con"]) == 2
    assert "Did you mean 'stages.0.conv'" in capsys.readouterr().err
    assert not (run / "functions").exists()
    assert main([*command, "stages.0.conv"]) == 0
    assert main([*command, "stages.0.conv"]) == 2
    assert "choose another name" in capsys.readouterr().err


def test_a_run_that_does_not_tell_its_data(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(run)]) == 2
    assert "name them: data=NAME" in capsys.readouterr().err


def test_two_states_are_compared(tmp_path: Path) -> None:
    torch.manual_seed(0)
    before, after = (kv.KANConv1d(2, 2, 3, basis="gram") for _ in range(2))
    [layer] = show_functions(after, torch.randn(4, 2, 9), tmp_path / "new", count=2, before=before)
    assert layer.name == "KANConv1d"
    assert {path.name.rpartition("-")[2] for path in layer.files} == {
        "functions.png",
        "importance.png",
        "kernel.png",
        "change.png",
    }
    assert 1 <= layer.edges_for_90 <= 12
