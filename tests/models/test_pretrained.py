"""Saved models: a folder, a run, or a repository of the hub makes the same network again."""

import json
import re
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from torch import nn

import kanvolution as kv
from kanvolution.models import MODELS
from kanvolution.models.hub import fetch
from kanvolution.train import load_run
from tests.models.test_models import every_model, make
from tests.train.toy import toy_data

SPECS = {
    "options": kv.ConvSpec("spline", grid_size=3, grid_range=(-1, 1), norm="group", norm_options={"num_groups": 2}),
    "sites": kv.ConvSpec("rbf", norm="instance", norm_site="functions", act=None, dropout=0.1, dropout_kind="noise"),
    "structure": kv.ConvSpec("gram", structure=kv.Bottleneck(2, 2, inner=kv.Experts(2, 1, inner=kv.LowRank(2)))),
}


def randomise(model: nn.Module) -> nn.Module:
    """Every weight and statistic another than the one it starts with."""
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.uniform_(0.1, 0.5)
    return model


def assert_same(again: nn.Module, model: nn.Module, x: torch.Tensor) -> None:
    expected, found = model.eval()(x), again(x)
    if not isinstance(expected, list):
        expected, found = [expected], [found]
    assert not again.training and len(found) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert {k: v.dtype for k, v in again.state_dict().items()} == {k: v.dtype for k, v in model.state_dict().items()}


@every_model
@pytest.mark.parametrize("options", [{}, {"features_only": True, "out_indices": (0, -1)}], ids=["whole", "features"])
def test_every_model(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    model = randomise(make(name, **options))
    again = kv.from_pretrained(model.save_pretrained(tmp_path / "saved"))
    assert type(again) is type(model) and again.config == json.loads(json.dumps(model.config))
    assert_same(again, model, torch.randn(2, 2, 32, 32))


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_the_spec_of_the_convolutions_is_in_the_config(spec: kv.ConvSpec, tmp_path: Path) -> None:
    model = randomise(make("simple4", spec))
    again = kv.models.SimpleNet.from_pretrained(model.save_pretrained(tmp_path / "saved"))
    assert kv.ConvSpec.from_dict(again.config["conv"]) == spec
    assert_same(again, model, torch.randn(2, 2, 16, 16))


def test_a_new_head_and_another_type(tmp_path: Path) -> None:
    model = make("simple4").double()
    model.reset_classifier(3)
    again = kv.from_pretrained(kv.save_pretrained(model, tmp_path / "saved"))
    assert again.num_classes == 3
    assert_same(again, model, torch.randn(2, 2, 16, 16, dtype=torch.float64))


def test_a_backbone_from_a_saved_classifier(tmp_path: Path) -> None:
    folder = randomise(make("simple4")).save_pretrained(tmp_path / "saved")
    backbone = kv.models.FeatureMaps(kv.from_pretrained(folder), out_indices=(0, -1))
    again = kv.from_pretrained(backbone.save_pretrained(tmp_path / "backbone"))
    assert isinstance(again, kv.models.FeatureMaps) and again.out_indices == (0, 3)
    assert_same(again, backbone, torch.randn(2, 2, 16, 16))


@pytest.mark.parametrize(
    "wrap", [nn.DataParallel, partial(torch.compile, backend="eager")], ids=["parallel", "compiled"]
)
def test_what_is_around_a_network_is_not_saved(wrap: Any, tmp_path: Path) -> None:
    model = randomise(make("simple4"))
    again = kv.from_pretrained(kv.save_pretrained(wrap(model), tmp_path / "saved"))
    assert_same(again, model, torch.randn(2, 2, 16, 16))


def test_a_kan(tmp_path: Path) -> None:
    model = kv.KAN([6, 8, 3], "rbf", norm="layer", act="auto", dropout=0.1, input_dropout=0.2, grid_size=4)
    again = kv.KAN.from_pretrained(randomise(model).save_pretrained(tmp_path / "saved"))
    assert_same(again, model, torch.randn(5, 6))
    assert [m.p for m in again.modules() if isinstance(m, nn.Dropout)] == [0.2, 0.1]


def test_a_folder_with_the_facts_of_its_data_is_a_run(tmp_path: Path) -> None:
    data = toy_data()
    model = make("simple4", in_chans=data.info.in_chans, num_classes=data.info.num_classes)
    x = torch.randn(2, data.info.in_chans, 8, 8)
    kv.save_pretrained(model, tmp_path / "saved", data=data.info)
    run = load_run(tmp_path / "saved")
    assert run.info == data.info and run.epoch == 0
    assert_same(run.model, model, x)
    kv.save_pretrained(model, tmp_path / "alone")
    with pytest.raises(ValueError, match="says nothing of its data"):
        load_run(tmp_path / "alone")


def hub_cache(cache: Path, folder: Path, repo_id: str, commit: str, tag: str | None = None) -> None:
    """Lay the files of `folder` out as the hub's client does after a download."""
    root = cache / f"models--{repo_id.replace('/', '--')}"
    shutil.copytree(folder, root / "snapshots" / commit)
    for name in filter(None, ("main", tag)):
        (root / "refs").mkdir(exist_ok=True)
        (root / "refs" / name).write_text(commit)


def test_a_repository_in_the_cache_of_the_hub(tmp_path: Path) -> None:
    models = {"a" * 40: randomise(make("simple4")), "b" * 40: randomise(make("simple4"))}
    for commit, model in models.items():
        folder = model.save_pretrained(tmp_path / commit)
        hub_cache(tmp_path / "cache", folder, "someone/network", commit, "v1" if commit[0] == "a" else None)
    options: dict[str, Any] = {"cache_dir": tmp_path / "cache", "local_files_only": True}
    x = torch.randn(2, 2, 16, 16)
    assert_same(kv.from_pretrained("someone/network", **options), models["b" * 40], x)
    for revision in ("v1", "a" * 40):
        assert_same(kv.from_pretrained("someone/network", revision=revision, **options), models["a" * 40], x)


def test_a_repository_that_cannot_be_fetched_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError) as caught:
        kv.from_pretrained("someone/network", cache_dir=tmp_path, local_files_only=True, revision="v2")
    text = str(caught.value)
    assert "download config.json and model.safetensors from https://huggingface.co/someone/network/tree/v2" in text
    assert "put them into one folder, and pass that folder's path" in text
    folder = make("simple4").save_pretrained(tmp_path / "saved")
    (folder / "model.safetensors").unlink()
    hub_cache(tmp_path / "cache", folder, "someone/network", "a" * 40)
    with pytest.raises(ValueError, match=r"has no model.safetensors.*download"):
        kv.from_pretrained("someone/network", cache_dir=tmp_path / "cache", local_files_only=True)


