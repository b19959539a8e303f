"""The Triton kernels of per-edge wavelets against the textbook formula in float64, differentiated by autograd.

Under TRITON_INTERPRET=1 they run on the CPU; tests/ops/test_triton.py runs this file so. Otherwise they need a GPU.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from kanvolution import ops
from kanvolution.ops import reference
from tests.ops.test_triton_kernels import DEVICE, INTERPRETED
from tests.tolerances import assert_close

if not INTERPRETED:
    pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.fixture(autouse=True)
def _poisoned_memory_and_several_programs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """torch.empty gives NaN, so that what no kernel writes shows; tiles, blocks of taps and parts of tiny batches."""
    from kanvolution.ops.triton import edge_wavelet

    if INTERPRETED:
        for name, value in {
            "TILE": 64,
            "TILE_OF_WEIGHT": 64,
            "TILE_OF_DATA": 64,
            "TAPS": 4,
            "AHEAD": 2000,
            "PROGRAMS": 60,
        }.items():
            monkeypatch.setattr(edge_wavelet, name, value)
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


# name: (convolution, shape of x, outputs, kernel)
CONVOLUTIONS: dict[str, tuple[ops.Convolution, tuple[int, ...], int, tuple[int, ...]]] = {
    "plain": (ops.Convolution((1, 1), (1, 1), (1, 1)), (3, 3, 5, 4), 5, (3, 3)),
    "groups_stride_dilation": (ops.Convolution((1, 2), (1, 0), (1, 2), groups=2), (2, 6, 6, 7), 4, (3, 2)),
    "strides": (ops.Convolution((2, 3), (3, 2), (2, 1)), (1, 2, 8, 7), 3, (2, 3)),
    "same": (ops.Convolution((1, 1), (0, 1), (1, 1), extra=(1, 0)), (2, 3, 4, 5), 2, (2, 3)),
    "depthwise": (ops.Convolution((1, 1), (1, 1), (1, 1), groups=3), (2, 3, 4, 4), 3, (3, 3)),
    "wide": (ops.Convolution((1, 1), (0, 0), (1, 1)), (2, 70, 2, 2), 67, (1, 1)),
    "1d": (ops.Convolution((2,), (1,), (1,)), (2, 3, 9), 4, (3,)),
    "3d": (ops.Convolution((1, 2, 1), (1, 0, 1), (1, 1, 2)), (1, 2, 3, 4, 5), 2, (2, 2, 2)),
    "linear": (ops.Convolution(groups=2), (5, 6), 4, ()),
    "transposed": (
        ops.Convolution((2, 1), (1, 0), (1, 2), groups=2, transposed=True, output_padding=(1, 0)),
        (2, 4, 3, 4),
        6,
        (3, 2),
    ),
}
SLOW = {"strides", "same", "depthwise", "wide", "3d"}


def formula(
    x: Tensor, weight: Tensor, scale: Tensor, translation: Tensor, kind: str, convolution: ops.Convolution
) -> Tensor:
    """One output after the other, one channel after the other, by `ops.reference`."""
    width, own = scale.shape[1], replace(convolution, groups=1)
    results = []
    for o in range(len(scale)):
        first = o // (len(scale) // convolution.groups) * width
        planes = [
            reference.wavelet(x[:, first + c], scale[o, c : c + 1], translation[o, c : c + 1], kind)[0]
            for c in range(width)
        ]
        results.append(own(torch.stack(planes, dim=1), weight[o : o + 1], None))
    return torch.cat(results, dim=1)


def inputs(form: str, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    convolution, shape, outputs, kernel = CONVOLUTIONS[form]
    edges = (outputs, shape[1] // convolution.groups)
    scale = (0.5 + torch.rand(edges)) * torch.where(torch.rand(edges) < 0.5, -1.0, 1.0)
    return [torch.randn(shape).to(dtype), torch.randn(*edges, *kernel).to(dtype), scale, torch.randn(edges)]


def check(form: str, kind: str, given: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Output and all gradients of the kernels beside those of the formula; the output and the gradient of x."""
    convolution, dtype = CONVOLUTIONS[form][0], given[0].dtype
    own = [t.to(DEVICE).detach().requires_grad_() for t in given]
    exact = [t.detach().double().requires_grad_() for t in given]
    y = ops.edge_wavelet_convolution(*own, kind, convolution, backend="triton")
    expected = formula(*exact, kind, convolution)
    assert y.dtype == dtype
    assert_close(y.cpu(), expected)
    grad = torch.randn_like(expected).to(dtype)
    found = torch.autograd.grad(y, own, grad.to(DEVICE))
    for f, w in zip(found, torch.autograd.grad(expected, exact, grad.double()), strict=True):
        assert_close(f.cpu(), w, {torch.float32: 1e-4}.get(dtype))
    return y, found[0]


