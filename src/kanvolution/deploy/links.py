"""Where channels can be left out: those that one layer makes and one other layer reads, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import nn
from torch.nn.modules import dropout, pooling

from kanvolution.layers.block import KANConvNormAct
from kanvolution.layers.layer import KANLayer
from kanvolution.layers.noise import MultiplicativeNoise, NoiseInjection
from kanvolution.layers.select import channels_of, fixed_because, is_depthwise
from kanvolution.models.network import Classifier

_PASSES = (
    *(nn.Identity, nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.SiLU, nn.GELU, nn.Tanh, nn.Sigmoid),
    *(dropout._DropoutNd, NoiseInjection, MultiplicativeNoise),
    *(pooling._MaxPoolNd, pooling._AvgPoolNd, pooling._AdaptiveMaxPoolNd, pooling._AdaptiveAvgPoolNd),
)
"""Modules whose channel c depends on channel c of the input, whatever the number of channels."""


@dataclass(frozen=True)
class Link:
    """Channels between two layers of a network, by the layers' names.

    Attributes:
        maker: the layer that makes the channels.
        between: what maps them channel by channel: norms, activations of each channel, depthwise convolutions.
        reader: the layer that reads them.
    """

    maker: str
    between: tuple[str, ...]
    reader: str


def find_links(model: nn.Module) -> list[Link]:
    """The channels of a network that can be left out without touching any others, in the order of the layers.

    They lie between two layers that follow one another in an `nn.Sequential`, in a `KANConvNormAct` or, from stage to
    stage, in a classifier: all those of simple networks and of VGG, and those inside of the branches of others (the
    blocks of a ResNet, the layers of a DenseNet, the stages of a U-Net). Channels that are added to others,
    concatenated or returned are never among them. An `nn.Sequential` is taken to be run as a whole.

    Raises:
        ValueError: there are none; what is in the way is named.

    Example:
        >>> import kanvolution as kv
        >>> from kanvolution.deploy.links import find_links
        >>> find_links(kv.create_model("resnet18", conv="gram", num_classes=10))[0]
        Link(maker='stages.0.0.convs.0.conv', between=('stages.0.0.convs.0.norm',), reader='stages.0.0.convs.1.conv')
    """
    walk = _Walk({module: name for name, module in model.named_modules()})
    walk.through(model)
    if not walk.links:
        reasons = "; ".join(walk.fixed[:3]) or "no two of its layers follow one another with nothing beside them"
        raise ValueError(f"no channels of this {type(model).__name__} can be left out: {reasons}")
    return walk.links


def stage_channels(model: Classifier) -> list[int]:
    """The channels of the map of each stage, as its layers have them now."""
    found = []
    for stage, info in zip(model.stages, model.feature_info, strict=True):
        last = [module for module in _in_order(stage) if channels_of(module) or not isinstance(module, _PASSES)][-1]
        layout = channels_of(last)
        found.append(info.channels if layout is None else getattr(last, layout.outputs))
    return found


@dataclass
class _Walk:
    """The links found so far, and why others are none."""

    names: dict[nn.Module, str]
    links: list[Link] = field(default_factory=list)
    fixed: list[str] = field(default_factory=list)

    def through(self, module: nn.Module) -> None:
        maker: nn.Module | None = None
        between: list[nn.Module] = []
        for part in _in_order(module):
            layout = channels_of(part)
            if layout is None:
                if not isinstance(part, _PASSES):
                    maker = None
                    for child in part.children():
                        self.through(child)
            elif layout.by_channel or is_depthwise(part):
                between.append(part)
            else:
                if maker is not None:
                    self.join(maker, between, part)
                maker, between = part, []

    def join(self, maker: nn.Module, between: list[nn.Module], reader: nn.Module) -> None:
        made, read = channels_of(maker), channels_of(reader)
        assert made is not None and read is not None
        if getattr(maker, made.outputs) != getattr(reader, read.inputs):
            return  # places of a map became features of their own
        for part in (maker, *between, reader):
            reason = fixed_because(part)
            if part is reader and isinstance(reader, KANLayer) and reader.basis.per_output:
                reason = "has functions of its own for each output (wavelet_edge)"
            if reason is not None:
                self.fixed.append(f"{self.names[part]} {reason}")
                return
        self.links.append(Link(self.names[maker], tuple(self.names[m] for m in between), self.names[reader]))


def _in_order(module: nn.Module) -> Iterator[nn.Module]:
    """The modules that run one after the other inside of a module; the module itself where that is not known."""
    parts: list[nn.Module] = [module]
    if isinstance(module, KANConvNormAct):
        parts = [part for part in (module.conv, module.norm, module.act) if part is not None]
    elif isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
        parts = list(module)
    elif isinstance(module, Classifier) and type(module).forward_stages is Classifier.forward_stages:
        plain = type(module).forward_features is Classifier.forward_features
        parts = [module.stem, *module.stages, module.pool, module.head] if plain else [module]
    for part in parts:
        if part is module:
            yield part
        else:
            yield from _in_order(part)