@pytest.mark.parametrize("error", [OSError("no route to host"), huggingface_hub.errors.HFValidationError("bad name")])
def test_errors_of_the_hub_are_told(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(ValueError, match=rf"{error}.*Without the network: download weights.pth"):
        fetch("someone/network", ["weights.pth"])


def test_wrong_places(tmp_path: Path) -> None:
    for source in ("./not/there", tmp_path / "missing"):
        with pytest.raises(ValueError, match="there is no folder"):
            kv.from_pretrained(source)
    with pytest.raises(ValueError, match=r"revision \(='v1'\) needs a repository"):
        kv.from_pretrained(tmp_path, revision="v1")
    (tmp_path / "config.json").write_text('{"architectures": ["BertModel"]}')
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="was not written by kanvolution"):
        kv.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds a SimpleNet, not a KAN"):
        kv.KAN.from_pretrained(make("simple4").save_pretrained(tmp_path / "saved"))


def test_weights_of_another_architecture_are_told_in_words(tmp_path: Path) -> None:
    folder = make("simple4").save_pretrained(tmp_path / "saved")
    other = make("simple8").save_pretrained(tmp_path / "other")
    shutil.copy(other / "model.safetensors", folder / "model.safetensors")
    with pytest.raises(ValueError) as caught:
        kv.from_pretrained(folder)
    unexpected = len(set(load_file(other / "model.safetensors")) - set(make("simple4").state_dict()))
    text = str(caught.value)
    listed = re.search(rf"Unexpected: {unexpected} \((.*?), and {unexpected - 5} more\)", text)
    assert "Missing:" not in text and listed and len(listed[1].split(", ")) == 5
    shapes = [list(make(name).stages[0].conv.weight.shape) for name in ("simple8", "simple4")]
    assert f"stages.0.conv.weight, {shapes[0]} in the file and {shapes[1]} in the model" in text
    with pytest.raises(ValueError, match=rf"Missing: {unexpected} \(stages.4.conv.weight"):
        kv.from_pretrained(make("simple4").save_pretrained(tmp_path / "four"), model=make("simple8"))


