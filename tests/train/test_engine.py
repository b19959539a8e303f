import json
import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kanvolution as kv
from kanvolution.train import Task, TrainerConfig, fit, load_run, run_job
from kanvolution.train.config import PRECISIONS
from kanvolution.train.progress import Silent
from tests.train.toy import CHANNELS, toy_data, toy_model


def quick(folder, model: nn.Module | None = None, **options: Any):
    model = toy_model() if model is None else model
    options = {"trainer": TrainerConfig(epochs=2, batch_size=8), "tracker": "none", "progress": Silent(), **options}
    return fit(model, toy_data(), output_dir=folder, **options), model


def weights(model: nn.Module) -> Tensor:
    return torch.cat([v.detach().flatten().float() for v in model.state_dict().values()])


@pytest.mark.parametrize("basis", kv.list_bases())
def test_every_basis_trains_a_step(basis: str, tmp_path) -> None:
    model = toy_model(basis)
    before = [p.detach().clone() for p in model.parameters()]
    result, _ = quick(tmp_path / "run", model, trainer=TrainerConfig(epochs=1, batch_size=32))
    assert math.isfinite(result.metrics["loss"])
    moved = [not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
    assert sum(moved) > 0.8 * len(moved)
    assert torch.equal(weights(load_run(tmp_path / "run").model), weights(model))
    assert torch.equal(weights(kv.from_pretrained(tmp_path / "run")), weights(model))


def test_training_learns(tmp_path) -> None:
    options = TrainerConfig(epochs=12, batch_size=8)
    result, _ = quick(tmp_path / "run", trainer=options, optim={"name": "adamw", "lr": 0.02})
    assert result.metrics["top1"] == 1.0
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [r["epoch"] for r in records] == list(range(1, 13))
    assert records[-1]["train_loss"] < 0.5 * records[0]["train_loss"]
    assert set(records[0]) == {
        *(
            "epoch",
            "lr",
            "train_loss",
            "val_loss",
            "val_top1",
            "val_macro_auc",
            "val_auc_ovo",
            "val_macro_recall",
            "val_macro_f1",
            "val_calibration_error",
            "seconds",
            "images_per_second",
            "memory_gib",
        )
    }


def test_the_run_folder_is_complete_and_the_result_is_the_last_epoch(tmp_path) -> None:
    result, model = quick(tmp_path / "run", config="seed: 0\n")
    names = {p.name for p in (tmp_path / "run").iterdir()}
    assert names == {
        *("config.json", "config.yaml", "environment.json", "metrics.jsonl", "model.safetensors", "result.json"),
        *("confusion.png", "curves.png", "mistakes.png", "reliability.png"),
    }
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    stored = json.loads((tmp_path / "run" / "result.json").read_text())
    assert stored["metrics"] == result.metrics == {k[4:]: v for k, v in last.items() if k.startswith("val_")}
    assert stored["parameters"] == sum(p.numel() for p in model.parameters())
    run = load_run(tmp_path / "run")
    assert run.epoch == 2 and run.info == toy_data().info and not run.model.training
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["torch"] == torch.__version__ and environment["seed"] == 0


def test_a_seed_gives_bit_equal_weights_and_another_gives_others(tmp_path) -> None:
    models = [toy_model(kv.ConvSpec("gram", dropout=0.2)) for _ in range(3)]
    for i, (model, seed) in enumerate(zip(models, (1, 1, 2), strict=True)):
        torch.manual_seed(100 + i)  # what happened before does not matter
        quick(tmp_path / str(i), model, seed=seed)
    assert torch.equal(weights(models[0]), weights(models[1]))
    assert not torch.equal(weights(models[0]), weights(models[2]))


def test_workers_do_not_change_the_images(tmp_path) -> None:
    results = []
    for workers in (0, 1):
        trainer = TrainerConfig(epochs=2, batch_size=8, num_workers=workers)
        _, model = quick(tmp_path / str(workers), trainer=trainer)
        results.append(weights(model))
    assert torch.equal(*results)


@pytest.mark.parametrize("precision", PRECISIONS[:2])
def test_mixed_precision_runs_and_leaves_a_float32_model_of_plain_forward(tmp_path, precision: str) -> None:
    seen = []

    class Watch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = toy_model()
            self.config = None

        def forward(self, x: Tensor) -> Tensor:
            seen.append(torch.is_autocast_enabled("cpu"))
            return self.net(x)

    watch = Watch()
    result, _ = quick(tmp_path / "run", watch, trainer=TrainerConfig(epochs=1, batch_size=8, mixed_precision=precision))
    assert all(on == (precision == "bf16") for on in seen) and seen
    assert math.isfinite(result.metrics["loss"])
    assert {p.dtype for p in watch.parameters()} == {torch.float32}
    seen.clear()
    watch(torch.randn(1, 1, 8, 8))
    assert seen == [False] and "forward" not in vars(watch)


def test_runs_of_different_precision_follow_each_other(tmp_path) -> None:
    for i, precision in enumerate(("bf16", "no", "bf16")):
        quick(tmp_path / str(i), trainer=TrainerConfig(epochs=1, batch_size=32, mixed_precision=precision))


def test_an_accelerator_of_the_program_itself_is_left_alone(tmp_path) -> None:
    import accelerate
    from accelerate.state import AcceleratorState

    try:
        own = accelerate.Accelerator(cpu=True, mixed_precision="bf16")
        quick(tmp_path / "run", trainer=TrainerConfig(epochs=1, batch_size=32))
        assert own.mixed_precision == "bf16" and own.is_main_process
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


def test_gradients_are_clipped(tmp_path) -> None:
    def moved(clip: float) -> float:
        model = toy_model()
        before = weights(model)
        trainer = TrainerConfig(epochs=1, batch_size=32, grad_clip=clip)
        optim = {"name": "sgd", "lr": 1.0, "weight_decay": 0.0, "momentum": 0.0, "nesterov": False}
        quick(tmp_path / str(clip), model, trainer=trainer, optim=optim, schedule="constant")
        trained = dict(model.named_parameters())
        start = dict(toy_model().named_parameters())
        assert len(before)
        return float(torch.sqrt(sum((trained[n] - start[n]).detach().square().sum() for n in start)))

    assert moved(1e-3) == pytest.approx(1e-3, rel=0.01)
    assert moved(0) > 0.1


def test_the_schedule_is_followed(tmp_path) -> None:
    quick(
        tmp_path / "run",
        trainer=TrainerConfig(epochs=4, batch_size=8),
        optim={"name": "sgd", "lr": 0.5},
        schedule={"name": "cosine", "warmup_epochs": 0, "final": 0.0},
    )
    lr = [json.loads(line)["lr"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = 16
    assert lr == pytest.approx([0.25 * (1 + math.cos(math.pi * 4 * e / (steps - 1))) for e in range(4)])


def test_a_failing_save_keeps_the_checkpoint_before(tmp_path, monkeypatch) -> None:
    from kanvolution.models import weights

    save, calls = weights.save_file, []

    def fail_later(state: Mapping, path, **options: Any) -> None:
        calls.append(path)
        if len(calls) > 1:
            path.write_bytes(b"half")
            raise OSError("No space left on device")
        save(state, path, **options)

    monkeypatch.setattr(weights, "save_file", fail_later)
    with pytest.raises(OSError, match="No space left"):
        quick(tmp_path / "run")
    assert load_run(tmp_path / "run").epoch == 1
    assert not [p for p in (tmp_path / "run").iterdir() if p.name.startswith(".")]


def test_nothing_is_overwritten_and_mistakes_come_before_the_folder(tmp_path) -> None:
    quick(tmp_path / "run", trainer=TrainerConfig(epochs=1, batch_size=32))
    before = (tmp_path / "run" / "model.safetensors").read_bytes()
    with pytest.raises(ValueError, match="is not empty, and a run is never overwritten"):
        quick(tmp_path / "run")
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == before
    for options in ({"optim": "adm"}, {"schedule": "cosin"}, {"task": "x"}, {"seed": -1}):
        with pytest.raises(ValueError):
            quick(tmp_path / "new", **options)
        assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, r"trainer.epochs \(=0\) must be >= 1"),
        ({"batch_size": 0}, r"trainer.batch_size \(=0\)"),
        ({"grad_clip": -1.0}, r"trainer.grad_clip \(=-1.0\)"),
        ({"mixed_precision": "bf61"}, "Did you mean 'bf16'"),
        ({"mixed_precision": "fp16", "cpu": True}, "needs a GPU"),
    ],
)
def test_trainer_options_out_of_range(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainerConfig(**options)


def test_a_task_of_ones_own(tmp_path) -> None:
    class Regression(Task):
        def loss(self, output: Tensor, target: Tensor) -> Tensor:
            return (output[:, 0] - target).square().mean()

        def reset(self, device: torch.device) -> None:
            self.total, self.count = 0.0, 0

        def update(self, output: Tensor, target: Tensor) -> None:
            self.total += float((output[:, 0] - target).square().sum())
            self.count += len(target)

        def compute(self) -> dict[str, float | None]:
            return {"loss": self.total / self.count}

    result, _ = quick(tmp_path / "run", task=Regression())
    assert list(result.metrics) == ["loss"] and result.tables == {}


def test_validation_sees_every_image_once_and_trains_nothing(tmp_path) -> None:
    seen = []

    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = toy_model()

        def forward(self, x: Tensor) -> Tensor:
            if not self.training:
                assert not torch.is_grad_enabled()
                seen.append(x)
            return self.net(x)

    quick(tmp_path / "run", Counting(), trainer=TrainerConfig(epochs=1, batch_size=8))
    images = torch.stack([toy_data().val[i][0] for i in range(12)])
    torch.testing.assert_close(torch.cat(seen), images)


def test_a_job_from_a_config_makes_the_pictures_and_repeats_itself(tmp_path) -> None:
    from kanvolution.configs import compose

    overrides = [f"model.channels={CHANNELS}", "trainer.epochs=1", "trainer.batch_size=256", "seed=3"]
    for name in ("a", "b"):
        composed = compose([*overrides, f"output_dir={tmp_path / name}"])
        run_job(composed.values, text=composed.text, progress=Silent())
    assert (tmp_path / "a" / "curves.png").stat().st_size > 5000
    assert (tmp_path / "a" / "confusion.png").stat().st_size > 5000
    assert "seed: 3" in (tmp_path / "a" / "config.yaml").read_text()
    runs = [load_run(tmp_path / name) for name in ("a", "b")]
    assert torch.equal(weights(runs[0].model), weights(runs[1].model))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_demo_reaches_98_percent(tmp_path, seed: int) -> None:
    from kanvolution.configs import compose

    result = run_job(compose([f"seed={seed}", f"output_dir={tmp_path / 'run'}"]).values)
    assert result.metrics["top1"] >= 0.98
