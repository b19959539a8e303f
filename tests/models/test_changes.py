"""Changed networks: their configs make them again."""

import json
from pathlib import Path

import pytest
import torch

import kanvolution as kv
from kanvolution.layers.select import select_channels
from kanvolution.models.changes import apply_changes, changes_between
from kanvolution.models.pretrained import record_changes


def changed(conv="gram", **options):
    """A network whose second layer has three outputs, and whose first has functions 0 and 2."""
    torch.manual_seed(0)
    model = kv.create_model("simple4", conv, num_classes=3, in_chans=2, channels=[4, 6, 5, 4], **options).eval()
    index = torch.tensor([0, 3, 5])
    first, second, third = (model.stages[i].conv for i in range(3))
    select_channels(second, outputs=index)
    if model.stages[1].norm is not None:
        select_channels(model.stages[1].norm, outputs=index)
    select_channels(third, inputs=index)
    weight = first.weight.detach().unflatten(1, (2, -1))[:, :, [0, 2]].flatten(1, 2)
    first.set_basis(first.basis.kept([0, 2]), weight)
    model.set_feature_channels([4, 3, 5, 4])
    record_changes(model)
    return model


def x():
    return torch.randn(2, 2, 12, 12, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("basis", [name for name in kv.list_bases() if name not in ("identity", "wavelet_edge")])
@pytest.mark.parametrize("site", ["output", "functions"])
def test_saved_and_loaded(basis, site, tmp_path: Path) -> None:
    model = changed(kv.ConvSpec(basis, norm_site=site))
    again = kv.from_pretrained(model.save_pretrained(tmp_path / "a"))
    assert torch.equal(again(x()), model(x()))
    assert again.config == json.loads(json.dumps(model.config))
    assert torch.equal(kv.from_pretrained(again.save_pretrained(tmp_path / "b"))(x()), model(x()))
    assert [info.channels for info in again.feature_info] == [4, 3, 5, 4]


def test_the_config_says_what_differs_and_nothing_else() -> None:
    model = changed()
    assert model.config["changes"] == {
        "": {"feature_channels": [4, 3, 5, 4]},
        "stages.0.conv": {"basis": {**kv.create_basis("gram").describe(), "keep": [0, 2]}},
        "stages.1.conv": {"out_channels": 3},
        "stages.1.norm": {"num_features": 3},
        "stages.2.conv": {"in_channels": 3},
    }
    twin = kv.create_model(**json.loads(json.dumps(model.config)))
    assert {k: v.shape for k, v in twin.state_dict().items()} == {k: v.shape for k, v in model.state_dict().items()}
    unchanged = kv.create_model("simple4", num_classes=3)
    record_changes(unchanged)
    assert "changes" not in unchanged.config


def test_another_head_and_feature_maps_of_a_changed_network(tmp_path: Path) -> None:
    model = changed()
    model.reset_classifier(7)
    again = kv.from_pretrained(model.save_pretrained(tmp_path / "head"))
    assert torch.equal(again(x()), model(x())) and again.config["num_classes"] == 7
    maps = kv.models.FeatureMaps(again, (1, 3))
    assert maps.config["changes"].keys() >= {"network", "network.stages.1.conv"}
    loaded = kv.from_pretrained(maps.save_pretrained(tmp_path / "maps"))
    assert all(torch.equal(a, b) for a, b in zip(loaded(x()), maps(x()), strict=True))
    assert [info.channels for info in loaded.feature_info] == [3, 4]


def test_networks_of_linear_layers(tmp_path: Path) -> None:
    model = kv.KAN([5, 6, 2], basis="spline").eval()
    index = torch.tensor([1, 4])
    select_channels(model.layers[0], outputs=index)
    select_channels(model.layers[1], inputs=index)
    record_changes(model)
    again = kv.from_pretrained(model.save_pretrained(tmp_path / "kan"))
    values = torch.randn(4, 5)
    assert torch.equal(again(values), model(values)) and again.config == model.config


def test_a_factory_of_ones_own(tmp_path: Path) -> None:
    def conv(*arguments, **options):
        return kv.KANConv2d(*arguments, **options, basis="legendre", degree=3)

    torch.manual_seed(0)
    model = kv.create_model("simple4", conv, num_classes=3, in_chans=2, channels=[4, 6, 5, 4]).eval()
    select_channels(model.stages[1], outputs=torch.tensor([0, 1]))
    select_channels(model.stages[2], inputs=torch.tensor([0, 1]))
    record_changes(model)
    again = kv.from_pretrained(model.save_pretrained(tmp_path / "own"), conv=conv)
    assert torch.equal(again(x()), model(x()))


def test_bad_changes() -> None:
    def make(changes):
        return kv.create_model("simple4", num_classes=3, channels=[4, 4, 4, 4], changes=changes)

    with pytest.raises(ValueError, match=r"unknown layer in changes 'stages.9.conv'. Did you mean 'stages"):
        make({"stages.9.conv": {"in_channels": 2}})
    with pytest.raises(ValueError, match=r"unknown entry of 'stages.1.conv' in changes 'channels'"):
        make({"stages.1.conv": {"channels": 2}})
    with pytest.raises(ValueError, match=r"stages.1.conv.in_channels \(=9\) in changes must be at most 4"):
        make({"stages.1.conv": {"in_channels": 9}})
    with pytest.raises(ValueError, match=r"must be >= 1"):
        make({"stages.1.conv": {"in_channels": 0}})
    with pytest.raises(ValueError, match="must have one entry for 4 maps"):
        make({"": {"feature_channels": [1]}})


def test_changes_are_idempotent() -> None:
    model = changed()
    twin = kv.create_model(**model.config)
    apply_changes(twin, model.config["changes"])
    assert not changes_between(twin, model)
