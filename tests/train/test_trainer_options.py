"""What the keys of the trainer do to a run."""

import pytest
import torch
from torch import Tensor, nn

import kanvolution as kv
from kanvolution.train import TrainerConfig, fit
from kanvolution.train.parallel import synchronise_batch_norms
from kanvolution.train.progress import Silent
from kanvolution.train.randomness import EpochSampler
from tests.train.toy import toy_data, toy_model

SGD = {"name": "sgd", "lr": 0.05}


def train(folder, model: nn.Module | None = None, optim: object = SGD, **trainer: object) -> nn.Module:
    model = toy_model(kv.ConvSpec("gram", norm="instance")) if model is None else model
    config = TrainerConfig(**{"epochs": 2, "batch_size": 8, **trainer})
    fit(model, toy_data(), optim=optim, trainer=config, tracker="none", output_dir=folder, progress=Silent())
    return model


def assert_close(one: nn.Module, other: nn.Module) -> None:
    torch.testing.assert_close(dict(one.state_dict()), dict(other.state_dict()), rtol=1e-4, atol=1e-5)


class Counting(nn.Module):
    """Counts the batches it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.net = toy_model()
        self.calls = {True: 0, False: 0}

    def forward(self, x: Tensor) -> Tensor:
        self.calls[self.training] += 1
        return self.net(x)


def test_accumulated_batches_equal_a_large_one(tmp_path) -> None:
    large = train(tmp_path / "large", batch_size=16)
    small = train(tmp_path / "small", batch_size=4, accumulation=4)
    assert_close(small, large)


def test_the_loop_is_plain_gradient_descent_on_the_mean_of_each_group(tmp_path) -> None:
    # 4 batches in groups of 3: the last step has one batch, whose gradient is not divided by 3.
    optim = {"name": "sgd", "lr": 0.1, "momentum": 0.0, "nesterov": False, "weight_decay": 0.0}
    schedule = {"name": "constant", "warmup_epochs": 0}
    spec = kv.ConvSpec("gram", norm="instance")
    model, plain, data = toy_model(spec), toy_model(spec), toy_data()
    trainer = TrainerConfig(epochs=1, batch_size=8, accumulation=3, grad_clip=0.0)
    common = {"tracker": "none", "progress": Silent(), "output_dir": tmp_path / "run"}
    fit(model, data, optim=optim, schedule=schedule, trainer=trainer, **common)
    order = [ticket.image for ticket in EpochSampler(32, seed=0)]
    for images in (order[:24], order[24:]):
        inputs, targets = zip(*(data.train[i] for i in images), strict=True)
        loss = nn.functional.cross_entropy(plain(torch.stack(inputs)), torch.tensor(targets))
        for parameter, slope in zip(plain.parameters(), torch.autograd.grad(loss, [*plain.parameters()]), strict=True):
            parameter.data -= 0.1 * slope
    assert_close(model, plain)


def test_max_steps_limits_training_and_validation(tmp_path) -> None:
    model = Counting()
    train(tmp_path / "run", model, batch_size=4, accumulation=2, max_steps=2)
    assert model.calls == {True: 2 * 4, False: 2 * 2}


def test_channels_last_reaches_weights(tmp_path) -> None:
    model = train(tmp_path / "run", channels_last=True)
    weights = [p for p in model.parameters() if p.ndim == 4 and min(p.shape[1:]) > 1]
    assert weights and all(p.is_contiguous(memory_format=torch.channels_last) for p in weights)
    assert_close(model, train(tmp_path / "plain"))


def test_gradient_checkpointing_changes_no_result_and_ends_with_the_run(tmp_path) -> None:
    model = train(tmp_path / "run", grad_checkpointing=True)
    assert not model.grad_checkpointing
    assert_close(model, train(tmp_path / "plain"))
    with pytest.raises(
        ValueError, match=r"trainer.grad_checkpointing \(=True\) needs a model with .*Counting has none"
    ):
        train(tmp_path / "other", Counting(), grad_checkpointing=True)
    assert not (tmp_path / "other").exists()


def test_compile_goes_through_torch_compile_and_leaves_the_model_alone(tmp_path, monkeypatch) -> None:
    compiled = []

    def compile(model: nn.Module) -> nn.Module:
        compiled.append(model)
        return compile.original(model, backend="eager")

    compile.original = torch.compile
    monkeypatch.setattr(torch, "compile", compile)
    model = train(tmp_path / "run", compile=True)
    assert compiled == [model]
    assert_close(model, train(tmp_path / "plain"))
    assert "_orig_mod" not in "".join(model.state_dict())


def test_batch_norms_over_all_processes_are_the_same_tensors_in_other_modules() -> None:
    model = toy_model(kv.ConvSpec("gram", norm="batch", norm_site="functions")).eval()
    before, x = dict(model.named_modules()), torch.randn(3, 1, 8, 8)
    expected, tensors = model(x), {**dict(model.named_parameters()), **dict(model.named_buffers())}
    synchronise_batch_norms(model)
    norms = [name for name, module in before.items() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 4
    after = {name for name, module in model.named_modules() if isinstance(module, nn.SyncBatchNorm)}
    assert after == set(norms) and not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    assert all(tensors[key] is value for key, value in [*model.named_parameters(), *model.named_buffers()])
    assert torch.equal(model(x), expected)


def test_batch_norms_over_all_processes_need_gpus(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for cpu in (False, True):
        with pytest.raises(ValueError, match=r"trainer.sync_batch_norm \(=True\) needs GPUs.*conv.norm=instance"):
            TrainerConfig(sync_batch_norm=True, cpu=cpu)


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
def test_compiled_training_equals_eager_training(tmp_path, checkpointing: bool) -> None:
    spec = kv.ConvSpec("gram", norm="instance", structure=kv.Bottleneck(2))
    options = {"compile": True, "grad_checkpointing": checkpointing}
    assert_close(train(tmp_path / "run", toy_model(spec), **options), train(tmp_path / "plain", toy_model(spec)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"accumulation": 0}, r"trainer.accumulation \(=0\)"),
        ({"keep_last": 0}, r"trainer.keep_last \(=0\)"),
        ({"max_steps": -1}, r"trainer.max_steps \(=-1\)"),
        ({"checkpoint_steps": -1}, r"trainer.checkpoint_steps \(=-1\)"),
    ],
)
def test_values_out_of_range(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainerConfig(**options)
