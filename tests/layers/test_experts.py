"""Mixtures of experts: the gate against the paper's formulas, the dispatch against a dense sum, losses as collected."""

import copy
import gc
import pickle
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

import kanvolution as kv
from kanvolution.layers import named_losses
from kanvolution.layers.structures.experts import NoisyTopKGate, variation
from tests.tolerances import assert_close

SIZES = {1: (11,), 2: (6, 7), 3: (4, 3, 4)}
EVERY = [(basis, 2) for basis in kv.list_bases()] + [("gram", 1), ("gram", 3)]
every_basis = pytest.mark.parametrize(("basis", "ndim"), EVERY)


def mixture(
    num_experts: int = 5, k: int = 2, basis: str = "gram", ndim: int = 2, inner: Any = None, **options: Any
) -> kv.MixtureOfExperts:
    """A mixture 4 -> 6 whose gate tells samples apart."""
    structure = kv.Experts(num_experts, k, inner=inner, **options)
    moe = kv.ConvSpec(basis, ndim=ndim, structure=structure, norm=None, act=None)(4, 6, 3, padding=1).conv
    return settle(moe)


def settle(moe: nn.Module) -> Any:
    for gate in (m for m in moe.modules() if isinstance(m, NoisyTopKGate)):
        nn.init.normal_(gate.weight, std=4)
        if gate.noise_weight is not None:
            nn.init.normal_(gate.noise_weight, std=4)
    return moe


def images(batch: int = 7, ndim: int = 2) -> Tensor:
    return torch.randn(batch, 4, *SIZES[ndim])


def dense(moe: kv.MixtureOfExperts, x: Tensor) -> Tensor:
    """Every expert on every sample, weighted by gates from the textbook: softmax over all but the kept set to -inf."""
    pooled = x.mean(dim=tuple(range(2, x.ndim)))
    logits = pooled @ moe.gate.weight.T
    if moe.training and moe.gate.noise_weight is not None:
        scale = nn.functional.softplus(pooled @ moe.gate.noise_weight.T) + 0.01
        logits = logits + torch.randn_like(logits) * scale
    kept = logits >= logits.sort(dim=1, descending=True).values[:, moe.k - 1 : moe.k]
    gates = torch.where(kept, logits, -torch.inf).softmax(1)
    return torch.einsum("ne,en...->n...", gates, torch.stack([expert(x) for expert in moe.experts]))


def gradients(moe: nn.Module, y: Tensor, *extra: Tensor) -> dict[str, Tensor]:
    values = dict(moe.named_parameters())
    grads = torch.autograd.grad(y, list(values.values()), *extra, retain_graph=True, materialize_grads=True)
    return dict(zip(values, grads, strict=True))


@every_basis
@pytest.mark.parametrize("training", [False, True])
def test_dispatch_is_the_dense_sum(basis: str, ndim: int, training: bool) -> None:
    moe, x = mixture(basis=basis, ndim=ndim).train(training), images(ndim=ndim)
    torch.manual_seed(1)
    y = moe(x)
    torch.manual_seed(1)
    expected = dense(moe, x)
    assert_close(y, expected)
    g = torch.randn_like(y)
    wanted = gradients(moe, expected, g)
    largest = max(float(grad.abs().max()) for grad in wanted.values())
    for name, grad in gradients(moe, y, g).items():
        assert (grad - wanted[name]).abs().max() <= 5e-5 * largest, name


@every_basis
def test_compiled_and_eager_agree_in_training(basis: str, ndim: int) -> None:
    moe, x = mixture(basis=basis, ndim=ndim), images(ndim=ndim)
    torch.manual_seed(1)
    y = moe(x)
    losses = named_losses(moe)
    total = kv.collect_losses(moe)
    wanted = gradients(moe, y.square().sum() + total)
    compiled = torch.compile(moe, fullgraph=True, backend="eager")
    torch.manual_seed(1)
    y2 = compiled(x)
    assert_close(y2, y)
    for name, value in named_losses(compiled).items():
        assert_close(value, losses[name.removeprefix("_orig_mod.")])
    total2 = kv.collect_losses(compiled)
    assert_close(total2, total)
    for name, grad in gradients(moe, y2.square().sum() + total2).items():
        assert_close(grad, wanted[name], 1e-4)


