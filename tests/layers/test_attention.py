"""Self-attention: equal to the written-out formula, and what rotary positions promise."""

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kanvolution as kv
from kanvolution.layers import RotaryPositions, SelfAttention
from tests.tolerances import assert_close

SIZES = {1: (7,), 2: (3, 4), 3: (2, 3, 2)}
every_dimension = pytest.mark.parametrize("ndim", [1, 2, 3])
# The slowest cases: the bases that meet the weights in their own way, and one in all dimensions.
few_cases = pytest.mark.parametrize(
    ("basis", "ndim"), [("gram", 1), ("gram", 2), ("gram", 3), ("identity", 2), ("relu", 2), ("wavelet_edge", 2)]
)
most_cases = pytest.mark.parametrize(("basis", "ndim"), [*((b, 2) for b in kv.list_bases()), ("gram", 1), ("gram", 3)])


def make(basis: str = "gram", ndim: int = 2, channels: int = 12, **options: Any) -> SelfAttention:
    spec = kv.ConvSpec(basis, ndim=ndim, norm=None, act=None)
    attention = SelfAttention(channels, spec, ndim, **options)
    nn.init.constant_(attention.gain, 0.7)  # at 0, where it starts, attention would not be seen
    return attention


def image(ndim: int = 2, channels: int = 12, **options: Any) -> Tensor:
    return torch.randn(2, channels, *SIZES[ndim], **options)


def written_out(layer: SelfAttention, x: Tensor, scale: float) -> Tensor:
    """softmax over all pixels, pixel by pixel and head by head."""
    q, k, v = (part(x).flatten(2) for part in (layer.query, layer.key, layer.value))
    out = torch.zeros_like(v)
    width = v.shape[1] // layer.num_heads
    for n in range(len(x)):
        for head in range(layer.num_heads):
            c = slice(head * width, (head + 1) * width)
            for i in range(v.shape[2]):
                scores = torch.stack([scale * (q[n, c, i] * k[n, c, j]).sum() for j in range(v.shape[2])])
                weights = scores.exp() / scores.exp().sum()
                out[n, c, i] = (weights * v[n, c]).sum(-1)
    return out.reshape(x.shape)


@every_dimension
@pytest.mark.parametrize("num_heads", [1, 3])
def test_it_is_the_written_out_softmax(ndim: int, num_heads: int) -> None:
    layer, x = make(ndim=ndim, num_heads=num_heads, kernel_size=3, norm=None), image(ndim)
    expected = written_out(layer, x, (12 / num_heads) ** -0.5)
    assert_close(layer(x), x + 0.7 * expected)
    plain = make(ndim=ndim, num_heads=num_heads, norm=None, scale=0.3, gain_on="input")
    assert_close(plain(x), 0.7 * x + written_out(plain, x, 0.3))


def test_norm_inner_channels_and_the_start() -> None:
    x = image()
    start = SelfAttention(12, "gram", norm="layer")
    assert_close(start(x), nn.functional.group_norm(x, 1))  # with gain 0 it is its norm alone
    own = nn.BatchNorm2d(12)
    layer = make(inner_channels=6, num_heads=2, norm=own)
    assert layer.norm is own and layer.query.conv.in_channels == 6
    inner = layer.squeeze(x)
    y = layer.attend(layer.query(inner), layer.key(inner), layer.value(inner))
    assert_close(layer.eval()(x), own.eval()(x + 0.7 * layer.unsqueeze(y)))


@every_dimension
def test_without_positions_pixels_are_a_set(ndim: int) -> None:
    """With 1x1 projections and no rotary positions, permuted pixels give permuted outputs; with them they do not."""
    x = image(ndim)
    order = torch.randperm(x[0, 0].numel())

    def permuted(t: Tensor) -> Tensor:
        return t.flatten(2)[:, :, order].reshape(t.shape)

    plain = make(ndim=ndim)
    assert_close(plain(permuted(x)), permuted(plain(x)))
    positioned = make(ndim=ndim, rotary="axial", norm=None)
    assert not torch.allclose(positioned(permuted(x)), permuted(positioned(x)), atol=1e-4)


@every_dimension
@pytest.mark.parametrize("kind", ["axial", "mixed"])
def test_rotary_scores_depend_on_relative_positions_only(ndim: int, kind: str) -> None:
    space = {1: (9,), 2: (5, 4), 3: (3, 4, 3)}[ndim]
    rotary = RotaryPositions(12, ndim, num_heads=2, kind=kind, dtype=torch.float64)
    pixels = torch.Size(space).numel()
    query, key = (torch.randn(1, 2, 1, 12, dtype=torch.float64).expand(-1, -1, pixels, -1) for _ in range(2))
    scores = rotary(query, space) @ rotary(key, space).transpose(-1, -2)
    at = torch.cartesian_prod(*(torch.arange(s) for s in space)).view(pixels, ndim)
    offsets = at[:, None] - at[None]
    unique, index = offsets.flatten(0, 1).unique(dim=0, return_inverse=True)
    flat = scores.flatten(2)
    for o in range(len(unique)):
        same = flat[:, :, index == o]
        assert_close(same, same[:, :, :1].expand_as(same), 1e-5)  # angles are float32
    means = torch.stack([flat[0, 0, index == o][0] for o in range(len(unique))])
    assert (means - (query[0, 0, 0] * key[0, 0, 0]).sum()).abs().gt(1e-4).sum() == len(unique) - 1
    assert_close(rotary(query, space).square().sum(-1), query.square().sum(-1), 1e-6)


