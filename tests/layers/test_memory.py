"""How many bytes a layer keeps for backward, for every basis."""

import pytest
import torch
from torch import Tensor, nn

import kanvolution as kv
from kanvolution.layers.structures import Structure

# The other has no derivative of its own.
PACKAGED = [name for name in kv.list_bases() if name != "own_powers"]


def kept(module: nn.Module, x: Tensor) -> float:
    """Bytes of distinct storages saved for backward, parameters and buffers left out, in units of x's bytes."""
    known = {t.untyped_storage().data_ptr() for t in (*module.parameters(), *module.buffers())}
    saved: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        y = module(x)
    assert y.requires_grad
    return sum(saved.values()) / x.untyped_storage().nbytes()


@pytest.mark.parametrize("norm", ["batch", "instance"])
@pytest.mark.parametrize("basis", PACKAGED)
def test_a_block_keeps_at_most_four_inputs(basis: str, norm: str) -> None:
    """The input, the norm's input and the activation's: what the plain convolution keeps."""
    block = kv.ConvSpec(basis, norm=norm)(32, 32, 3, padding=1)
    assert kept(block, torch.randn(4, 32, 16, 16, requires_grad=True)) <= 3.1


@pytest.mark.parametrize("basis", PACKAGED)
def test_a_norm_on_the_functions_adds_one(basis: str) -> None:
    if basis == "identity":
        pytest.skip("has no functions")
    block = kv.ConvSpec(basis, norm="instance", norm_site="functions")(32, 32, 3, padding=1)
    assert kept(block, torch.randn(4, 32, 16, 16, requires_grad=True)) <= 4.1


@pytest.mark.parametrize("basis", PACKAGED)
def test_a_compiled_block_keeps_at_most_four_inputs(basis: str) -> None:
    block = kv.ConvSpec(basis)(32, 32, 3, padding=1)
    compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
    x = torch.randn(4, 32, 16, 16, requires_grad=True)
    compiled(x)
    assert kept(compiled, x) <= 4


@pytest.mark.parametrize("structure", [kv.LowRank(2), kv.Bottleneck(reduction=2)])
def test_structures_keep_no_expansion(structure: Structure) -> None:
    block = kv.ConvSpec("gram", structure=structure)(32, 32, 3, padding=1)
    assert kept(block, torch.randn(4, 32, 16, 16, requires_grad=True)) <= 5.1


@pytest.mark.parametrize("basis", PACKAGED)
def test_the_other_layers_keep_their_input(basis: str) -> None:
    up = kv.KANConvTranspose2d(32, 32, 4, stride=2, padding=1, basis=basis)
    assert kept(up, torch.randn(4, 32, 16, 16, requires_grad=True)) <= 1.1
    assert kept(kv.KANLinear(64, 64, basis=basis), torch.randn(2048, 64, requires_grad=True)) <= 1.1
