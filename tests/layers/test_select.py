"""Some channels of a layer: what they computed, and nothing else."""

import pytest
import torch
from torch import nn

import kanvolution as kv
from kanvolution.layers.select import CHANNELS, select_channels
from tests.tolerances import assert_close

INPUTS, OUTPUTS = torch.tensor([0, 2, 3]), torch.tensor([1, 4])


def moved(module):
    with torch.no_grad():
        for value in (*module.parameters(), *module.buffers()):
            if value.is_floating_point():
                value.add_(0.1 * torch.rand_like(value))
    return module.double().eval()


@pytest.mark.parametrize("basis", kv.list_bases())
@pytest.mark.parametrize("norm_site", ["output", "functions"])
def test_a_layer_without_the_weights_of_the_others(basis, norm_site) -> None:
    if norm_site == "functions" and basis == "identity":
        pytest.skip("identity has no functions")
    block = moved(kv.ConvSpec(basis, norm_site=norm_site)(4, 5, 3, padding=1))
    conv, size = block.conv, block.conv.basis.size
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    with torch.no_grad():
        conv.weight[:, size : 2 * size] = 0  # channel 1 is not used
    expected = conv(x)[:, OUTPUTS]
    select_channels(conv, inputs=INPUTS, outputs=OUTPUTS)
    assert (conv.in_channels, conv.out_channels) == (3, 2)
    assert_close(conv(x[:, INPUTS]).detach(), expected.detach())


@pytest.mark.parametrize("basis", ["gram", "relu", "wavelet", "wavelet_edge", "joined"])
def test_depthwise_layers_keep_the_same_channels(basis) -> None:
    conv = moved(kv.KANConv2d(4, 4, 3, groups=4, basis=basis))
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    expected = conv(x)[:, INPUTS]
    select_channels(conv, inputs=INPUTS)
    assert conv.groups == conv.out_channels == 3
    assert_close(conv(x[:, INPUTS]).detach(), expected.detach())


@pytest.mark.parametrize("shared", [False, True])
def test_layers_of_low_rank(shared) -> None:
    conv = moved(kv.ConvSpec("spline", structure=kv.LowRank(2, shared=shared), norm=None)(4, 5, 3).conv)
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    with torch.no_grad():
        conv.weight[:, 2:4] = 0
    expected = conv(x)
    select_channels(conv, inputs=INPUTS)
    assert_close(conv(x[:, INPUTS]).detach(), expected.detach())


@pytest.mark.parametrize(
    ("layer", "dim"),
    [
        (nn.Conv2d(4, 5, 3), 1),
        (nn.ConvTranspose2d(4, 5, 2), 1),
        (nn.Linear(4, 5), -1),
        (kv.KANLinear(4, 5, basis="rbf"), -1),
        (kv.KANConvTranspose2d(4, 5, 2, basis="gram"), 1),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_other_layers(layer, dim) -> None:
    moved(layer)
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64) if dim == 1 else torch.randn(2, 3, 4, dtype=torch.float64)
    # What the channels kept give is what is left when that of the other one is taken away.
    alone = x.clone()
    other = torch.zeros_like(x)
    other.select(dim, 1).copy_(x.select(dim, 1))
    alone.select(dim, 1).zero_()
    expected = layer(x) - layer(other) + layer(torch.zeros_like(x))
    zero_at_1 = layer(torch.zeros_like(x))
    select_channels(layer, inputs=INPUTS)
    found = layer(x.index_select(dim, INPUTS))
    # phi_1(0) belongs to the channel that went.
    rest = torch.zeros_like(x).index_select(dim, INPUTS)
    assert_close((found - layer(rest)).detach(), (expected - zero_at_1).detach())
    select_channels(layer, outputs=OUTPUTS)
    assert_close(layer(x.index_select(dim, INPUTS)).detach(), found.index_select(dim, OUTPUTS).detach())


@pytest.mark.parametrize(
    "norm", [nn.BatchNorm2d(4), nn.InstanceNorm2d(4, affine=True), nn.InstanceNorm2d(4), nn.PReLU(4)], ids=str
)
def test_layers_that_map_channel_by_channel(norm) -> None:
    moved(norm)
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    expected = norm(x)[:, INPUTS]
    select_channels(norm, outputs=INPUTS)
    assert_close(norm(x[:, INPUTS]).detach(), expected.detach())


def test_every_kind_names_tensors_and_sizes_that_it_has() -> None:
    made = [nn.Linear(2, 3), nn.Conv1d(2, 3, 1), nn.ConvTranspose3d(2, 3, 1), nn.BatchNorm1d(2), nn.GroupNorm(1, 2)]
    made += [nn.PReLU(2), kv.KANLinear(2, 3), kv.KANConv1d(2, 3, 1), nn.InstanceNorm3d(2)]
    for module in made:
        layout = next(found for kind, found in CHANNELS.items() if isinstance(module, kind))
        assert hasattr(module, layout.inputs) and hasattr(module, layout.outputs)
        assert layout.tensors.keys() >= {name for name, _ in module.named_parameters(recurse=False)}


def test_layers_whose_channels_belong_together_are_refused() -> None:
    index = torch.tensor([0])
    with pytest.raises(ValueError, match=r"has groups \(=2\)"):
        select_channels(kv.KANConv2d(4, 4, 3, groups=2), inputs=index)
    with pytest.raises(ValueError, match=r"num_groups=2"):
        select_channels(nn.GroupNorm(2, 4), inputs=index)
    with pytest.raises(ValueError, match="mixes its outputs"):
        select_channels(kv.KANConv2d(4, 4, 3, basis="wavelet_edge", mix=True), inputs=index)
    with pytest.raises(ValueError, match=r"outputs \(=\[5\]\) must be channels below 5"):
        select_channels(nn.Conv2d(4, 5, 3), outputs=torch.tensor([5]))
    with pytest.raises(ValueError, match="must be the same"):
        select_channels(nn.BatchNorm2d(4), inputs=index, outputs=torch.tensor([1]))
    with pytest.raises(TypeError, match="a ReLU is no layer"):
        select_channels(nn.ReLU(), inputs=index)


def test_a_basis_of_ones_own_has_to_say_what_its_parameters_count() -> None:
    class Shifted(kv.Basis):
        def __init__(self, in_channels: int) -> None:
            super().__init__(1)
            self.in_channels = in_channels
            self.shift = nn.Parameter(torch.zeros(in_channels, 1))

        def functions(self, x, **options):
            return kv.ops.chebyshev(x, 0, **options)

    with pytest.raises(ValueError, match=r"does not say which channels its parameters \(shift\) belong to"):
        select_channels(kv.KANLinear(4, 2, basis=Shifted(4)), inputs=torch.tensor([0]))
