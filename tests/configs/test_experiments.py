from typing import Any

import numpy as np
import pytest
import torch

import kanvolution as kv
from kanvolution import data
from kanvolution.configs import EXPERIMENTS, GROUPS, Experiment, compose, register_experiment
from kanvolution.configs.manual import choices_of
from kanvolution.data import DataInfo, DataSets, TensorImages
from kanvolution.train import run_job
from kanvolution.train.progress import Silent

CLASSES = {"mnist": 10, "cifar10": 10, "cifar100": 100, "tiny_imagenet": 200, "imagenet1k": 1000}
# Every model and basis, and every variant of one of them; the others run as slow tests.
FEW = [
    name
    for name in EXPERIMENTS
    if (name.startswith("cifar10_simple4") and name.count("_") == 2) or name.startswith("mnist_simple8_gram")
] + [name for name in EXPERIMENTS if "simple" not in name]


def composed(name: str, overrides: tuple[str, ...] = ()) -> dict[str, Any]:
    place = ["data.path=nowhere"] if "imagenet" in name else []
    return compose([f"experiment={name}", *place, *overrides]).values


def test_there_is_an_experiment_for_each_number_that_torch_conv_kan_publishes() -> None:
    for dataset in ("mnist", "cifar10", "cifar100"):
        for model in ("simple4", "simple8"):
            for conv in ("spline", "rbf", "legendre", "chebyshev", "gram"):
                names = [f"{dataset}_{model}_{conv}{variant}" for variant in ("", "_instance", "_affine", "_l1")]
                assert all(0 < EXPERIMENTS[name].published["top1"] < 1 for name in names)
            assert EXPERIMENTS[f"{dataset}_{model}_identity"].published
            assert EXPERIMENTS[f"{dataset}_{model}_wavelet_edge"].published
    assert EXPERIMENTS["cifar10_simple8_gram"].published == {"top1": 0.8414}
    assert EXPERIMENTS["cifar100_simple8_gram"].published == {"top1": 0.5927}
    assert EXPERIMENTS["imagenet1k_vgg11v4_gram_bottleneck"].published["top5"] == 0.8846


def test_settings_are_those_of_torch_conv_kan() -> None:
    values = composed("cifar10_simple8_gram_l1")
    assert values["data"]["name"] == "cifar10" and values["data"]["augment"] == "autoaugment_cifar"
    assert values["trainer"]["epochs"] == 150 and values["trainer"]["batch_size"] == 128
    assert values["optim"]["lr"] == 1e-4 and values["schedule"]["gamma"] == 0.975
    assert values["conv"]["dropout"] == 0.25 and values["model"]["drop_rate"] == 0.5
    assert values["task"]["penalties"]["weight_l1"] == 1e-5
    assert composed("mnist_simple4_wavelet_edge")["trainer"]["batch_size"] == 64


def test_keys_and_groups_beside_an_experiment_have_the_last_word() -> None:
    values = composed("cifar10_simple8_wavelet_edge", ("trainer.epochs=3", "conv=spline", "seed=5"))
    assert values["trainer"]["epochs"] == 3 and values["seed"] == 5
    assert values["conv"]["basis"] == "spline" and values["conv"]["dropout"] == 0.25 and "mix" not in values["conv"]
    assert composed("cifar10_simple8", ("conv=fourier",))["conv"]["basis"] == "fourier"


# Parameters as the report states them. It has a bias before the norm in the plain convolution; ours has none there,
# and has one where the norm acts on the input.
@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("mnist_simple4_identity", 101066 - 480),
        ("mnist_simple4_spline_affine", 3489774),
        ("cifar10_simple8_spline", 40696610),
        ("cifar100_simple4_spline_instance", 3517128),
        ("mnist_simple4_rbf", 3489260 + 480),
        ("mnist_simple4_legendre", 1940330),
        ("cifar100_simple8_legendre_affine", 22659252),
        ("mnist_simple4_chebyshev", 391754),
        ("mnist_simple4_chebyshev_l1", 2327690),
        ("cifar10_simple8_chebyshev_l1", 27133962),
        ("mnist_simple4_gram", 488826),
        ("mnist_simple4_gram_l1", 1940346),
        ("mnist_simple4_gram_instance", 487866),
        ("cifar100_simple8_gram", 22659284),
        ("mnist_simple4_wavelet_edge", 951370),
        ("cifar10_simple8_wavelet_edge", 10732202),
    ],
)
def test_networks_have_the_published_number_of_parameters(name: str, parameters: int) -> None:
    values = composed(name)
    options = {key: value for key, value in values["model"].items() if key != "name"}
    dataset = values["data"]["name"]
    with torch.device("meta"):
        model = kv.create_model(
            values["model"]["name"],
            kv.ConvSpec(**values["conv"]),
            num_classes=CLASSES[dataset],
            in_chans=1 if dataset == "mnist" else 3,
            **options,
        )
    assert sum(p.numel() for p in model.parameters()) == parameters


