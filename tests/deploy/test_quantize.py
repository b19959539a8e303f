"""Quantised networks: 8-bit weights in the file, outputs close to the float ones, and files that load anywhere."""

import json
import subprocess
import sys

import pytest
import torch
from torch import nn

import kanvolution as kv
from kanvolution.cli import main
from kanvolution.deploy import load_quantized, quantize, unfused
from kanvolution.models.weights import read_weights, write_weights
from tests.tolerances import assert_close

SUFFIX = {"inductor": ".pt2", "onnxruntime": ".onnx", "storage": ".safetensors"}
PACKAGE = {"inductor": "torchao", "onnxruntime": "onnxruntime", "storage": "safetensors"}
BATCHES = [torch.randn(16, 1, 12, 12, generator=torch.Generator().manual_seed(i)) for i in range(4)]


def network(conv="gram", channels=(8, 16, 32, 32), **options):
    torch.manual_seed(0)
    model = kv.create_model("simple4", conv=conv, num_classes=5, in_chans=1, channels=list(channels), **options)
    for batch in BATCHES:
        model.train()(batch)
    return model.eval()


def relative_error(actual, expected):
    return float((actual - expected).norm() / expected.norm())


@pytest.mark.parametrize("basis", [b for b in kv.list_bases() if b != "wavelet_edge"])
@pytest.mark.parametrize("optimized", [False, True])
def test_unfused_layers_compute_the_same(basis, optimized) -> None:
    model = network(basis, (3, 4, 4, 4))
    plain = unfused(kv.optimize(model) if optimized else model)
    assert not any(
        isinstance(m, kv.layers.KANConvNormAct) and isinstance(m.conv, kv.KANConv2d) for m in plain.modules()
    )
    assert_close(plain(BATCHES[0]).detach(), model(BATCHES[0]).detach(), 1e-4)


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize(
    "options",
    [
        {"padding": 1, "stride": 2, "groups": 2},
        {"padding": "same", "dilation": 1, "kernel_size": 2},
        {"padding": 1, "padding_mode": "reflect"},
        {"padding": "valid", "bias": False},
    ],
)
def test_unfused_arguments_of_convolutions(ndim, options) -> None:
    torch.manual_seed(0)
    layer = getattr(kv, f"KANConv{ndim}d")(4, 6, **{"kernel_size": 3, **options})
    x = torch.randn(2, 4, *(7,) * ndim)
    assert_close(unfused(layer)(x).detach(), layer(x).detach())


def test_unfused_linear() -> None:
    torch.manual_seed(0)
    layer, x = kv.KANLinear(4, 3, basis="rbf"), torch.randn(2, 5, 4)
    assert_close(unfused(layer)(x).detach(), layer(x).detach())


@pytest.mark.parametrize("backend", SUFFIX)
def test_outputs_are_close_and_the_file_is_small(backend, tmp_path) -> None:
    pytest.importorskip(PACKAGE[backend])
    model = network(channels=(16, 32, 64, 64))
    write_weights(tmp_path / "full.safetensors", model.state_dict())
    path = tmp_path / f"model{SUFFIX[backend]}"
    done = quantize(model, path, BATCHES, backend=backend)
    assert done.layers == 5
    assert path.stat().st_size < 0.35 * (tmp_path / "full.safetensors").stat().st_size
    again = load_quantized(path)
    assert again.description.format == f"int8-{backend}"
    for samples in (1, 5):
        x = torch.randn(samples, 1, 12, 12)
        expected = model(x).detach()
        assert 0 < relative_error(again(x), expected) < 0.1
    with pytest.raises(ValueError, match=r"this file takes \[N, 1, 12, 12\]"):
        again(torch.randn(1, 1, 13, 12))


def test_onnxruntime_takes_other_dimensions_and_inductor_refuses_them(tmp_path) -> None:
    pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    layer = nn.Sequential(kv.KANConv1d(2, 8, 3), kv.KANConv1d(8, 4, 3)).eval()
    batches = [torch.randn(8, 2, 20) for _ in range(3)]
    quantize(layer, tmp_path / "m.onnx", batches, backend="onnxruntime")
    assert relative_error(load_quantized(tmp_path / "m.onnx")(batches[0]), layer(batches[0]).detach()) < 0.1
    pytest.importorskip("torchao")
    with pytest.raises(ValueError, match="take backend 'onnxruntime'"):
        quantize(layer, tmp_path / "m.pt2", batches, backend="inductor")
    with pytest.raises(ValueError, match="not made by create_model"):
        quantize(layer, tmp_path / "m.safetensors", batches, backend="storage")
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_storage_rounds_each_output_channel_to_its_own_scale(tmp_path) -> None:
    model = network()
    quantize(model, tmp_path / "m.safetensors", BATCHES, backend="storage")
    stored, _ = read_weights(tmp_path / "m.safetensors")
    weight = model.stages[1].conv.weight.detach()
    scale = weight.abs().flatten(1).amax(1) / 127
    assert stored["stages.1.conv.weight"].dtype == torch.int8
    assert_close(stored["stages.1.conv.weight::scale"], scale)
    again = (stored["stages.1.conv.weight"].float().flatten(1) * scale[:, None] - weight.flatten(1)).abs()
    assert bool((again <= 0.5001 * scale[:, None]).all())


