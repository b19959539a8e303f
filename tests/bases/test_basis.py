"""The registry of bases, what a basis asks of its layer, and how initial weights are scaled."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kanvolution as kv
from kanvolution.bases import BASES, MixedBasis
from tests.tolerances import assert_close


def test_the_nine_families_and_the_others_are_registered() -> None:
    nine = {"spline", "rbf", "legendre", "chebyshev", "gram", "jacobi", "bernstein", "relu", "wavelet"}
    assert nine | {"fourier", "identity", "wavelet_edge", "own_powers"} <= set(kv.list_bases())


def test_a_constructor_gets_what_it_names_of_the_layer() -> None:
    seen: dict[str, int] = {}

    @kv.register_basis("test_context")
    class Context(kv.Basis):
        def __init__(self, out_channels: int, groups: int, power: int = 2) -> None:
            super().__init__(1, base=None)
            seen.update(out_channels=out_channels, groups=groups)
            self.power = power

        def functions(self, x: Tensor, **options: Any) -> Tensor:
            return (x**self.power).unsqueeze(2)

    try:
        conv = kv.KANConv2d(4, 6, 3, groups=2, basis="test_context", power=3)
        assert seen == {"out_channels": 6, "groups": 2}
        assert conv.basis.options() == {"power": 3} and Context.name == "test_context"
        with pytest.raises(ValueError, match="already registered"):
            kv.register_basis("test_context")(Context)
    finally:
        BASES.unregister("test_context")
    with pytest.raises(ValueError, match="unknown basis 'test_context'"):
        kv.create_basis("test_context")


@pytest.mark.parametrize("name", kv.list_bases())
def test_initial_weights_give_unit_variance_whatever_the_basis(name: str) -> None:
    basis = kv.create_basis(name, in_channels=2, out_channels=2)
    std, moments = basis.initial_std(fan_in=18), basis.second_moments()
    assert len(std) == basis.size and bool((std > 0).all())
    assert_close((18 * std.square() * moments).sum(), torch.ones((), dtype=torch.float64))


def test_functions_that_are_never_reached_do_not_get_huge_weights() -> None:
    far = kv.create_basis("spline", grid_size=8, grid_range=(-2, 30))
    near = kv.create_basis("spline", grid_size=8, grid_range=(-2, 2))
    assert far.initial_std(9).max() < 10 * near.initial_std(9).max()


@pytest.mark.parametrize("name", ["rbf", "gram"])
def test_parts_act_in_training_or_always_as_attached(name: str) -> None:
    basis = kv.create_basis(name)
    x = torch.randn(2, 4, 9)
    plain = basis(x)
    basis.attach(input_dropout=nn.Dropout(0.5), function_dropout=nn.Dropout1d(0.5))
    assert basis.train().is_fused() is False and basis.eval().is_fused()
    assert torch.equal(basis.eval()(x), plain)
    dropped = basis.train()(x)
    assert torch.equal(dropped[:, :, 0], plain[:, :, 0])
    assert not torch.equal(dropped[:, :, 1:], plain[:, :, 1:])
    basis.attach(norm=nn.InstanceNorm1d(4))
    assert basis.eval().is_fused()  # the base function gets x as it is beside what the functions see
    assert torch.equal(basis(x)[:, :, 0], plain[:, :, 0])
    assert_close(basis(x)[:, :, 1:], kv.create_basis(name).eval()(nn.InstanceNorm1d(4)(x))[:, :, 1:])


@pytest.mark.parametrize("shared", [False, True])
def test_the_first_learned_function_starts_near_the_base_function(shared: bool) -> None:
    torch.manual_seed(0)
    mixed = MixedBasis(kv.create_basis("gram"), rank=2, in_channels=4, shared=shared).double()
    x = torch.randn(400, 4, 50, dtype=torch.float64)
    base = nn.functional.silu(x)
    base = base / base.square().mean().sqrt()
    first, second = mixed(x).detach().unbind(2)
    assert float((first - base).square().mean().sqrt()) < 0.3
    assert float((second - base).square().mean().sqrt()) > 0.5


def test_without_a_base_function_learned_functions_start_at_random() -> None:
    mixed = MixedBasis(kv.create_basis("gram", base=None), rank=2, in_channels=4)
    assert torch.count_nonzero(mixed.mixing) == mixed.mixing.numel()


def test_learned_functions_see_dropout_on_the_single_functions() -> None:
    mixed = MixedBasis(kv.create_basis("gram"), rank=2, in_channels=4)
    x = torch.randn(2, 4, 9)
    plain = mixed.eval()(x)
    expected = torch.einsum("nck...,crk->ncr...", mixed.inner(x), mixed.mixing)
    assert_close(plain, expected)
    mixed.attach(function_dropout=nn.Dropout1d(0.5))
    assert torch.equal(mixed.eval()(x), plain)
    assert not torch.equal(mixed.train()(x), plain)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kv.create_basis("gramm"), "Did you mean 'gram'"),
        (lambda: kv.create_basis("gram", degres=1), "Did you mean 'degree'"),
        (lambda: MixedBasis(kv.create_basis("gram"), 9, 4), r"rank \(=9\) must be <= the number of functions \(=5\)"),
        (lambda: MixedBasis(kv.create_basis("gram"), 0, 4), r"rank \(=0\) must be >= 1"),
        (lambda: kv.create_basis("wavelet", num_wavelets=0), r"num_wavelets \(=0\) must be >= 1"),
    ],
)
def test_bad_values(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
