"""The model card: README.md of a saved model, with the metadata that the Hugging Face Hub reads."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from typing import Any

from torch import nn

from kanvolution.models.kan import KAN
from kanvolution.models.network import Network

_TAGS = ("kanvolution", "kolmogorov-arnold-network", "pytorch")
# Smallest square image that an example uses.
_SMALLEST = 64


def model_card(
    model: nn.Module,
    config: Mapping[str, Any],
    *,
    source: str,
    data: Mapping[str, Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
    metrics: Mapping[str, float] | None = None,
) -> str:
    """The text of a model card: what the model is, its size and config, and a program that uses it.

    Args:
        model: the network.
        config: what it is made from; see `kanvolution.save_pretrained`.
        source: folder or repository that the program loads.
        data: the description of the data it was trained on, if any (`DataInfo.to_dict`).
        metadata: further entries of the front matter, such as license or datasets.
        metrics: what it reached on the validation images, as shares of 1.
    """
    from huggingface_hub import ModelCardData

    front: dict[str, Any] = {"library_name": "kanvolution", "tags": list(_TAGS)}
    if isinstance(model, Network) and model.pipeline_tag and model.num_classes:
        front["pipeline_tag"] = model.pipeline_tag
    front = {**front, **(metadata or {})}
    name = config.get("name") or config.get("class")
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    frozen = "" if trainable == total else f" ({trainable:,} of them trainable)"
    facts = {
        "Network": f"`{name}`, a `{type(model).__name__}`",
        "Convolutions": _convolutions(config),
        "Parameters": f"{total:,}{frozen}",
        "Input": _input_words(config, data),
        "Output": _output_words(model, config),
        "Data": data and data.get("name"),
        "Measured": ", ".join(f"{key} {100 * value:.2f} %" for key, value in (metrics or {}).items()),
    }
    rows = [f"| {key} | {value} |" for key, value in facts.items() if value]
    description = (inspect.getdoc(type(model)) or "").partition("\n\n")[0]
    return "\n".join(
        [
            "---",
            ModelCardData(**front).to_yaml(),
            "---",
            "",
            f"# {source.rpartition('/')[2]}",
            "",
            "A Kolmogorov-Arnold network of the Python package kanvolution: where a convolution has one number for",
            "each pair of channels and kernel tap, it learns a function of one variable.",
            "",
            *([f"`{name}`: {' '.join(description.split())}", ""] if description else []),
            "| | |",
            "|---|---|",
            *rows,
            "",
            "## Use",
            "",
            "```python",
            *_program(model, config, source, data),
            "```",
            "",
            "## Config",
            "",
            "```json",
            json.dumps(config, indent=2),
            "```",
            "",
        ]
    )


def _convolutions(config: Mapping[str, Any]) -> str | None:
    if "conv" not in config:
        return f"layers of basis `{config['basis']}`" if "basis" in config else None
    conv = config["conv"]
    if conv is None:
        return "a factory that is not in the config"
    structure = conv.get("structure")
    return f"basis `{conv['basis']}`" + (f", structure `{structure['name']}`" if structure else "")


def _image_size(model: nn.Module, data: Mapping[str, Any] | None) -> tuple[int, int]:
    if data:
        height, width = data["image_size"]
        return height, width
    side = max([_SMALLEST, *(2 * info.reduction for info in getattr(model, "feature_info", ()))])
    return side, side


def _input_words(config: Mapping[str, Any], data: Mapping[str, Any] | None) -> str | None:
    if "sizes" in config:
        return f"[*, {config['sizes'][0]}]"
    size = "H, W" if not data else "{}, {}".format(*data["image_size"])
    mean_std = "" if not data else f", normalised with mean {data['mean']} and std {data['std']}"
    return f"[N, {config['in_chans']}, {size}]{mean_std}" if "in_chans" in config else None


def _output_words(model: nn.Module, config: Mapping[str, Any]) -> str | None:
    if config.get("features_only"):
        return "feature maps: " + ", ".join(
            f"{info.channels} channels at 1/{info.reduction}"
            for info in model.feature_info  # type: ignore[union-attr]
        )
    if "sizes" in config:
        return f"[*, {config['sizes'][-1]}]"
    return f"{config['num_classes']} classes" if config.get("num_classes") else None


def _program(model: nn.Module, config: Mapping[str, Any], source: str, data: Mapping[str, Any] | None) -> list[str]:
    conv = ", conv=..." if "conv" in config and config["conv"] is None else ""
    lines = ["import torch", "import kanvolution as kv", "", f'model = kv.from_pretrained("{source}"{conv})']
    if isinstance(model, KAN):
        shape: tuple[int, ...] = (1, model.sizes[0])
    elif isinstance(model, Network) or config.get("features_only"):
        shape = (1, config["in_chans"], *_image_size(model, data))
    else:
        return lines
    lines.append(f"x = torch.randn({', '.join(map(str, shape))})")
    lines.append("maps = model(x)" if config.get("features_only") else "y = model(x)")
    return lines