def test_a_conv_factory_of_ones_own_is_given_on_loading(tmp_path: Path) -> None:
    def factory(*args: Any, **options: Any) -> nn.Module:
        return nn.Sequential(nn.Conv2d(*args, **options), nn.ReLU())

    model = make("simple4", factory)
    folder = model.save_pretrained(tmp_path / "saved")
    with pytest.raises(
        ValueError, match="made with a conv factory, which a file cannot hold; pass that factory: conv="
    ):
        kv.from_pretrained(folder)
    assert_same(kv.from_pretrained(folder, conv=factory), model, torch.randn(2, 2, 16, 16))
    assert "conv=..." in (folder / "README.md").read_text()


def test_what_cannot_be_made_again_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"this Sequential cannot be saved.*register_model"):
        kv.save_pretrained(nn.Sequential(nn.Linear(2, 2)), tmp_path / "saved")
    changed = make("simple4")
    changed.head = nn.Linear(8, 9)
    with pytest.raises(ValueError, match=r"was changed after it was made.*2 weights differ \(first head.bias\)"):
        changed.save_pretrained(tmp_path / "saved")
    strange = make("simple4")
    strange.config = {**strange.config, "channels": nn.ReLU}
    with pytest.raises(ValueError, match=r"option channels \(=<class 'torch.*ReLU'>\).*cannot be written"):
        strange.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_a_registered_model_of_any_class(tmp_path: Path) -> None:
    @kv.register_model("tiny_saved_model")
    def tiny(conv: Any, num_classes: int, in_chans: int, gain: Any = None) -> nn.Module:
        scale = float(torch.linspace(0, 1, 3)[1])  # a value, which the meta device has not
        return nn.Sequential(conv(in_chans, int(8 * scale), 3), nn.Flatten(), nn.Linear(36, num_classes))

    try:
        model = kv.create_model("tiny_saved_model", in_chans=1, num_classes=2, gain=kv.ConvSpec("rbf"))
        before = torch.get_rng_state()
        folder = kv.save_pretrained(model, tmp_path / "saved")
        assert torch.equal(torch.get_rng_state(), before)
        again = kv.from_pretrained(folder)
        assert again.config["gain"] == kv.ConvSpec("rbf").to_dict()
        assert_same(again, model, torch.randn(2, 1, 5, 5))
    finally:
        MODELS.unregister("tiny_saved_model")
    with pytest.raises(ValueError, match=r"unknown model 'tiny_saved_model'.*must be registered before"):
        kv.from_pretrained(folder)