@pytest.mark.parametrize("num_experts", [1, 3])
def test_all_experts_kept(num_experts: int) -> None:
    moe, x = mixture(num_experts, k=num_experts), images()
    torch.manual_seed(1)
    y = moe(x)
    torch.manual_seed(1)
    assert_close(y, dense(moe, x))
    assert_close(moe.gate(x).load, torch.full((num_experts,), 7.0))


def test_one_expert_is_the_plain_layer() -> None:
    moe, x = mixture(1, k=1), images()
    y = moe(x)
    assert torch.equal(y, moe.experts[0](x))
    assert kv.collect_losses(moe) == 0


def test_one_kept_expert_has_weight_one() -> None:
    moe, x = mixture(4, k=1).eval(), images()
    chosen = moe.gate(x).experts[:, 0]
    assert len(set(chosen.tolist())) > 1
    for n, e in enumerate(chosen.tolist()):
        assert_close(moe(x)[n], moe.experts[e](x)[n])


# --------------------------------------------------------------------------------------------------------- gate


@torch.no_grad()
def test_gate_and_load_are_the_papers() -> None:
    gate = settle(NoisyTopKGate(4, 5, 2))
    x = images(batch=9)
    torch.manual_seed(1)
    routing = gate(x)
    torch.manual_seed(1)
    pooled = x.mean((2, 3))
    clean = pooled @ gate.weight.T
    scale = nn.functional.softplus(pooled @ gate.noise_weight.T) + 0.01
    noisy = clean + torch.randn_like(clean) * scale
    normal = torch.distributions.Normal(0.0, 1.0)
    load, importance = torch.zeros(5), torch.zeros(5)
    for n in range(9):
        kept = sorted(range(5), key=lambda i: -noisy[n, i])[:2]
        assert routing.experts[n].tolist() == kept
        exps = noisy[n, kept].exp()
        assert_close(routing.gates[n], exps / exps.sum())
        importance[kept] += exps / exps.sum()
        for i in range(5):
            others = sorted((float(noisy[n, j]) for j in range(5) if j != i), reverse=True)
            load[i] += normal.cdf((clean[n, i] - others[1]) / scale[n, i])
    assert_close(routing.importance, importance, 1e-4)
    assert_close(routing.load, load, 1e-4)


def test_variation() -> None:
    values = torch.tensor([1.0, 2.0, 6.0])
    assert_close(variation(values), torch.tensor(((4 + 1 + 9) / 2) / 9))
    assert float(variation(torch.tensor([5.0]))) == 0 and float(variation(torch.full((4,), 3.0))) == 0
    assert torch.isfinite(variation(torch.zeros(4)))


def test_balance_losses_balance() -> None:
    """A gate that prefers two experts learns to use them all."""
    gate = NoisyTopKGate(4, 6, 2)
    with torch.no_grad():
        gate.weight[:2] = 3.0
    x = torch.rand(64, 4, 5)
    optimizer = torch.optim.Adam(gate.parameters(), lr=0.1)
    before = float(variation(gate(x).importance).detach())
    for _ in range(60):
        routing = gate(x)
        loss = variation(routing.importance) + variation(routing.load)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert before > 1 and float(variation(gate(x).importance).detach()) < 0.1 * before


def test_without_noise_the_gate_tells_samples_apart_from_the_start() -> None:
    gate = NoisyTopKGate(16, 8, 1, noisy=False)
    assert gate.noise_weight is None
    chosen = gate(torch.randn(64, 16, 1)).experts
    assert len(chosen.unique()) > 4
    assert torch.equal(gate(torch.ones(3, 16, 2)).experts, gate.eval()(torch.ones(3, 16, 2)).experts)


