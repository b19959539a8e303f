"""torch-conv-kan's VGGs of Gram convolutions by name, their state dicts, and their published weights."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from kanvolution.checks import non_negative
from kanvolution.compat.torch_conv_kan.attention import ATTENTIONS
from kanvolution.compat.torch_conv_kan.checkpoints import Block, Reader
from kanvolution.compat.torch_conv_kan.layers import FAMILIES, LAYERS, REQUIRED
from kanvolution.compat.torch_conv_kan.networks import NETWORKS
from kanvolution.layers import HeldLosses, KANConvNormAct, weight_penalty
from kanvolution.models import VGG, Matryoshka, create_model
from kanvolution.models.published import PUBLISHED
from kanvolution.models.vgg import plan
from kanvolution.models.weights import load_weights
from kanvolution.registry import unknown_name

_TYPE = re.compile(r"VGG(?P<depth>\d+)(?P<version>v[234])?(?P<attends>sa)?")
# The types "...sa" attend at the end of the two stages before the last one.
_ATTENTION_STAGES = (-3, -2)
VGG_TYPES = (
    *(f"VGG{depth}{version}" for version in ("", "v2", "v3", "v4") for depth in (11, 13, 16, 19)),
    *(f"VGG{depth}{version}sa" for version in ("", "v4") for depth in (11, 13, 16, 19)),
)
"""torch-conv-kan's names of its plans of channels."""

_PARAMETERS: dict[str, Any] = {
    "input_channels": REQUIRED,
    "num_classes": REQUIRED,
    "groups": 1,
    "degree": 3,
    "dropout": 0.0,
    "l1_decay": 0.0,
    "dropout_linear": 0.25,
    "vgg_type": "VGG11",
    "head_type": "Linear",
    "expected_feature_shape": (7, 7),
    "width_scale": 1,
    "affine": False,
    "norm_layer": nn.InstanceNorm2d,
    "last_attention": False,
    "sa_inner_projection": None,
}


@dataclass(frozen=True)
class Family:
    """What a VGG of torch-conv-kan is made of: its names of layer and attention, and further arguments of both."""

    layer: str
    attention: str
    arguments: Mapping[str, Any]


_FAMILIES = {
    "vggkagn": Family("KAGNConv2DLayer", "SelfKAGNtention2D", {}),
    "vggkagn_bn": Family("BottleNeckKAGNConv2DLayer", "BottleNeckSelfKAGNtention2D", {"dim_reduction": 8}),
}


@dataclass(frozen=True)
class Convs:
    """A conv factory of torch-conv-kan's layers.

    Attributes:
        layer: name of the layer.
        dropout: its dropout.
        arguments: its further arguments.
    """

    layer: str
    dropout: float
    arguments: Mapping[str, Any]

    def __call__(self, inputs: int, outputs: int, kernel_size: int, padding: int = 0, groups: int = 1) -> nn.Module:
        return LAYERS[self.layer](
            inputs, outputs, kernel_size, padding=padding, groups=groups, dropout=self.dropout, **self.arguments
        )


def _kan(p: Mapping[str, Any], features: int, outputs: int) -> nn.Module:
    return NETWORKS["KAGN"]([features, outputs], dropout=p["dropout_linear"], degree=p["degree"])


def _hidden_kan(p: Mapping[str, Any], features: int, classes: int, last: Callable[..., Any] = nn.Linear) -> nn.Module:
    return nn.Sequential(_kan(p, features, 512), nn.Dropout(p["dropout_linear"]), last(512, classes))


# head_type -> the head here, or what makes it
_HEADS: dict[str, str | Callable[..., nn.Module]] = {
    "Linear": "linear",
    "VGG": "vgg",
    "Matryoshka": "matryoshka",
    "KAN": _kan,
    "HiddenKAN": _hidden_kan,
    "KANtryoshka": partial(_hidden_kan, last=Matryoshka),
}


