"""Pruned networks: exact where nothing is lost, really smaller, saved and loaded like any other."""

import json

import pytest
import torch

import kanvolution as kv
from kanvolution.cli import main
from kanvolution.deploy import adapt, contributions, prune_channels, prune_functions, prune_to
from kanvolution.deploy.links import find_links
from kanvolution.deploy.prune import UNITS, operations
from tests.tolerances import assert_close

SHARED = [basis for basis in kv.list_bases() if basis != "wavelet_edge"]
SEVERAL = [basis for basis in SHARED if kv.create_basis(basis).size > 1]
SIZES = {f"stages.{i}.conv": size for i, size in enumerate((6, 8, 10, 8))}
KEEP = {f"stages.{i}.conv": c for i, c in enumerate(([0, 2, 5], [1, 2, 3, 7], [0, 4, 9], [3, 6]))}

BRANCHED = {
    "resnet18": {"width_scale": 0.1},
    "resnet50": {"width_scale": 0.1, "layers": [1, 1]},
    "vgg11": {"width_scale": 0.4},
    "densenet_tiny": {"width_scale": 0.1},
    "unet": {"width": 6, "depth": 2},
}


def network(conv="gram", **options):
    torch.manual_seed(0)
    model = kv.create_model("simple4", conv, num_classes=3, in_chans=2, channels=list(SIZES.values()), **options)
    for seed in range(3):
        model.train()(images(seed))
    return model.eval()


def branched(name):
    torch.manual_seed(0)
    options = dict(BRANCHED[name])
    if "layers" in options:
        options["widths"] = [64, 128]
    return kv.create_model(name, "gram", num_classes=3, in_chans=2, **options).double().eval()


def images(seed=0, count=12, size=16):
    return torch.randn(count, 2, size, size, generator=torch.Generator().manual_seed(seed))


def without_effect(model, keep):
    """The weights by which the layers behind read the other channels set to zero."""
    readers = {link.maker: model.get_submodule(link.reader) for link in find_links(model)}
    with torch.no_grad():
        for name, channels in keep.items():
            reader = readers[name]
            columns = reader.weight.unflatten(1, (-1, reader.basis.size if hasattr(reader, "basis") else 1))
            columns[:, [c for c in range(columns.shape[1]) if c not in channels]] = 0


def same_outputs(one, other, x):
    found, expected = (y if isinstance(y, list) else [y] for y in (one(x), other(x)))
    for y, z in zip(found, expected, strict=True):
        assert_close(y.detach(), z.detach())


@pytest.mark.parametrize("basis", SHARED)
@pytest.mark.parametrize("site", ["output", "functions"])
def test_channels_without_effect_leave_and_outputs_stay(basis, site) -> None:
    if site == "functions" and basis == "identity":
        pytest.skip("identity has no functions")
    model = network(kv.ConvSpec(basis, norm_site=site)).double()
    without_effect(model, KEEP)
    small = prune_channels(model, KEEP)
    assert [stage.conv.out_channels for stage in small.stages] == [3, 4, 3, 2]
    assert [info.channels for info in small.feature_info] == [3, 4, 3, 2]
    same_outputs(small, model, images().double())


@pytest.mark.parametrize(
    ("conv", "options"),
    [
        (kv.ConvSpec("spline", structure=kv.LowRank(2)), {}),
        (kv.ConvSpec("spline", structure=kv.LowRank(2, shared=True)), {}),
        (kv.ConvSpec("gram", structure=kv.Separable()), {}),
        ("gram", {"head": "hidden_kan", "head_width": 5}),
        ("gram", {"head": "vgg", "head_width": 5}),
    ],
    ids=["low_rank", "shared", "separable", "kan_head", "vgg_head"],
)
def test_other_layers_and_heads(conv, options) -> None:
    model = network(conv, **options).double()
    keep = {link.maker: [1, 2, 4] for link in find_links(model)}
    without_effect(model, keep)
    small = prune_channels(model, keep)
    assert set(UNITS["channels"].counts(small).values()) == {3}
    same_outputs(small, model, images().double())


