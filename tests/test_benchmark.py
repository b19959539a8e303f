"""The benchmark compares before it times, and reports no time of what is wrong."""

import json
import math
import os
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import kanvolution as kv
from kanvolution import benchmark
from kanvolution.benchmark import Settings, contestants
from kanvolution.benchmark.measure import difference
from kanvolution.benchmark.memory import kept, peak
from kanvolution.benchmark.parts import PARTS, parts
from kanvolution.cli import main

EAGER = Settings(backends=("eager",), rounds=1)
TINY = {
    "tiny": benchmark.LayerCase(2, 4, 5, 3),
    "tiny_network": benchmark.NetworkCase("simple4", size=8, batch=2, options={"width_scale": 0.125}),
}


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, case in TINY.items():
        monkeypatch.setitem(benchmark.CASES, name, case)


def run(bases: list[str], case: str, **settings: Any) -> dict[tuple[str, str], dict[str, Any]]:
    record = benchmark.run(bases, [case], replace(EAGER, **settings))
    assert json.loads(json.dumps(record))["results"] == record["results"]
    return {(r["basis"], r["contestant"]): r for r in record["results"]}


def test_all_contestants_are_measured_beside_the_roof() -> None:
    lines: list[str] = []
    record = benchmark.run(["gram", "wavelet_edge"], ["tiny"], replace(EAGER, rounds=2), report=lines.append)
    found = {(r["basis"], r["contestant"]): r for r in record["results"]}
    assert set(found) == {(b, c) for b in ("gram", "wavelet_edge") for c in ("roof", "plain", "autograd", "eager")}
    for result in record["results"]:
        assert result["correct"] and result["rounds"] == 2
        for kind in ("forward", "step"):
            assert 0 < result[kind]["low"] <= result[kind]["median"] <= result[kind]["high"]
    # The input of 2 channels, and what norm and activation keep, of 4 channels each.
    x = record["cases"]["tiny"]["input_bytes"]
    assert found["gram", "eager"]["kept"] / x == pytest.approx(5, abs=0.3)
    assert found["gram", "autograd"]["kept"] / x > 10
    assert len(lines) == 2 and "wrong" not in lines[0]
    text = benchmark.markdown(record)
    assert text.count("| gram |") == 2 and "wrong" not in text


def test_a_network_is_a_case_like_a_layer() -> None:
    found = run(["gram"], "tiny_network")
    plain, roof, autograd, own = (found["gram", name] for name in ("plain", "roof", "autograd", "eager"))
    assert own["correct"] and own["error"] < 1e-4 and own["functions"] == 5
    assert own["kept"] == plain["kept"] < roof["kept"] < autograd["kept"]  # the roof keeps its expansions
    assert plain["peak"] < own["peak"] < autograd["peak"] and roof["peak"] is None
    assert own["parameters"] > 4 * plain["parameters"]


def test_the_roof_convolves_what_each_layer_of_the_network_would() -> None:
    case = contestants.contestants("chebyshev", TINY["tiny_network"], EAGER)
    roof = [m for m in case["roof"].module.modules() if isinstance(m, contestants.ReadyExpansion)]
    own = [m for m in case["eager"].module.modules() if isinstance(m, kv.KANConv2d)]
    assert [m.conv.weight.shape for m in roof] == [m.weight.shape for m in own] and len(own) == 4
    assert [m.conv.stride for m in roof] == [m.stride for m in own]
    ready, *gradients = case["roof"].step()
    assert ready.shape == case["eager"].step()[0].shape
    assert all(g.abs().sum() > 0 for g in gradients)