def make_vgg(name: str, **given: Any) -> VGG:
    """torch-conv-kan's network of that name; `given` are its arguments.

    Raises:
        TypeError, ValueError: a value out of range, or an unknown type of network or head.
    """
    p = {**_PARAMETERS, **given}
    for argument, known in (("vgg_type", VGG_TYPES), ("head_type", _HEADS)):
        if p[argument] not in known:
            raise ValueError(unknown_name(argument, p[argument], known))
    l1 = non_negative("l1_decay", p["l1_decay"])
    family = _FAMILIES[name]
    found = _TYPE.fullmatch(p["vgg_type"])
    assert found
    channels = plan(int(found["depth"]), found["version"] or "")
    if p["last_attention"] and channels[-1][-2:] != (channels[-1][-1],) * 2:
        raise ValueError(
            f"last_attention (=True) replaces the last layer, which must keep its channels; vgg_type "
            f"(={p['vgg_type']!r}) has {channels[-1]} there"
        )
    arguments = {"degree": p["degree"], "norm_layer": p["norm_layer"], "affine": p["affine"], **family.arguments}
    convs = Convs(family.layer, p["dropout"], arguments)
    inner = p["sa_inner_projection"]

    def attention(width: int, _: Any = None) -> nn.Module:
        return ATTENTIONS[family.attention](
            width,
            inner_projection=None if inner is None else width // inner,
            padding=1,
            groups=p["groups"],
            dropout=p["dropout"],
            **arguments,
        )

    head = _HEADS[p["head_type"]]
    network = VGG(
        convs,
        p["num_classes"],
        p["input_channels"],
        channels=channels,
        width_scale=p["width_scale"],
        groups=p["groups"],
        attention=attention if found["attends"] else None,
        attention_stages=_ATTENTION_STAGES,
        pool_size=p["expected_feature_shape"],
        drop_rate=p["dropout_linear"],
        head=head if isinstance(head, str) else partial(head, p),
    )
    first, last = network.stages[0], network.stages[-1]
    assert isinstance(first, nn.Sequential) and isinstance(last, nn.Sequential)
    width = network.feature_info[0].channels
    first[0] = replace(convs, dropout=0.0)(p["input_channels"], width, 3, padding=1)
    if p["last_attention"]:
        last[-1] = attention(network.num_features)
    if p["head_type"] != "Linear":  # these have their own dropout
        network.drop = nn.Dropout(0.0)
    if l1 > 0:
        Penalty(l1).attach(network)
    linear = p["head_type"] == "Linear"
    names = {**_positions(network), "classifier.1." if linear else "classifier.": "head."}
    renaming = Renaming(names, kan_head="KAN" in p["head_type"])
    network.register_load_state_dict_pre_hook(renaming.before)
    network.register_load_state_dict_post_hook(renaming.after)
    return network


class Penalty(nn.Module):
    """A forward hook of a VGG: l1 sum |w| over all parameters of its convolutions, for `collect_losses`.

    Args:
        l1: strength.
    """

    def __init__(self, l1: float) -> None:
        super().__init__()
        self.l1 = l1
        self.losses = HeldLosses()

    def attach(self, network: VGG) -> None:
        """Make it a part of the network."""
        network.penalty = self
        network.register_forward_hook(_hold_penalty)


def _hold_penalty(network: nn.Module, *_: Any) -> None:
    penalty, stages = network.penalty, network.stages
    assert isinstance(penalty, Penalty) and isinstance(stages, nn.ModuleList)
    if network.training:
        convs = nn.ModuleList(m for stage in stages for m in stage.children() if isinstance(m, KANConvNormAct))
        value = weight_penalty(convs, l1=penalty.l1, filter=lambda name, parameter: True)
        penalty.losses.hold({"l1": value}, True)


def _positions(network: VGG) -> dict[str, str]:
    """The beginnings of torch-conv-kan's entries and ours: it counts layers and poolings through all stages."""
    names = [f"stages.{s}.{i}." for s, stage in enumerate(network.stages) for i, _ in enumerate(stage)]  # type: ignore[arg-type]
    return {f"features.{number}.": name for number, name in enumerate(names)}


@dataclass(frozen=True)
class Renaming:
    """Hooks of load_state_dict: torch-conv-kan's entries under our names, and missing ones reported under its own.

    Attributes:
        names: beginnings of its entries -> of ours.
        kan_head: whether the head has KAN layers, whose function differs from its.
    """

    names: Mapping[str, str]
    kan_head: bool = False

    def before(
        self,
        network: nn.Module,
        state: dict[str, Any],
        prefix: str,
        metadata: dict[str, Any],
        strict: bool,
        missing: list[str],
        unexpected: list[str],
        errors: list[str],
    ) -> None:
        """Rename the entries, in place, where they are torch-conv-kan's."""
        theirs = [key for key in state if key.startswith((prefix + "features.", prefix + "classifier."))]
        if theirs and self.kan_head:
            errors.append(
                "a KAN head of torch-conv-kan's VGGs passes its functions through GELU, and this one through SiLU; "
                "load the features alone: take the entries that begin with 'features.', with strict=False"
            )
        for key in theirs:
            state[prefix + self.ours(key.removeprefix(prefix))] = state.pop(key)

    def after(self, network: nn.Module, incompatible: Any) -> None:
        """Give back their names to the entries that were missing or left over, where they are torch-conv-kan's."""
        for keys in (incompatible.missing_keys, incompatible.unexpected_keys):
            keys[:] = [self.theirs(key) for key in keys]

    def ours(self, key: str) -> str:
        """Our name of an entry; it stays as it is where there is none."""
        for begin, name in self.names.items():
            if key.startswith(begin):
                # Layers with a penalty are wrapped, and its Matryoshka layer has a number.
                rest = key.removeprefix(begin).removeprefix("module.")
                return name + rest.replace("nesting_classifier_0.", "linear.")
        return key

    def theirs(self, key: str) -> str:
        """torch-conv-kan's name of an entry that is not one of ours."""
        for begin, name in self.names.items():
            if key.startswith(name):
                return begin + key.removeprefix(name)
        return key


