"""Files that run without this package give the network's outputs: every basis, structure, dimension and family."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import kanvolution as kv
from kanvolution.cli import main
from kanvolution.data import DataInfo
from kanvolution.deploy import export, list_formats, load_exported
from kanvolution.models import list_models
from kanvolution.train import save_run
from tests.tolerances import assert_close

STRUCTURES = (kv.LowRank(2), kv.Bottleneck(reduction=2, min_width=2), kv.Separable(), kv.Experts(2, k=1))
SMALL = {"simple": {"width_scale": 0.1}, "kaconvnext": {}, "unet": {"width": 2}, "u2net": {"width_scale": 0.1}}
EXAMPLE = Path(__file__).parents[2] / "examples" / "serve_onnx.py"


def network(conv="gram", channels=(3, 4, 4, 4), **options):
    torch.manual_seed(0)
    model = kv.create_model("simple4", conv=conv, num_classes=3, in_chans=1, channels=list(channels), **options)
    return trained(model)


def trained(model):
    """Statistics that are not those of a new network."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


def needs(format):
    if format == "onnx":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(package)


def compare(model, tmp_path, shape, format, **options):
    needs(format)
    done = export(
        model, tmp_path / ("m.onnx" if format == "onnx" else "m.pt2"), input_shape=shape, format=format, **options
    )
    again = load_exported(done.path)
    for samples in (1, 4):
        x = torch.randn(samples, *shape)
        assert_close(again(x), model(x).detach(), done.tolerance)
    return done, again


@pytest.mark.parametrize("basis", kv.list_bases())
def test_every_basis_as_torch_program(basis, tmp_path) -> None:
    done, _ = compare(network(basis), tmp_path, (1, 12, 12), "torch")
    assert done.tried[:3] == ((2, 1, 12, 12), (1, 1, 12, 12), (3, 1, 12, 12))


@pytest.mark.parametrize("basis", ["spline", "gram", "wavelet"])
def test_some_bases_as_onnx(basis, tmp_path) -> None:
    compare(network(basis), tmp_path, (1, 12, 12), "onnx")


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "aoti"])
@pytest.mark.parametrize("basis", kv.list_bases())
def test_every_basis(basis, format, tmp_path) -> None:
    compare(network(basis), tmp_path, (1, 12, 12), format)


@pytest.mark.slow
@pytest.mark.parametrize("format", list_formats())
@pytest.mark.parametrize("basis", kv.list_bases())
@pytest.mark.parametrize("ndim", [1, 3])
def test_every_basis_in_other_dimensions(basis, ndim, format, tmp_path) -> None:
    torch.manual_seed(0)
    block = kv.ConvSpec(basis, ndim=ndim)
    model = nn.Sequential(block(2, 4, 3, padding=1), block(4, 3, 3, stride=2, groups=1))
    compare(trained(model), tmp_path, (2, *(7,) * ndim), format)


@pytest.mark.slow
@pytest.mark.parametrize("structure", STRUCTURES, ids=lambda s: s.name)
@pytest.mark.parametrize("format", list_formats())
def test_structures(structure, format, tmp_path) -> None:
    compare(network(kv.ConvSpec("gram", structure=structure), (4, 4, 4, 4)), tmp_path, (1, 12, 12), format)


@pytest.mark.slow
@pytest.mark.parametrize("name", list_models())
def test_every_model_as_onnx(name, tmp_path) -> None:
    family = next((f for f in SMALL if name.startswith(f)), None)
    torch.manual_seed(0)
    model = kv.create_model(name, conv="gram", num_classes=3, in_chans=1, **SMALL.get(family, {"width_scale": 0.07}))
    compare(trained(model), tmp_path, (1, 64, 64), "onnx")


@pytest.mark.parametrize("format", ["onnx", "torch"])
def test_dynamic_size(format, tmp_path) -> None:
    model = network()
    done, again = compare(model, tmp_path, (1, 12, 12), format, dynamic_size=True)
    x = torch.randn(2, 1, 21, 30)
    assert_close(again(x), model(x).detach(), done.tolerance)
    assert done.tried[-1] == (2, 1, 17, 21)
    with pytest.raises(ValueError, match=r"input of shape \(2, 3, 12, 12\): this file takes \[N, 1, \*, \*\]"):
        again(torch.randn(2, 3, 12, 12))


def test_other_sizes_are_refused_where_the_size_is_fixed(tmp_path) -> None:
    _, again = compare(network(), tmp_path, (1, 12, 12), "torch")
    with pytest.raises(ValueError, match=r"takes \[N, 1, 12, 12\]"):
        again(torch.randn(2, 1, 13, 12))


