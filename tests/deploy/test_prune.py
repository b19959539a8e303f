"""Pruned networks: exact where nothing is lost, really smaller, saved and loaded like any other."""

import json

import pytest
import torch

import kanvolution as kv
from kanvolution.cli import main
from kanvolution.deploy import channel_scores, prune_channels, prune_to
from kanvolution.deploy.prune import operations
from tests.tolerances import assert_close

BASES = [basis for basis in kv.list_bases() if basis != "wavelet_edge"]


def network(conv="gram", channels=(6, 8, 10, 8), **options):
    torch.manual_seed(0)
    model = kv.create_model("simple4", conv=conv, num_classes=3, in_chans=2, channels=list(channels), **options)
    for seed in range(3):
        model.train()(images(seed))
    return model.eval()


def images(seed=0, count=12):
    return torch.randn(count, 2, 16, 16, generator=torch.Generator().manual_seed(seed))


def without_effect(model, keep):
    """The weights by which the layer behind reads the other channels set to zero."""
    stages = list(model.stages)
    readers = [(stage.conv.weight, stage.conv.basis.size) for stage in stages[1:]] + [
        (model.get_classifier().weight, 1)
    ]
    with torch.no_grad():
        for (weight, size), channels in zip(readers, keep, strict=True):
            others = [c for c in range(weight.shape[1] // size) if c not in channels.tolist()]
            for c in others:
                weight[:, c * size : (c + 1) * size] = 0


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("site", ["output", "functions"])
def test_channels_without_effect_leave_and_outputs_stay(basis, site) -> None:
    if site == "functions" and basis == "identity":
        pytest.skip("identity has no functions")
    model = network(kv.ConvSpec(basis, norm_site=site)).double()
    keep = [torch.tensor(c) for c in ([0, 2, 5], [1, 2, 3, 7], [0, 4, 9], [3, 6])]
    without_effect(model, keep)
    small = prune_channels(model, keep)
    assert small.config["channels"] == [3, 4, 3, 2]
    assert_close(small(images().double()).detach(), model(images().double()).detach())


@pytest.mark.parametrize("shared", [False, True])
def test_layers_of_low_rank(shared) -> None:
    model = network(kv.ConvSpec("spline", structure=kv.LowRank(2, shared=shared))).double()
    keep = [torch.tensor(c) for c in ([0, 2, 5], [1, 2, 3, 7], [0, 4, 9], [3, 6])]
    without_effect(model, keep)
    assert_close(prune_channels(model, keep)(images().double()).detach(), model(images().double()).detach())


def test_scores_are_the_variance_that_a_channel_contributes() -> None:
    model = network()
    seen = []
    hook = model.stages[2].conv.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model(images())
    hook.remove()
    layer = model.stages[2].conv
    values = layer.basis(seen[0]).detach().double()  # [N, C, K, H, W]
    weight = layer.weight.detach().double().unflatten(1, values.shape[1:3])
    expected = (values.var((0, 3, 4), correction=0) * weight.square().sum((0, 3, 4))).sum(1)
    scores = channel_scores(model, [images()[:5], images()[5:]]).scores[1]
    assert_close(scores, expected / expected.sum(), 1e-6)
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("share", [0.75, 0.4])
def test_the_network_has_at_most_the_operations_asked_for(share, tmp_path) -> None:
    model = network(channels=(12, 16, 20, 16))
    small = prune_to(model, [images()], share)
    ratio = operations(small, images(count=1)) / operations(model, images(count=1))
    assert 0.75 * share < ratio <= share
    kv.save_pretrained(small, tmp_path / "small")
    assert_close(kv.from_pretrained(tmp_path / "small")(images()).detach(), small(images()).detach())


def test_the_network_is_left_as_it_was() -> None:
    model = network().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    prune_to(model, [images()], 0.6, least=2)
    assert model.training and model.config["channels"] == [6, 8, 10, 8]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_bad_values() -> None:
    model, batches = network(), [images()]
    with pytest.raises(ValueError, match=r"share \(=1.5\) must be in \(0, 1\)"):
        prune_to(model, batches, 1.5)
    with pytest.raises(ValueError, match=r"share \(=0.01\) cannot be reached with 4 channels"):
        prune_to(model, batches, 0.01)
    with pytest.raises(ValueError, match="there are no images"):
        channel_scores(model, [])
    with pytest.raises(ValueError, match=r"keep has 1 entries; the network has 4 stages"):
        prune_channels(model, [torch.tensor([0])])
    with pytest.raises(ValueError, match=r"keep\[3\] \(=\[8\]\) must be channels below 8"):
        prune_channels(model, [torch.tensor([0])] * 3 + [torch.tensor([8])])
    with pytest.raises(ValueError, match="channels of a ResNet cannot be pruned"):
        prune_to(kv.create_model("resnet18", "gram", num_classes=3, in_chans=2, width_scale=0.1), batches, 0.5)
    with pytest.raises(ValueError, match=r"stages\.0 cannot be pruned"):
        prune_to(network(kv.ConvSpec("gram", structure=kv.Bottleneck())), batches, 0.5)
    with pytest.raises(ValueError, match="the head is a"):
        prune_to(network(head="kan"), batches, 0.5)


def test_command(tmp_path, capsys) -> None:
    pytest.importorskip("hydra")
    run, output = tmp_path / "run", tmp_path / "small"
    settings = ["model.channels=[8,8,8,8]", "trainer.epochs=1", "trainer.batch_size=128", f"output_dir={run}"]
    assert main(["train", *settings]) == 0
    arguments = ["prune", str(run), "--output", str(output), "--steps", "2", "--batch-size", "128", "--images", "64"]
    capsys.readouterr()
    assert main(arguments) == 0
    assert "top1, trained" in capsys.readouterr().out
    steps = json.loads((output / "pruning.json").read_text())["steps"]
    assert [step["folder"] for step in steps] == [None, "step1", "step2"]
    assert steps[2]["operations"] <= 0.5 * steps[0]["operations"]
    assert main(["eval", str(output / "step2")]) == 0
    assert main(arguments) == 2
    assert "is not empty" in capsys.readouterr().err