def test_a_peak_counts_what_is_there_at_once() -> None:
    class Squares(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for _ in range(3):
                x = x.square()  # keeps its input, not its output
            return x

    x = torch.ones(1, 1, 1000, requires_grad=True)
    contestant = contestants.Contestant(Squares(), x)
    assert kept(contestant) == 3 * x.nbytes
    # Backward begins with three squares, the gradient of the last and its division; it needs two tensors more.
    assert 5 * x.nbytes <= peak(contestant) <= 8 * x.nbytes


def test_the_parts_of_a_step_are_timed_apart() -> None:
    """A clock that counts: every part takes as many ticks as it is asked for times within."""
    ticks = iter(range(10**6))
    case = contestants.contestants("gram", TINY["tiny"], EAGER)
    own = parts(case["eager"], lambda: float(next(ticks)))
    assert set(own) <= set(PARTS)
    expected = {"convolution", "data gradient", "weight gradient", "functions", "functions backward", "norm", "silu"}
    assert expected <= set(own)
    roof = parts(case["roof"], lambda: float(next(ticks)))
    assert "functions" not in roof and {"convolution", "data gradient", "weight gradient"} <= set(roof)
    assert "functions" in parts(case["autograd"], lambda: float(next(ticks)))
    # The step is what it is without the stopwatch.
    for a, b in zip(case["eager"].step(), case["autograd"].step(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_parts_are_reported_of_a_profile() -> None:
    record = benchmark.run(["gram"], ["tiny"], replace(EAGER, profile=True))
    assert all(r["parts"]["convolution"] > 0 for r in record["results"])
    assert "weight gradient" in benchmark.markdown(record)


def test_sixteen_bit_types_channels_last() -> None:
    found = run(["gram"], "tiny", dtype="bfloat16", channels_last=True)
    assert found["gram", "eager"]["correct"] and 0 < found["gram", "eager"]["error"] < 3e-2


def test_rounding_that_grows_over_a_network_is_no_error() -> None:
    """Functions that begin steeply amplify it; each layer is compared on its own input."""
    found = run(["relu"], "tiny_network")
    assert found["relu", "eager"]["correct"] and found["relu", "eager"]["error"] < 1e-5


@pytest.mark.parametrize("case", TINY)
def test_no_time_is_reported_of_a_wrong_layer(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(module: nn.Module, backend: str) -> nn.Module:
        with torch.no_grad():
            next(module.parameters()).mul_(1.1)
        return module

    monkeypatch.setattr(contestants, "set_backend", spoil)
    lines: list[str] = []
    record = benchmark.run(["gram"], [case], EAGER, report=lines.append)
    (wrong,) = [r for r in record["results"] if r["contestant"] == "eager"]
    assert not wrong["correct"] and wrong["step"] == {} and wrong["forward"] == {}
    assert "wrong" in benchmark.markdown(record) and "wrong" in lines[0]


def test_the_command_writes_both_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--bases", "chebyshev", "--cases", "tiny", "--backends", "eager", "--rounds", "1", "--clock", "cpu"]
    threads = torch.get_num_threads()
    sizes = ["--batch", "2", "--size", "6"]
    assert main(["bench", *arguments, *sizes, "--threads", "1", "--output", str(tmp_path / "speed")]) == 0
    assert torch.get_num_threads() == threads
    record = json.loads((tmp_path / "speed.json").read_text())
    assert record["options"]["clock"] == "cpu" and record["machine"]["threads"] == 1
    assert record["cases"]["tiny"] == {"inputs": 2, "outputs": 4, "size": 6, "batch": 2, "input_bytes": 4 * 2 * 2 * 36}
    assert "| chebyshev |" in (tmp_path / "speed.md").read_text()
    assert "chebyshev" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bases": ["grma"]}, "Did you mean 'gram'"),
        ({"cases": ["tny"]}, "Did you mean 'tiny'"),
    ],
)
def test_unknown_names(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        benchmark.run(**{"bases": ["gram"], "cases": ["tiny"], "settings": EAGER, **arguments})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clock": "wal"}, "Did you mean 'wall'"),
        ({"dtype": "float23"}, "Did you mean 'float32'"),
        ({"backends": ("eagre",)}, "Did you mean 'eager'"),
        ({"rounds": 0}, r"rounds \(=0\) must be >= 1"),
        ({"repeats": 0}, r"repeats \(=0\) must be >= 1"),
        ({"device": "meta", "clock": "cpu"}, "use clock='wall'"),
        ({"device": "meta"}, "must be 'cpu' or 'cuda'"),
        ({"device": "meta", "keep_memory": True}, "for tensors on a CPU and glibc; leave it out"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Settings(**settings)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="for glibc")
def test_memory_that_is_kept_is_not_cleared_again() -> None:
    program = """
import resource, torch
from kanvolution.benchmark.memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        blocks = [torch.zeros(6 * 2**20) for _ in range(4)]  # of 24 MiB
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before = faults()
keep_freed_memory()
faults()
assert 10 * faults() < before, (faults(), before)
"""
    chosen = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "LD_PRELOAD"))}
    subprocess.run([sys.executable, "-c", program], check=True, env=chosen)


def test_a_peer_without_its_package(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be a checkout of torch-conv-kan"):
        benchmark.run(["gram"], ["tiny"], replace(EAGER, peer=tmp_path))


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
    found = run(["chebyshev"], "tiny", peer=tmp_path)
    monkeypatch.delitem(sys.modules, "kan_convs")
    names = ["roof", "plain", "autograd", "eager", "torch-conv-kan", "compat eager"]
    assert [contestant for _, contestant in found] == names
    assert all(r["correct"] for r in found.values())


def test_trees_are_compared_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another commit's package under this tree's benchmark; its measurements stand for themselves here."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    import against

    calls: list[tuple[str, ...]] = []
    order: list[str] = []

    def one(tree: Path, *rest: Any) -> dict[str, float]:
        order.append("here" if tree == against.ROOT else "there")
        return {"eager": 0.2 if tree == against.ROOT else 0.3}

    monkeypatch.setattr(against, "_git", lambda *arguments: calls.append(arguments))
    monkeypatch.setattr(against, "one", one)
    (line,) = against.compare("abc", ["gram"], ["tiny"], EAGER)
    assert "abc takes 1.50 times as long" in line and "200.0 ms" in line
    assert order == ["here", "there"] * against.TURNS
    assert [call[:2] for call in calls] == [("worktree", "add"), ("worktree", "remove")]


def test_a_tree_is_measured_by_this_benchmark_and_its_own_package(monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).parents[1]
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    import against

    settings = replace(EAGER, batch=1, size=4, threads=1)
    assert against.one(root, "identity", "small", settings)["eager"] > 0
    with pytest.raises(ValueError, match="name a commit"):
        list(against.compare("no-such-commit", ["identity"], ["small"], settings))


def test_what_is_not_a_number_is_wrong() -> None:
    right, wrong = torch.ones(3), torch.tensor([1.0, float("nan"), 1.0])
    assert difference([right, wrong], [right, right]) == math.inf
    assert difference([wrong, right], [right, right]) == math.inf
    assert difference([right, right], [right, right]) == 0
