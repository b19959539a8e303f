"""The transposed convolution: nn.ConvTranspose's arguments, and the layer's properties for every basis."""

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kanvolution as kv
from kanvolution.layers import KAN_TRANSPOSED_CONVOLUTIONS
from kanvolution.layers.transpose import KANConvTransposeNd
from tests.tolerances import assert_close

PLAIN = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
SIZES = {1: (9,), 2: (5, 6), 3: (3, 4, 3)}
every_basis = pytest.mark.parametrize("basis", kv.list_bases())
every_dimension = pytest.mark.parametrize("ndim", [1, 2, 3])
# Where a case takes long: every basis in two dimensions, and one basis in the others.
most_cases = pytest.mark.parametrize(("basis", "ndim"), [*((b, 2) for b in kv.list_bases()), ("gram", 1), ("gram", 3)])

ARGUMENTS: list[dict[str, Any]] = [
    {},
    {"stride": 2},
    {"stride": 2, "padding": 1, "output_padding": 1},
    {"padding": 2},
    {"dilation": 2, "padding": 1},
    {"dilation": 3, "output_padding": 2},
    {"groups": 2},
    {"groups": 6, "stride": 3},
    {"bias": False},
    {"kernel_size": 1, "stride": 2},
    {"dtype": torch.float64},
    {"device": "cpu"},
]
TUPLES: dict[int, dict[str, Any]] = {
    1: {"kernel_size": (4,), "stride": (2,), "padding": (1,), "output_padding": (1,), "dilation": (1,)},
    2: {"kernel_size": (5, 2), "stride": (1, 3), "padding": (2, 0), "output_padding": (0, 2), "dilation": (1, 3)},
    3: {"kernel_size": (1, 2, 3), "stride": (2, 1, 1), "padding": (0, 1, 2), "dilation": (1, 1, 2)},
}


def swap(weight: Tensor, groups: int) -> Tensor:
    """nn.ConvTranspose's weight [I, O/G, ...] in our layout [O, I/G, ...], group by group."""
    return torch.cat([part.transpose(0, 1) for part in weight.chunk(groups)])


def load(ours: KANConvTransposeNd, theirs: Any) -> None:
    state = theirs.state_dict()
    ours.load_state_dict({**state, "weight": swap(state["weight"], theirs.groups)})


def make(basis: str, ndim: int = 2, groups: int = 1, inputs: int = 4, outputs: int = 6, **options: Any) -> Any:
    options = {"stride": 2, "padding": 1, **options}
    return KAN_TRANSPOSED_CONVOLUTIONS[ndim](inputs, outputs, 3, groups=groups, basis=basis, **options)


def image(ndim: int = 2, channels: int = 4, batch: int = 2, **options: Any) -> Tensor:
    return torch.randn(batch, channels, *SIZES[ndim], **options)


@every_dimension
@pytest.mark.parametrize("arguments", [*ARGUMENTS, "tuples"], ids=str)
def test_every_argument_means_what_it_means_in_torch(ndim: int, arguments: Any) -> None:
    given = dict(TUPLES[ndim] if arguments == "tuples" else arguments)
    kernel_size = given.pop("kernel_size", 3)
    theirs = PLAIN[ndim](6, 12, kernel_size, **given)
    ours = KAN_TRANSPOSED_CONVOLUTIONS[ndim](6, 12, kernel_size, **given, basis="identity")
    load(ours, theirs)
    x = torch.randn(2, 6, *SIZES[ndim], dtype=given.get("dtype"))
    assert_close(ours(x), theirs(x))
    assert_close(ours(x[0]), theirs(x[0]))


@every_dimension
def test_positional_arguments_are_in_torchs_order(ndim: int) -> None:
    arguments = (6, 12, 3, 2, 1, 1, 2, False, 1, "zeros", None, torch.float64)
    theirs, ours = PLAIN[ndim](*arguments), KAN_TRANSPOSED_CONVOLUTIONS[ndim](*arguments, basis="identity")
    load(ours, theirs)
    x = torch.randn(2, 6, *SIZES[ndim], dtype=torch.float64)
    assert_close(ours(x), theirs(x))


