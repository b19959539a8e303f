"""torch-conv-kan's architectures: from its arguments to networks of `kanvolution.models`, and its names of their parts.

Each function takes the arguments, the stem of the layer's name ("KAGN" of `KAGNConv2DLayer`) and what tells its members
apart. torch-conv-kan makes layers in two ways, by helpers for 1x1 and 3x3 convolutions and by the class itself, whose
defaults differ.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import nn

from kanvolution.compat.torch_conv_kan.attention import ATTENTIONS
from kanvolution.compat.torch_conv_kan.convs import Convs
from kanvolution.compat.torch_conv_kan.networks import NETWORK_FAMILIES, NETWORKS
from kanvolution.layers import KANConvNormAct
from kanvolution.models import VGG, DenseNet, Matryoshka, ResNet, SimpleNet, U2Net, UNet
from kanvolution.models.network import Network
from kanvolution.models.vgg import plan
from kanvolution.registry import unknown_name

Arguments = Mapping[str, Any]


@dataclass(frozen=True)
class Built:
    """A network and what its loading and its losses need.

    Attributes:
        network: it.
        names: beginnings of torch-conv-kan's entries -> of ours.
        unpenalised: paths of the convolutions on which `l1_decay` has no effect.
        refused, normed: see `Renaming`.
        share: factor of the losses of experts.
    """

    network: Network
    names: Mapping[str, str]
    unpenalised: tuple[str, ...] = ()
    refused: tuple[str, str] | None = None
    normed: tuple[str, ...] = ()
    share: float = 1.0


# ------------------------------------------------------------------------------------------------------- layers

_OF_LAYERS = ("degree", "spline_order", "grid_size", "base_activation", "grid_range", "wavelet_type", "wav_version")
_OF_BLOCKS = (*_OF_LAYERS, "dropout", "affine", "norm_layer")
_OF_EXPERTS = ("num_experts", "noisy_gating", "k")


def _chosen(p: Arguments, names: Sequence[str]) -> dict[str, Any]:
    return {name: p[name] for name in names if name in p}


def _layer(stem: str, p: Arguments, **changes: Any) -> Convs:
    """The layer of that name with the arguments that are for layers."""
    names = (*_OF_BLOCKS, *_OF_EXPERTS) if stem.startswith("MoE") else _OF_BLOCKS
    return Convs(f"{stem}Conv2DLayer", {**_chosen(p, names), **changes})


def _helper(stem: str, p: Arguments, **changes: Any) -> Convs:
    """The same as the helpers for 3x3 convolutions make it: bottlenecks are narrower."""
    if "BottleNeck" in stem:
        norm = {"norm_layer": p.get("norm_layer", nn.BatchNorm2d)}
        changes = {"dim_reduction": p.get("dim_reduction", 8), **norm, **changes}
    return _layer(stem, p, **changes)


def _without_experts(stem: str) -> str:
    return stem.removeprefix("MoE")


def _linear(stem: str, p: Arguments, features: int, outputs: int, **changes: Any) -> nn.Module:
    """The network of linear layers of the same functions."""
    known = set(NETWORK_FAMILIES[stem].parameters) & set(_OF_LAYERS)
    return NETWORKS[stem]([features, outputs], **{**_chosen(p, sorted(known)), **changes})


# --------------------------------------------------------------------------------------------------------- VGGs

_TYPE = re.compile(r"VGG(?P<depth>\d+)(?P<version>v[234])?(?P<attends>sa)?")
# The types "...sa" attend at the end of the two stages before the last one.
_ATTENTION_STAGES = (-3, -2)
VGG_TYPES = (
    *(f"VGG{depth}{version}" for version in ("", "v2", "v3", "v4") for depth in (11, 13, 16, 19)),
    *(f"VGG{depth}{version}sa" for version in ("", "v4") for depth in (11, 13, 16, 19)),
)
"""torch-conv-kan's names of its plans of channels."""

_VGG_ATTENTIONS = {"KAGN": "SelfKAGNtention2D", "BottleNeckKAGN": "BottleNeckSelfKAGNtention2D"}


