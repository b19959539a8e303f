"""Focal modulation: equal to the written-out formula, and its properties."""

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kanvolution as kv
from kanvolution.layers import FocalModulation
from tests.tolerances import assert_close

SIZES = {1: (9,), 2: (5, 6), 3: (3, 4, 3)}
every_dimension = pytest.mark.parametrize("ndim", [1, 2, 3])
# The slowest cases: the bases that meet the weights in their own way, and one in all dimensions.
few_cases = pytest.mark.parametrize(
    ("basis", "ndim"), [("gram", 1), ("gram", 2), ("gram", 3), ("identity", 2), ("relu", 2), ("wavelet_edge", 2)]
)
most_cases = pytest.mark.parametrize(("basis", "ndim"), [*((b, 2) for b in kv.list_bases()), ("gram", 1), ("gram", 3)])


def make(basis: str = "gram", ndim: int = 2, channels: int = 4, **options: Any) -> FocalModulation:
    return FocalModulation(channels, kv.ConvSpec(basis, ndim=ndim, norm=None, act=None), ndim, **options)


def image(ndim: int = 2, channels: int = 4, **options: Any) -> Tensor:
    return torch.randn(2, channels, *SIZES[ndim], **options)


@every_dimension
@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize("plain", [False, True])
def test_it_is_the_written_out_formula(ndim: int, average: bool, plain: bool) -> None:
    layer = make(ndim=ndim, levels=3, average=average, plain_projections=plain, norm="layer")
    x = image(ndim)
    parts = layer.split(x)
    query, context, gates = parts[:, :4], parts[:, 4:8], parts[:, 8:]
    assert gates.shape[1] == 4
    total = torch.zeros(())
    for level in range(3):
        context = layer.focal[level](context)
        total = total + gates[:, level : level + 1] * context
    total = total + gates[:, 3:] * context.flatten(2).mean(2).view(2, 4, *(1,) * ndim)
    y = query * layer.modulate(total / 4 if average else total)
    assert_close(layer(x), layer.project(layer.norm(y)))
    assert [f.conv.kernel_size for f in layer.focal] == [(k,) * ndim for k in (3, 5, 7)]
    assert all(f.conv.groups == 4 for f in layer.focal)
    assert isinstance(layer.split, kv.KANConvNormAct) != plain


@every_dimension
def test_it_commutes_with_flips(ndim: int) -> None:
    """With symmetric focal kernels, turning the image over turns the output over."""
    layer, x = make(ndim=ndim), image(ndim)
    dims = list(range(2, ndim + 2))
    with torch.no_grad():
        for focal in layer.focal:
            focal.conv.weight.add_(focal.conv.weight.flip(dims))
    assert_close(layer(x.flip(dims)), layer(x).flip(dims))


def test_samples_are_independent() -> None:
    layer, x = make(norm="layer"), image()
    for i in range(2):
        assert_close(layer(x[i : i + 1]), layer(x)[i : i + 1])


@most_cases
def test_gradients(basis: str, ndim: int) -> None:
    layer = make(basis, ndim, 2, levels=1, norm="layer", dtype=torch.float64)
    x = torch.randn(2, 2, *(3,) * ndim, dtype=torch.float64, requires_grad=True)
    names, parameters = zip(*((n, p) for n, p in layer.named_parameters() if p.requires_grad), strict=True)

    def call(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(call, (x, *parameters), fast_mode=True)


@few_cases
def test_compile_and_export(basis: str, ndim: int) -> None:
    # In float64: the sums of many layers, made in another order, are near the tolerance of float32.
    layer, x = make(basis, ndim, norm="layer", dtype=torch.float64).eval(), image(ndim).double()
    expected = layer(x)
    assert_close(torch.compile(layer, fullgraph=True, backend="aot_eager")(x), expected)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(layer, (x,), dynamic_shapes=({0: batch},))
    assert_close(program.module()(x[:1]), layer(x[:1]))


@most_cases
def test_autocast_and_state_dict(basis: str, ndim: int) -> None:
    layer, x = make(basis, ndim, norm="layer").eval(), image(ndim)
    expected = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    # Steep functions one after another enlarge any error: that of autocast is of the size that rounding x alone makes.
    rounded = layer(x.bfloat16().float())
    assert y.dtype == torch.bfloat16
    assert (y - expected).norm() < 3 * (rounded - expected).norm() + 0.02 * expected.norm()
    other = copy.deepcopy(layer)
    for p in other.parameters():
        nn.init.normal_(p)
    assert torch.equal(layer(x), expected)
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(x), expected)


def test_any_factory() -> None:
    x = torch.randn(2, 8, 6, 6)
    for conv in ("rbf", kv.ConvSpec("gram", structure=kv.LowRank(1)), {"basis": "spline", "ndim": 2}, nn.Conv2d):
        assert FocalModulation(8, conv)(x).shape == x.shape
    layer = FocalModulation(8, kv.ConvSpec("gram", structure=kv.Bottleneck()), focal_conv="rbf", norm=nn.BatchNorm2d(8))
    assert layer.focal[0].conv.basis.name == "rbf" and layer(x).shape == x.shape


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": 0}, r"levels \(=0\) must be >= 1"),
        ({"window": 4}, r"window \(=4\) and step \(=2\) give kernels \[4, 6\], which must be odd"),
        ({"step": 1}, r"give kernels \[3, 4\], which must be odd; use an odd window and an even step"),
        ({"norm": "layr"}, "Did you mean 'layer'"),
        ({"channels": 0}, r"channels \(=0\) must be >= 1"),
    ],
    ids=str,
)
def test_bad_values(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FocalModulation(**{"channels": 4, "conv": "gram", **options})


def test_bad_inputs() -> None:
    with pytest.raises(ValueError, match=r"must be \[N, channels \(=4\), ...\] with 2 dimensions of space"):
        make()(torch.randn(2, 5, 3, 3))