def test_autocast_does_not_change_the_choice() -> None:
    moe, x = mixture(16, k=2).eval(), images(64)
    expected = moe.gate(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        routing = moe.gate(x)
        assert moe(x).dtype == torch.bfloat16
    assert torch.equal(routing.experts, expected.experts) and torch.equal(routing.gates, expected.gates)


# ----------------------------------------------------------------------------------------------------- dispatch


def test_only_the_chosen_experts_are_computed() -> None:
    def flops(module: nn.Module) -> int:
        with kv.ops.flop_counter(display=False) as counter:
            module(images(8))
        return counter.get_total_flops()

    moe = mixture(8, k=2)
    assert flops(moe) == 2 * flops(moe.experts[0])


class _Reads(TorchFunctionMode):
    """Counts what makes the host wait for a device."""

    names = ("tolist", "item", "__bool__", "__int__", "__float__", "__index__", "nonzero", "cpu", "unique")

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += getattr(func, "__name__", "") in self.names
        return func(*args, **(kwargs or {}))


def test_the_device_is_read_once() -> None:
    moe, x = mixture(8, k=2), images()
    with _Reads() as reads:
        moe(x)
    assert reads.count == 1


@pytest.mark.gpu
def test_on_a_gpu() -> None:
    moe, x = mixture(8, k=2).cuda(), images(16).cuda()
    moe(x)
    kv.collect_losses(moe)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with pytest.warns(UserWarning, match="synchronizing") as caught:
            moe(x)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(caught) == 1
    moe.eval()
    assert_close(moe(x), dense(moe, x), 1e-2)


def test_channels_last_is_kept() -> None:
    moe = mixture(basis="gram").to(memory_format=torch.channels_last)
    x = images().to(memory_format=torch.channels_last)
    torch.manual_seed(1)
    y = moe(x)
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.manual_seed(1)
    assert_close(moe(x.contiguous()), y)


@pytest.mark.parametrize("batch", [0, 1, 2])
def test_small_batches(batch: int) -> None:
    moe = mixture(6, k=2)
    x = images(batch).requires_grad_()
    y = moe(x)
    assert y.shape == (batch, 6, 6, 7)
    y.sum().backward()
    assert x.grad is not None and x.grad.shape == x.shape
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in moe.parameters())


@pytest.mark.parametrize("training", [False, True])
def test_idle_experts_get_gradients_of_zeros(training: bool) -> None:
    moe = mixture(6, k=1).train(training)
    x = images(1)
    moe(x).sum().backward()
    at_work = [i for i, e in enumerate(moe.experts) if e.weight.grad.abs().max() > 0]
    assert len(at_work) == 1
    assert all(p.grad is not None for p in moe.parameters())


def test_frozen_idle_experts_stay_frozen() -> None:
    moe = mixture(6, k=1)
    moe.experts.requires_grad_(False)
    moe(images(1)).sum().backward()
    assert all(p.grad is None for p in moe.experts.parameters())


@pytest.mark.parametrize("norm", ["batch", "instance", "layer"])
def test_whole_layers_as_experts(norm: str) -> None:
    """A slice of one sample is enough for a norm over its pixels."""
    spec = kv.ConvSpec("gram", norm=norm)
    moe = settle(kv.MixtureOfExperts((spec(4, 6, 3, padding=1) for _ in range(6)), 4, k=2))
    x = images(3)
    moe(x).square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in moe.parameters())
    moe.eval()
    assert_close(moe(x), dense(moe, x))
    assert_close(torch.compile(moe, fullgraph=True, backend="eager")(x), moe(x))


def test_any_module_can_be_an_expert() -> None:
    moe = settle(kv.MixtureOfExperts([nn.Conv2d(4, 6, 3) for _ in range(3)], 4, k=2)).eval()
    x = images()
    assert moe(x).shape == (7, 6, 4, 5)
    assert_close(moe(x), dense(moe, x))