def _kan_head(stem: str, p: Arguments, features: int, outputs: int) -> nn.Module:
    # Its heads take GELU where its networks by themselves take SiLU. Gram polynomials here know SiLU alone: `_GELU`.
    gelu = {"base_activation": nn.GELU} if stem == "KALN" else {}
    return _linear(stem, p, features, outputs, dropout=p["dropout_linear"], **gelu)


def _hidden_kan(
    stem: str, p: Arguments, features: int, classes: int, last: Callable[..., nn.Module] = nn.Linear
) -> nn.Module:
    return nn.Sequential(_kan_head(stem, p, features, 512), nn.Dropout(p["dropout_linear"]), last(512, classes))


# head_type -> the head here, or what makes it
_HEADS: dict[str, str | Callable[..., nn.Module]] = {
    "Linear": "linear",
    "VGG": "vgg",
    "Matryoshka": "matryoshka",
    "KAN": _kan_head,
    "HiddenKAN": _hidden_kan,
    "KANtryoshka": partial(_hidden_kan, last=Matryoshka),
}
_GELU = (
    "classifier.",
    "a KAN head of torch-conv-kan's VGGs passes its Gram polynomials through GELU, and this one through SiLU; load the "
    "features alone: take the entries that begin with 'features.', with strict=False",
)


def vgg(p: Arguments, stem: str) -> Built:
    """`VGGKAN` and its kin."""
    for argument, known in (("vgg_type", VGG_TYPES), ("head_type", _HEADS)):
        if p[argument] not in known:
            raise ValueError(unknown_name(argument, p[argument], known))
    found = _TYPE.fullmatch(p["vgg_type"])
    assert found
    channels = plan(int(found["depth"]), found["version"] or "")
    plain = _without_experts(stem)
    if found["attends"] and "last_attention" not in p:
        raise ValueError(
            f"vgg_type (={p['vgg_type']!r}) has attention, which {plain}Conv2DLayer has none of; take "
            f"{p['vgg_type'].removesuffix('sa')!r}, vggkagn or vggkagn_bn"
        )
    last_attention = p.get("last_attention", False)
    if last_attention and channels[-1][-2:] != (channels[-1][-1],) * 2:
        raise ValueError(
            f"last_attention (=True) replaces the last layer, which must keep its channels; vgg_type "
            f"(={p['vgg_type']!r}) has {channels[-1]} there"
        )

    def attention(width: int, _: Any = None) -> nn.Module:
        inner = p["sa_inner_projection"]
        arguments = _helper(plain, p).arguments
        inner = None if inner is None else width // inner
        return ATTENTIONS[_VGG_ATTENTIONS[plain]](
            width, inner_projection=inner, padding=1, groups=p["groups"], **arguments
        )

    head = _HEADS[p["head_type"]]
    linear = plain.removeprefix("BottleNeck")
    network = VGG(
        replace(_helper(stem, p), first=_helper(plain, p, dropout=0.0)),
        p["num_classes"],
        p["input_channels"],
        channels=channels,
        width_scale=p["width_scale"],
        groups=p["groups"],
        attention=attention if found["attends"] else None,
        attention_stages=_ATTENTION_STAGES,
        pool_size=p["expected_feature_shape"],
        drop_rate=p["dropout_linear"],
        head=head if isinstance(head, str) else partial(head, linear, p),
    )
    if last_attention:
        last = network.stages[-1]
        assert isinstance(last, nn.Sequential)
        last[-1] = attention(network.num_features)
    has_linear_head = p["head_type"] == "Linear"
    if not has_linear_head:  # these have their own dropout
        network.drop = nn.Dropout(0.0)
    names = {**vgg_features(network), "classifier.1." if has_linear_head else "classifier.": "head."}
    return Built(network, names, refused=_GELU if linear == "KAGN" and "KAN" in p["head_type"] else None)


