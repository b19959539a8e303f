"""With the basis of one function, x itself, a layer is nn.Conv: every argument must mean the same."""

from typing import Any

import pytest
import torch
from torch import nn

import kanvolution as kv
from kanvolution.layers import KAN_CONVOLUTIONS
from tests.tolerances import assert_close

PLAIN = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
SIZES = {1: (17,), 2: (11, 14), 3: (7, 8, 9)}

ARGUMENTS: list[dict[str, Any]] = [
    {},
    {"stride": 2},
    {"padding": 2},
    {"dilation": 2, "padding": 2},
    {"groups": 2},
    {"groups": 6},
    {"bias": False},
    {"padding": "same"},
    {"padding": "valid"},
    {"padding": "same", "kernel_size": 4},
    {"padding": "same", "kernel_size": 4, "dilation": 2, "padding_mode": "circular"},
    {"padding": "valid", "padding_mode": "reflect"},
    {"padding": 1, "padding_mode": "reflect", "stride": 2},
    {"padding": 2, "padding_mode": "replicate"},
    {"padding": 1, "padding_mode": "circular", "groups": 3},
    {"dtype": torch.float64},
    {"device": "cpu"},
]
TUPLES: dict[int, dict[str, Any]] = {
    1: {"kernel_size": (5,), "stride": (2,), "padding": (1,), "dilation": (1,)},
    2: {"kernel_size": (5, 2), "stride": (1, 2), "padding": (2, 0), "dilation": (1, 3)},
    3: {"kernel_size": (1, 2, 3), "stride": (2, 1, 1), "padding": (0, 1, 2), "dilation": (1, 1, 2)},
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")  # torch's own, of its copy
@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("arguments", [*ARGUMENTS, "tuples"], ids=str)
def test_every_argument_means_what_it_means_in_torch(ndim: int, arguments: Any) -> None:
    given = dict(TUPLES[ndim] if arguments == "tuples" else arguments)
    kernel_size = given.pop("kernel_size", 3)
    theirs = PLAIN[ndim](6, 12, kernel_size, **given)
    ours = KAN_CONVOLUTIONS[ndim](6, 12, kernel_size, **given, basis="identity")
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 6, *SIZES[ndim], dtype=given.get("dtype"))
    assert_close(ours(x), theirs(x))
    assert_close(ours(x[0]), theirs(x[0]))


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_positional_arguments_are_in_torchs_order(ndim: int) -> None:
    arguments = (6, 12, 3, 2, 1, 1, 2, False, "circular", None, torch.float64)
    theirs, ours = PLAIN[ndim](*arguments), KAN_CONVOLUTIONS[ndim](*arguments, basis="identity")
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 6, *SIZES[ndim], dtype=torch.float64)
    assert_close(ours(x), theirs(x))


def test_zeros_pad_the_functions_and_other_modes_pad_the_input() -> None:
    """With zeros, phi contributes nothing on the border even where phi(0) != 0; other modes evaluate it there."""
    x = torch.zeros(1, 1, 5)
    weight = torch.ones(1, 4, 3)
    outputs = {}
    for mode in ("zeros", "replicate"):
        conv = kv.KANConv1d(1, 1, 3, padding=1, bias=False, padding_mode=mode, basis="chebyshev")
        with torch.no_grad():
            conv.weight.copy_(weight)
        outputs[mode] = conv(x).flatten()
    each = 1 + 0 - 1 + 0  # T_0 ... T_3 at 0
    assert each == 0
    with torch.no_grad():
        for mode, inner in (("zeros", 2.0), ("replicate", 3.0)):
            conv = kv.KANConv1d(1, 1, 3, padding=1, bias=False, padding_mode=mode, basis="chebyshev", degree=0)
            conv.weight.fill_(1.0)
            assert_close(conv(x).flatten(), torch.tensor([inner, 3.0, 3.0, 3.0, inner]))


