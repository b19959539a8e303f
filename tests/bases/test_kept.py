"""Some functions of a basis, and bases from their descriptions."""

import copy
import json

import pytest
import torch
from torch import nn

import kanvolution as kv
from kanvolution.bases import MixedBasis, basis_from_description
from tests.tolerances import assert_close

SHAPE = {"in_channels": 4, "out_channels": 6, "groups": 2}
WITH_FUNCTIONS = [name for name in kv.list_bases() if name not in ("identity", "wavelet_edge")]


def moved(basis):
    with torch.no_grad():
        for value in basis.parameters():
            value.add_(0.05 * torch.rand_like(value))
    return basis.double()


def choices(size):
    """Without the first, the first with the last, one alone."""
    return [tuple(range(1, size)), (0, size - 1), (size // 2,)]


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("name", WITH_FUNCTIONS)
def test_kept_functions_are_those_of_the_whole_basis(name, number) -> None:
    whole = moved(kv.create_basis(name, **SHAPE))
    keep = choices(whole.size)[number]
    x = torch.randn(3, 4, 5, dtype=torch.float64, requires_grad=True)
    expected = whole(x)[:, :, list(keep)]
    kept = copy.deepcopy(whole).kept(keep)
    found = kept(x)
    assert kept.size == len(keep)
    assert_close(found.detach(), expected.detach())
    weight = torch.randn_like(expected)
    own, other = (torch.autograd.grad((y * weight).sum(), x)[0] for y in (found, expected))
    assert_close(own, other)


@pytest.mark.parametrize("keep", [(0, 2), (1, 3)])
def test_what_is_attached_goes_along(keep) -> None:
    whole = kv.create_basis("gram", **SHAPE).double()
    norm, dropout = nn.BatchNorm1d(4).double(), nn.Dropout(0.5)
    whole.attach(norm=norm, function_dropout=dropout)
    x = torch.randn(3, 4, 5, dtype=torch.float64)
    expected = copy.deepcopy(whole).eval()(x)[:, :, list(keep)]
    kept = whole.kept(keep)
    assert kept.norm is norm and whole.norm is None
    assert_close(kept.eval()(x).detach(), expected.detach())
    dropped = kept.train()(x)
    assert dropped.shape == expected.shape and 0.1 < (dropped == 0).double().mean() < 0.9


def test_functions_of_kept_functions_are_taken_from_the_whole_basis() -> None:
    basis = kv.create_basis("legendre", degree=5)
    twice = basis.kept((0, 1, 3, 5)).kept((1, 2))
    assert twice.inner is basis and twice.keep == (1, 3)


def test_learned_functions_are_kept_by_their_combinations() -> None:
    basis = MixedBasis(kv.create_basis("spline", **SHAPE), 3, in_channels=4).double()
    x = torch.randn(2, 4, 3, dtype=torch.float64)
    fewer = basis.kept((0, 2))
    assert isinstance(fewer, MixedBasis) and fewer.rank == 2
    assert_close(fewer(x).detach(), basis(x)[:, :, [0, 2]].detach())


def test_one_wavelet_for_each_edge_is_kept_without_its_base_function() -> None:
    layer = kv.KANConv1d(4, 6, 3, groups=2, basis="wavelet_edge").double()
    x = torch.randn(2, 4, 7, dtype=torch.float64)
    with torch.no_grad():
        layer.weight[:, ::2] = 0
    expected = layer(x)
    layer.set_basis(layer.basis.kept((1,)), layer.weight.detach()[:, 1::2])
    assert_close(layer(x).detach(), expected.detach())
    with pytest.raises(ValueError, match="has to stay"):
        kv.create_basis("wavelet_edge").kept((0,))


def test_functions_cannot_be_added_where_some_were_left_out() -> None:
    with pytest.raises(ValueError, match="functions of basis 'gram' were left out, so none can be added"):
        kv.bases.extended(kv.create_basis("gram").kept((0, 2)), 1)


@pytest.mark.parametrize("keep", [(), (1, 0), (0, 0), (-1,), (0, 5)])
def test_numbers_that_are_not_there(keep) -> None:
    with pytest.raises(ValueError, match="increasing numbers of functions from 0 to 4"):
        kv.create_basis("gram", degree=3).kept(keep)


@pytest.mark.parametrize("name", kv.list_bases())
def test_a_description_makes_a_basis_of_the_same_functions(name) -> None:
    basis = moved(kv.create_basis(name, **SHAPE))
    layouts = [basis]
    if name in WITH_FUNCTIONS:
        layouts += [copy.deepcopy(basis).kept((1,)), MixedBasis(copy.deepcopy(basis), 2, in_channels=4)]
        bare = copy.deepcopy(basis)
        bare.base = None  # as a bottleneck has it
        layouts.append(bare)
    x = torch.randn(2, 4, 3, dtype=torch.float64)
    for layout in layouts:
        description = json.loads(json.dumps(layout.describe()))
        again = basis_from_description(description, **SHAPE).double()
        again.load_state_dict(layout.state_dict())
        assert again.describe() == description
        if not layout.per_output:
            assert torch.equal(again(x), layout.double()(x))


def test_bad_descriptions() -> None:
    with pytest.raises(ValueError, match="needs its name"):
        basis_from_description({"degree": 3})
    with pytest.raises(ValueError, match="Did you mean 'degree'"):
        basis_from_description({"name": "gram", "degre": 3})
    with pytest.raises(ValueError, match="unknown entry of learned functions"):
        basis_from_description({"inner": {"name": "gram"}, "rank": 1, "shared": False, "size": 3})