def vgg_features(network: VGG) -> dict[str, str]:
    """The beginnings of torch-conv-kan's entries and ours: it counts layers and poolings through all stages."""
    names = [f"stages.{s}.{i}." for s, stage in enumerate(network.stages) for i, _ in enumerate(stage)]  # type: ignore[arg-type]
    return {f"features.{number}.": name for number, name in enumerate(names)}


# ----------------------------------------------------------------------------------------------------- residual


def resnet(
    p: Arguments,
    stem: str,
    layers: Sequence[int],
    block: str = "light",
    kernel: int = 3,
    stride: int = 1,
    pool: bool = False,
) -> Built:
    """`ResKANet` and `MoEResKANet`."""
    if p["hidden_layer_dim"] is not None:
        raise ValueError(
            f"hidden_layer_dim (={p['hidden_layer_dim']}) must be None; it has no effect on torch-conv-kan's networks "
            "without experts, and there is none in those with experts"
        )
    experts = stem.startswith("MoE")
    plain = _without_experts(stem)
    if experts:
        convs = replace(_helper(stem, p), first=_layer(plain, p), pointwise=_layer("KALN", p))
    else:
        norm = p.get("norm_layer", nn.BatchNorm2d)
        at_stem = norm if plain.endswith("KAGN") else nn.InstanceNorm2d
        convs = replace(
            _helper(stem, p, norm_layer=norm),
            first=_layer(stem, p, norm_layer=at_stem),
            pointwise=_layer(stem, p, norm_layer=norm),
        )
    network = ResNet(
        convs,
        p["num_classes"],
        p["input_channels"],
        layers=layers,
        block=block,
        widths=(8, 16, 32, 64),
        width_scale=p.get("width_scale", 1),
        groups=p["groups"],
        inner_scale=p["groups"] if block == "bottleneck" else 1,
        stem_width=16 if experts else None,
        stem_kernel=kernel,
        stem_stride=stride,
        stem_pool=pool,
        zero_init_last=False,
        drop_rate=p["dropout_linear"],
    )
    names = {"conv1.": "stem.0." if pool else "stem.", "fc.": "head."}
    for s, stage in enumerate(network.stages):
        names |= _residual_names(f"layer{s + 1}.", f"stages.{s}.", stage)
    return Built(network, names, ("stem",), share=1 / len(layers))


def _residual_names(theirs: str, ours: str, blocks: Any, start: int = 0) -> dict[str, str]:
    names = {}
    for b, block in enumerate(blocks):
        for c, _ in enumerate(block.convs):
            names[f"{theirs}{b}.conv{c + 1}."] = f"{ours}{start + b}.convs.{c}."
        names[f"{theirs}{b}.downsample."] = f"{ours}{start + b}.shortcut."
    return names


# -------------------------------------------------------------------------------------------------------- dense


def densenet(p: Arguments, stem: str, layers: Sequence[int], tiny: bool = False) -> Built:
    """`DenseKANet` and `TinyDenseKANet`."""
    plain = _without_experts(stem)
    pool = p.get("use_first_maxpool", False)
    network = DenseNet(
        replace(_helper(stem, p), first=_layer(plain, p, dropout=0.0)),
        p["num_classes"],
        p["input_channels"],
        layers=layers,
        growth=p["growth_rate"],
        groups=p["groups"],
        stem_width=p["num_init_features"],
        stem_kernel=5 if tiny else 7,
        stem_pool=pool,
        last_transition=tiny,
        drop_rate=p.get("dropout_linear", 0.0),
        head=partial(_linear, plain, p) if tiny else "linear",
    )
    names = {"features.conv0.": "stem.0." if pool else "stem.", "classifier.": "head."}
    transitions = 0
    for s, stage in enumerate(network.stages):
        assert isinstance(stage, nn.Sequential)
        for i, part in enumerate(stage):
            if isinstance(part, nn.Sequential):
                transitions += 1
                names[f"features.transition{transitions}.norm."] = f"stages.{s}.{i}.0."
                names[f"features.transition{transitions}.conv."] = f"stages.{s}.{i}.2."
                continue
            for j in range(layers[s]):
                for c in range(2):
                    names[f"features.denseblock{s + 1}.denselayer{j + 1}.conv{c + 1}."] = (
                        f"stages.{s}.{i}.layers.{j}.{c}."
                    )
    return Built(network, names, ("stem",))