@pytest.mark.parametrize(
    "structure",
    [kv.Experts(4, 2, inner=kv.Bottleneck(2, 2)), kv.Bottleneck(2, 2, inner=kv.Experts(4, 2))],
    ids=["bottlenecks_as_experts", "experts_in_the_bottleneck"],
)
def test_bottlenecks(structure: kv.layers.Structure) -> None:
    block = kv.ConvSpec("gram", structure=structure)(8, 12, 3, padding=1)
    y = block(torch.randn(5, 8, 6, 6))
    assert y.shape == (5, 12, 6, 6)
    (y.square().mean() + kv.collect_losses(block)).backward()
    assert all(p.grad is not None for p in block.parameters())
    assert kv.ConvSpec.from_dict(kv.ConvSpec("gram", structure=structure).to_dict()).structure == structure


@every_basis
def test_samples_are_independent_in_eval_mode(basis: str, ndim: int) -> None:
    moe, x = mixture(basis=basis, ndim=ndim).eval(), images(ndim=ndim)
    assert_close(moe(x[2:3]), moe(x)[2:3])
    changed = x.clone()
    changed[3:] = 100 * torch.randn_like(changed[3:])
    assert_close(moe(changed)[:3], moe(x)[:3])


def test_repeats_with_the_seed() -> None:
    moe, x = mixture(), images()
    torch.manual_seed(3)
    first = moe(x)
    torch.manual_seed(3)
    assert torch.equal(moe(x), first)


# ------------------------------------------------------------------------------------------------------- losses


def test_losses_are_collected_once() -> None:
    model = nn.Sequential(mixture(balance=0.5), nn.SiLU(), nn.Conv2d(6, 4, 1), mixture())
    model(images())
    assert set(named_losses(model)) == {"0.importance", "0.load", "3.importance", "3.load"}
    expected = sum(named_losses(model).values())
    total = kv.collect_losses(model)
    assert total.requires_grad and total.ndim == 0
    assert_close(total, torch.as_tensor(expected))
    assert float(kv.collect_losses(model)) == 0 and not named_losses(model)


def test_balance_is_the_weight_of_the_losses() -> None:
    one, x = mixture(balance=1.0), images()
    other = copy.deepcopy(one)
    other.balance = 0.25
    for moe in (one, other):
        torch.manual_seed(0)
        moe(x)
    assert_close(0.25 * kv.collect_losses(one), kv.collect_losses(other))


def test_nothing_is_held_out_of_training() -> None:
    moe = mixture()
    moe(images())
    with torch.no_grad():
        moe(images())
    assert not named_losses(moe)
    moe(images())
    moe.eval()(images())
    assert not named_losses(moe)
    assert float(kv.collect_losses(nn.Linear(2, 2))) == 0


@pytest.mark.parametrize("collected", [True, False])
def test_memory_is_freed(collected: bool) -> None:
    moe = mixture()
    x = images()
    y = moe(x)
    held = [weakref.ref(v) for v in moe.losses.peek().values()]
    loss = y.square().mean() + (kv.collect_losses(moe) if collected else 0)
    loss.backward()
    result = weakref.ref(y)
    del y, loss
    if not collected:  # then the next forward replaces what is held
        moe(x)
    gc.collect()
    assert result() is None and all(ref() is None for ref in held)


def test_copies_and_pickles_after_a_forward(tmp_path: Path) -> None:
    moe, x = mixture(), images()
    y = moe(x)
    torch.save(moe, tmp_path / "moe.pt")
    loaded = torch.load(tmp_path / "moe.pt", weights_only=False)
    for twin in (copy.deepcopy(moe), pickle.loads(pickle.dumps(moe)), loaded, copy.deepcopy(nn.Sequential(moe))[0]):
        assert not named_losses(twin)
        assert torch.equal(twin.eval()(x), moe.eval()(x))
        moe.train()
    moe(x)
    (y.sum() + kv.collect_losses(moe)).backward()