@every_dimension
def test_output_size(ndim: int) -> None:
    theirs = PLAIN[ndim](6, 12, 3, stride=3, padding=1)
    ours = KAN_TRANSPOSED_CONVOLUTIONS[ndim](6, 12, 3, stride=3, padding=1, basis="identity")
    load(ours, theirs)
    x = torch.randn(2, 6, *SIZES[ndim])
    least = [3 * (size - 1) + 1 for size in SIZES[ndim]]
    for more in range(3):
        size = [low + more for low in least]
        assert_close(ours(x, size), theirs(x, size))
        assert_close(ours(x[0], output_size=size), theirs(x[0], size))
    assert ours(x, (2, 12, *least)).shape == (2, 12, *least)
    assert ours(x[0], torch.Size((12, *least))).shape == (12, *least)
    with pytest.raises(ValueError, match=r"output_size \(=.*must be between .* change padding or kernel_size"):
        ours(x, [low + 3 for low in least])
    with pytest.raises(ValueError, match=rf"must have {ndim} entries.* or {ndim + 2}"):
        ours(x, [1] * (ndim + 1))


@pytest.mark.parametrize("basis", [basis for basis in kv.list_bases() if basis != "wavelet_edge"])
@every_dimension
def test_it_is_the_transpose_of_the_convolution(basis: str, ndim: int) -> None:
    """<transpose(E), b> = <E, conv(b)>, E the expansion of x."""
    up = make(basis, ndim, dtype=torch.float64, bias=False)
    x = image(ndim, dtype=torch.float64)
    expanded = up.basis(x).flatten(1, 2)
    y = up(x)
    other = torch.randn_like(y)
    convolution = {1: nn.functional.conv1d, 2: nn.functional.conv2d, 3: nn.functional.conv3d}[ndim]
    back = convolution(other, up.weight.transpose(0, 1), None, up.stride, up.padding)
    assert_close((y * other).sum(), (expanded * back).sum())


@most_cases
@pytest.mark.parametrize("stride", [1, 2, 4])
def test_variance_is_kept_at_initialisation(basis: str, ndim: int, stride: int) -> None:
    """Away from the border; with stride > kernel only those outputs count that see an input."""
    kernel = 2 if stride > 2 else 4
    up = KAN_TRANSPOSED_CONVOLUTIONS[ndim](32, 16, kernel, stride=stride, basis=basis, bias=False)
    y = up(torch.randn(8, 32, *(7,) * ndim if ndim < 3 else (5,) * ndim))
    border = max(kernel - stride, 0)
    for d in range(2, ndim + 2):
        y = y.narrow(d, border, y.shape[d] - 2 * border)
    seen = y[(y != 0)] if kernel < stride else y
    assert 0.75 <= seen.std() <= 1.3


