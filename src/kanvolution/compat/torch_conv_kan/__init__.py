"""torch-conv-kan's names, call signatures and checkpoints.

The layers, bottlenecks, mixtures of experts, attentions and networks of torch-conv-kan are here by their names, as
factories that make this project's own modules with the same function: `KAGNConv2DLayer(...)` returns a
`KANConvNormAct`, `reskagnet50(...)` a `ResNet`. Their `load_state_dict` takes the peer's keys (and their own),
strictly; the rotary attentions and the focal modulations, whose maths differ, are the exception.

What differs from the peer: groups are one grouped convolution, not a list; weights start variance-preserving; in
training, dropout "poly" acts before the input map and not after; the Legendre layers map their input by tanh until a
peer's checkpoint is loaded (see `BatchRangeLegendre`); the Bernstein layers compute Bernstein polynomials, where the
peer's are all 1; the experts of a mixture start independent, and their gate's load is the paper's, where the peer
compares logits with probabilities.

The mixtures of experts, and networks of them, return (y, loss), as the peer's do, and unlike all else in this package:
see `PeerMixture`.
"""

from kanvolution.compat.torch_conv_kan.attention import ATTENTIONS
from kanvolution.compat.torch_conv_kan.auto import AutoKAN, TinyAutoKAGN
from kanvolution.compat.torch_conv_kan.experts import EXPERT_LAYERS, PeerMixture
from kanvolution.compat.torch_conv_kan.layers import LAYERS, BatchRangeLegendre
from kanvolution.compat.torch_conv_kan.missing import MISSING
from kanvolution.compat.torch_conv_kan.models import MODELS
from kanvolution.compat.torch_conv_kan.networks import NETWORKS
from kanvolution.compat.torch_conv_kan.published import from_pretrained
from kanvolution.compat.torch_conv_kan.simple import convert_simple

globals().update(ATTENTIONS)
globals().update(NETWORKS)
globals().update(LAYERS)
globals().update(EXPERT_LAYERS)
globals().update(MODELS)

__all__ = [  # pyright: ignore[reportUnsupportedDunderAll]
    "AutoKAN",
    "BatchRangeLegendre",
    "PeerMixture",
    "TinyAutoKAGN",
    "convert_simple",
    "from_pretrained",
    *LAYERS,
    *EXPERT_LAYERS,
    *ATTENTIONS,
    *NETWORKS,
    *MODELS,
]


def __getattr__(name: str) -> object:
    if name in MISSING:  # an ImportError, whose words a `from ... import` shows
        raise ImportError(f"torch-conv-kan's {name} is not in {__name__}: {MISSING[name]}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
