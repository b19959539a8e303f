"""The mixtures of experts: `MoE{KAN,FastKAN,KALN,KACN,KAGN,WavKAN,BottleNeckKAGN,FullBottleneckKAGN}Conv{1,2,3}DLayer`.

As the peer's, and unlike everything else in this package, they return (y, loss).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kanvolution.compat.torch_conv_kan.checkpoints import Block, Bottlenecked, Child, Mixed, Part, PeerLoader
from kanvolution.compat.torch_conv_kan.layers import (
    FAMILIES,
    LAYERS,
    Family,
    bottleneck_family,
    layer_parameters,
    make_layer,
    peer_factory,
)
from kanvolution.compat.torch_conv_kan.signatures import REQUIRED
from kanvolution.layers import Bottleneck, Experts, HeldLosses, MixtureOfExperts, Structure, collect_losses


class PeerMixture(nn.Module):
    """Returns y and the balance losses of the mixtures of experts in `block`, in training and in eval mode.

    They are not for `collect_losses` then: nothing of them is held once forward has returned.

    Args:
        block: a layer or a network with mixtures of experts in it.
        share: factor of the losses, beside `loss_coef`.
    """

    def __init__(self, block: nn.Module, share: float = 1.0) -> None:
        super().__init__()
        self.block = block
        self.share = share
        for mixture in self.mixtures():
            mixture.balance = 1.0
            mixture.losses = HeldLosses(always=True)

    def mixtures(self) -> Iterator[MixtureOfExperts]:
        """The mixtures of experts of the block."""
        return (module for module in self.block.modules() if isinstance(module, MixtureOfExperts))

    def forward(self, x: Tensor, train: bool = True, loss_coef: float = 1e-2) -> tuple[Tensor, Tensor]:
        """(y, loss_coef * share * sum over the mixtures of CV(importance)^2 + CV(load)^2).

        `train` has no effect, as in the peer: see `self.training`. In eval mode the load is the number of samples, and
        the loss has a value but hardly a use.
        """
        y = self.block(x)
        losses = [collect_losses(mixture) for mixture in self.mixtures()]
        return y, loss_coef * self.share * torch.stack(losses).sum()


def _loading(block: nn.Module, part: Part) -> PeerMixture:
    """`block`, which loads the peer's entries by itself, as a mixture that does so, too."""
    mixture = PeerMixture(block)
    mixture.register_load_state_dict_pre_hook(PeerLoader(Child("block", part)))
    return mixture


def _make_mixture(
    family: Family,
    layer: Callable[..., nn.Module],
    input_size: int,
    output_size: int,
    num_experts: int = 16,
    noisy_gating: bool = True,
    k: int = 4,
    **options: Any,
) -> PeerMixture:
    Experts(num_experts, k)  # checks the values before anything large is made
    options = {**_PLACEMENT, **options}
    experts = [layer(input_size, output_size, **options) for _ in range(num_experts)]
    mixture = MixtureOfExperts(experts, input_size, k, noisy=noisy_gating)
    part = Mixed(Block(family.weights))
    mixture.register_load_state_dict_pre_hook(PeerLoader(part))
    return _loading(mixture, part)


def _inner_mixture(p: Mapping[str, Any]) -> Structure:
    if p["pregate"]:
        raise ValueError("pregate (=True) is not available; use pregate=False, whose gate sees the pooled image itself")
    experts = Experts(p["num_experts"], p["k"], p["noisy_gating"])
    return Bottleneck(p["dim_reduction"], p["min_internal"], inner=experts)


def _make_bottleneck(family: Family, ndim: int, **options: Any) -> PeerMixture:
    return _loading(make_layer(family, ndim, **options), Block(family.weights))


_PLACEMENT = {"kernel_size": 3, "stride": 1, "padding": 1}
_MIXTURE = {
    "input_size": REQUIRED,
    "output_size": REQUIRED,
    "num_experts": 16,
    "noisy_gating": True,
    "k": 4,
    **_PLACEMENT,
}
_LAYER_OF = {
    **{stem: stem for stem in ("KAN", "FastKAN", "KALN", "KACN", "KAGN", "WavKAN")},
    "FullBottleneckKAGN": "BottleNeckKAGN",
}

_GATING = {"num_experts": 16, "noisy_gating": True, "k": 4}
_REDUCTION = {"dim_reduction": 4.0}
_PREGATE = {"pregate": False}
# The peer's order and defaults differ from dimension to dimension.
_INNER_PARAMETERS: dict[int, dict[str, Any]] = {
    1: {**_GATING, **_REDUCTION, **_PREGATE},
    2: {**_GATING, "num_experts": 8, "k": 2, **_REDUCTION, **_PREGATE},
    3: {**_REDUCTION, **_GATING, **_PREGATE},
}


def _mixture_factory(name: str, stem: str, ndim: int) -> Callable[..., PeerMixture]:
    make = partial(_make_mixture, FAMILIES[stem], LAYERS[f"{stem}Conv{ndim}DLayer"])
    return peer_factory(name, _MIXTURE, "kan_kwargs", make, PeerMixture)


def _bottleneck_factory(name: str, ndim: int) -> Callable[..., PeerMixture]:
    plain = FAMILIES["KAGN"]
    family = bottleneck_family(
        plain,
        parameters={**plain.parameters, **_INNER_PARAMETERS[ndim]},
        keywords={"min_internal": 16},
        structure=_inner_mixture,
        weights=Bottlenecked(Mixed(plain.weights, at="experts.")),
        dropout_kind="noise",
        dropout_site="degree",
    )
    make = partial(_make_bottleneck, family, ndim)
    return peer_factory(name, layer_parameters(family, ndim), "norm_kwargs", make, PeerMixture)


EXPERT_LAYERS: dict[str, Callable[..., PeerMixture]] = {
    **{
        f"MoE{stem}Conv{ndim}DLayer": _mixture_factory(f"MoE{stem}Conv{ndim}DLayer", layer, ndim)
        for stem, layer in _LAYER_OF.items()
        for ndim in (1, 2, 3)
    },
    **{
        f"MoEBottleNeckKAGNConv{ndim}DLayer": _bottleneck_factory(f"MoEBottleNeckKAGNConv{ndim}DLayer", ndim)
        for ndim in (1, 2, 3)
    },
}
"""The factories of the mixtures of experts by the peer's names."""