def test_repr_names_what_differs_from_the_defaults() -> None:
    conv = kv.KANConv2d(4, 8, 3, padding="same", groups=2, bias=False, basis="gram", degree=2)
    text = repr(conv)
    for part in ("4, 8, kernel_size=(3, 3), stride=(1, 1)", "padding='same'", "groups=2", "bias=False", "degree=2"):
        assert part in text
    assert "dilation" not in text


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"in_channels": 30, "groups": 4}, ValueError, r"in_channels \(=30\) must be divisible by groups \(=4\)"),
        ({"out_channels": 30, "groups": 4}, ValueError, r"out_channels \(=30\) must be divisible by groups \(=4\)"),
        ({"groups": 0}, ValueError, r"groups \(=0\) must be >= 1"),
        ({"in_channels": 0}, ValueError, r"in_channels \(=0\) must be >= 1"),
        ({"in_channels": 2.5}, TypeError, r"in_channels \(=2.5\) must be an integer"),
        ({"kernel_size": 0}, ValueError, r"kernel_size \(=0\) must be >= 1"),
        ({"kernel_size": (3, 3, 3)}, ValueError, r"kernel_size \(=\(3, 3, 3\)\) must be one integer or 2"),
        ({"stride": 0}, ValueError, r"stride \(=0\) must be >= 1"),
        ({"padding": -1}, ValueError, r"padding \(=-1\) must be >= 0"),
        ({"padding": "sam"}, ValueError, "unknown padding 'sam'. Did you mean 'same'"),
        ({"padding": "same", "stride": 2}, ValueError, "padding='same' needs stride 1"),
        ({"padding_mode": "zero"}, ValueError, "unknown padding_mode 'zero'. Did you mean 'zeros'"),
        ({"basis": "grm"}, ValueError, "unknown basis 'grm'. Did you mean 'gram'"),
        ({"basis": 3}, TypeError, r"basis \(=3\) must be the name of a basis"),
        ({"basis": "gram", "degre": 3}, ValueError, "unknown option of basis 'gram' 'degre'. Did you mean 'degree'"),
        ({"basis": "gram", "degree": -1}, ValueError, r"degree \(=-1\) must be >= 0"),
        ({"basis": "gram", "degree": 5, "points": 4}, ValueError, r"points \(=4\) must be greater than degree \(=5\)"),
        ({"basis": "spline", "grid_size": 0}, ValueError, r"grid_size \(=0\) must be >= 1"),
        ({"basis": "spline", "grid_range": (1, -1)}, ValueError, "low < high"),
        ({"basis": "spline", "grid_range": (0, float("inf"))}, ValueError, "must be finite"),
        ({"basis": "spline", "base": "silo"}, ValueError, "unknown base 'silo'. Did you mean 'silu'"),
        ({"basis": "legendre", "input_map": "tnh"}, ValueError, "unknown input_map 'tnh'. Did you mean 'tanh'"),
        ({"basis": "rbf", "grid_size": 1}, ValueError, r"grid_size \(=1\) must be >= 2"),
        ({"basis": "jacobi", "a": -1.0}, ValueError, r"a \(=-1.0\) must be > -1"),
        ({"basis": "wavelet", "kind": "mexican"}, ValueError, "Did you mean 'mexican_hat'"),
        ({"basis": "fourier", "degree": 0}, ValueError, r"degree \(=0\) must be >= 1"),
        ({"basis": "relu", "overlap": -1}, ValueError, r"overlap \(=-1\) must be >= 0"),
    ],
    ids=str,
)
def test_bad_arguments(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        kv.KANConv2d(**{"in_channels": 4, "out_channels": 8, "kernel_size": 3, **arguments})


def test_bad_inputs() -> None:
    conv = kv.KANConv2d(4, 8, 3)
    with pytest.raises(TypeError, match=r"floating point, got torch.int64; convert it with x.float\(\)"):
        conv(torch.zeros(1, 4, 8, 8, dtype=torch.long))
    with pytest.raises(ValueError, match=r"shape \(1, 5, 8, 8\)\) has 5 channels, but in_channels is 4"):
        conv(torch.zeros(1, 5, 8, 8))
    with pytest.raises(ValueError, match="must have 4 dimensions"):
        conv(torch.zeros(1, 1, 4, 8, 8))
    with pytest.raises(ValueError, match=r"must end in in_features \(=4\) channels"):
        kv.KANLinear(4, 2)(torch.zeros(3, 5))
    with pytest.raises(TypeError, match="floating point"):
        kv.KANLinear(4, 2)(torch.zeros(3, 4, dtype=torch.long))


def test_a_basis_of_ones_own_is_checked_against_the_layer() -> None:
    own = kv.bases.ReLUBumps(in_channels=6)
    assert kv.KANConv2d(6, 8, 3, basis=own).basis is own
    with pytest.raises(ValueError, match=r"made for in_channels \(=6\), but the layer has in_channels \(=4\)"):
        kv.KANConv2d(4, 8, 3, basis=kv.bases.ReLUBumps(in_channels=6))
    with pytest.raises(ValueError, match=r"options \['degree'\] go to the constructor"):
        kv.KANConv2d(4, 8, 3, basis=kv.bases.Gram(), degree=3)


def test_a_basis_of_ones_own_keeps_its_values() -> None:
    own = kv.bases.Gram(degree=3)
    with torch.no_grad():
        own.beta.fill_(0.123)
    conv = kv.KANConv2d(6, 8, 3, basis=own)
    assert bool((conv.basis.beta == 0.123).all())
    conv.reset_parameters()
    assert bool((conv.basis.beta != 0.123).all())


def test_numpy_integers_are_integers() -> None:
    import numpy as np

    conv = kv.KANConv2d(np.int64(4), np.int32(8), np.int64(3), padding=np.int64(1))
    assert conv.kernel_size == (3, 3) and conv(torch.randn(1, 4, 5, 5)).shape == (1, 8, 5, 5)


def test_a_wavelet_scale_at_zero_stays_finite() -> None:
    for basis in ("wavelet", "wavelet_edge"):
        conv = kv.KANConv2d(2, 2, 3, basis=basis)
        with torch.no_grad():
            conv.basis.scale.zero_()
        x = torch.randn(1, 2, 5, 5, requires_grad=True)
        conv(x).sum().backward()
        assert x.grad is not None and torch.isfinite(x.grad).all()
