"""What every registered basis must do in every layer: one test for each property."""

import copy
import gc
import io
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kanvolution as kv
from kanvolution.layers import KAN_CONVOLUTIONS
from kanvolution.layers.conv import KANConvNd
from kanvolution.ops import reference
from tests.tolerances import assert_close

BASES = kv.list_bases()
every_basis = pytest.mark.parametrize("basis", BASES)
every_dimension = pytest.mark.parametrize("ndim", [1, 2, 3])
every_grouping = pytest.mark.parametrize("groups", [1, 4])

SIZES = {1: (23,), 2: (9, 8), 3: (5, 6, 7)}


def make(basis: str, ndim: int = 2, groups: int = 1, inputs: int = 8, outputs: int = 12, **options: Any) -> KANConvNd:
    return KAN_CONVOLUTIONS[ndim](inputs, outputs, 3, groups=groups, basis=basis, **{"padding": 1, **options})


def image(ndim: int = 2, channels: int = 8, batch: int = 3, **options: Any) -> Tensor:
    return torch.randn(batch, channels, *SIZES[ndim], **options)


@every_basis
@every_dimension
@every_grouping
def test_variance_is_kept_at_initialisation(basis: str, ndim: int, groups: int) -> None:
    conv = make(basis, ndim, groups, inputs=32, outputs=64, padding=0)
    std = conv(image(ndim, channels=32, batch=8)).std()
    assert 0.8 <= std <= 1.25


@every_basis
@every_dimension
@every_grouping
def test_layer_is_the_definition(basis: str, ndim: int, groups: int) -> None:
    """The layer equals the sum over channels, functions and taps, written out term by term."""
    conv = make(basis, ndim, groups, inputs=4, outputs=4, stride=2, dilation=2, dtype=torch.float64)
    _randomise(conv)
    x = torch.randn(1, 4, *((5,) if ndim < 3 else (4,)) * ndim, dtype=torch.float64)
    weight = conv.weight.unflatten(1, (-1, conv.basis.size))
    args = ((2,) * ndim, (1,) * ndim, (2,) * ndim)
    if basis == "wavelet_edge":  # its functions depend on the output, so each output is a layer of its own
        edges = conv.basis.functions(x, input_map="identity", base="silu").unflatten(1, (4, -1))
        inputs = 4 // groups
        parts = [reference.kan_conv(edges[:, o], weight[o : o + 1], *args, 1) for o in range(4)]
        assert edges.shape[2] == inputs
        expected = torch.cat(parts, dim=1)
    else:
        expected = reference.kan_conv(conv.basis(x), weight, *args, groups)
    assert conv.bias is not None
    assert_close(conv(x), expected + conv.bias.view(-1, *(1,) * ndim))