@every_basis
@every_dimension
def test_gradients(basis: str, ndim: int) -> None:
    up = make(basis, ndim, groups=2, outputs=4, dtype=torch.float64)
    _randomise(up)
    x = torch.randn(2, 4, *(2,) * ndim, dtype=torch.float64, requires_grad=True)
    names, parameters = zip(*((n, p) for n, p in up.named_parameters() if p.requires_grad), strict=True)

    def call(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(up, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(call, (x, *parameters), fast_mode=True)


@every_basis
@every_dimension
def test_groups_are_isolated(basis: str, ndim: int) -> None:
    up = make(basis, ndim, groups=4, inputs=8, outputs=12)
    x = image(ndim, channels=8)
    y = up(x)
    changed = x.clone()
    changed[:, 2:4] += 1
    difference = (up(changed) - y).abs().flatten(2).amax(dim=(0, 2)).unflatten(0, (4, -1)).amax(dim=1)
    assert difference[1] > 1e-3
    assert difference[[0, 2, 3]].max() == 0


@most_cases
def test_fullgraph_compile(basis: str, ndim: int) -> None:
    up, x = make(basis, ndim, groups=2), image(ndim).requires_grad_()
    expected = up(x)
    actual = torch.compile(up, fullgraph=True, backend="aot_eager")(x)
    assert_close(actual, expected)
    trained = [p for p in up.parameters() if p.requires_grad]
    grads = [torch.autograd.grad(y.square().sum(), [x, *trained]) for y in (actual, expected)]
    for a, e in zip(*grads, strict=True):
        assert_close(a, e, 1e-4)


@most_cases
def test_export_keeps_the_batch_dynamic(basis: str, ndim: int) -> None:
    up = make(basis, ndim, groups=2).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(up, (image(ndim),), dynamic_shapes=({0: batch},))
    assert not [n for n in program.graph.nodes if "kanvolution" in str(n.target)]
    x = image(ndim, batch=5)
    assert_close(program.module()(x), up(x))


@every_basis
@every_dimension
def test_autocast(basis: str, ndim: int) -> None:
    up, x = make(basis, ndim), image(ndim)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = up(x)
    assert y.dtype == torch.bfloat16
    assert_close(y, up(x), 3e-2)


@every_basis
@every_dimension
def test_state_dict_round_trip_and_deepcopy(basis: str, ndim: int) -> None:
    up, other, x = make(basis, ndim, 2), make(basis, ndim, 2), image(ndim)
    _randomise(up)
    file = io.BytesIO()
    torch.save(up.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    expected = up(x)
    assert torch.equal(other(x), expected)
    twin = copy.deepcopy(up)
    _randomise(twin)
    assert torch.equal(up(x), expected)


@every_basis
def test_through_meta(basis: str) -> None:
    empty = make(basis, device="meta", dtype=torch.float64)
    empty.to_empty(device="cpu")
    empty.reset_parameters()
    y = empty(image(dtype=torch.float64))
    assert y.dtype == torch.float64 and torch.isfinite(y).all()


def test_repr_names_what_differs_from_the_defaults() -> None:
    text = repr(kv.KANConvTranspose2d(4, 8, 3, 2, padding=1, output_padding=1, groups=2, bias=False, degree=2))
    for part in (
        "4, 8, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1), output_padding=(1, 1), groups=2",
        "degree=2",
    ):
        assert part in text
    assert "dilation" not in text and "bias=False" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_channels": 30, "groups": 4}, r"in_channels \(=30\) must be divisible by groups \(=4\)"),
        ({"out_channels": 30, "groups": 4}, r"out_channels \(=30\) must be divisible by groups \(=4\)"),
        ({"output_padding": 1}, r"output_padding \(=1\) must be smaller than stride \(=1\) or dilation \(=1\); pass 0"),
        ({"output_padding": -1}, r"output_padding \(=-1\) must be >= 0"),
        ({"stride": 0}, r"stride \(=0\) must be >= 1"),
        ({"kernel_size": (3, 3, 3)}, "must be one integer or 2"),
        ({"padding_mode": "reflect"}, "unknown padding_mode of a transposed convolution 'reflect'.*Known: zeros"),
        ({"basis": "grm"}, "Did you mean 'gram'"),
    ],
    ids=str,
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kv.KANConvTranspose2d(**{"in_channels": 4, "out_channels": 8, "kernel_size": 3, **arguments})


def test_bad_inputs() -> None:
    up = kv.KANConvTranspose2d(4, 8, 3)
    with pytest.raises(TypeError, match="floating point"):
        up(torch.zeros(1, 4, 8, 8, dtype=torch.long))
    with pytest.raises(ValueError, match="has 5 channels, but in_channels is 4"):
        up(torch.zeros(1, 5, 8, 8))
    with pytest.raises(ValueError, match=r"must have 4 dimensions.*KANConvTranspose2d"):
        up(torch.zeros(1, 1, 4, 8, 8))


def _randomise(module: nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
