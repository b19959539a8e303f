import inspect

import pytest
import torch

import kanvolution as kv
from kanvolution.configs import GROUPS, ConfigError, compose, read_config
from kanvolution.configs.manual import manual
from kanvolution.data import list_data


def test_the_default_config_is_the_demo() -> None:
    values = compose().values
    assert values["model"]["name"] == "simple4" and values["conv"]["basis"] == "gram"
    assert values["data"]["name"] == "digits" and values["seed"] == 0 and values["output_dir"] is None


@pytest.mark.parametrize("basis", kv.list_bases())
def test_every_basis_is_a_choice_with_its_options_and_defaults(basis: str) -> None:
    conv = compose([f"conv={basis}", "conv.dropout=0.1"]).values["conv"]
    assert kv.ConvSpec(**conv).basis == basis and conv["dropout"] == 0.1
    for name, parameter in inspect.signature(kv.bases.BASES[basis]).parameters.items():
        if name not in ("in_channels", "out_channels", "groups"):
            default = list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default
            assert conv[name] == default


def test_every_choice_of_every_group_composes() -> None:
    names = {group: list(definition.names()) for group, definition in GROUPS.items()}
    for i in range(max(map(len, names.values()))):  # one of each group at a time
        chosen = {group: choices[i % len(choices)] for group, choices in names.items()}
        composed = compose([f"{group}={choice}" for group, choice in chosen.items()], allow_missing=True)
        assert {group: composed.choices[group] for group in chosen} == chosen


@pytest.mark.parametrize(
    "experiment", ["mnist", "mnist_small", "mnist_small_plain", "cifar10", "cifar10_plain", "cifar10_small"]
)
def test_every_experiment_composes(experiment: str) -> None:
    values = compose([f"experiment={experiment}", "trainer.epochs=3"]).values
    assert values["data"]["name"] == experiment.partition("_")[0] and values["trainer"]["epochs"] == 3
    assert values["schedule"]["name"] == "onecycle"


@pytest.mark.parametrize(
    ("experiment", "in_chans", "limit"),
    [("mnist_small", 1, 300_000), ("cifar10_small", 3, 400_000), ("cifar10", 3, 5_000_000)],
)
def test_plain_twins_have_the_recipe_and_the_size_of_their_network(experiment: str, in_chans: int, limit: int) -> None:
    values = [compose([f"experiment={name}"]).values for name in (experiment, f"{experiment}_plain")]
    assert values[0]["conv"]["basis"] != "identity" and values[1]["conv"]["basis"] == "identity"
    for config in values:
        config["optim"].pop("no_decay")  # patterns of parameters that plain convolutions do not have
    for group in ("data", "task", "optim", "schedule", "trainer"):
        assert values[0][group] == values[1][group]
    sizes = []
    for config in values:
        with torch.device("meta"):
            spec = dict(config["conv"])
            model = {key: value for key, value in config["model"].items() if value is not None}
            network = kv.create_model(conv=kv.ConvSpec(**spec), num_classes=10, in_chans=in_chans, **model)
        sizes.append(sum(p.numel() for p in network.parameters()))
    assert max(sizes) <= limit and abs(sizes[0] - sizes[1]) < 0.01 * sizes[0], sizes