def run_two_steps(name: str, tmp_path, monkeypatch) -> None:
    """The experiment with narrower layers, on a few random images of a few classes."""
    values = composed(name, ("trainer.epochs=1", "tracker=none"))
    if "simple" in name:
        narrow = 0.125 if values["model"]["groups"] == 1 else 0.25  # the groups divide the channels still
    else:
        narrow = 0.25 / values["model"]["width_scale"]
    if name.startswith("tiny_imagenet_densenet"):
        values["model"].update(layers=[1, 1, 1, 1])
    else:
        values["model"]["width_scale"] *= narrow
    channels = 1 if values["data"]["name"] == "mnist" else 3
    size = 64 if "imagenet" in name else 32
    random = np.random.default_rng(0)
    images = torch.from_numpy(random.integers(0, 256, (8, channels, size, size), dtype=np.uint8))
    info = DataInfo("random", channels, (size, size), ("a", "b"), (0.5,) * channels, (0.25,) * channels)
    sets = TensorImages(images, torch.arange(8) % 2)
    source = data.DATA[values["data"]["name"]]
    monkeypatch.setitem(data.DATA._entries, values["data"]["name"], type(source)(load, source.augment))
    monkeypatch.setattr("tests.configs.test_experiments.SETS", DataSets(sets, sets, info))
    values["data"] = {key: values["data"][key] for key in ("name", "augment")}
    values["trainer"] = {**values["trainer"], "batch_size": 4, "cpu": True}
    result = run_job({**values, "output_dir": str(tmp_path / "run")}, progress=Silent())
    assert np.isfinite(result.metrics["loss"])


SETS: Any = None


def load() -> DataSets:
    return SETS


@pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*")
@pytest.mark.parametrize("name", FEW)
def test_experiments_run_two_steps(name: str, tmp_path, monkeypatch) -> None:
    run_two_steps(name, tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if name not in FEW])
def test_all_other_experiments_run_two_steps(name: str, tmp_path, monkeypatch) -> None:
    run_two_steps(name, tmp_path, monkeypatch)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_names_choices_and_keys_that_exist(name: str) -> None:
    experiment = EXPERIMENTS[name]
    assert name.startswith(experiment.choices["data"])
    for group, values in experiment.values.items():
        choice = experiment.choices.get(group, {"task": "classification", "conv": "gram"}.get(group, "default"))
        assert choice in GROUPS[group].names()
        assert set(values) <= {key.name for key in GROUPS[group].keys(choice)}
    kv.ConvSpec(experiment.choices.get("conv", "gram"), **experiment.values["conv"])


@pytest.mark.parametrize("name", [name for name in choices_of("experiment") if name not in EXPERIMENTS])
def test_every_recipe_composes(name: str) -> None:
    values = compose([f"experiment={name}", "data.path=images"]).values
    assert name.startswith(values["data"]["name"]) or values["task"]["name"] == "segmentation"


def test_an_experiment_of_ones_own() -> None:
    mine = Experiment("mine", {"conv": "rbf", "optim": "sgd"}, {"conv": {"grid_size": 4}, "trainer": {"epochs": 2}})
    register_experiment("mine", mine)
    try:
        values = compose(["experiment=mine"]).values
    finally:
        EXPERIMENTS.unregister("mine")
    assert values["conv"]["basis"] == "rbf" and values["conv"]["grid_size"] == 4
    assert values["optim"]["name"] == "sgd" and values["trainer"]["epochs"] == 2