@pytest.mark.parametrize("form", [pytest.param(f, marks=pytest.mark.slow if f in SLOW else ()) for f in CONVOLUTIONS])
def test_every_convolution(form: str) -> None:
    check(form, "mexican_hat", inputs(form))


@pytest.mark.parametrize("kind", list(ops.WAVELETS))
def test_every_wavelet(kind: str) -> None:
    check("1d", kind, inputs("1d"))


@pytest.mark.parametrize(
    "dtype",
    [torch.bfloat16, *(pytest.param(d, marks=pytest.mark.slow) for d in (torch.float32, torch.float16))],
    ids=str,
)
def test_channels_last_in_every_type(dtype: torch.dtype) -> None:
    x, *rest = inputs("groups_stride_dilation", dtype)
    results = check("groups_stride_dilation", "dog", [x.contiguous(memory_format=torch.channels_last), *rest])
    assert all(t.is_contiguous(memory_format=torch.channels_last) for t in results)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["channels_last_3d", "sliced", "transposed"])
def test_layouts(layout: str) -> None:
    form = "3d" if layout == "channels_last_3d" else "groups_stride_dilation"
    x, *rest = inputs(form)
    x = {
        "channels_last_3d": lambda: x.contiguous(memory_format=torch.channels_last_3d),
        "sliced": lambda: torch.randn(4, 6, 6, 14)[::2, :, :, ::2],
        "transposed": lambda: x.transpose(2, 3).contiguous().transpose(2, 3),
    }[layout]()
    _, grad_x = check(form, "morlet", [x, *rest])
    assert grad_x.stride() == torch.empty_like(x).stride()


def test_16_bit_results_of_a_32_bit_input() -> None:
    """As autocast asks for them; the gradients have the types of what they belong to."""
    given = [t.to(DEVICE).requires_grad_() for t in inputs("1d")]
    convolution = CONVOLUTIONS["1d"][0]
    results = {
        b: ops.edge_wavelet_convolution(*given, "dog", convolution, torch.bfloat16, b) for b in ("triton", "eager")
    }
    assert results["triton"].dtype == torch.bfloat16
    assert_close(results["triton"], results["eager"].double())
    found, expected = (torch.autograd.grad(y.float().square().sum(), given) for y in results.values())
    for f, e in zip(found, expected, strict=True):
        assert f.dtype == torch.float32
        assert_close(f, e, 3e-2)


def test_gradients_that_are_not_wanted() -> None:
    given = inputs("1d")
    convolution = CONVOLUTIONS["1d"][0]
    every: Any = None
    for which in ((0, 1, 2, 3), (0,), (1,), (2,), (1, 3)):
        own = [t.to(DEVICE).detach().requires_grad_(i in which) for i, t in enumerate(given)]
        y = ops.edge_wavelet_convolution(*own, "dog", convolution, backend="triton")
        found = torch.autograd.grad(y.square().sum(), [own[i] for i in which])
        every = every or found
        assert all(torch.equal(f, every[i]) for f, i in zip(found, which, strict=True))


def test_no_output_goes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer's wavelets are all made by the kernels, forward and backward, and results repeat bit by bit."""
    import kanvolution as kv
    from kanvolution.ops import edge_wavelet

    layer = kv.set_backend(kv.KANConv2d(2, 3, 2, padding=1, basis="wavelet_edge", device=DEVICE), "triton")
    x = torch.randn(2, 2, 4, 3, device=DEVICE, requires_grad=True)
    monkeypatch.setattr(edge_wavelet, "_outputs", None)
    tensors = [x, *layer.parameters()]
    first, second = (torch.autograd.grad(layer(x).square().sum(), tensors) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("reason", ["float64", "empty", "taps"])
def test_what_the_kernels_do_not_do_goes_to_ordinary_operators(reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from kanvolution.ops.triton import edge_wavelet

    given = inputs("1d")
    if reason == "float64":
        given = [t.double() for t in given]
    elif reason == "empty":
        given[0] = given[0][:0]
    else:
        monkeypatch.setattr(edge_wavelet, "MOST_TAPS", 2)
    monkeypatch.setattr(edge_wavelet, "convolve", None)
    given = [t.to(DEVICE) for t in given]
    results = [
        ops.edge_wavelet_convolution(*given, "dog", CONVOLUTIONS["1d"][0], backend=b) for b in ("triton", "eager")
    ]
    assert_close(results[0], results[1], 1e-5)