@pytest.mark.slow
def test_training_with_rounding_brings_the_loss_down(tmp_path) -> None:
    pytest.importorskip("torchao")
    model = network()
    x = torch.cat(BATCHES)
    labels = (x.mean((1, 2, 3)) > 0).long()
    labelled = [(x, labels)] * 12
    quantize(model, tmp_path / "a.pt2", BATCHES)
    quantize(model, tmp_path / "b.pt2", BATCHES, labelled=labelled, lr=3e-3)
    losses = [float(nn.functional.cross_entropy(load_quantized(tmp_path / f"{n}.pt2")(x), labels)) for n in "ab"]
    assert losses[1] < 0.8 * losses[0]


@pytest.mark.parametrize("backend", ["onnxruntime", "storage"])
def test_a_fresh_process_loads_without_the_extras_of_training(backend, tmp_path) -> None:
    pytest.importorskip(PACKAGE[backend])
    path = tmp_path / f"m{SUFFIX[backend]}"
    model = network()
    quantize(model, path, BATCHES, backend=backend)
    program = (
        "import sys\nfor name in ('accelerate', 'hydra', 'omegaconf', 'sklearn', 'torchmetrics', 'rich'):\n"
        "    sys.modules[name] = None\n"
        "import torch\nfrom kanvolution.deploy import load_quantized\n"
        f"print(load_quantized({str(path)!r})(torch.ones(1, 1, 12, 12)).tolist())"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert_close(torch.tensor(json.loads(out)), load_quantized(path)(torch.ones(1, 1, 12, 12)).detach())


def test_a_fresh_process_computes_with_integers(tmp_path) -> None:
    """The compiler does so only where torchao has told it how, which quantising in the same process hides."""
    pytest.importorskip(PACKAGE["inductor"])
    path = tmp_path / "m.pt2"
    quantize(network(), path, BATCHES, backend="inductor")
    program = (
        "import torch\nfrom torch.profiler import ProfilerActivity, profile\n"
        "from kanvolution.deploy import load_quantized\n"
        f"network, x = load_quantized({str(path)!r}), torch.ones(2, 1, 12, 12)\nnetwork(x)\n"
        "with profile(activities=[ProfilerActivity.CPU]) as profiled:\n    network(x)\n"
        "print(*(event.key for event in profiled.key_averages()))"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert "onednn::qconv_pointwise" in out and "onednn::qlinear_pointwise" in out


def test_bad_values(tmp_path, monkeypatch) -> None:
    model, path = network(), tmp_path / "m.safetensors"
    with pytest.raises(ValueError, match=r"unknown backend 'inductr'\. Did you mean 'inductor'"):
        quantize(model, path, BATCHES, backend="inductr")
    with pytest.raises(ValueError, match=r"must end in '\.pt2' for backend 'inductor'"):
        quantize(model, path, BATCHES)
    with pytest.raises(ValueError, match="there are no calibration images"):
        quantize(model, path, [], backend="storage")
    with pytest.raises(ValueError, match=r"shapes \(1, 12, 12\) and \(1, 8, 8\)"):
        quantize(model, path, [BATCHES[0], torch.randn(2, 1, 8, 8)], backend="storage")
    with pytest.raises(ValueError, match="labelled batches train with backend 'inductor' alone"):
        quantize(model, path, BATCHES, backend="storage", labelled=[])
    with pytest.raises(ValueError, match="no convolution or linear layer"):
        quantize(nn.Identity(), path, BATCHES, backend="storage")
    with pytest.raises(ValueError, match="there is no file"):
        load_quantized(path)
    path.write_text("mine")
    with pytest.raises(ValueError, match="not overwritten"):
        quantize(model, path, BATCHES, backend="storage")
    assert path.read_text() == "mine"
    (tmp_path / "bad.pt2").write_text("nothing")
    pytest.importorskip("torchao")
    with pytest.raises(ValueError, match="is no quantised file, or is damaged"):
        load_quantized(tmp_path / "bad.pt2")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"needs a C\+\+ compiler"):
        quantize(model, tmp_path / "m.pt2", BATCHES)


def test_a_file_of_another_version(tmp_path) -> None:
    path = tmp_path / "m.safetensors"
    quantize(network(), path, BATCHES, backend="storage")
    state, metadata = read_weights(path)
    description = {**json.loads(metadata["kanvolution"]), "version": 99}
    write_weights(tmp_path / "later.safetensors", state, {"kanvolution": json.dumps(description)})
    with pytest.raises(ValueError, match="description of version 99"):
        load_quantized(tmp_path / "later.safetensors")


def test_command(tmp_path, capsys) -> None:
    pytest.importorskip("hydra")
    run = tmp_path / "run"
    settings = ["model.channels=[4,4,4,4]", "trainer.epochs=1", f"output_dir={run}"]
    assert main(["train", *settings]) == 0
    capsys.readouterr()
    arguments = ["quantize", str(run), "--backend", "storage", "--calibration", "64", "--repeats", "2"]
    report = tmp_path / "report.json"
    assert main([*arguments, "--report", str(report)]) == 0
    assert "5 layers in int8" in capsys.readouterr().out
    found = json.loads(report.read_text())
    assert set(found["latency_ms"]["1"]) == {"eager", "compiled", "int8"}
    before, after = found["metrics"]["top1"]
    assert abs(before - after) < 0.05
    assert main([*arguments, "--report", str(report)]) == 2
    assert "not overwritten" in capsys.readouterr().err
