"""torch-conv-kan's VGGs: its logits, its keys, its published networks."""

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import kanvolution as kv
from kanvolution.cli import main
from kanvolution.compat import torch_conv_kan as tck
from kanvolution.models.published import PUBLISHED, Published
from tests.compat.golden import normal, value
from tests.tolerances import GOLDEN, assert_close

DATA = Path(__file__).parents[1] / "data" / "golden_models"
CASES: dict[str, dict[str, Any]] = {path.stem: json.loads(path.read_text()) for path in sorted(DATA.glob("*.json"))}
every_case = pytest.mark.parametrize("name", CASES)
REPOSITORIES = ("brivangl/vgg_kagn11_v2", "brivangl/vgg_kagn11_v4", "brivangl/vgg_kagn_bn11_v4")


def state_of(case: dict[str, Any]) -> dict[str, Tensor]:
    return {key: value(key, shape, case["salt"]) for key, shape in case["state_dict"].items()}


def image_and_logits(name: str) -> tuple[Tensor, Tensor]:
    case = CASES[name]
    x = torch.from_numpy(normal(case["salt"] + name + "/x", case["input_shape"]))
    with np.load(DATA / f"{name}.npz") as file:
        return x, torch.from_numpy(file["y"])


def build(name: str, **changes: Any) -> nn.Module:
    case = CASES[name]
    options = {**case["kwargs"], "norm_layer": getattr(nn, case["kwargs"]["norm_layer"]), **changes}
    return getattr(tck, case["constructor"])(3, case["num_classes"], **options).eval()


@every_case
def test_golden_logits(name: str) -> None:
    network = build(name)
    assert sum(p.numel() for p in network.parameters()) == CASES[name]["num_parameters"]
    network.load_state_dict(state_of(CASES[name]))
    x, y = image_and_logits(name)
    with torch.no_grad():
        assert_close(network(x), y, GOLDEN)


@pytest.fixture
def published():
    """The two cases as published weights, so that they take the way of the real ones."""
    specs = {
        "vgg11v2_gram": ("vgg_kagn11_v2", "vgg11v2_gram.imagenet1k"),
        "vgg11v4_bottleneck_gram": ("vgg_kagn_bn11_v4", "vgg11v4_gram_bottleneck.imagenet1k"),
    }
    for name, (repo, real) in specs.items():
        entry = PUBLISHED[real]
        PUBLISHED.register(f"{name}.test")(
            Published(f"someone/{repo}", entry.architecture, entry.conv, entry.layers, {"width_scale": 1}, 10)
        )
    yield
    for name in specs:
        PUBLISHED.unregister(f"{name}.test")


def serve(folder: Path, state: dict[str, Tensor]) -> Path:
    """A folder as a repository of the hub: the weights, and torch-conv-kan's config."""
    folder.mkdir(parents=True)
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"input_channels": 3, "num_classes": 10}))
    return folder


@every_case
def test_published_weights_from_a_folder(name: str, published: None, tmp_path: Path) -> None:
    folder = serve(tmp_path / "repository", state_of(CASES[name]))
    x, y = image_and_logits(name)
    model: Any = kv.create_model(f"{name}.test", num_classes=10, pretrained=folder).eval()
    with torch.no_grad():
        assert_close(model(x), y, GOLDEN)
        again = tck.from_pretrained(PUBLISHED[f"{name}.test"].repo, folder, num_classes=10)
        assert not again.training and torch.equal(again(x), model(x))
        # What makes the model again does so without the weights.
        twin = kv.create_model(**model.config).eval()
        twin.load_state_dict(model.state_dict())
        assert torch.equal(twin(x), model(x))
        maps = kv.create_model(f"{name}.test", pretrained=folder, features_only=True).eval()(x)
        assert torch.equal(maps[-1], model.forward_features(x)) and len(maps) == 6
    other: Any = kv.create_model(f"{name}.test", num_classes=4, pretrained=folder / "model.safetensors").eval()
    assert other(x).shape == (2, 4) and other.config["num_classes"] == 4
    assert torch.equal(other.forward_features(x), model.forward_features(x))


