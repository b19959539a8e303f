"""Two processes on gloo do what one does on the joined batches, and are resumed exactly."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kanvolution.train import TrainerConfig
from tests.train.test_resume import assert_equal_runs, command, records
from tests.train.two_processes import OPTIMS, train

ROOT = Path(__file__).parents[2]


def torchrun(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, **environment}
    return subprocess.run([*launcher, *arguments], env=env, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """The folder of the runs that two processes made."""
    folder = tmp_path_factory.mktemp("processes")
    done = torchrun(str(Path(__file__).with_name("two_processes.py")), str(folder))
    # Not the exit code: gloo's threads can abort an interpreter that has finished.
    assert all((folder / f"done{rank}").exists() for rank in (0, 1)), done.stderr[-3000:]
    return folder


def test_two_processes_equal_one_on_the_joined_batch(runs, tmp_path) -> None:
    # With SGD a step is the gradient. Adam and L-BFGS blow up rounding where a gradient is zero but for that.
    name = "sgd"
    train(tmp_path / "one", optim=OPTIMS[name], batch_size=16)
    two, one = (load_file(folder / "model.safetensors") for folder in (runs / name, tmp_path / "one"))
    torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-5)
    # 12 images of validation are no multiple of 2 * 8: those that fill the last batch up must not count.
    for ours, its in zip(records(runs / name), records(tmp_path / "one"), strict=True):
        assert ours == pytest.approx(its, rel=1e-4)
    tables = [json.loads((folder / "result.json").read_text())["tables"] for folder in (runs / name, tmp_path / "one")]
    # The last bits of a confidence differ, as the batches did.
    for name in ("mistakes", "calibration"):
        for ours, its in zip(*(table.pop(name)[1:] for table in tables), strict=True):
            assert [v is None for v in ours] == [v is None for v in its]
            assert [v or 0 for v in ours] == pytest.approx([v or 0 for v in its], rel=1e-4)
    assert tables[0] == tables[1] and sum(map(sum, tables[0]["confusion"])) == 12


@pytest.mark.parametrize("name", [*OPTIMS, "experts", "resumed"])
def test_both_processes_have_the_same_parameters(runs, name: str) -> None:
    first, second = (torch.load(runs / name / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    statistics = ("running_mean", "running_var")  # of batch norm: each has its own until the next forward
    assert all(torch.equal(first[k], second[k]) for k in first if not k.endswith(statistics))


def test_resume_is_exact(runs) -> None:
    assert_equal_runs(runs / "whole", runs / "resumed")


def test_sharded_training_equals_copies_and_is_resumed_exactly(runs) -> None:
    sharded, copied = (load_file(runs / name / "model.safetensors") for name in ("sharded", "sgd"))
    torch.testing.assert_close(sharded, copied, rtol=1e-4, atol=1e-5)
    assert_equal_runs(runs / "sharded_whole", runs / "sharded_resumed")


def test_what_goes_wrong_in_one_process_is_known_to_both(runs) -> None:
    for rank in (0, 1):
        said = json.loads((runs / f"said{rank}.json").read_text())
        assert "layer 'poison' (Nan)" in said["poison"] and said["poison"].startswith("NonFiniteLossError")
        assert "is not empty" in said["not empty"] and said["not empty"].startswith("ValueError")
        assert "this run is finished" in said["finished"]


def test_sharding_needs_processes(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"trainer.fsdp \(=True\) .*torchrun"):
        train(tmp_path / "run", fsdp=True)
    with pytest.raises(ValueError, match="use bf16"):
        TrainerConfig(fsdp=True, mixed_precision="fp16")


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_kill_9_of_one_process(tmp_path, rank: int) -> None:
    more = ["trainer.cpu=true", "trainer.checkpoint_steps=1", "trainer.ema=0.9", "conv.dropout=0.1"]
    launch = ["-m", "kanvolution.cli"]
    killed = torchrun(*launch, *command(tmp_path / "run", *more), KILL_AT="5", KILL_RANK=str(rank))
    assert killed.returncode != 0 and f"exitcode  : -{signal.SIGKILL}" in killed.stderr
    for arguments in (
        command(tmp_path / "run", *more, f"resume={tmp_path / 'run'}"),
        command(tmp_path / "whole", *more),
    ):
        done = torchrun(*launch, *arguments, KILL_RANK="0")
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.count("run folder") == 1
    assert_equal_runs(tmp_path / "whole", tmp_path / "run")
