"""The benchmark compares before it times, and reports no time of what is wrong."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from kanvolution import benchmark
from kanvolution.cli import main


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(benchmark.SHAPES, "tiny", benchmark.Shape(2, 4, 5, 3))


def test_all_contestants_are_measured_beside_the_roof() -> None:
    lines: list[str] = []
    record = benchmark.run(["gram", "wavelet_edge"], ["tiny"], ["eager"], rounds=2, report=lines.append)
    found = {(r["basis"], r["contestant"]): r for r in record["results"]}
    assert set(found) == {(b, c) for b in ("gram", "wavelet_edge") for c in ("roof", "autograd", "eager")}
    for result in record["results"]:
        assert result["correct"]
        for kind in ("forward", "step"):
            assert 0 < result[kind]["low"] <= result[kind]["median"] <= result[kind]["high"]
    # The input of 2 channels, and what norm and activation keep, of 4 channels each.
    assert found["gram", "eager"]["kept"] == pytest.approx(5, abs=0.3)
    assert found["gram", "autograd"]["kept"] > 10
    assert len(lines) == 2 and json.loads(json.dumps(record)) == record
    text = benchmark.markdown(record)
    assert text.count("| gram |") == 1 and "wrong" not in text


def test_no_time_is_reported_of_a_wrong_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(module: nn.Module, backend: str) -> nn.Module:
        with torch.no_grad():
            next(module.parameters()).mul_(1.1)
        return module

    monkeypatch.setattr(benchmark, "set_backend", spoil)
    record = benchmark.run(["gram"], ["tiny"], ["eager"], rounds=1)
    (wrong,) = [r for r in record["results"] if r["contestant"] == "eager"]
    assert not wrong["correct"] and wrong["step"] == {} and wrong["forward"] == {}
    assert "wrong" in benchmark.markdown(record)


def test_the_command_writes_both_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--bases", "chebyshev", "--shapes", "tiny", "--backends", "eager", "--rounds", "1", "--clock", "cpu"]
    threads = torch.get_num_threads()
    assert main(["bench", *arguments, "--threads", "1", "--output", str(tmp_path / "speed")]) == 0
    assert torch.get_num_threads() == threads
    record = json.loads((tmp_path / "speed.json").read_text())
    assert record["options"]["clock"] == "cpu" and record["machine"]["threads"] == 1
    assert "| chebyshev |" in (tmp_path / "speed.md").read_text()
    assert "chebyshev" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bases": ["grma"]}, "Did you mean 'gram'"),
        ({"shapes": ["tny"]}, "Did you mean 'tiny'"),
        ({"clock": "wal"}, "Did you mean 'wall'"),
        ({"peer": "."}, "must be a checkout of torch-conv-kan"),
    ],
)
def test_bad_values(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    if "peer" in options:
        options = {"peer": tmp_path}
    with pytest.raises(ValueError, match=message):
        benchmark.run(**{"bases": ["gram"], "shapes": ["tiny"], "backends": ["eager"], **options})


def test_a_peer_takes_part_with_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for torch-conv-kan: its Chebyshev layer, of our parts under its parameters' names."""
    package = tmp_path / "kan_convs"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from kanvolution.compat.torch_conv_kan import KACNConv2DLayer as ours\n"
        "def KACNConv2DLayer(*args, **options):\n"
        "    return ours(*args, **options)\n"
    )
    monkeypatch.delitem(sys.modules, "kan_convs", raising=False)
    record = benchmark.run(["chebyshev"], ["tiny"], ["eager"], rounds=1, peer=tmp_path)
    monkeypatch.delitem(sys.modules, "kan_convs")
    assert [r["contestant"] for r in record["results"]] == [
        "roof",
        "autograd",
        "eager",
        "torch-conv-kan",
        "compat eager",
    ]
    assert all(r["correct"] for r in record["results"])