def test_rotary_angles_are_those_of_the_papers_in_one_dimension() -> None:
    rotary = RotaryPositions(8, ndim=1, base=10_000.0)
    x = torch.randn(1, 1, 5, 8)
    turned = rotary(x, (5,))
    for m in range(5):
        for i in range(4):
            angle = torch.tensor(m * 10_000.0 ** (-2 * i / 8))
            a, b = x[0, 0, m, 2 * i : 2 * i + 2]
            expected = torch.stack([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()])
            assert_close(turned[0, 0, m, 2 * i : 2 * i + 2], expected, 1e-5)


def test_every_axis_has_its_pairs() -> None:
    rotary = RotaryPositions(8, ndim=3)
    angles = rotary.angles((2, 2, 2), torch.device("cpu"))[0].view(2, 2, 2, 4)
    for axis, at in enumerate([(1, 0, 0), (0, 1, 0), (0, 0, 1)]):
        assert angles[at][axis] == 1 and (angles[at] != 0).sum() == (2 if axis == 0 else 1)


@most_cases
def test_gradients(basis: str, ndim: int) -> None:
    layer = make(basis, ndim, 4, rotary="mixed" if ndim < 3 else None, num_heads=1, dtype=torch.float64)
    x = torch.randn(2, 4, *(2,) * ndim, dtype=torch.float64, requires_grad=True)
    names, parameters = zip(*((n, p) for n, p in layer.named_parameters() if p.requires_grad), strict=True)
    assert "rotary.frequencies" in names or ndim == 3

    def call(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    # Angles are computed in float32, which numerical derivatives in the frequencies see.
    small = [p.detach() if "frequencies" in n else p for n, p in zip(names, parameters, strict=True)]
    assert torch.autograd.gradcheck(call, (x, *small), fast_mode=True)


@pytest.mark.parametrize("kind", ["axial", "mixed"])
def test_mixed_frequencies_are_trained(kind: str) -> None:
    layer = make(rotary=kind, num_heads=3)
    layer(image()).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for n, p in layer.named_parameters() if "norm.b" not in n)
    assert ("rotary.frequencies" in dict(layer.named_parameters())) == (kind == "mixed")


@few_cases
def test_compile_and_export(basis: str, ndim: int) -> None:
    layer, x = make(basis, ndim, rotary="mixed", num_heads=2, inner_channels=12).eval(), image(ndim)
    expected = layer(x)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert_close(compiled(x), expected)
    parameters = [p for p in layer.parameters() if p.requires_grad]
    grads = [torch.autograd.grad(f(x).square().sum(), parameters) for f in (compiled, layer)]
    for (name, _), a, e in zip(layer.named_parameters(), *grads, strict=False):
        assert torch.allclose(a, e, rtol=1e-3, atol=1e-4), name
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(layer, (x,), dynamic_shapes=({0: batch},))
    assert_close(program.module()(x[:1]), layer(x[:1]))


@most_cases
def test_autocast_and_state_dict(basis: str, ndim: int) -> None:
    layer, x = make(basis, ndim, rotary="mixed", num_heads=2, inner_channels=12).eval(), image(ndim)
    expected = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert_close(layer(x), expected, 5e-2)
    other = copy.deepcopy(layer)
    for p in other.parameters():
        nn.init.normal_(p)
    assert torch.equal(layer(x), expected)
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(x), expected)


def test_any_size_of_image_and_any_factory() -> None:
    for conv in ("rbf", kv.ConvSpec("gram", structure=kv.Bottleneck()), {"basis": "spline", "ndim": 2}, nn.Conv2d):
        layer = SelfAttention(8, conv, rotary="axial", num_heads=2)
        for size in ((2, 3), (7, 5), (1, 1)):
            x = torch.randn(2, 8, *size)
            assert layer.eval()(x).shape == x.shape


def test_moves_through_meta() -> None:
    layer = make(rotary="mixed", device="meta")
    layer.to_empty(device="cpu")
    for module in layer.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    assert layer.rotary.frequencies.abs().max() <= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 5}, r"channels \(=12\) must be divisible by num_heads \(=5\)"),
        ({"num_heads": 5, "inner_channels": 6}, r"inner_channels \(=6\) must be divisible by num_heads \(=5\)"),
        ({"rotary": "axail"}, "Did you mean 'axial'"),
        ({"rotary": "axial", "num_heads": 4}, r"channels of a head \(=3\) must be even and >= 4"),
        ({"rotary": "axial", "rotary_base": 1}, r"base \(=1\) must be > 1"),
        ({"gain_on": "inputs"}, "Did you mean 'input'"),
        ({"norm": "layr"}, "Did you mean 'layer'"),
        ({"inner_channels": 0}, r"inner_channels \(=0\) must be >= 1"),
    ],
    ids=str,
)
def test_bad_values(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SelfAttention(12, "gram", **options)


def test_bad_factories_and_inputs() -> None:
    with pytest.raises(ValueError, match=r"conv \(a ConvSpec of ndim=2\) must have ndim=3; pass ConvSpec"):
        SelfAttention(12, kv.ConvSpec("gram"), 3)
    with pytest.raises(ValueError, match=r"must be \[N, channels \(=12\), ...\] with 2 dimensions of space"):
        make()(torch.randn(12, 3, 3))
    shrinking = SelfAttention(12, lambda i, o, k, **_: nn.Conv2d(i, o, 3))
    with pytest.raises(ValueError, match=r"turned a size of \(5, 5\) into \(3, 3\); use stride 1 and padding"):
        shrinking(torch.randn(1, 12, 5, 5))
