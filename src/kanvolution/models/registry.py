"""Models by name: `create_model` and `list_models`."""

from __future__ import annotations

import fnmatch
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from kanvolution.checks import integer_at_least
from kanvolution.layers.spec import ConvFactory, ConvSpec, resolve_conv
from kanvolution.models.changes import apply_changes
from kanvolution.models.network import FeatureMaps, Network
from kanvolution.models.published import PUBLISHED, Published
from kanvolution.registry import Registry, unknown_name

MODELS: Registry[Callable[..., nn.Module]] = Registry("model")


def register_model(name: str) -> Callable[[Callable[..., nn.Module]], Callable[..., nn.Module]]:
    """Decorator: makes a constructor available to `create_model` and to every config as `model=name`.

    The constructor takes `conv` (a conv factory), `num_classes`, `in_chans` and options of its own as keywords.
    """
    return MODELS.register(name)


def list_models(filter: str = "*", pretrained: bool = False) -> list[str]:
    """The names of all registered models, or of the published weights, that match a shell pattern, sorted."""
    return fnmatch.filter(PUBLISHED if pretrained else MODELS, filter)


def create_model(
    name: str,
    conv: str | Mapping[str, Any] | ConvFactory | None = None,
    *,
    num_classes: int | None = None,
    in_chans: int | None = None,
    pretrained: bool | str | Path = False,
    features_only: bool = False,
    out_indices: Sequence[int] | None = None,
    changes: Mapping[str, Mapping[str, Any]] | None = None,
    **options: Any,
) -> nn.Module:
    """Make the model registered as `name`.

    Args:
        name: see `list_models()`; or a name of published weights, see `list_models(pretrained=True)`.
        conv: name of a basis, a `ConvSpec`, its dictionary, or any callable with nn.Conv's arguments; None for "gram",
            or for the convolutions of the published weights.
        num_classes: number of outputs; 0 leaves the head out. None for 1000, or as many as the published weights have.
        in_chans: channels of the input. None for 3, or those of the published weights.
        pretrained: load the published weights of that name: those of the package or of the Hugging Face Hub (True), or
            from a folder with the files of their repository. Other `num_classes` than theirs get a new head.
        features_only: make a `FeatureMaps` of the network: its output is the list of its stages' maps.
        out_indices: which of them; None for all. Only with `features_only`.
        changes: layers with other channels or another basis than the model gives them, as pruning and refining leave
            them in `model.config`; see `models.changes`. Their weights are arbitrary until they are loaded.
        **options: options of the model.

    Returns:
        The model; `model.config` holds the arguments that make it again (`conv` is None for a factory of one's own).

    Raises:
        ValueError: unknown model or option (the nearest is named), a value out of range, or weights that cannot be had
            or do not fit.
        TypeError: `conv` is none of the above.

    Example:
        >>> import torch, kanvolution as kv
        >>> model = kv.create_model("simple4", conv="gram", num_classes=10, in_chans=1)
        >>> model(torch.randn(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """
    published: Published | None = None
    if name in PUBLISHED:
        published = PUBLISHED[name]
        num_classes = published.num_classes if num_classes is None else num_classes
        in_chans = published.in_chans if in_chans is None else in_chans
        if conv is not None or (pretrained and in_chans != published.in_chans):
            raise ValueError(
                f"{name!r} has its own convolutions and {published.in_chans} channels: conv (={conv!r}) must be None, "
                f"and in_chans (={in_chans}) {published.in_chans}; without the weights, use "
                f"create_model({published.architecture!r}, ...)"
            )
        name, conv, options = published.architecture, published.conv, {**published.options, **options}
    elif pretrained:
        raise ValueError(f"model {name!r} has no published weights; these have: {', '.join(PUBLISHED)}")
    if name not in MODELS:
        raise ValueError(unknown_name("model", name, [*MODELS, *PUBLISHED]))
    constructor = MODELS[name]
    known = [p for p in inspect.signature(constructor).parameters if p not in ("conv", "num_classes", "in_chans")]
    for option in options:
        if option not in known:
            raise ValueError(unknown_name(f"option of model {name!r}", option, known or ["(none)"]))
    num_classes = integer_at_least("num_classes", 1000 if num_classes is None else num_classes, 0)
    in_chans = integer_at_least("in_chans", 3 if in_chans is None else in_chans, 1)
    if out_indices is not None and not features_only:
        raise ValueError(f"out_indices (={list(out_indices)}) needs features_only=True")
    factory = resolve_conv("gram" if conv is None else conv)
    if published is not None and pretrained:
        model = constructor(conv=factory, num_classes=published.num_classes, in_chans=in_chans, **options)
        published.load(model, None if pretrained is True else pretrained)
        if num_classes != published.num_classes and isinstance(model, Network):
            model.reset_classifier(num_classes)
    else:
        model = constructor(conv=factory, num_classes=num_classes, in_chans=in_chans, **options)
    features: dict[str, Any] = {}
    if features_only:
        if not isinstance(model, Network):
            raise ValueError(f"model {name!r} is no Network and has no feature maps; features_only must be False")
        model = FeatureMaps(model, out_indices)
        features = {"features_only": True, "out_indices": list(model.out_indices)}
    if changes:
        apply_changes(model, changes)
    object.__setattr__(
        model,
        "config",
        {
            "name": name,
            "conv": factory.to_dict() if isinstance(factory, ConvSpec) else None,
            "num_classes": num_classes,
            "in_chans": in_chans,
            **features,
            **({"changes": changes} if changes else {}),
            **{key: _plain(value) for key, value in options.items()},
        },
    )
    return model


def _plain(value: Any) -> Any:
    """An option as JSON can hold it, where it can."""
    if isinstance(value, ConvSpec):
        return value.to_dict()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