@pytest.mark.parametrize("name", BRANCHED)
def test_networks_with_branches(name, tmp_path) -> None:
    model, x = branched(name), images(size=32, count=1).double()
    keep = {layer: [0, *range(2, size)] for layer, size in UNITS["channels"].counts(model).items()}
    without_effect(model, keep)
    small = prune_channels(model, keep)
    assert operations(small, x) < operations(model, x)
    same_outputs(small, model, x)
    with torch.no_grad():
        assert [info.channels for info in small.feature_info] == [y.shape[1] for y in small.forward_stages(x)]
    again = kv.from_pretrained(small.save_pretrained(tmp_path / "small"))
    assert torch.equal(again(x), small(x)) and again.config == json.loads(json.dumps(small.config))


def test_only_what_is_between_two_layers_is_found() -> None:
    assert [link.maker for link in find_links(network())] == list(SIZES)
    blocks = [f"stages.{i}.{j}.convs" for i in range(4) for j in range(2)]
    found = {link.maker: link.reader for link in find_links(branched("resnet18"))}
    assert found == {f"{block}.0.conv": f"{block}.1.conv" for block in blocks}


def test_channels_count_by_the_variance_they_contribute() -> None:
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
    scores = contributions(model, [images()[:5], images()[5:]])["stages.1.conv"]
    assert_close(scores, expected / expected.sum(), 1e-6)
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("basis", SEVERAL)
@pytest.mark.parametrize("other", [{}, {"norm_site": "functions"}, {"structure": kv.LowRank(2)}], ids=str)
def test_functions_without_weight_leave_and_outputs_stay(basis, other, tmp_path) -> None:
    model = network(kv.ConvSpec(basis, **other)).double()
    sizes = UNITS["functions"].counts(model)
    keep = {name: [k for k in range(size) if k != i % size] for i, (name, size) in enumerate(sizes.items())}
    with torch.no_grad():
        for i, (name, size) in enumerate(sizes.items()):
            model.get_submodule(name).weight.unflatten(1, (-1, size))[:, :, i % size] = 0
    small = prune_functions(model, keep)
    assert UNITS["functions"].counts(small) == {name: len(left) for name, left in keep.items()}
    same_outputs(small, model, images().double())
    again = kv.from_pretrained(small.save_pretrained(tmp_path / "small"))
    assert torch.equal(again(images().double()), small(images().double()))


@pytest.mark.parametrize("groups", [1, 2])
def test_the_other_functions_make_up_for_what_they_can(groups) -> None:
    torch.manual_seed(0)
    layer = kv.KANConv2d(4, 6, 3, groups=groups, basis="chebyshev", degree=4).double()
    x = torch.randint(-1, 2, (3, 4, 6, 6)).double()  # on three places three functions are all
    small = prune_functions(torch.nn.Sequential(layer), {"0": [0, 1, 2]}, [x])
    assert small[0].basis.size == 3
    same_outputs(small, layer, x)


def test_functions_count_by_the_mean_square_that_is_lost_without_them() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(kv.KANLinear(1, 5, basis="legendre", degree=4, bias=False).double())
    x = torch.randn(200, 1, dtype=torch.float64)
    scores = contributions(model, [x[:50], x[50:]], by="functions")["0"]
    order = scores.argsort().tolist()
    for count in range(1, len(order)):
        small = prune_functions(model, {"0": sorted(order[count:])}, [x])
        lost = (small(x) - model(x)).square().mean() / model(x).square().mean()
        assert float(lost.detach()) == pytest.approx(float(scores[order[count - 1]]), rel=1e-6, abs=1e-12)
    assert float(scores[order[-1]]) == 1


@pytest.mark.parametrize("by", ["channels", "functions"])
@pytest.mark.parametrize("share", [0.75, 0.4])
def test_the_network_has_at_most_the_operations_asked_for(by, share, tmp_path) -> None:
    torch.manual_seed(0)
    model = kv.create_model("simple4", "gram", num_classes=3, in_chans=2, channels=[12, 16, 20, 16]).eval()
    small = prune_to(model, [images()], share, by=by)
    ratio = operations(small, images(count=1)) / operations(model, images(count=1))
    assert (0.75 if by == "channels" else 0.6) * share < ratio <= share
    kv.save_pretrained(small, tmp_path / "small")
    assert torch.equal(kv.from_pretrained(tmp_path / "small")(images()), small(images()))
    if by == "functions":  # the last step of a pruning may be one of many
        smaller = prune_to(small, [images()], 0.7, by=by)
        assert operations(smaller, images(count=1)) < operations(small, images(count=1))