@every_basis
@every_dimension
def test_gradients(basis: str, ndim: int) -> None:
    conv = make(basis, ndim, groups=2, inputs=4, outputs=4, dtype=torch.float64)
    _randomise(conv)
    x = torch.randn(2, 4, *(3,) * ndim, dtype=torch.float64, requires_grad=True)
    names, parameters = zip(*((n, p) for n, p in conv.named_parameters() if p.requires_grad), strict=True)

    def call(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(conv, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(call, (x, *parameters), fast_mode=True)


@every_basis
@pytest.mark.filterwarnings("ignore:`torch.jit.script`")  # torch's own, of forward-mode rules
def test_torch_func_and_forward_mode(basis: str) -> None:
    """jvp, grad, vmap and dual numbers give what backward gives."""
    conv = make(basis, 1, groups=2, inputs=4, outputs=4, dtype=torch.float64)
    _randomise(conv)
    x = torch.randn(3, 4, 5, dtype=torch.float64)
    tangent = torch.randn_like(x)
    jacobian = torch.autograd.functional.jacobian(conv, x)
    expected = torch.einsum("...nci,nci->...", jacobian, tangent)
    assert_close(torch.func.jvp(conv, (x,), (tangent,))[1], expected)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, tangent)
        assert_close(torch.autograd.forward_ad.unpack_dual(conv(dual)).tangent, expected)
    assert_close(torch.func.jacrev(conv)(x), jacobian)
    assert_close(torch.func.vmap(conv)(x), conv(x))

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(conv, parameters, (x,)).square().sum()

    parameters = {name: p for name, p in conv.named_parameters() if p.requires_grad}
    conv(x).square().sum().backward()
    for name, grad in torch.func.grad(loss)(parameters).items():
        assert_close(grad, parameters[name].grad)


@every_basis
@every_dimension
def test_empty_batch(basis: str, ndim: int) -> None:
    conv = make(basis, ndim, groups=2)
    x = image(ndim, batch=0).requires_grad_()
    y = conv(x)
    y.sum().backward()
    assert y.shape == (0, 12, *SIZES[ndim]) and x.grad is not None
    assert kv.KANLinear(4, 3, basis=basis)(torch.randn(0, 4)).shape == (0, 3)


@every_basis
def test_autocast_leaves_float64_alone(basis: str) -> None:
    conv, x = make(basis, dtype=torch.float64), image(dtype=torch.float64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = conv(x)
    assert y.dtype == torch.float64
    assert_close(y, conv(x))


@every_basis
@every_dimension
def test_groups_are_isolated(basis: str, ndim: int) -> None:
    """An output group depends on its own input group alone, and on nothing but a plain layer of that group would."""
    conv = make(basis, ndim, groups=4)
    x = image(ndim)
    y = conv(x)
    changed = x.clone()
    changed[:, 2:4] += 1
    difference = (conv(changed) - y).abs().flatten(2).amax(dim=(0, 2)).unflatten(0, (4, -1)).amax(dim=1)
    assert difference[1] > 1e-3
    assert difference[[0, 2, 3]].max() == 0


@every_basis
@every_dimension
def test_samples_are_independent(basis: str, ndim: int) -> None:
    conv = make(basis, ndim)
    x = image(ndim)
    whole = conv(x)
    for i in range(len(x)):
        assert_close(conv(x[i : i + 1]), whole[i : i + 1])
        assert_close(conv(x[i]), whole[i])  # without the batch dimension


@every_basis
@pytest.mark.parametrize("kind", ["zero", "constant", "large", "negative", "tiny"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_finite_for_any_input(basis: str, kind: str, dtype: torch.dtype) -> None:
    conv = make(basis, dtype=dtype)
    values = {"zero": 0.0, "constant": 1.0, "large": 1e4, "negative": -1e4, "tiny": 1e-7}
    x = torch.full((2, 8, 5, 5), values[kind], dtype=dtype, requires_grad=True)
    y = conv(x)
    y.float().abs().mean().backward()
    assert y.dtype == dtype
    assert torch.isfinite(y).all()
    for tensor in (x, *conv.parameters()):
        assert tensor.grad is None or torch.isfinite(tensor.grad).all()


@every_basis
def test_large_normal_input_is_finite(basis: str) -> None:
    x = (1e4 * image()).requires_grad_()
    y = make(basis)(x)
    y.sum().backward()
    assert torch.isfinite(y).all()
    assert x.grad is not None and torch.isfinite(x.grad).all()


@every_basis
@every_dimension
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(basis: str, ndim: int, dtype: torch.dtype) -> None:
    conv, x = make(basis, ndim), image(ndim)
    expected = conv(x)
    with torch.autocast("cpu", dtype=dtype):
        y = conv(x)
    assert y.dtype == dtype
    assert_close(y, expected, 3e-2)
    y.float().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in conv.parameters() if p.requires_grad)


@every_basis
@every_dimension
@every_grouping
def test_fullgraph_compile(basis: str, ndim: int, groups: int) -> None:
    conv, x = make(basis, ndim, groups), image(ndim).requires_grad_()
    expected = conv(x)
    compiled = torch.compile(conv, fullgraph=True, backend="aot_eager")
    actual = compiled(x)
    assert_close(actual, expected)
    grads = [torch.autograd.grad(y.square().sum(), [x, *_trained(conv)]) for y in (actual, expected)]
    for a, e in zip(*grads, strict=True):
        assert_close(a, e, 1e-4)


@every_basis
def test_compiles_once_for_all_batch_sizes(basis: str) -> None:
    counter = torch._dynamo.testing.CompileCounter()
    compiled = torch.compile(make(basis), fullgraph=True, backend=counter, dynamic=True)
    for batch in (2, 3, 5, 8):
        compiled(image(batch=batch))
    assert counter.frame_count == 1


@every_basis
@every_dimension
def test_export_is_made_of_torch_operators_and_keeps_the_batch_dynamic(basis: str, ndim: int) -> None:
    conv = make(basis, ndim, groups=2).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(conv, (image(ndim),), dynamic_shapes=({0: batch},))
    assert not [n for n in program.graph.nodes if "kanvolution" in str(n.target)]
    x = image(ndim, batch=7)
    assert_close(program.module()(x), conv(x))


@every_basis
@every_dimension
@every_grouping
def test_state_dict_round_trip(basis: str, ndim: int, groups: int) -> None:
    conv, other, x = make(basis, ndim, groups), make(basis, ndim, groups), image(ndim)
    _randomise(conv)
    file = io.BytesIO()
    torch.save(conv.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(x), conv(x))


@every_basis
@pytest.mark.parametrize("layer", ["conv", "transposed", "linear"])
def test_floating_point_operations_are_those_of_the_convolution(basis: str, layer: str) -> None:
    make_layer, x = {
        "conv": (lambda: kv.KANConv2d(4, 6, 3, stride=2, basis=basis), torch.randn(2, 4, 9, 9)),
        "transposed": (lambda: kv.KANConvTranspose2d(4, 6, 3, stride=2, basis=basis), torch.randn(2, 4, 5, 5)),
        "linear": (lambda: kv.KANLinear(4, 6, basis=basis), torch.randn(5, 4)),
    }[layer]
    made = make_layer()
    counter = kv.ops.flop_counter(display=False)
    x.requires_grad_()
    with counter:
        y = made(x)
    positions = (x if layer == "transposed" else y)[0, 0].numel()
    expected = 2 * len(x) * positions * made.weight.numel()
    assert counter.get_total_flops() == expected
    with counter:
        y.sum().backward()
    assert counter.get_total_flops() == 2 * expected


@every_basis
def test_deepcopy_shares_nothing(basis: str) -> None:
    conv, x = make(basis), image()
    twin = copy.deepcopy(conv)
    assert torch.equal(twin(x), conv(x))
    expected = conv(x)
    _randomise(twin)
    assert torch.equal(conv(x), expected)


@every_basis
def test_moves_to_another_dtype_and_through_meta(basis: str) -> None:
    conv, x = make(basis), image()
    assert_close(conv.double()(x.double()).float(), conv.float()(x))
    empty = make(basis, device="meta", dtype=torch.float64)
    assert all(t.is_meta for t in (*empty.parameters(), *empty.buffers()))
    empty.to_empty(device="cpu")
    empty.reset_parameters()
    y = empty(image(dtype=torch.float64))
    assert y.dtype == torch.float64 and torch.isfinite(y).all()


@every_basis
def test_channels_last_gives_channels_last(basis: str) -> None:
    conv, x = make(basis), image()
    y = conv(x.to(memory_format=torch.channels_last))
    assert_close(y, conv(x))
    if basis != "wavelet_edge":  # its expansion to all edges is laid out channel by channel
        assert y.is_contiguous(memory_format=torch.channels_last)


@every_basis
def test_memory_is_freed(basis: str) -> None:
    """No cache keeps an input, an output or a graph alive once the caller lets go."""
    conv, x = make(basis), image().requires_grad_()
    y = conv(x)
    y.sum().backward()
    alive = [weakref.ref(x), weakref.ref(y)]
    before = _live_tensors()
    conv(image().requires_grad_()).sum().backward()
    gc.collect()
    assert _live_tensors() <= before
    del x, y
    gc.collect()
    assert not any(ref() is not None for ref in alive)


@every_basis
def test_options_describe_the_basis(basis: str) -> None:
    made = kv.create_basis(basis, in_channels=4, out_channels=6)
    again = kv.create_basis(basis, in_channels=4, out_channels=6, **made.options())
    assert again.options() == made.options()
    assert all(f"{name}=" in repr(made) for name in made.options())
    assert made.size == made.num_functions + (made.base is not None)


@every_basis
def test_second_moments_are_those_of_a_sample(basis: str) -> None:
    made = kv.create_basis(basis)
    x = torch.randn(1, 1, 400_000, dtype=torch.float64)
    values = made.double().functions(x, input_map=made.input_map, base=made.base)
    assert_close(made.second_moments(), values.square().mean(dim=(0, 1, 3)), 0.03)


@every_basis
def test_linear_is_the_convolution_of_one_pixel(basis: str) -> None:
    linear = kv.KANLinear(6, 10, basis=basis)
    conv = kv.KANConv1d(6, 10, 1, basis=basis)
    conv.load_state_dict({k: v.unsqueeze(-1) if k == "weight" else v for k, v in linear.state_dict().items()})
    x = torch.randn(4, 5, 6)
    y = linear(x)
    assert y.shape == (4, 5, 10)
    assert_close(y, conv(x.transpose(1, 2)).transpose(1, 2))
    assert 0.8 < kv.KANLinear(64, 256, basis=basis)(torch.randn(256, 64)).std() < 1.25


@every_basis
@pytest.mark.parametrize("site", ["full", "poly", "degree", "output"])
def test_dropout_sites(basis: str, site: str) -> None:
    """Dropout acts in training only; "poly" and "degree" leave the base function alone."""
    if basis == "identity" and site in ("poly", "degree"):
        with pytest.raises(ValueError, match="has no functions"):
            kv.ConvSpec(basis, dropout=0.5, dropout_site=site)(8, 12, 3)
        return
    spec = kv.ConvSpec(basis, norm=None, act=None, dropout=0.5, dropout_site=site)
    block, x = spec(8, 12, 3, padding=1), image()
    plain = kv.ConvSpec(basis, norm=None, act=None)(8, 12, 3, padding=1)
    plain.load_state_dict(block.state_dict())
    assert torch.equal(block.eval()(x), plain.eval()(x))
    block.train()
    if site in ("poly", "degree"):
        conv = block.conv
        with torch.no_grad():  # keep the base function's weights alone
            mask = torch.zeros(conv.basis.size)
            mask[0] = conv.basis.base is not None
            conv.weight.unflatten(1, (-1, conv.basis.size)).mul_(mask.view(-1, 1, 1))
        plain.load_state_dict(block.state_dict())
        assert_close(block(x), plain(x))
    else:
        assert not torch.equal(block(x), block(x))
    if site in ("poly", "degree"):
        block.conv.reset_parameters()
        assert not torch.equal(block(x), block(x))


@pytest.mark.parametrize("basis", [b for b in BASES if b != "identity"])
def test_norm_on_the_functions_leaves_the_base_alone(basis: str) -> None:
    block = kv.ConvSpec(basis, norm="instance", norm_site="functions", act=None)(8, 12, 3, padding=1, bias=False)
    x = image()
    scaled = 3 * x + 1
    if block.conv.basis.base is None:
        assert_close(block(scaled), block(x), 1e-3)  # instance norm removes scale and shift
    else:
        assert not torch.allclose(block(scaled), block(x), rtol=1e-2)
        with torch.no_grad():
            block.conv.weight.unflatten(1, (8, -1))[:, :, 0] = 0
        assert_close(block(scaled), block(x), 1e-3)


def _trained(conv: nn.Module) -> list[Tensor]:
    return [p for p in conv.parameters() if p.requires_grad]


def _randomise(module: nn.Module) -> None:
    """Move every parameter away from its initial value."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))


def _live_tensors() -> int:
    gc.collect()
    return sum(issubclass(type(o), Tensor) for o in gc.get_objects())
