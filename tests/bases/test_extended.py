import pytest
import torch

import kanvolution as kv
from kanvolution.bases import extended
from tests.tolerances import assert_close

CANNOT = {"bernstein", "identity", "wavelet_edge", "own_powers", "joined"}
OPTIONS = {"rbf": {"learnable": True}, "relu": {"grid_range": (-1.0, 1.0)}, "spline": {"grid_range": (-1.0, 3.0)}}


def trained(name: str) -> kv.Basis:
    """A basis whose learned parameters are not those that it begins with."""
    basis = kv.create_basis(name, in_channels=4, out_channels=6, groups=2, **OPTIONS.get(name, {})).double()
    with torch.no_grad():
        for parameter in basis.parameters():
            parameter.mul_(1 + 0.1 * torch.rand_like(parameter))
    return basis


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("name", [n for n in kv.list_bases() if n not in CANNOT])
def test_the_larger_basis_has_the_functions_of_the_smaller_one(name: str, count: int) -> None:
    basis = trained(name)
    larger, kept = extended(basis, count)
    x = 3 * torch.randn(2, 4, 50, dtype=torch.float64)
    assert larger.size > basis.size == len(kept)
    assert_close(larger(x)[:, :, list(kept)], basis(x))
    new = [k for k in range(larger.size) if k not in kept]
    values = torch.cat([basis(x), larger(x)[:, :, new]], dim=2).transpose(0, 2).flatten(1)
    assert torch.linalg.matrix_rank(values) == larger.size  # the new ones are others


def test_new_functions_of_a_grid_are_beyond_its_ends() -> None:
    basis = kv.create_basis("spline", grid_size=4, grid_range=(-1.0, 1.0), base=None)
    larger, _ = extended(basis, 1)
    x = torch.tensor([[[-1.2, 1.2]]])
    assert larger.options() == {**basis.options(), "grid_size": 6, "grid_range": (-1.5, 1.5)}
    assert basis(x).sum(2).max() < 0.999 and torch.allclose(larger(x).sum(2), torch.ones(1, 1, 2))


def test_what_is_attached_and_how_it_is_used_stays() -> None:
    basis = kv.set_backend(trained("gram"), "eager").eval()
    norm = torch.nn.InstanceNorm1d(4).double()
    basis.attach(norm=norm)
    larger, _ = extended(basis, 1)
    assert larger.norm is norm and larger.backend == "eager" and not larger.training
    assert larger.beta.dtype == torch.float64


@pytest.mark.parametrize("name", sorted(CANNOT))
def test_a_basis_without_a_larger_one_says_so(name: str) -> None:
    with pytest.raises(ValueError, match=f"basis '{name}' has no larger one"):
        extended(kv.create_basis(name), 1)


def test_the_count_is_checked() -> None:
    with pytest.raises(ValueError, match=r"count \(=0\) must be >= 1"):
        extended(kv.create_basis("gram"), 0)


def test_gram_polynomials_of_few_points_get_further_ones() -> None:
    basis = kv.create_basis("gram", degree=3, points=4)
    larger, _ = extended(basis, 2)
    assert larger.options()["points"] == 6 and torch.equal(larger.beta[:4], basis.beta)
