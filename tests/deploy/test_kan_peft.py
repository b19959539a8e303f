import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kanvolution.compat import torch_conv_kan as tck
from kanvolution.deploy.kan_peft import PEFTVGGKAGN, PEFTKAGNConvNDLayer
from kanvolution.ops import reference
from tests.deploy.test_adapt import disturb
from tests.tolerances import assert_close

CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


@pytest.mark.parametrize("trainable_degrees", [None, [0], [1, 3], [0, 1, 2, 3]])
@pytest.mark.parametrize("extra_degrees", [0, 1, 3])
@pytest.mark.parametrize(("ndim", "groups"), [(1, 1), (2, 2), (3, 4)])
def test_a_wrapped_layer_is_the_formula_with_deltas(ndim, groups, extra_degrees, trainable_degrees) -> None:
    layer = getattr(tck, f"KAGNConv{ndim}DLayer")(4, 8, 3, degree=3, groups=groups, padding=1).double()
    x = torch.randn(2, 4, *(5,) * ndim, dtype=torch.float64)
    wrapped = PEFTKAGNConvNDLayer.wrap_layer(layer, trainable_degrees, extra_degrees, finetune_base=True)
    assert_close(wrapped(x), layer(x))
    frozen = {n for n, p in wrapped.named_parameters() if not p.requires_grad}
    assert frozen == {"adapted.conv.parametrizations.weight.original"}
    disturb(wrapped)
    conv = wrapped.adapted.conv
    delta = conv.parametrizations.weight[0].delta
    degrees = [*(trainable_degrees or []), *range(4, 4 + extra_degrees)]
    beta = conv.basis.beta
    grams = reference.gram(torch.tanh(x), beta)
    functions = [F.silu(x), *(grams[d] for d in degrees)]

    def convolve(values: list, weights: list) -> torch.Tensor:
        pairs = zip(values, weights, strict=True)
        return sum(CONVOLUTIONS[ndim](v, w, padding=1, groups=groups) for v, w in pairs)

    old = layer.conv.weight.detach().unflatten(1, (-1, 5)).unbind(2)
    y = convolve([F.silu(x), *grams[:4]], list(old)) + convolve(
        functions, list(delta.unflatten(1, (-1, len(functions))).unbind(2))
    )
    block = wrapped.adapted
    assert_close(wrapped(x), block.act(block.norm(y)))
    fused = wrapped.fuse_layer()
    assert fused.conv.basis.degree == 3 + extra_degrees and type(fused.conv) is type(layer.conv)
    assert_close(fused(x), wrapped(x))
    assert_close(fused(x), wrapped(x))  # it goes on after it


def test_a_network_is_adapted_with_its_classifier_and_merged() -> None:
    torch.manual_seed(0)
    vgg = tck.vggkagn(3, 5, degree=2, width_scale=0.25, vgg_type="VGG11v2").eval()
    x = torch.randn(1, 3, 64, 64)
    adapted = PEFTVGGKAGN(vgg, trainable_degrees=[1], extra_degrees=1)
    adapted.eval()
    assert_close(adapted(x), vgg(x), 1e-4)
    trained = {n for n, p in adapted.named_parameters() if p.requires_grad}
    assert any("delta" in n for n in trained) and not any("original" in n for n in trained)
    assert any(n.startswith("adapted.head") for n in trained)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad and parameter.ndim > 1:
                parameter.add_(0.02 * torch.randn_like(parameter))
    merged = adapted.merge()
    assert type(merged) is type(vgg)
    assert_close(merged(x), adapted(x), 1e-5)


def test_degrees_that_are_not_there_are_refused() -> None:
    layer = tck.KAGNConv1DLayer(2, 4, 3, degree=3)
    with pytest.raises(ValueError, match="4 must be between 0 and 3"):
        PEFTKAGNConvNDLayer.wrap_layer(layer, [4])
    with pytest.raises(ValueError, match=r"extra_degrees \(=-1\) must be >= 0"):
        PEFTKAGNConvNDLayer.wrap_layer(layer, [0], extra_degrees=-1)
    with pytest.raises(ValueError, match="no Kolmogorov-Arnold layer"):
        PEFTKAGNConvNDLayer.wrap_layer(nn.Conv1d(2, 4, 3), [0])
