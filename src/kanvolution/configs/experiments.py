"""Experiments by name: choices and values of several groups that belong together.

Those of torch-conv-kan are made here from tables, one experiment for each number that it publishes, with its settings.
Recipes of our own are the YAML files in `experiment/`. Both are chosen by `experiment=NAME`, files of a user by
`experiment=FILE.yaml`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kanvolution.extras import require
from kanvolution.registry import Registry

if TYPE_CHECKING:
    from kanvolution.configs.compose import Composed


@dataclass(frozen=True)
class Experiment:
    """Settings that belong together.

    Args:
        help: a line on what it is.
        choices: the choice of each group that it names ({"model": "simple8"}).
        values: keys by group ({"trainer": {"epochs": 150}}).
        published: metrics that someone else reports for these settings, as shares of 1.
    """

    help: str
    choices: Mapping[str, str]
    values: Mapping[str, Mapping[str, Any]]
    published: Mapping[str, float] = field(default_factory=dict)

    def node(self) -> dict[str, Any]:
        """The experiment as a config of Hydra."""
        defaults: list[Any] = [{f"override /{group}": choice} for group, choice in self.choices.items()]
        return {"defaults": [*defaults, "_self_"], **copy.deepcopy({k: dict(v) for k, v in self.values.items()})}


EXPERIMENTS: Registry[Experiment] = Registry("experiment")


def register_experiment(name: str, experiment: Experiment) -> None:
    """Make an experiment available to every config as `experiment=name`. Raises ValueError when the name is taken."""
    EXPERIMENTS.register(name)(experiment)


def experiment_of(composed: Composed) -> dict[str, Any]:
    """A config as an experiment: its choices and all of its values, but for the folder of its run and its tracker.

    Written as YAML, `experiment=FILE.yaml` takes it.
    """
    groups = [name for name in composed.values if name in composed.choices and name != "tracker"]
    values = {
        name: {key: value for key, value in composed.values[name].items() if key not in ("name", "basis")}
        for name in groups
    }
    choices = [{f"override /{name}": composed.choices[name]} for name in groups]
    return {"defaults": [*choices, "_self_"], "seed": composed.values["seed"], **values}


def read_experiment(path: str | Path) -> dict[str, Any]:
    """The experiment of a YAML file, in the form of those in `experiment/`.

    Raises:
        ValueError: there is no such file, or it holds no keys.
    """
    yaml = require("yaml", "train")
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"experiment={path}: there is no such file that can be read") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"experiment={path} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict) or not content:
        raise ValueError(f"experiment={path} holds no keys; write e.g. trainer: {{epochs: 5}}")
    return content


# The layers of torch-conv-kan as a ConvSpec: choices of its own, where its dropout and its norm act. Its Legendre
# layers scale by the range of the batch, ours by tanh.
_CONVS: dict[str, dict[str, Any]] = {
    "identity": {"act": "relu"},
    "spline": {"dropout_site": "output", "base": "gelu", "grid_range": [-1.0, 1.0]},
    "rbf": {"dropout_site": "poly", "norm_site": "functions"},
    "legendre": {"dropout_site": "poly"},
    "chebyshev": {"dropout_site": "output"},
    "gram": {"dropout_site": "poly"},
    "wavelet_edge": {"dropout_site": "poly", "mix": True},
}
_NORMS: dict[str, dict[str, Any]] = {
    "": {"norm": "batch"},
    "instance": {"norm": "instance", "norm_options": {"affine": False}},
    "affine": {"norm": "instance", "norm_options": {"affine": True}},
    "l1": {"norm": "batch"},
}
_AUGMENTS = {"mnist": "affine_jitter", "cifar10": "autoaugment_cifar", "cifar100": "autoaugment_cifar"}

# torch-conv-kan, reports/mnist_cifar_baseline.md, "Updated baseline": top-1 in percent on MNIST, CIFAR-10, CIFAR-100.
# "" is batch norm, "affine" instance norm with parameters, "instance" without, "l1" batch norm and penalised weights.
# (The plain convolution has batch norm, as the text and the numbers of parameters say.)
_BASELINES: dict[str, dict[str, dict[str, tuple[float, float, float]]]] = {
    "simple4": {
        "identity": {"": (99.42, 73.18, 42.29)},
        "spline": {
            "instance": (96.80, 39.31, 8.24),
            "affine": (99.41, 60.66, 22.24),
            "": (99.00, 52.08, 21.78),
            "l1": (98.89, 53.56, 22.62),
        },
        "rbf": {
            "instance": (99.26, 72.19, 41.40),
            "affine": (99.01, 70.90, 41.02),
            "": (97.65, 64.95, 34.32),
            "l1": (95.62, 61.45, 30.45),
        },
        "legendre": {
            "instance": (98.50, 45.41, 11.37),
            "affine": (99.53, 71.33, 30.78),
            "": (84.85, 10.28, 5.97),
            "l1": (93.87, 10.16, 4.40),
        },
        "chebyshev": {
            "instance": (93.98, 10.03, 0.99),
            "affine": (11.36, 10.10, 1.06),
            "": (97.62, 52.01, 23.17),
            "l1": (98.47, 61.54, 28.73),
        },
        "gram": {
            "instance": (98.21, 51.02, 13.69),
            "affine": (99.46, 65.33, 24.88),
            "": (99.49, 65.84, 38.87),
            "l1": (99.44, 78.07, 47.36),
        },
        "wavelet_edge": {"": (99.23, 73.63, 41.50)},
    },
    "simple8": {
        "identity": {"": (99.63, 83.05, 57.52)},
        "spline": {
            "instance": (99.52, 76.27, 26.58),
            "affine": (99.53, 74.84, 37.79),
            "": (99.37, 74.66, 36.18),
            "l1": (99.51, 70.46, 36.67),
        },
        "rbf": {
            "instance": (99.45, 81.21, 48.80),
            "affine": (99.60, 83.04, 50.39),
            "": (99.49, 80.69, 43.32),
            "l1": (99.46, 81.32, 45.14),
        },
        "legendre": {
            "instance": (99.52, 66.95, 11.48),
            "affine": (99.55, 76.48, 31.50),
            "": (49.97, 15.97, 1.74),
            "l1": (59.03, 16.20, 3.31),
        },
        "chebyshev": {
            "instance": (9.76, 10.03, 0.99),
            "affine": (11.36, 10.10, 0.99),
            "": (99.32, 62.14, 25.01),
            "l1": (99.46, 65.99, 33.71),
        },
        "gram": {
            "instance": (99.60, 82.82, 29.39),
            "affine": (99.68, 83.82, 48.56),
            "": (99.09, 84.14, 59.27),
            "l1": (99.26, 84.32, 58.07),
        },
        "wavelet_edge": {"": (99.57, 85.37, 55.43)},
    },
}


def _groups_and_degree(model: str, conv: str, variant: str) -> tuple[int, dict[str, int]]:
    """Groups and degree; the numbers of parameters in the report tell them apart."""
    grouped = conv == "identity" or (model == "simple4" and conv in ("gram", "chebyshev") and variant != "l1")
    return (4 if grouped else 1), ({"degree": 5} if conv == "chebyshev" and variant == "l1" else {})


def _baselines() -> Iterator[tuple[str, Experiment]]:
    for model, convs in _BASELINES.items():
        for data in _AUGMENTS:  # for any other basis
            yield f"{data}_{model}", _baseline(data, model, "", "", 1, {}, None)
        for conv, variants in convs.items():
            for variant, scores in variants.items():
                groups, degree = _groups_and_degree(model, conv, variant)
                for data, score in zip(_AUGMENTS, scores, strict=True):
                    name = "_".join(filter(None, (data, model, conv, variant)))
                    yield name, _baseline(data, model, conv, variant, groups, degree, score)


def _baseline(
    data: str, model: str, conv: str, variant: str, groups: int, degree: Mapping[str, int], score: float | None
) -> Experiment:
    choices = {"data": data, "model": model, "optim": "adamw", "schedule": "exponential"}
    return Experiment(
        f"torch-conv-kan's baseline of {model[6:]} layers on {data}",
        {**choices, "conv": conv} if conv else choices,
        {
            "data": {"augment": _AUGMENTS[data]},
            "model": {"groups": groups, "drop_rate": 0.5},
            "conv": {
                **_CONVS.get(conv, {}),
                **_NORMS[variant],
                **degree,
                "dropout": 0.0 if conv == "identity" else 0.25,
            },
            "optim": {"lr": 1e-4, "weight_decay": 1e-5},
            "schedule": {"gamma": 0.975, "warmup_epochs": 0.0},
            "task": {"penalties": {"weight_l1": 1e-5 if variant == "l1" else 0.0}},
            "trainer": {"epochs": 150, "batch_size": 64 if conv == "wavelet_edge" else 128, "grad_clip": 0.0},
        },
        {} if score is None else {"top1": round(score / 100, 4)},
    )


def _large(name: str, help: str, values: dict[str, dict[str, Any]], **published: float) -> None:
    """With AdamW and a polynomial schedule that ends at a rate of 1e-7; `name` tells data, model and conv."""
    data, model, conv = next(
        (data, *name.removeprefix(f"{data}_").split("_")[:2])
        for data in ("cifar10", "tiny_imagenet", "imagenet1k")
        if name.startswith(f"{data}_")
    )
    choices = {"data": data, "model": model, "conv": conv, "optim": "adamw", "schedule": "polynomial"}
    schedule = {**values["schedule"], "final": 1e-7 / values["optim"]["lr"]}
    register_experiment(
        name, Experiment(f"torch-conv-kan's {help}", choices, {**values, "schedule": schedule}, published)
    )


def _imagenet(
    name: str, help: str, lr: float, conv: Mapping[str, Any], model: Mapping[str, Any], **published: float
) -> None:
    _large(
        name,
        f"{help} on ImageNet-1k",
        {
            "data": {"augment": "autoaugment_imagenet"},
            "model": {"drop_rate": 0.25, **model},
            "conv": {"degree": 5, "dropout_site": "poly", **conv},
            "task": {"label_smoothing": 0.05},
            "optim": {"lr": lr, "weight_decay": 5e-6},
            "schedule": {"warmup_epochs": 0.66, "power": 0.3},
            "trainer": {"epochs": 200, "batch_size": 128, "grad_clip": 2.0},
        },
        **published,
    )


for _name, _experiment in _baselines():
    register_experiment(_name, _experiment)

# configs/cifar10-reskanet.yaml, tiny-imagenet-reskanet.yaml and imagenet1k.yaml of torch-conv-kan; the numbers of its
# README and of reports/imagenet1k-vggs.md. Warm-ups, which it counts in steps, are in epochs of its batch size.
_PLAIN_INSTANCE = {"norm": "instance", "norm_options": {"affine": False}}
_TINY: dict[str, dict[str, Any]] = {
    "data": {"augment": "autoaugment"},
    "task": {"label_smoothing": 0.05, "penalties": {"activation_l1": 5e-6, "activation_l2": 5e-6}},
    "optim": {"lr": 5e-4, "weight_decay": 5e-6},
    "schedule": {"warmup_epochs": 19.2, "power": 2.0},
}
_large(
    "cifar10_resnet18_legendre",
    "ResKANet 18 on CIFAR-10",
    {
        "data": {"augment": "autoaugment"},
        "model": {
            **{"stem_kernel": 3, "stem_stride": 1, "stem_pool": False},
            **{"widths": [32, 64, 128, 256], "groups": 2},
        },
        "conv": _PLAIN_INSTANCE,
        "task": {"penalties": {"activation_l1": 1e-6, "activation_l2": 1e-5}},
        "optim": {"lr": 1e-4, "weight_decay": 1e-4},
        "schedule": {"warmup_epochs": 0.02, "power": 1.0},
        "trainer": {"epochs": 75, "batch_size": 96, "grad_clip": 2.0},
    },
    top1=0.8417,
    auc_ovo=0.985,
)
_large(
    "tiny_imagenet_resnet18_legendre",
    "ResKANet 18 on Tiny ImageNet",
    {
        **_TINY,
        "model": {"widths": [16, 32, 64, 128], "drop_rate": 0.25},
        "conv": {**_PLAIN_INSTANCE, "dropout": 0.15, "dropout_site": "poly"},
        "trainer": {"epochs": 75, "batch_size": 256, "grad_clip": 2.0},
    },
    top1=0.2862,
    top5=0.5549,
    auc_ovo=0.932,
)
_large(
    "tiny_imagenet_densenet121_gram",
    "DenseKANet 121 on Tiny ImageNet",
    {
        **_TINY,
        "model": {"drop_rate": 0.25},
        "conv": {"norm": "instance", "dropout": 0.15, "dropout_site": "poly"},
        "trainer": {"epochs": 250, "batch_size": 256, "grad_clip": 2.0},
    },
    top1=0.4061,
    top5=0.6508,
    auc_ovo=0.957,
)
_INSTANCE = {"norm": "instance", "dropout": 0.15}
_BOTTLENECK = {"norm": "batch", "dropout_kind": "noise", "structure": {"name": "bottleneck"}}
_WIDE = {"width_scale": 2.0}
_imagenet("imagenet1k_vgg11v2_gram", "VGG 11v2", 9e-4, _INSTANCE, _WIDE, top1=0.591, top5=0.8229, auc_ovo=0.9943)
_imagenet("imagenet1k_vgg11v4_gram", "VGG 11v4", 9e-4, _INSTANCE, _WIDE, top1=0.6117, top5=0.8326, auc_ovo=0.9942)
_imagenet(
    "imagenet1k_vgg11v4_gram_bottleneck",
    "VGG 11v4 of bottlenecks",
    5e-4,
    {**_BOTTLENECK, "dropout": 0.05},
    _WIDE,
    top1=0.685,
    top5=0.8846,
    auc_ovo=0.9961,
)
# torch-conv-kan publishes the settings of this one, and no number.
_imagenet(
    "imagenet1k_resnet50_gram_bottleneck",
    "ResNet 50 of bottlenecks",
    9e-4,
    {**_BOTTLENECK, "dropout": 0.15},
    {"widths": [16, 32, 64, 128]},
)