# ------------------------------------------------------------------------------------------------- segmentation


def ukanet(p: Arguments, stem: str) -> Built:
    """`UKANet` of 18 layers."""
    direct = _layer(stem, p)
    network = UNet(
        replace(_helper(stem, p), first=direct, pointwise=direct),
        p["num_classes"],
        p["input_channels"],
        width=8 * p["width_scale"],
        block="light",
        groups=p["groups"],
        align_corners=True,
    )
    names = {"conv1.": "encoder.0.0.", "output.": "head.sides.0."}
    merges = []
    later = []
    for i, stage in enumerate(network.encoder):
        assert isinstance(stage, nn.Sequential)
        start = 1 if i == 0 else 0  # after the stem
        names |= _residual_names(f"layer{i + 1}e.", f"encoder.{i}.", stage[start : start + 2], start)
        later.append(f"encoder.{i}.{start + 1}.")
    names |= _residual_names("layer4d.", "encoder.3.", network.encoder[3][2:], 2)  # type: ignore[index]
    later.append("encoder.3.3.")
    for i, stage in enumerate(network.decoder):
        body = stage.body
        assert isinstance(body, nn.Sequential)
        level = len(network.decoder) - i
        width = network.feature_info[level - 1].channels
        body[0] = direct(3 * width, width, 3, padding=1, groups=p["groups"])
        names[f"merge{level}."] = f"decoder.{i}.body.0."
        names |= _residual_names(f"layer{level}d.", f"decoder.{i}.body.", body[1:], 1)
        merges.append(f"decoder.{i}.body.0")
        later.append(f"decoder.{i}.body.2.")
    # torch-conv-kan's later blocks of a stage take none of the arguments, and so have norms without gain and bias.
    blocks = {path for path, module in network.named_modules() if isinstance(module, KANConvNormAct)}
    normed = tuple(sorted(path for path in blocks if path.startswith(tuple(later))))
    return Built(network, names, ("encoder.0.0", *merges), normed=normed)


def ukagnet(p: Arguments) -> Built:
    """`UKAGNet`."""
    mixers = {"conv": None, "self-att": _self_attention, "focal": _focal_modulation}
    if p["mixer_type"] not in mixers:
        raise ValueError(unknown_name("mixer_type", p["mixer_type"], mixers))
    bottleneck = "BottleNeck" if p["use_bottleneck"] else ""
    mixer = mixers[p["mixer_type"]]
    stem = f"{bottleneck}KAGN"
    network = UNet(
        replace(_layer(stem, p), first=_layer(stem, p, dropout=0.0, groups=p["groups"])),
        p["num_classes"],
        p["input_channels"],
        width=16 * p["width_scale"],
        depth=p["unet_depth"],
        layers=p["unet_layers"],
        groups=p["groups"],
        attention=None if mixer is None else partial(mixer, bottleneck, p),
        align_corners=True,
    )
    names = {"output.": "head.sides.0."}
    for i, stage in enumerate(network.decoder):
        body = stage.body
        assert isinstance(body, nn.Sequential)
        names |= {f"decoder.{i}.{j}.": f"decoder.{i}.body.{j}." for j in range(len(body))}
    return Built(network, names)


def _self_attention(bottleneck: str, p: Arguments, channels: int, _: Any) -> nn.Module:
    return ATTENTIONS[f"{bottleneck}SelfKAGNtention2D"](
        channels, p["inner_projection_attention"], padding=1, groups=p["groups"], **_chosen(p, _OF_BLOCKS)
    )


def _focal_modulation(bottleneck: str, p: Arguments, channels: int, _: Any) -> nn.Module:
    own = ("focal_window", "focal_level", "focal_factor", "use_postln_in_modulation", "normalize_modulator", "full_kan")
    return ATTENTIONS[f"{bottleneck}KAGNFocalModulation2D"](channels, **_chosen(p, (*own, *_OF_BLOCKS)))