def test_folders_are_not_overwritten(tmp_path: Path) -> None:
    model = make("simple4")
    folder = model.save_pretrained(tmp_path / "new" / "saved")
    first = (folder / "model.safetensors").read_bytes()
    randomise(model)
    with pytest.raises(ValueError, match="holds a saved model; choose a new folder, or replace it with overwrite=True"):
        model.save_pretrained(folder)
    assert (folder / "model.safetensors").read_bytes() == first
    model.save_pretrained(folder, overwrite=True)
    assert_same(kv.from_pretrained(folder), model, torch.randn(1, 2, 16, 16))
    (folder / "notes.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(ValueError, match=r"holds other things \(notes.txt\)"):
            model.save_pretrained(folder, overwrite=overwrite)
    with pytest.raises(ValueError, match="is a file"):
        model.save_pretrained(folder / "notes.txt")


@pytest.mark.parametrize(
    "model",
    [
        lambda: make("simple4", SPECS["structure"]),
        lambda: make("simple8", features_only=True),
        lambda: kv.KAN([6, 8, 3], "rbf"),
    ],
    ids=["classifier", "features", "kan"],
)
def test_the_model_card_is_read_by_the_hub_and_its_program_runs(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = model()
    folder = network.save_pretrained(tmp_path / "network", metadata={"license": "mit"})
    card = ModelCard.load(folder / "README.md")
    assert card.data.library_name == "kanvolution" and card.data.license == "mit"
    count = sum(p.numel() for p in network.parameters())
    assert f"| Parameters | {count:,} |" in card.text
    config = json.loads(re.search(r"```json\n(.*?)```", card.text, re.S)[1])
    assert config == json.loads((folder / "config.json").read_text())["model"]
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {}
    exec(re.search(r"```python\n(.*?)```", card.text, re.S)[1], namespace)
    assert "y" in namespace or len(namespace["maps"]) == len(network.feature_info)


@pytest.mark.parametrize(
    ("name", "classes", "tag"),
    [
        ("simple4", 3, "image-classification"),
        ("simple4", 0, None),
        ("u2net_small", 2, "image-segmentation"),
    ],
)
def test_the_model_card_says_what_the_network_is_for(name: str, classes: int, tag: str | None, tmp_path: Path) -> None:
    model = kv.create_model(name, "gram", num_classes=classes, in_chans=1)
    assert ModelCard.load(model.save_pretrained(tmp_path / "network") / "README.md").data.pipeline_tag == tag


def test_the_model_card_of_a_run_states_the_input(tmp_path: Path) -> None:
    info = toy_data().info
    model = make("simple4", in_chans=info.in_chans, num_classes=info.num_classes)
    text = (kv.save_pretrained(model, tmp_path / "saved", data=info) / "README.md").read_text()
    assert f"[N, {info.in_chans}, {info.image_size[0]}, {info.image_size[1]}], normalised with mean" in text
    assert f"torch.randn(1, {info.in_chans}, {info.image_size[0]}, {info.image_size[1]})" in text


def test_push_to_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []

    class Api:
        def __init__(self, token: Any) -> None:
            calls.append(("token", {"token": token}))

        def create_repo(self, repo_id: str, **options: Any) -> None:
            calls.append(("create_repo", {"repo_id": repo_id, **options}))

        def create_branch(self, repo_id: str, **options: Any) -> None:
            calls.append(("create_branch", {"repo_id": repo_id, **options}))

        def upload_folder(self, folder_path: str, **options: Any) -> Any:
            shutil.copytree(folder_path, tmp_path / "uploaded")
            calls.append(("upload_folder", options))
            return type("Commit", (), {"pr_url": None, "commit_url": "https://huggingface.co/someone/network/commit/1"})

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    model = make("simple4")
    address = model.push_to_hub("someone/network", private=True, token="secret", revision="next")
    assert address.endswith("commit/1")
    assert calls == [
        ("token", {"token": "secret"}),
        ("create_repo", {"repo_id": "someone/network", "private": True, "exist_ok": True}),
        ("create_branch", {"repo_id": "someone/network", "branch": "next", "exist_ok": True}),
        (
            "upload_folder",
            {
                "repo_id": "someone/network",
                "revision": "next",
                "commit_message": "Upload model with kanvolution",
                "create_pr": False,
            },
        ),
    ]
    assert sorted(p.name for p in (tmp_path / "uploaded").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    assert 'kv.from_pretrained("someone/network")' in (tmp_path / "uploaded" / "README.md").read_text()
    assert_same(kv.from_pretrained(tmp_path / "uploaded"), model, torch.randn(1, 2, 16, 16))

    def fail(self: Any, repo_id: str, **options: Any) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(Api, "create_repo", fail)
    with pytest.raises(ValueError, match=r"could not be uploaded to: no route to host.*hf upload"):
        model.push_to_hub("someone/network")


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("code was run",))


def test_files_of_torch_are_read_without_unpickling(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, other = make("simple4"), randomise(make("simple4"))
    for content in (other.state_dict(), {"epoch": 3, "state_dict": other.state_dict()}):
        torch.save(content, tmp_path / "weights.pth")
        randomise(model)
        kv.load_weights(model, tmp_path / "weights.pth")
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    for content in (nn.Linear(2, 2), {"a": Harmful()}):
        torch.save(content, tmp_path / "weights.pth")
        with pytest.raises(ValueError, match="holds more than tensors"):
            kv.load_weights(model, tmp_path / "weights.pth")
    torch.save({"epoch": 3}, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match="holds no state dict"):
        kv.load_weights(model, tmp_path / "weights.pt")
    (tmp_path / "weights.h5").touch()
    with pytest.raises(ValueError, match=r"unknown kind of weights '.h5'"):
        kv.load_weights(model, tmp_path / "weights.h5")
    with pytest.raises(ValueError, match="is not there"):
        kv.load_weights(model, tmp_path / "weights.safetensors")
    assert "code was run" not in capsys.readouterr().out