def test_what_a_user_registers_is_a_choice_until_it_is_removed() -> None:
    @kv.register_model("mine")
    def mine(conv, num_classes: int, in_chans: int, width: int = 7):
        """A model.

        Args:
            width: how wide it is.
        """

    try:
        assert compose(["model=mine", "model.width=9"]).values["model"] == {"name": "mine", "width": 9}
        assert "how wide it is" in manual(["model=mine"])
        with pytest.raises(ConfigError, match="could not be converted to Integer"):
            compose(["model=mine", "model.width=wide"])
    finally:
        kv.models.MODELS.unregister("mine")
    with pytest.raises(ConfigError, match="unknown choice of model 'mine'"):
        compose(["model=mine"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("conv.degre=2", "unknown key 'conv.degre'. Did you mean 'conv.degree'"),
        ("trainer.epoch=2", "Did you mean 'trainer.epochs'"),
        ("epochs=2", "Did you mean 'trainer.epochs'"),
        ("lr=2", "Did you mean 'optim.lr'"),
        ("optim.beta=2", "Did you mean 'optim.beta1'|Did you mean 'optim.beta2'"),
        ("sed=2", "Did you mean 'seed'"),
        ("dat=digits", "Did you mean 'data'"),
        ("conv=grom", "unknown choice of conv 'grom'. Did you mean 'gram'"),
        ("model=simpel4", "Did you mean 'simple4'"),
        ("data=digit", "Did you mean 'digits'"),
        ("optim=adam", "Did you mean 'adamw'"),
        ("experiment=mnst", "Did you mean 'mnist'"),
        (
            "experiment=dsb2018_unet model=u2net_small",
            "experiment=dsb2018_unet sets model.width, which the chosen model does not have; leave out model=",
        ),
        ("trainer.epochs=two", "trainer.epochs: Value 'two' of type 'str' could not be converted to Integer"),
        ("conv.degree=1.5", "conv.degree: Value '1.5'"),
        ("optim.lr=null", "optim.lr"),
        ("trainer.cpu=perhaps", "trainer.cpu: Value 'perhaps'"),
        ("model.channels=[1,x]", "could not be converted to Integer"),
        ("data=npz", "data.path has no default; pass data.path=VALUE"),
        ("nonsense", "write key=value"),
        ("conv=gram,spline", "holds several values"),
        ("+conv.new=1", "none is added"),
        ("~conv.degree", "none is added or removed"),
        ("trainer=3", "unknown choice of trainer 3"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_nearest(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        compose(override.split() if override.startswith("experiment=") else [override])
    assert "\n" not in str(caught.value)


def test_options_of_the_norm_and_a_structure_are_given_as_dictionaries() -> None:
    conv = compose(["conv.norm_options.eps=1e-3", "conv.structure={name: bottleneck, reduction: 2}"]).values["conv"]
    spec = kv.ConvSpec(**conv)
    assert spec.norm_options == {"eps": 1e-3} and spec.to_dict()["structure"]["reduction"] == 2


def test_hydras_own_state_is_left_as_it_was() -> None:
    from hydra.core.config_store import ConfigStore
    from hydra.core.global_hydra import GlobalHydra

    store = ConfigStore.instance()
    store.store(group="model", name="of_another_program", node={"a": 1})
    before = dict(store.repo)
    try:
        compose()
        with pytest.raises(ConfigError):
            compose(["conv=x"])
        assert store.repo == before and not GlobalHydra.instance().is_initialized()
    finally:
        del store.repo["model"]


def test_the_saved_text_is_the_config() -> None:
    from omegaconf import OmegaConf

    composed = compose(["conv=spline", "seed=3"])
    assert OmegaConf.to_container(OmegaConf.create(composed.text)) == composed.values


def test_the_manual_names_all_choices_and_all_keys_with_defaults() -> None:
    text = manual()
    for name in (*kv.list_bases(), *kv.list_models(), *list_data(), "adamw", "onecycle", "classification"):
        assert name in text
    for key in ("conv.degree=3", "trainer.epochs=", "optim.lr=", "seed=0", "output_dir=null", "data.augment=shift"):
        assert f"\n  {key}" in text
    assert "conv.grid_size=5" in manual(["conv=spline"])
    assert "data.path=VALUE (must be given)" in manual(["data=npz"])


class TestEarlierConfig:
    """`compose(base=...)`: an earlier config in place of the defaults."""

    earlier = compose(
        ["conv=spline", "conv.grid_size=7", "conv.norm_options.eps=1e-3", "data=npz", "data.path=a.npz", "seed=4"]
    ).values

    def test_alone_it_is_the_config(self) -> None:
        assert compose(base=self.earlier).values == self.earlier

    def test_keys_are_changed_and_the_others_stay(self) -> None:
        values = compose(["conv.grid_size=3", "data.path=b.npz"], base=self.earlier).values
        assert values["conv"] == {**self.earlier["conv"], "grid_size": 3}
        assert values["data"] == {**self.earlier["data"], "path": "b.npz"} and values["seed"] == 4

    def test_a_group_chosen_anew_begins_with_its_defaults(self) -> None:
        values = compose(["conv=gram"], base=self.earlier).values
        assert values["conv"] == compose().values["conv"] and values["data"] == self.earlier["data"]

    def test_only_the_groups_asked_for_are_taken(self) -> None:
        values = compose(base=self.earlier, groups=["data"]).values
        assert values["data"] == self.earlier["data"] and values["conv"]["basis"] == "gram" and values["seed"] == 0

    def test_a_choice_that_is_gone_is_named(self) -> None:
        earlier = {**self.earlier, "model": {"name": "mine", "width": 3}}
        with pytest.raises(ConfigError, match="unknown choice of model 'mine'"):
            compose(base=earlier)

    def test_it_is_read_from_the_folder_of_a_run(self, tmp_path) -> None:
        (tmp_path / "config.yaml").write_text(compose(["seed=5"]).text)
        assert read_config(tmp_path) == compose(["seed=5"]).values
        (tmp_path / "config.yaml").write_text("a: [")
        with pytest.raises(ConfigError, match="is damaged"):
            read_config(tmp_path)
        with pytest.raises(ConfigError, match="is not the folder of a `kanvolution train` run"):
            read_config(tmp_path / "nowhere")
