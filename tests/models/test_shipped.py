"""Networks that ship with the package: what they are, and what they do on real images."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import kanvolution as kv
from kanvolution.cli import main
from kanvolution.deploy.adapt import load_base
from kanvolution.models import PUBLISHED
from kanvolution.models.hub import SHIPPED, shipped_names
from kanvolution.train import load_run

ROOT = Path(__file__).parents[2]
NAMES = shipped_names()


def stored(name: str) -> dict[str, Any]:
    return json.loads((ROOT / "benchmarks" / "results" / "shipped" / f"{name}.json").read_text())


def sample(name: str) -> tuple[Tensor, Tensor]:
    """Real test images, [N, C, H, W] in [0, 1], and their labels."""
    with np.load(ROOT / "tests" / "data" / "samples" / f"{name.rpartition('.')[2]}.npz") as arrays:
        images, labels = torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"])
    return (images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2)) / 255, labels


@pytest.mark.parametrize("name", NAMES)
def test_real_images_are_classified_as_well_as_stated(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    model = kv.create_model(name, pretrained=True).eval()
    images, labels = sample(name)
    x = load_run(name).info.normalise(images)
    with torch.no_grad():
        correct = int((model(x) == model(x).amax(1, keepdim=True))[torch.arange(len(x)), labels.long()].sum())
        assert torch.equal(kv.from_pretrained(name)(x[:5]), model(x[:5])), "in float32, as it was trained"
    facts = stored(name)
    assert facts["sample"] == {"file": f"{name.rpartition('.')[2]}.npz", "images": len(labels), "correct": correct}
    # The sample says the same as all test images, within three standard errors.
    top1 = facts["metrics"]["top1"]
    assert abs(correct / len(labels) - top1) < 3 * (top1 * (1 - top1) / len(labels)) ** 0.5
    assert PUBLISHED[name].top1 == pytest.approx(100 * top1, abs=1e-4)
    assert sum(p.numel() for p in model.parameters()) == facts["parameters"] <= 1_000_000


def test_all_of_them_are_small() -> None:
    assert NAMES and sorted(NAMES) == sorted(name for name in PUBLISHED if PUBLISHED[name].ships)
    assert sum(file.stat().st_size for file in SHIPPED.rglob("*") if file.is_file()) < 2_000_000


@pytest.mark.parametrize("name", NAMES)
def test_a_name_stands_for_images_classes_and_channels(name: str) -> None:
    entry = PUBLISHED[name]
    fresh: Any = kv.create_model(name)
    assert fresh.config["num_classes"] == entry.num_classes and fresh.config["in_chans"] == entry.in_chans
    x = torch.randn(1, entry.in_chans, entry.image_size, entry.image_size)  # type: ignore[arg-type]
    other: Any = kv.create_model(name, pretrained=True, num_classes=4).eval()
    assert other(x).shape == (1, 4)
    trained: Any = kv.create_model(name, pretrained=True).eval()
    assert torch.equal(trained.forward_features(x), other.forward_features(x))
    with pytest.raises(ValueError, match=f"has its own convolutions and {entry.in_chans} channels"):
        kv.create_model(name, pretrained=True, in_chans=7)
    base, info = load_base(name)
    assert info is not None and info.num_classes == entry.num_classes and not base.training


@pytest.mark.parametrize("name", NAMES)
def test_commands_take_the_name(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = pytest.importorskip("PIL.Image")
    images, labels = sample(name)
    pixels = (255 * images[1]).round().to(torch.uint8)
    image.fromarray(pixels.permute(1, 2, 0).squeeze(-1).numpy()).save(tmp_path / "image.png")
    assert main(["predict", name, str(tmp_path / "image.png"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found[0]["class"] == load_run(name).info.class_names[labels[1]]
    assert main(["models", name]) == 0
    row = next(line.split() for line in capsys.readouterr().out.splitlines() if line.startswith(name))
    assert row[1] == f"{stored(name)['parameters']:,}" and row[3] == f"{100 * stored(name)['metrics']['top1']:.2f}"
    assert main(["info", name, "--size", str(PUBLISHED[name].image_size)]) == 0
    assert f"published: with this package; top-1 {row[3]} %" in capsys.readouterr().out


def test_rounded_weights_make_a_network_of_the_type_it_had(tmp_path: Path) -> None:
    model: Any = kv.create_model("simple4", conv="gram", num_classes=10, in_chans=1, channels=[4] * 4).eval()
    for dtype in (torch.bfloat16, torch.float16):
        folder = kv.save_pretrained(model, tmp_path / str(dtype), weights_dtype=dtype, metrics={"top1": 0.9})
        again: Any = kv.from_pretrained(folder)
        for (key, value), same in zip(again.state_dict().items(), model.state_dict().values(), strict=True):
            expected = same.to(dtype).to(same.dtype) if same.is_floating_point() and same.ndim > 1 else same
            assert value.dtype == same.dtype and torch.equal(value, expected), key
        assert json.loads((folder / "config.json").read_text())["metrics"] == {"top1": 0.9}
        assert "| Measured | top1 90.00 % |" in (folder / "README.md").read_text()
    with pytest.raises(ValueError, match=r"weights_dtype \(=torch.int8\) must be a floating-point type"):
        kv.save_pretrained(model, tmp_path / "integers", weights_dtype=torch.int8)
    model.head.double()
    with pytest.raises(ValueError, match="needs a network of one type; this one has 2"):
        kv.save_pretrained(model, tmp_path / "mixed", weights_dtype=torch.bfloat16)
    assert not (tmp_path / "integers").exists() and not (tmp_path / "mixed").exists()
