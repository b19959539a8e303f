"""What every structure must do with every basis in every dimension: one test for each property."""

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kanvolution as kv
from kanvolution.layers.structures import STRUCTURES, NoisyTopKGate, structure_from_dict
from tests.tolerances import assert_close

BASES = kv.list_bases()
STRUCTURED = {
    "bottleneck": kv.Bottleneck(reduction=2, min_width=2),
    "low_rank": kv.LowRank(rank=1),
    "low_rank_shared": kv.LowRank(rank=1, shared=True),
    "separable": kv.Separable(),
    "separable_kan": kv.Separable(pointwise="kan", multiplier=2),
    "bottleneck_of_low_rank": kv.Bottleneck(reduction=2, min_width=2, inner=kv.LowRank(rank=1)),
    "separable_of_low_rank": kv.Separable(inner=kv.LowRank(rank=1)),
    "experts": kv.Experts(num_experts=3, k=2),
}
SIZES = {1: (17,), 2: (6, 7), 3: (4, 5, 4)}
# Functions that differ from output to output cannot be learned once for all outputs.
PAIRS = [(b, s) for b in BASES for s in STRUCTURED if not (b == "wavelet_edge" and "low_rank" in s)]

every_pair = pytest.mark.parametrize(("basis", "structure"), PAIRS)
# Where a case takes a second (compilation), dimensions other than 2 are tried with one basis; the slow tests try all.
TRIPLES = [
    pytest.param(b, s, ndim, marks=[] if ndim == 2 or b == "gram" else pytest.mark.slow)
    for b, s in PAIRS
    for ndim in (1, 2, 3)
]
every_dimension = pytest.mark.parametrize("ndim", [1, 2, 3])


def make(basis: str, structure: str, ndim: int = 2, inputs: int = 8, outputs: int = 12, **options: Any) -> nn.Module:
    spec = kv.ConvSpec(basis, ndim=ndim, structure=STRUCTURED[structure], norm=None, act=None)
    return spec(inputs, outputs, 3, **{"padding": 1, **options}).conv


def image(ndim: int = 2, channels: int = 8, **options: Any) -> Tensor:
    return torch.randn(3, channels, *SIZES[ndim], **options)


def test_every_registered_structure_is_tested() -> None:
    assert {type(s).name for s in STRUCTURED.values()} == set(STRUCTURES)


@every_pair
@every_dimension
def test_shape_groups_and_gradients(basis: str, structure: str, ndim: int) -> None:
    """Stride and dilation act as in nn.Conv, groups stay apart, and every parameter gets a gradient."""
    conv = make(basis, structure, ndim, groups=2, stride=2, padding=2, dilation=2)
    plain = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[ndim](8, 12, 3, padding=2, stride=2, dilation=2)
    x = image(ndim).requires_grad_()
    y = conv(x)
    assert y.shape == plain(x).shape
    y[:, :6].square().sum().backward()
    assert x.grad is not None
    assert x.grad[:, :4].abs().max() > 0 and x.grad[:, 4:].abs().max() == 0
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in conv.parameters() if p.requires_grad)