def u2net(p: Arguments, stem: str | None, channels: Sequence[int], mid_channels: Sequence[int]) -> Built:
    """`U2KANet` and `U2KANetSmall`; without a stem of ordinary convolutions."""
    if stem is None:
        convs = Convs("Conv2d", {"activation": nn.GELU, "dropout": p["dropout"]})
    else:
        # The small network of bottlenecks begins with a 1x1 convolution, whose helper has a wider bottleneck.
        pointwise = "BottleNeck" in stem and "dim_reduction" not in p
        first = _layer(stem, p, kernel_size=1, padding=0) if pointwise else None
        convs = replace(_helper(stem, p), first=first)
    network = U2Net(
        convs,
        p["num_classes"],
        p["input_channels"],
        channels=channels,
        mid_channels=mid_channels,
        width_scale=p["width_scale"],
        groups=p["groups"],
        align_corners=True,
        deep_supervision=True,
    )
    levels = len(channels)
    blocks = {f"stage{i + 1}.": f"encoder.{i}.{'1.' if i else ''}" for i in range(levels)}
    blocks |= {f"stage{levels - 1 - i}d.": f"decoder.{i}.body." for i in range(levels - 1)}
    parts = {}
    for theirs, ours in blocks.items():
        block: Any = network.get_submodule(ours.removesuffix("."))
        parts[f"{theirs}input_conv."] = f"{ours}entry."
        parts |= {f"{theirs}encoder_list.{j}.": f"{ours}down.{j}." for j in range(len(block.down))}
        parts |= {f"{theirs}decoder_list.{j}.": f"{ours}up.{j}." for j in range(len(block.up))}
    if stem is None:
        start = 1 if p["dropout"] > 0 else 0
        parts = {k: v for theirs, ours in parts.items() for k, v in _plain_names(theirs, ours, start).items()}
    names = {**parts, **{f"side{i + 1}.": f"head.sides.{i}." for i in range(levels)}, "outconv.": "head.fuse."}
    return Built(network, names)


def _plain_names(theirs: str, ours: str, start: int) -> dict[str, str]:
    return {f"{theirs}{start}.": f"{ours}conv.", f"{theirs}{start + 1}.": f"{ours}norm."}


# ------------------------------------------------------------------------------------------------------- simple

_SIMPLE_STRIDES = {4: (1, 2, 2, 1), 8: (1, 2, 2, 1, 1, 2, 1, 1)}


def simple(p: Arguments, stem: str, depth: int) -> Built:
    """`SimpleConv...` and `EightSimpleConv...`."""
    linear = _without_experts(stem).removeprefix("BottleNeck")
    kan = p["degree_out"] >= 2
    degree = {"degree": p["degree_out"]} if "degree" in p else {}
    network = _simple_net(
        p,
        replace(_layer(stem, p), first=_layer(stem, p, dropout=0.0)),
        depth,
        drop_rate=0.0 if kan else p["dropout_linear"],
        head=partial(_linear, linear, p, dropout=p["dropout_linear"], **degree) if kan else "linear",
    )
    names = {f"layers.{i}.": f"stages.{i}." for i in range(depth)}
    return Built(network, {**names, "output." if kan else "output.1.": "head."}, ("stages.0",))


def plain_simple(p: Arguments, depth: int) -> Built:
    """`SimpleConv` and `EightSimpleConv`, of ordinary convolutions."""
    network = _simple_net(p, Convs("Conv2d", {"activation": nn.ReLU}), depth, drop_rate=0.25)
    names = {"output.": "head."}
    for i in range(depth):
        names |= {f"layers.{3 * i}.": f"stages.{i}.conv.", f"layers.{3 * i + 1}.": f"stages.{i}.norm."}
    return Built(network, names)


def _simple_net(p: Arguments, convs: Convs, depth: int, **options: Any) -> SimpleNet:
    return SimpleNet(
        convs,
        p["num_classes"],
        p["input_channels"],
        channels=p["layer_sizes"],
        strides=_SIMPLE_STRIDES[depth],
        groups=p["groups"],
        **options,
    )
