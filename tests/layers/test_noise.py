"""Noise injection: its statistics, its sites in a block, and that evaluation knows nothing of it."""

import copy

import pytest
import torch
from torch import nn

import kanvolution as kv
from kanvolution.layers import MultiplicativeNoise, NoiseInjection
from kanvolution.layers.parts import DROPOUTS
from tests.tolerances import assert_close

KINDS = [NoiseInjection, MultiplicativeNoise]
WITH_FUNCTIONS = [basis for basis in kv.list_bases() if basis != "identity"]
NAMES = ["noise", "multiplicative_noise"]


@pytest.mark.parametrize("shape", [(64, 3, 4000), (64, 3, 80, 50), (40, 3, 20, 20, 20), (100_000, 3)])
def test_additive_noise_is_scaled_by_the_std_of_each_channel(shape: tuple[int, ...]) -> None:
    scales = torch.tensor([0.1, 1.0, 10.0]).view(1, 3, *(1,) * (len(shape) - 2))
    x = 5 + scales * torch.randn(shape)
    noise = NoiseInjection(p=0.3, alpha=0.2)(x) - x
    dims = [d for d in range(len(shape)) if d != 1]
    assert_close((noise.abs() > 1e-9).float().mean(), torch.tensor(0.3), 0.02)
    variance = noise.square().mean(dims)  # p alpha^2 std^2
    for channel, scale in enumerate((0.1, 1.0, 10.0)):
        assert_close(variance[channel], torch.tensor(0.3 * (0.2 * scale) ** 2), 0.03)
    assert (noise.mean(dims).abs() < 0.005 * scales.flatten()).all()


def test_multiplicative_noise_is_scaled_by_the_entry() -> None:
    x = torch.full((200_000, 2), 3.0)
    x[:, 1] = -30.0
    noise = MultiplicativeNoise(p=0.3, alpha=0.2)(x) - x
    expected = 0.3 * (0.2 * torch.tensor([3.0, 30.0])) ** 2
    for channel in range(2):
        assert_close(noise[:, channel].square().mean(), expected[channel], 0.03)
    assert_close((noise[:, 0] != 0).float().mean(), torch.tensor(0.3), 0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_and_zero_probability_leave_the_input_alone(kind: type[nn.Module]) -> None:
    x = torch.randn(2, 3, 5, 5)
    assert kind(0.5).eval()(x) is x
    assert kind(0.0)(x) is x


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_dtype_and_degenerate_inputs(kind: type[nn.Module], dtype: torch.dtype) -> None:
    for x in (torch.randn(2, 3, 5, dtype=dtype), torch.ones(1, 3, 1, dtype=dtype), torch.randn(3, 2, dtype=dtype)):
        y = kind(0.5)(x)
        assert y.dtype == dtype and y.shape == x.shape and torch.isfinite(y).all()
    constant = torch.ones(4, 3, 5)
    assert torch.equal(NoiseInjection(0.9)(constant), constant)  # a channel that does not vary gets none


def test_the_scale_takes_part_in_no_gradient() -> None:
    x = torch.randn(4, 3, 5, requires_grad=True)
    NoiseInjection(0.9, alpha=1.0)(x).sum().backward()
    assert_close(x.grad, torch.ones_like(x))


def test_channel_dimension_of_an_unbatched_image() -> None:
    x = torch.cat([torch.zeros(1, 50, 50), torch.randn(1, 50, 50)])
    noise = NoiseInjection(0.5, channel_dim=-3)(x) - x
    assert (noise[0] == 0).all() and (noise[1] != 0).any()


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("site", ["full", "poly", "degree", "output"])
@pytest.mark.parametrize(("basis", "ndim"), [*((b, 2) for b in WITH_FUNCTIONS), ("gram", 1), ("gram", 3)])
def test_sites(kind: str, site: str, basis: str, ndim: int) -> None:
    """In training noise acts at its site, and where only the base function is left "poly" and "degree" do nothing."""
    spec = kv.ConvSpec(basis, ndim=ndim, norm=None, act=None, dropout=0.5, dropout_site=site, dropout_kind=kind)
    block = spec(4, 6, 3, padding=1)
    plain = kv.ConvSpec(basis, ndim=ndim, norm=None, act=None)(4, 6, 3, padding=1)
    plain.load_state_dict(block.state_dict())
    x = torch.randn(2, 4, *(6,) * ndim)
    assert torch.equal(block.eval()(x), plain.eval()(x))
    block.train()
    assert not torch.equal(block(x), block(x))
    error = (block(x) - plain(x)).square().mean().sqrt() / plain(x).std()
    assert error < 0.2  # alpha is 0.05
    if site in ("poly", "degree"):
        size = block.conv.basis.size
        with torch.no_grad():
            mask = torch.zeros(size)
            mask[0] = block.conv.basis.base is not None
            block.conv.weight.unflatten(1, (-1, size)).mul_(mask.view(-1, *(1,) * ndim))
        plain.load_state_dict(block.state_dict())
        assert_close(block(x), plain(x))


@pytest.mark.parametrize("kind", DROPOUTS)
@pytest.mark.parametrize("structure", [kv.Bottleneck(), kv.LowRank(rank=2), kv.Separable()], ids=str)
def test_kinds_with_structures_and_json(kind: str, structure: kv.layers.Structure) -> None:
    spec = kv.ConvSpec("gram", dropout=0.3, dropout_kind=kind, dropout_site="degree", structure=structure)
    assert kv.ConvSpec.from_dict(spec.to_dict()) == spec and spec != kv.ConvSpec("gram", structure=structure)
    block = spec(4, 6, 3)
    x = torch.randn(2, 4, 8, 8)
    assert not torch.equal(block(x), block(x))
    assert torch.equal(block.eval()(x), copy.deepcopy(block).eval()(x))


@pytest.mark.parametrize("kind", NAMES)
def test_compiles_in_training(kind: str) -> None:
    block = kv.ConvSpec("gram", dropout=0.3, dropout_kind=kind)(4, 6, 3)
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    x = torch.randn(2, 4, 8, 8)
    assert not torch.equal(compiled(x), compiled(x))


@pytest.mark.parametrize("kind", KINDS)
def test_bad_values(kind: type[nn.Module]) -> None:
    with pytest.raises(ValueError, match=r"p \(=1.5\) must be in \[0, 1\)"):
        kind(1.5)
    with pytest.raises(ValueError, match=r"alpha \(=-1\) must be finite and >= 0"):
        kind(0.5, alpha=-1)
    with pytest.raises(ValueError, match=r"unknown dropout_kind 'nois'. Did you mean 'noise'"):
        kv.ConvSpec(dropout_kind="nois")
