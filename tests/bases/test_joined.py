import pytest
import torch

import kanvolution as kv
from kanvolution.bases import joined
from tests.tolerances import assert_close

TWO = [{"basis": "gram", "degree": 2}, {"basis": "wavelet", "num_wavelets": 2}]


def make(**options: object) -> kv.Basis:
    return kv.create_basis("joined", in_channels=4, out_channels=6, groups=2, parts=TWO, **options).double()


def test_its_functions_are_those_of_the_parts_beside_the_base_of_the_first() -> None:
    basis, x = make(), torch.randn(2, 4, 7, dtype=torch.float64)
    gram = kv.create_basis("gram", degree=2).double()
    wavelet = kv.create_basis("wavelet", in_channels=4, num_wavelets=2, base=None).double()
    assert basis.size == 6 and basis.base == "silu"
    assert_close(basis(x), torch.cat([gram(x), wavelet(x)], dim=2))
    assert_close(make(base=None)(x), torch.cat([gram(x)[:, :, 1:], wavelet(x)], dim=2))
    assert_close(make(base="identity")(x)[:, :, 0], x)


def test_a_layer_is_the_sum_of_one_layer_for_each_part() -> None:
    layer = kv.KANConv1d(4, 6, 3, padding=1, groups=2, basis="joined", parts=TWO).double()
    x = torch.randn(2, 4, 7, dtype=torch.float64)
    weight = layer.weight.detach().unflatten(1, (2, 6))
    first = kv.KANConv1d(4, 6, 3, padding=1, groups=2, basis="gram", degree=2).double()
    second = kv.KANConv1d(4, 6, 3, padding=1, groups=2, bias=False, basis="wavelet", num_wavelets=2, base=None).double()
    first.weight.data = weight[:, :, :4].flatten(1, 2)
    second.weight.data = weight[:, :, 4:].flatten(1, 2)
    assert_close(layer(x), first(x) + second(x))


def test_some_of_the_functions_and_combinations() -> None:
    basis, x = make(), torch.randn(2, 4, 7, dtype=torch.float64)
    all_of_them, options = basis(x), {"input_map": basis.input_map, "base": basis.base}
    for keep in ((0, 2, 5), (4,), (1, 2)):
        assert_close(basis.functions(x, keep=keep, **options), all_of_them[:, :, list(keep)])
    mix = torch.randn(4, 3, 6, dtype=torch.float64)
    assert_close(basis.functions(x, mix=mix, **options), torch.einsum("nckx,crk->ncrx", all_of_them, mix))


def test_a_norm_at_the_functions_is_computed_once_and_spares_the_base() -> None:
    layer = kv.ConvSpec("joined", ndim=1, norm="batch", norm_site="functions", act=None, parts=TWO)(4, 6, 3)
    x = torch.randn(2, 4, 7)
    layer(x)
    norm = layer.conv.basis.norm
    assert int(norm.num_batches_tracked) == 1
    basis = layer.conv.basis.eval()
    assert_close(basis(x)[:, :, 0], torch.nn.functional.silu(x))
    assert_close(basis(x)[:, :, 1:], basis.functions(norm(x)))


def test_a_basis_is_joined_with_another_and_shares_what_it_has_learned() -> None:
    gram = kv.create_basis("gram", degree=2)
    norm = torch.nn.BatchNorm1d(4)
    gram.attach(norm=norm)
    larger = joined(gram, (4, 6, 2), "wavelet", {"num_wavelets": 2})
    assert larger.members[0] is gram and larger.norm is norm
    again = joined(larger, (4, 6, 2), "legendre", {})
    assert [part["basis"] for part in again.parts] == ["gram", "wavelet", "legendre"]
    made = kv.create_basis("joined", in_channels=4, out_channels=6, groups=2, **again.options())
    assert made.size == again.size == 10


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([{"basis": "gram"}], "must be two dictionaries or more"),
        ("gram", "must be two dictionaries or more"),
        (["gram", "spline"], "must be a dictionary with the name of a basis"),
        ([{"basis": "grm"}, {"basis": "spline"}], "unknown basis 'grm'. Did you mean 'gram'"),
        ([{"basis": "gram", "degre": 2}, {"basis": "spline"}], "Did you mean 'degree'"),
        ([{"basis": "gram"}, {"basis": "identity"}], "has no function beside a base function"),
        ([{"basis": "gram"}, {"basis": "wavelet_edge"}], "functions of its own for each output"),
    ],
)
def test_bad_parts_are_refused(parts: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kv.create_basis("joined", parts=parts)