def test_published_weights_from_the_hubs_cache(
    published: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "vgg11v4_bottleneck_gram"
    cached = tmp_path / "models--someone--vgg_kagn_bn11_v4"
    serve(cached / "snapshots" / ("a" * 40), state_of(CASES[name]))
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    x, y = image_and_logits(name)
    with torch.no_grad():
        assert_close(tck.from_pretrained("someone/vgg_kagn_bn11_v4", num_classes=10)(x), y, GOLDEN)
    with pytest.raises(
        ValueError, match=r"download model\.safetensors from https://huggingface\.co/brivangl/vgg_kagn11"
    ):
        kv.create_model("vgg11v2_gram.imagenet1k", pretrained=True)


def test_convert_checkpoint_command(published: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "vgg11v4_bottleneck_gram"
    file = serve(tmp_path / "repository", state_of(CASES[name])) / "model.safetensors"
    # Published weights have as many classes as they were trained on.
    assert main(["convert-checkpoint", str(file), str(tmp_path / "out"), "--model", f"{name}.test"]) == 0
    assert "vgg11v4, basis gram, 1,722,485 parameters" in capsys.readouterr().out
    x, y = image_and_logits(name)
    with torch.no_grad():
        assert_close(kv.from_pretrained(tmp_path / "out")(x), y, GOLDEN)
    assert main(["convert-checkpoint", str(file), "out", "--model", f"{name}.test", "--layers", "KAGN"]) == 2
    assert "leave --layers and --conv out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "repo", "layer", "parameters"),
    [
        ("vgg11v2_gram.imagenet1k", REPOSITORIES[0], "vggkagn", 24_652_420),
        ("vgg11v4_gram.imagenet1k", REPOSITORIES[1], "vggkagn", 41_424_516),
        ("vgg11v4_gram_bottleneck.imagenet1k", REPOSITORIES[2], "vggkagn_bn", 7_252_115),
    ],
)
def test_the_published_networks(name: str, repo: str, layer: str, parameters: int) -> None:
    entry = PUBLISHED[name]
    assert entry.repo == repo and name in kv.list_models(pretrained=True)
    norm = nn.BatchNorm2d if layer == "vggkagn_bn" else nn.InstanceNorm2d
    vgg_type = entry.architecture.replace("vgg", "VGG")
    options = {"degree": 5, "width_scale": 2, "affine": True, "vgg_type": vgg_type, "dropout": 0.05}
    with torch.device("meta"):
        ours: Any = kv.create_model(name)
        theirs = getattr(tck, layer)(3, 1000, norm_layer=norm, expected_feature_shape=(1, 1), **options)
    assert sum(p.numel() for p in ours.parameters()) == parameters
    shapes = {key: value.shape for key, value in ours.state_dict().items()}
    assert shapes == {key: value.shape for key, value in theirs.state_dict().items()}


# ------------------------------------------------------------------------------- arguments of torch-conv-kan


@pytest.mark.parametrize("head", ["Linear", "KAN", "HiddenKAN", "VGG", "Matryoshka", "KANtryoshka"])
@pytest.mark.parametrize("constructor", ["vggkagn", "vggkagn_bn"])
def test_heads_dropouts_and_penalty(constructor: str, head: str) -> None:
    network = getattr(tck, constructor)(
        *(2, 5, 4, 2, 0.1, 1e-3, 0.2), head_type=head, expected_feature_shape=(2, 1), norm_layer=nn.BatchNorm2d
    )
    y = network(torch.randn(2, 2, 32, 32))
    convs = [m for stage in network.stages for m in stage if isinstance(m, kv.KANConvNormAct)]
    expected = sum(p.abs().sum() for conv in convs for p in conv.parameters())
    penalty = kv.collect_losses(network)
    assert_close(penalty, 1e-3 * expected, 1e-5)
    (y.sum() + penalty).backward()
    assert y.shape == (2, 5) and all(p.grad is not None for p in network.parameters())
    rates = [m.p for m in network.modules() if isinstance(m, nn.Dropout) and m.p]
    assert set(rates) == {0.2} and len(rates) == (2 if head in ("VGG", "HiddenKAN", "KANtryoshka") else 1)
    network.eval()
    network(torch.randn(2, 2, 32, 32))
    assert kv.collect_losses(network) == 0
    x = torch.randn(1, 2, 32, 32)
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert torch.equal(other(x), network(x))


def test_first_layer_has_neither_groups_nor_dropout() -> None:
    network = tck.vggkagn(4, 5, groups=4, dropout=0.1)
    convs = [m for stage in network.stages for m in stage if isinstance(m, kv.KANConvNormAct)]
    assert [m.conv.groups for m in convs] == [1] + [4] * 7
    assert [m.conv.basis.input_dropout is None for m in convs] == [True] + [False] * 7


@pytest.mark.parametrize(
    ("options", "where"),
    [({"vgg_type": "VGG11sa"}, [2, 3]), ({"vgg_type": "VGG11v4sa"}, [3, 4]), ({"last_attention": True}, [4])],
)
def test_attention(options: dict[str, Any], where: list[int]) -> None:
    network = tck.vggkagn_bn(2, 5, sa_inner_projection=2, norm_layer=nn.BatchNorm2d, **options)
    found = [i for i, stage in enumerate(network.stages) if any(isinstance(m, kv.SelfAttention) for m in stage)]
    assert found == where
    assert network(torch.randn(2, 2, 64, 64)).shape == (2, 5)


def test_keys_of_a_penalised_network_and_of_its_heads() -> None:
    name = "vgg11v4_bottleneck_gram"
    state = state_of(CASES[name])
    wrapped = {
        ".".join([*key.split(".")[:2], "module", *key.split(".")[2:]]) if key.startswith("features.") else key: value
        for key, value in state.items()
    }
    network = build(name, l1_decay=1e-3)
    network.load_state_dict(wrapped)
    x, y = image_and_logits(name)
    with torch.no_grad():
        assert_close(network(x), y, GOLDEN)
    matryoshka = tck.vggkagn(3, 10, head_type="Matryoshka", expected_feature_shape=(1, 1))
    own = {key: value for key, value in matryoshka.state_dict().items() if key.startswith("head.")}
    theirs = {
        key.replace("head.3.linear.", "classifier.3.nesting_classifier_0.").replace("head.", "classifier."): value
        for key, value in own.items()
    }
    assert not matryoshka.load_state_dict(theirs, strict=False).unexpected_keys
    kan = tck.vggkagn(3, 10, head_type="KAN")
    with pytest.raises(RuntimeError, match="through GELU"):
        kan.load_state_dict({"classifier.layers.1.base_weights": torch.zeros(10, 128)}, strict=False)


@every_case
def test_loading_is_strict_and_speaks_of_the_peers_keys(name: str) -> None:
    state = state_of(CASES[name])
    lost = state.pop("features.4.beta_weights")
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "features\.4\.beta_weights"'):
        build(name).load_state_dict(state)
    state["features.4.beta_weights"] = lost
    state["features.4.other"] = lost
    with pytest.raises(RuntimeError, match=r'Unexpected key\(s\) in state_dict: "features\.4\.other"'):
        build(name).load_state_dict(state)
    network = build(name)
    del state["features.4.other"]
    network.load_state_dict(state)
    build(name).load_state_dict(network.state_dict())  # its own keys as well


def test_weights_of_another_network(published: None, tmp_path: Path) -> None:
    folder = serve(tmp_path / "repository", state_of(CASES["vgg11v2_gram"]))
    with pytest.raises(ValueError, match=r"do not fit this network of torch-conv-kan\. Missing: 50 \(features\.0\.inn"):
        kv.create_model("vgg11v4_bottleneck_gram.test", pretrained=folder)
    with pytest.raises(ValueError, match=r"Of another shape: \d+ \(features\.0\.poly_weights: \(1, 16, 18, 3, 3\) in"):
        kv.create_model("vgg11v2_gram.test", pretrained=folder, width_scale=2)
    with pytest.raises(ValueError, match=r"it has no model\.safetensors"):
        kv.create_model("vgg11v2_gram.test", pretrained=tmp_path)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tck.vggkagn(3, 5, vgg_type="VGG12"), "unknown vgg_type 'VGG12'. Did you mean 'VGG1"),
        (lambda: tck.vggkagn(3, 5, head_type="linear"), "unknown head_type 'linear'. Did you mean 'Linear'"),
        (lambda: tck.vggkagn(3, 5, l1_decay=-1), r"l1_decay \(=-1\) must be finite and >= 0"),
        (lambda: tck.vggkagn(3, 5, vgg_type="VGG11v3", last_attention=True), "must keep its channels"),
        (lambda: tck.from_pretrained("brivangl/vgg_kagn11_v3"), "Did you mean 'brivangl/vgg_kagn11_v"),
        (
            lambda: kv.create_model("vgg11v2_gram.imagenet", pretrained=True),
            "has no published weights; these have: .*vgg",
        ),
        (lambda: kv.create_model("vgg11v2_gram.imagenet"), "Did you mean 'vgg11v2_gram.imagenet1k'"),
        (lambda: kv.create_model("vgg11v2", pretrained=True), "has no published weights; these have: .*vgg11v2_gram"),
        (lambda: kv.create_model("vgg11v2_gram.imagenet1k", conv="gram"), r"conv \(='gram'\) must be None"),
        (lambda: kv.create_model("vgg11v2_gram.imagenet1k", in_chans=1, pretrained=True), r"\(=1\) 3; without"),
    ],
)
def test_bad_names_and_values(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
    with pytest.raises(TypeError, match="Did you mean 'degree'"):
        tck.vggkagn(3, 5, degre=3)