@pytest.mark.parametrize("backend", [None, "aot_eager"])
def test_gradient_checkpointing(backend: str | None) -> None:
    """Run again in backward with the same noise, the losses neither counted again nor held."""
    plain = nn.Sequential(nn.Conv2d(4, 4, 1), mixture())
    again = copy.deepcopy(plain)
    x = images()
    inner = again if backend is None else torch.compile(again, backend=backend, fullgraph=True)
    calls = (plain, lambda x: checkpoint(inner, x, use_reentrant=False))
    results = []
    for model, call in zip((plain, again), calls, strict=True):
        for _ in range(2):
            model.zero_grad()
            torch.manual_seed(5)
            y = call(x)
            loss = y.square().sum() + 10 * kv.collect_losses(model)
            loss.backward()
            if backend is None:
                assert not named_losses(model)
        results.append([loss.detach(), *(p.grad for p in model.parameters())])
    for got, wanted in zip(results[1], results[0], strict=True):
        assert_close(got, wanted, 1e-4)


def test_functional_calls_see_the_given_weights() -> None:
    moe, x = mixture().eval(), images()
    zeros = {name: torch.zeros_like(p) for name, p in moe.named_parameters() if name.startswith("experts")}
    assert torch.func.functional_call(moe, zeros, (x,)).abs().max() == 0


def _data_parallel(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.manual_seed(0)
    moe = mixture(8, k=1)
    x = images(6)[rank * 3 : rank * 3 + 3]
    alone = copy.deepcopy(moe)
    wrapped = nn.parallel.DistributedDataParallel(moe)
    for model in (alone, wrapped):
        torch.manual_seed(10 + rank)
        (model(x).square().sum() + kv.collect_losses(model)).backward()
    for own, averaged in zip(alone.parameters(), moe.parameters(), strict=True):
        torch.distributed.all_reduce(own.grad)
        assert_close(averaged.grad, own.grad / 2, 1e-4)
    # Another step, which fails if a parameter took no part in the last one; then a frozen gate.
    for _ in range(2):
        (wrapped(x).square().sum() + kv.collect_losses(wrapped)).backward()
        moe.gate.eval()
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="built without torch.distributed")
def test_data_parallel_gradients_are_averages(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_data_parallel, (str(tmp_path),), nprocs=2)


# ------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kv.Experts(0), r"num_experts \(=0\) must be >= 1"),
        (lambda: kv.Experts(4, k=0), r"k \(=0\) must be >= 1"),
        (lambda: kv.Experts(4, k=5), r"k \(=5\) must be <= num_experts \(=4\); choose fewer"),
        (lambda: kv.Experts(4, balance=-1), r"balance \(=-1\) must be >= 0"),
        (lambda: kv.MixtureOfExperts([], 4), r"num_experts \(=0\) must be >= 1"),
        (lambda: kv.MixtureOfExperts([nn.Identity()], 4, k=2), r"k \(=2\) must be <= num_experts \(=1\)"),
        (lambda: NoisyTopKGate(0, 4, 1), r"in_channels \(=0\) must be >= 1"),
        (lambda: mixture()(torch.randn(2, 3, 6, 6)), r"input \(shape \(2, 3, 6, 6\)\) must have shape \[N, 4"),
        (lambda: mixture()(torch.randn(4, 4)), "must have shape"),
    ],
)
def test_bad_values(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_an_input_without_batch_is_refused_whatever_its_sizes() -> None:
    moe = kv.ConvSpec("gram", structure=kv.Experts(2, k=2), norm=None, act=None)(8, 16, 3).conv
    with pytest.raises(ValueError, match=r"shape \(8, 8, 9\)\) must have shape \[N, 8, \*S\] with 2 dimensions"):
        moe(torch.randn(8, 8, 9))