def test_the_network_is_left_as_it_was(tmp_path) -> None:
    model = network().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    export(model, tmp_path / "m.pt2", input_shape=(1, 12, 12), format="torch")
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_bad_values(tmp_path) -> None:
    model = network()
    with pytest.raises(ValueError, match=r"unknown format 'onxx'\. Did you mean 'onnx'"):
        export(model, tmp_path / "m.onnx", input_shape=(1, 12, 12), format="onxx")
    with pytest.raises(ValueError, match=r"must end in '\.pt2' for format 'torch'"):
        export(model, tmp_path / "m.onnx", input_shape=(1, 12, 12), format="torch")
    with pytest.raises(ValueError, match="there is no folder"):
        export(model, tmp_path / "none" / "m.pt2", input_shape=(1, 12, 12), format="torch")
    with pytest.raises(ValueError, match="enlarge the image"):
        export(model, tmp_path / "m.pt2", input_shape=(1, 2, 2), format="torch")
    taken = tmp_path / "taken.pt2"
    taken.write_text("mine")
    with pytest.raises(ValueError, match="not overwritten"):
        export(model, taken, input_shape=(1, 12, 12), format="torch")
    assert taken.read_text() == "mine"
    with pytest.raises(ValueError, match="no file of kanvolution's export"):
        load_exported(taken)
    with pytest.raises(ValueError, match="there is no file"):
        load_exported(tmp_path / "missing.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["taken.pt2"]


class _Branching(nn.Module):
    def forward(self, x):
        return x if float(x.sum()) > 0 else -x


class _Noisy(nn.Module):
    """Gives other outputs each time."""

    def forward(self, x):
        return x + torch.rand_like(x)


def test_what_cannot_be_traced_or_repeated_leaves_no_file(tmp_path) -> None:
    with pytest.raises(ValueError, match="cannot be traced"):
        export(_Branching(), tmp_path / "m.pt2", input_shape=(1, 4), format="torch")
    with pytest.raises(ValueError, match="outputs differ from the network's by"):
        export(_Noisy(), tmp_path / "m.pt2", input_shape=(1, 4), format="torch")
    assert not list(tmp_path.iterdir())


def test_a_file_of_another_version(tmp_path) -> None:
    program = torch.export.export(network(), (torch.randn(1, 1, 12, 12),))
    torch.export.save(program, tmp_path / "later.pt2", extra_files={"kanvolution": json.dumps({"version": 99})})
    with pytest.raises(ValueError, match="description of version 99, this package reads version 1"):
        load_exported(tmp_path / "later.pt2")
    torch.export.save(program, tmp_path / "other.pt2")
    with pytest.raises(ValueError, match="was not written by kanvolution"):
        load_exported(tmp_path / "other.pt2")


def test_missing_compiler(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"needs a C\+\+ compiler"):
        export(network(), tmp_path / "m.pt2", input_shape=(1, 12, 12), format="aoti")


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    save_run(folder, network(), DataInfo("toy", 1, (12, 12), ("a", "b", "c"), (0.4,), (0.2,)))
    return folder


def test_command_and_serving_without_pytorch(run, tmp_path, capsys) -> None:
    needs("onnx")
    pil = pytest.importorskip("PIL.Image")
    assert main(["export", str(run)]) == 0
    assert "compared with  2x1x12x12, 1x1x12x12, 3x1x12x12" in capsys.readouterr().out
    assert main(["export", str(run)]) == 2
    assert "not overwritten" in capsys.readouterr().err
    pixels = np.random.default_rng(0).integers(0, 256, (12, 12), dtype=np.uint8)
    pil.fromarray(pixels).save(tmp_path / "image.png")
    blocked = "import sys; sys.modules['torch'] = sys.modules['kanvolution'] = None; import runpy; " + (
        f"sys.argv = ['serve', {str(run / 'model.onnx')!r}, {str(tmp_path / 'image.png')!r}]; "
        f"runpy.run_path({str(EXAMPLE)!r}, run_name='__main__')"
    )
    out = subprocess.run([sys.executable, "-c", blocked], capture_output=True, text=True, check=True).stdout
    x = (torch.from_numpy(pixels).float() / 255 - 0.4) / 0.2
    shares = network()(x[None, None]).detach().softmax(1)[0]
    best = int(shares.argmax())
    assert out.split()[1:] == ["abc"[best], f"{100 * float(shares[best]):.1f}", "%"]


def test_command_says_what_is_missing(tmp_path, capsys) -> None:
    kv.save_pretrained(network(), tmp_path / "saved")
    assert main(["export", str(tmp_path / "saved"), "--format", "torch"]) == 2
    assert "give --size HEIGHT WIDTH" in capsys.readouterr().err
    assert main(["export", str(tmp_path / "saved"), "--format", "torch", "--size", "12"]) == 0
    description = load_exported(tmp_path / "saved" / "model.pt2").description
    assert description.data is None
    assert json.loads(json.dumps(description.model))["name"] == "simple4"