def load_vgg(model: nn.Module, state: Mapping[str, Tensor], layers: str, source: str = "the weights") -> None:
    """Load a state dict of torch-conv-kan's VGG with a linear head into a `VGG` of the same plan.

    Args:
        model: the network.
        state: torch-conv-kan's entries.
        layers: its name of the convolutions, "KAGN" or "BottleNeckKAGN".
        source: what an error calls the weights.

    Raises:
        ValueError: entries are missing, left over or of another shape, or the network is no VGG.
    """
    if not isinstance(model, VGG):
        raise ValueError(f"{source} belong to a VGG, and the network is a {type(model).__name__}")
    renaming = Renaming({**_positions(model), "classifier.1.": "head."})
    entries = {renaming.ours(key): value for key, value in state.items()}
    missing: list[str] = []
    misshapen: list[str] = []
    for name, block in model.named_modules():
        if isinstance(block, KANConvNormAct):
            reader = Reader(entries, f"{name}.")
            converted = Block(FAMILIES[layers].weights)(reader, block)
            entries |= {f"{name}.{key}": value for key, value in converted.items()}
            missing += reader.missing
            misshapen += reader.misshapen
    problems = {"Missing": missing, "Of another shape": misshapen}
    if any(problems.values()):
        found = ((what, len(keys), renaming.theirs(keys[0])) for what, keys in problems.items() if keys)
        words = " ".join(f"{what}: {count} ({first}, ...)." for what, count, first in found)
        raise ValueError(f"{source} do not fit this network of torch-conv-kan. {words}")
    load_weights(model, entries, source=source)


def from_pretrained(repo: str, source: str | Path | None = None, **options: Any) -> nn.Module:
    """A published network of torch-conv-kan with its weights, in evaluation mode.

    It is `create_model(name, pretrained=True)` with the name of the weights that `PUBLISHED` has for the repository.

    Args:
        repo: "brivangl/vgg_kagn11_v2", "brivangl/vgg_kagn11_v4" or "brivangl/vgg_kagn_bn11_v4".
        source: a folder with the repository's file `model.safetensors`; None to fetch it from the Hugging Face Hub.
        **options: further arguments of `create_model`, such as num_classes for a new head.

    Raises:
        ValueError: another repository, weights that cannot be had (the message says what to download and where to put
            it) or do not fit.
    """
    names = {PUBLISHED[name].repo: name for name in PUBLISHED if not PUBLISHED[name].ships}
    if repo not in names:
        raise ValueError(unknown_name("repository of torch-conv-kan's networks", repo, names))
    return create_model(names[repo], pretrained=True if source is None else source, **options).eval()


def _factory(name: str) -> Callable[..., VGG]:
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    signature = inspect.Signature(
        [inspect.Parameter(key, kind, default=default) for key, default in _PARAMETERS.items()], return_annotation=VGG
    )

    def factory(*args: Any, **kwargs: Any) -> VGG:
        for key in kwargs:
            if key not in _PARAMETERS:
                raise TypeError(unknown_name(f"argument of {name}", key, _PARAMETERS))
        return make_vgg(name, **signature.bind(*args, **kwargs).arguments)

    factory.__signature__ = signature  # type: ignore[attr-defined]
    factory.__name__ = factory.__qualname__ = name
    factory.__module__ = "kanvolution.compat.torch_conv_kan"
    factory.__doc__ = (
        f"torch-conv-kan's {name}: a `VGG` of the same function, which loads its state dict.\n\n"
        "Args are the peer's. The penalty of `l1_decay` is collected by `collect_losses`. A Matryoshka head returns "
        "one tensor of logits (see `Matryoshka`), where the peer's returns a tuple. Raises TypeError or ValueError for "
        "values out of range."
    )
    return factory


VGGS: dict[str, Callable[..., VGG]] = {name: _factory(name) for name in _FAMILIES}
"""The factories by the peer's names."""