@every_pair
def test_gradients_are_right(basis: str, structure: str) -> None:
    # In eval mode a gate draws no noise, and away from zero weights its choice is no tie.
    conv = make(basis, structure, 1, inputs=4, outputs=4, dtype=torch.float64).eval()
    for gate in (m for m in conv.modules() if isinstance(m, NoisyTopKGate)):
        nn.init.normal_(gate.weight)
    x = torch.randn(2, 4, 5, dtype=torch.float64, requires_grad=True)
    names, parameters = zip(*((n, p) for n, p in conv.named_parameters() if p.requires_grad), strict=True)

    def call(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(conv, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(call, (x, *parameters), fast_mode=True)


@every_pair
def test_variance_at_initialisation(basis: str, structure: str) -> None:
    stds = [make(basis, structure, inputs=32, outputs=64)(image(channels=32)).std() for _ in range(3)]
    # Equal gates average independent experts.
    share = 0.5**0.5 if structure == "experts" else 1.0
    # Separable and low-rank layers multiply two random factors, so single draws spread more.
    low, high = (0.8, 1.25) if structure in ("bottleneck", "experts") else (0.65, 1.35)
    assert low * share <= torch.stack(stds).mean() <= high * share


@pytest.mark.parametrize(("basis", "structure", "ndim"), TRIPLES)
def test_compile_export_and_autocast(basis: str, structure: str, ndim: int) -> None:
    conv, x = make(basis, structure, ndim).eval(), image(ndim)
    expected = conv(x)
    assert_close(torch.compile(conv, fullgraph=True, backend="aot_eager")(x), expected)
    program = torch.export.export(conv, (x,))
    assert not [n for n in program.graph.nodes if "kanvolution" in str(n.target)]
    assert_close(program.module()(x), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = conv(x)
    assert y.dtype == torch.bfloat16
    assert_close(y, expected, 5e-2)


@every_pair
def test_state_dict_and_spec_round_trip(basis: str, structure: str) -> None:
    spec = kv.ConvSpec(basis, structure=STRUCTURED[structure])
    again = kv.ConvSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
    assert again == spec and hash(again) == hash(spec)
    block, twin = spec(8, 12, 3).eval(), again(8, 12, 3).eval()
    twin.load_state_dict(block.state_dict())
    x = image()
    assert torch.equal(twin(x), block(x))


@pytest.mark.parametrize("structure", STRUCTURED)
def test_on_the_meta_device(structure: str) -> None:
    with torch.device("meta"):
        by_context = make("gram", structure)
    by_argument = make("gram", structure, device=torch.device("meta"))
    for conv in (by_context, by_argument):
        assert all(t.is_meta for t in (*conv.parameters(), *conv.buffers()))


@every_pair
@pytest.mark.parametrize("site", ["full", "poly", "degree", "output"])
def test_dropout_reaches_the_functions(basis: str, structure: str, site: str) -> None:
    if basis == "identity" and site in ("poly", "degree"):
        pytest.skip("no functions to act on; see the test of the plain layer")
    spec = kv.ConvSpec(basis, structure=STRUCTURED[structure], norm=None, act=None, dropout=0.5, dropout_site=site)
    block, x = spec(8, 12, 3, padding=1), image()
    assert torch.equal(block.eval()(x), block(x))
    block.train()
    assert not torch.equal(block(x), block(x))


@pytest.mark.parametrize("basis", [b for b in BASES if b != "wavelet_edge"])
@pytest.mark.parametrize("groups", [1, 2])
def test_full_rank_is_the_full_layer(basis: str, groups: int) -> None:
    """With rank K and U the identity, the low-rank layer is the full one."""
    full = kv.KANConv2d(4, 6, 3, padding=1, groups=groups, basis=basis)
    low = kv.ConvSpec(basis, structure=kv.LowRank(full.basis.size), norm=None, act=None)(
        4, 6, 3, padding=1, groups=groups
    ).conv
    low.basis.inner.load_state_dict(full.basis.state_dict())
    with torch.no_grad():
        low.weight.copy_(full.weight)
        low.bias.copy_(full.bias)
        low.basis.mixing.copy_(torch.eye(full.basis.size).expand_as(low.basis.mixing))
    x = image(channels=4)
    assert_close(low(x), full(x))


@pytest.mark.parametrize("basis", [b for b in BASES if b != "wavelet_edge"])
@pytest.mark.parametrize("shared", [False, True])
def test_low_rank_is_a_full_layer_with_a_product_of_weights(basis: str, shared: bool) -> None:
    low = kv.ConvSpec(basis, structure=kv.LowRank(1, shared=shared), norm=None, act=None)(4, 6, 3).conv
    full = kv.KANConv2d(4, 6, 3, basis=basis)
    full.basis.load_state_dict(low.basis.inner.state_dict())
    with torch.no_grad():
        weight = low.weight.unflatten(1, (4, 1))
        mixing = low.basis.mixing.expand(4, -1, -1)
        full.weight.copy_(torch.einsum("ocrhw,crk->ockhw", weight, mixing).flatten(1, 2))
        full.bias.copy_(low.bias)
    x = image(channels=4)
    assert_close(low(x), full(x))


def test_bottleneck_is_the_sum_of_its_paths() -> None:
    conv = make("gram", "bottleneck")
    x = image()
    inner = conv.conv(conv.squeeze(x))
    assert inner.shape[1] == 6
    assert conv.conv.basis.base is None
    base = nn.functional.conv2d(nn.functional.silu(x), conv.base_conv.weight, padding=1)
    assert_close(conv(x), conv.unsqueeze(inner) + base)


@pytest.mark.parametrize(
    ("sizes", "width"), [((64, 128), 32), ((8, 12), 8), ((128, 16), 32), ((20, 40), 16), ((3, 64), 16)]
)
def test_bottleneck_width(sizes: tuple[int, int], width: int) -> None:
    assert kv.Bottleneck().width(*sizes) == width


def _flops(module: nn.Module, x: Tensor) -> int:
    with kv.ops.flop_counter(display=False) as counter:
        module(x)
    return counter.get_total_flops()


@pytest.mark.parametrize("basis", [b for b in BASES if b != "wavelet_edge"])
def test_rank_one_costs_what_a_plain_convolution_costs(basis: str) -> None:
    x = torch.randn(2, 32, 16, 16)
    low = kv.ConvSpec(basis, structure=kv.LowRank(1), norm=None, act=None)(32, 64, 3, padding=1)
    assert _flops(low, x) <= 1.03 * _flops(nn.Conv2d(32, 64, 3, padding=1), x)
    extra = sum(p.numel() for p in low.parameters()) - nn.Conv2d(32, 64, 3).weight.numel() - 64
    own = sum(p.numel() for p in kv.create_basis(basis, in_channels=32).parameters())
    assert extra == 32 * kv.create_basis(basis, in_channels=32).size + own


@pytest.mark.parametrize(
    ("structure", "message"),
    [
        (lambda: kv.Bottleneck(reduction=0), r"reduction \(=0\) must be > 0"),
        (lambda: kv.Bottleneck(min_width=0), r"min_width \(=0\) must be >= 1"),
        (lambda: kv.LowRank(0), r"rank \(=0\) must be >= 1"),
        (lambda: kv.Separable("linaer"), "Did you mean 'linear'"),
        (lambda: kv.Separable(multiplier=0), r"multiplier \(=0\) must be >= 1"),
        (lambda: structure_from_dict({"name": "botleneck"}), "Did you mean 'bottleneck'"),
        (lambda: structure_from_dict({"reduction": 4}), "needs a name"),
        (lambda: structure_from_dict({"name": "bottleneck", "reduce": 4}), "Did you mean 'reduction'"),
        (lambda: kv.ConvSpec("gram", structure=kv.LowRank(9))(4, 4, 3), r"rank \(=9\) must be <= the number of"),
        (lambda: kv.ConvSpec("wavelet_edge", structure=kv.LowRank(1))(4, 4, 3), "functions of its own for each output"),
        (lambda: kv.ConvSpec("gram", structure=kv.Separable())(6, 4, 3, groups=4), "must be divisible by groups"),
        (
            lambda: kv.ConvSpec("rbf", structure=kv.Bottleneck(), norm_site="functions")(4, 4, 3),
            "needs a KANConv",
        ),
    ],
)
def test_bad_values(structure: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        structure()