@pytest.mark.parametrize("by", ["channels", "functions"])
def test_the_network_is_left_as_it_was(by) -> None:
    model = network().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    prune_to(model, [images()], 0.6, by=by, least=2)
    assert model.training and UNITS["channels"].counts(model) == SIZES and "changes" not in model.config
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_bad_values() -> None:
    model, batches = network(), [images()]
    with pytest.raises(ValueError, match=r"share \(=1.5\) must be in \(0, 1\)"):
        prune_to(model, batches, 1.5)
    with pytest.raises(ValueError, match=r"share \(=0.01\) cannot be reached by leaving out channels with least \(=4"):
        prune_to(model, batches, 0.01)
    with pytest.raises(ValueError, match=r"unknown by 'function'. Did you mean 'functions'"):
        prune_to(model, batches, 0.5, by="function")
    with pytest.raises(ValueError, match="there are no images"):
        contributions(model, [])
    with pytest.raises(ValueError, match=r"unknown layer with channels to leave out 'stages.0'. Did you mean 'stages"):
        prune_channels(model, {"stages.0": [0]})
    with pytest.raises(ValueError, match=r"keep of 'stages.3.conv' \(=\[8\]\) must be increasing numbers below 8"):
        prune_channels(model, {"stages.3.conv": [8]})
    with pytest.raises(ValueError, match=r"keep of 'stages.0.conv' \(=\[\]\) must be increasing numbers below 5"):
        prune_functions(model, {"stages.0.conv": []})
    with pytest.raises(ValueError, match=r"can be left out: stages.0.conv has functions of its own|stages.1.conv has"):
        prune_to(network("wavelet_edge", head="kan"), batches, 0.5)
    with pytest.raises(ValueError, match="has no layer with several functions that all outputs share"):
        prune_to(network("wavelet_edge"), batches, 0.5, by="functions")
    with pytest.raises(ValueError, match="no channels of this U2Net can be left out: no two of its layers"):
        prune_channels(kv.create_model("u2net", num_classes=2), {})
    with pytest.raises(ValueError, match="no two of its layers follow one another"):
        prune_channels(torch.nn.Conv2d(2, 3, 1), {})
    with pytest.raises(ValueError, match=r"stages.1.conv has groups \(=2\)"):
        prune_to(network(groups=2, head="matryoshka", head_width=4), batches, 0.5)
    adapt(model, "lora", rank=1)
    with pytest.raises(ValueError, match="merge the adapter"):
        prune_channels(model, {"stages.1.conv": [0, 1]})


def test_command(tmp_path, capsys) -> None:
    pytest.importorskip("hydra")
    run, output = tmp_path / "run", tmp_path / "small"
    settings = ["model.channels=[8,8,8,8]", "trainer.epochs=1", "trainer.batch_size=128", f"output_dir={run}"]
    assert main(["train", *settings]) == 0
    arguments = ["prune", str(run), "--output", str(output), "--steps", "2", "--batch-size", "128", "--images", "64"]
    capsys.readouterr()
    assert main(arguments) == 0
    assert "top1, trained" in capsys.readouterr().out
    report = json.loads((output / "pruning.json").read_text())
    steps = report["steps"]
    assert [step["folder"] for step in steps] == [None, "step1", "step2"] and report["by"] == "channels"
    assert steps[2]["operations"] <= 0.5 * steps[0]["operations"]
    assert steps[0]["sizes"] == {f"stages.{i}.conv": 8 for i in range(4)}
    assert main(["eval", str(output / "step2")]) == 0
    assert main(arguments) == 2
    assert "is not empty" in capsys.readouterr().err
    output = tmp_path / "fewer"
    functions = ["prune", str(output.with_name("small") / "step1"), "--by", "functions", "--steps", "1"]
    assert main([*functions, "--output", str(output), "--batch-size", "128", "--images", "64"]) == 0
    assert sum(json.loads((output / "pruning.json").read_text())["steps"][1]["sizes"].values()) < 20
    assert main(["eval", str(output / "step1")]) == 0
