import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import kanvolution as kv
from kanvolution.cli import main
from kanvolution.configs.finetune import compose_finetune
from kanvolution.data import DATA, DataInfo, DataSets, create_data, register_data
from kanvolution.deploy import list_adapters, load_adapted, load_base
from kanvolution.deploy.adapters import ADAPTERS
from kanvolution.deploy.finetune import finetune_job, prepared_as
from kanvolution.models.published import PUBLISHED, Published
from kanvolution.train import evaluate, save_run
from tests.train.test_resume import KillAt, Killed
from tests.train.toy import CHANNELS, toy_data, toy_model

FEW = ["trainer.batch_size=16", "trainer.epochs=2", "trainer.cpu=true", "tracker=none"]


@pytest.fixture(scope="module", autouse=True)
def _toys():
    """Toy images as data sets: the rows of 4 and of 3 classes, and the former upside down."""

    @register_data("rows")
    def rows(classes: int = 4, flip: bool = False) -> DataSets:
        data = toy_data(32, classes)
        info = DataInfo("rows", 1, (8, 8), data.info.class_names, (0.4,), (0.2,))
        for part in (data.train, data.val):
            part.images = (part.images.flip(-2) if flip else part.images) * 0.3 + 0.15
        return DataSets(data.train, data.val, info)

    yield
    DATA.unregister("rows")


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> str:
    folder = str(tmp_path_factory.mktemp("base") / "run")
    overrides = [f"model.channels={CHANNELS}", "data=rows", *FEW, "trainer.epochs=10", f"output_dir={folder}"]
    assert main(["train", *overrides]) == 0
    return folder


def finetuned(base: str, folder: Path, *overrides: str) -> Path:
    assert main(["finetune", base, *FEW, f"output_dir={folder}", *overrides]) == 0
    return folder


@pytest.mark.parametrize("kind", list_adapters())
def test_the_result_is_a_run_and_an_adapter_alone(base, tmp_path, capsys, kind: str) -> None:
    few = ["adapter.rank=2"] if kind == "lora" else []
    folder = finetuned(base, tmp_path / "run", f"adapter={kind}", "data.flip=true", *few)
    out = capsys.readouterr().out
    trained = json.loads((folder / "result.json").read_text())["parameters"]
    model, x = kv.from_pretrained(folder), torch.randn(3, 1, 8, 8)
    assert f"{trained:,} of {sum(p.numel() for p in model.parameters()):,} parameters" in out
    found = evaluate(folder, create_data("rows", flip=True))
    assert found.metrics["top1"] == json.loads((folder / "result.json").read_text())["metrics"]["top1"]
    assert (folder / "adapter").is_dir() == (kind != "full")
    if kind != "full":
        assert str(folder / "adapter") in out
        assert torch.equal(load_adapted(folder / "adapter")(x), model(x))
        assert json.loads((folder / "adapter" / "adapter.json").read_text())["base"]["source"] == base
    assert not torch.equal(kv.from_pretrained(base)(x), model(x))


def test_it_learns_what_the_base_does_not_know(base, tmp_path) -> None:
    overrides = ["adapter=lora", "adapter.rank=4", "data.flip=true", "trainer.epochs=30", "optim.lr=0.02"]
    folder = finetuned(base, tmp_path / "run", *overrides)
    flipped = create_data("rows", flip=True)
    assert evaluate(base, flipped).metrics["top1"] < 0.5
    assert evaluate(folder, flipped).metrics["top1"] > 0.9


def test_other_classes_get_a_new_head_and_the_user_is_told(base, tmp_path, capsys) -> None:
    folder = finetuned(base, tmp_path / "run", "data.classes=3", "adapter=head")
    assert "rows has 3 classes and the network 4: it gets a new head" in capsys.readouterr().out
    assert kv.from_pretrained(folder)(torch.randn(2, 1, 8, 8)).shape == (2, 3)
    assert load_adapted(folder / "adapter")(torch.randn(2, 1, 8, 8)).shape == (2, 3)


@pytest.mark.parametrize("kind", ["lora", "new_functions", "full"])
@pytest.mark.parametrize("step", [1, 3])
def test_a_killed_run_goes_on_to_the_same_bits(base, tmp_path, kind: str, step: int) -> None:
    few = [f"adapter={kind}", "trainer.checkpoint_steps=1", "trainer.ema=0.9", "data.classes=3"]
    few += ["adapter.rank=2"] if kind == "lora" else []
    whole = finetuned(base, tmp_path / "whole", *few)
    composed = compose_finetune(base, [*FEW, *few, f"output_dir={tmp_path / 'killed'}"])
    with pytest.raises(Killed):
        finetune_job(composed.values, text=composed.text, progress=KillAt(step), say=lambda text: None)
    assert main(["finetune", f"resume={tmp_path / 'killed'}"]) == 0
    files = ["model.safetensors", *([] if kind == "full" else ["adapter/adapter.safetensors"])]
    for name in files:
        one, other = load_file(whole / name), load_file(tmp_path / "killed" / name)
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("kind", ["lora", "functions"])
def test_options_of_the_trainer_go_with_adapters(base, tmp_path, kind: str) -> None:
    few = ["trainer.channels_last=true", "trainer.mixed_precision=bf16", "trainer.grad_checkpointing=true"]
    few += ["optim=muon", "task.penalties.weight_l2=1e-4", *(["adapter.rank=2"] if kind == "lora" else [])]
    folder = finetuned(base, tmp_path / "run", f"adapter={kind}", *few)
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(kv.from_pretrained(folder)(x), load_adapted(folder / "adapter")(x))


def test_the_best_epoch_is_kept_as_a_merged_network_too(base, tmp_path) -> None:
    folder = finetuned(base, tmp_path / "run", "adapter=lora", "adapter.rank=1", "trainer.keep_best=top1")
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(kv.from_pretrained(folder / "best")(x), load_adapted(folder / "best" / "adapter")(x))


def test_a_base_that_changed_is_refused(base, tmp_path, capsys) -> None:
    network, info = load_base(base)
    assert info is not None
    (tmp_path / "own").mkdir()
    save_run(tmp_path / "own", network, info)
    folder = tmp_path / "run"
    overrides = ["data=rows", "adapter=lora", "adapter.rank=1", "trainer.checkpoint_steps=1"]
    composed = compose_finetune(str(tmp_path / "own"), [*FEW, *overrides, f"output_dir={folder}"])
    with pytest.raises(Killed):
        finetune_job(composed.values, text=composed.text, progress=KillAt(2))
    weights = load_file(tmp_path / "own" / "model.safetensors")
    weights["head.bias"][0] += 1
    save_file(weights, tmp_path / "own" / "model.safetensors")
    assert main(["finetune", f"resume={folder}"]) == 2
    assert "form.base is" in capsys.readouterr().err
    assert main(["train", f"resume={folder}"]) == 2
    assert "go on with kanvolution finetune" in capsys.readouterr().err


def test_images_are_normalised_as_those_of_the_base() -> None:
    data = create_data("rows")
    info = DataInfo("base", 1, (8, 8), data.info.class_names, (0.1,), (0.7,))
    prepared = prepared_as(data, info)
    assert torch.allclose(prepared.val[0][0], (data.val[0][0] * 0.2 + 0.4 - 0.1) / 0.7, atol=1e-6)
    assert prepared.info.mean == (0.1,) and prepared.train.augment is data.train.augment


def test_the_config_takes_what_the_base_tells(base, tmp_path) -> None:
    values = compose_finetune(base, []).values
    assert values["data"]["name"] == "rows" and values["checkpoint"] == base and values["trainer"]["epochs"] == 5
    for kind, cls in ADAPTERS._entries.items():
        assert compose_finetune(base, [f"adapter={kind}"]).values["optim"]["lr"] == cls.learning_rate
    assert compose_finetune(base, ["optim.lr=0.5"]).values["optim"]["lr"] == 0.5
    assert compose_finetune(base, ["optim=sgd"]).values["optim"]["lr"] == 0.05
    images = ["data=image_folder", f"data.path={tmp_path}"]
    assert compose_finetune(base, images).values["data"]["image_size"] == 8
    assert compose_finetune(base, [*images, "data.image_size=9"]).values["data"]["image_size"] == 9


def test_published_weights_are_a_base(monkeypatch) -> None:
    monkeypatch.setattr(Published, "load", lambda self, model, source=None: model.head.bias.data.fill_(7.0))
    options = {"channels": CHANNELS}
    PUBLISHED.register("tiny.toy")(Published("a/b", "simple4", kv.ConvSpec("gram"), "KAGN", options, num_classes=5))
    try:
        model, info = load_base("tiny.toy")
    finally:
        PUBLISHED.unregister("tiny.toy")
    assert info is None and not model.training and torch.equal(model.head.bias, torch.full((5,), 7.0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "there is no folder 'nowhere'"),
        ([], "no network to start from"),
        (["BASE", "adapter=lroa"], "unknown choice of adapter 'lroa'. Did you mean 'lora'"),
        (["BASE", "adapter.rnk=2"], "unknown key 'adapter.rnk'. Did you mean 'adapter.rank'"),
        (["BASE", "adapter.rank=99"], "adapter.rank (=99) must be <= 4, the largest rank"),
        (["BASE", "adapter=functions", "adapter.functions=[9]"], "9 must be between -5 and 4"),
        (["BASE", "adapter.rank=1", "adapter.layers=[heads.*]"], "unknown pattern of adapter.layers 'heads.*'"),
        (["BASE", "adapter.rank=1", "adapter.head=false", "data.classes=3"], "set adapter.head=true"),
        (["BASE", "conv=gram"], "unknown key 'conv'"),
        (["BASE", "trainer.fsdp=true"], "trainer.fsdp (=True)"),
        (["BASE", "data=nowhere"], "unknown choice of data 'nowhere'"),
        (["resume=nowhere"], "resume (='nowhere') is not the folder of a run"),
        (["resume=BASE"], "this run is finished"),
        (["BASE", "output_dir=BASE"], "is not empty, and a run is never overwritten"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(base, tmp_path, monkeypatch, capsys, arguments, message) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["finetune", *(a.replace("BASE", base) for a in arguments)]) == 2
    errors = capsys.readouterr().err
    assert message in errors and errors.startswith("kanvolution: error: ") and errors.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_networks_that_cannot_take_the_data_are_refused(tmp_path, capsys) -> None:
    info = toy_data().info
    colour = DataInfo("c", 3, (8, 8), info.class_names, (0.5,) * 3, (0.5,) * 3)
    model = kv.create_model("simple4", "gram", num_classes=4, in_chans=3, channels=CHANNELS)
    save_run(tmp_path, model, colour)
    assert main(["finetune", str(tmp_path), "data=rows"]) == 2
    assert "images of rows have 1 channels, the network takes 3" in capsys.readouterr().err
    plain = toy_model("identity")
    save_run(tmp_path, plain, info)
    assert main(["finetune", str(tmp_path), "data=rows", "adapter=new_functions"]) == 2
    assert "no Kolmogorov-Arnold layer that functions can be added to" in capsys.readouterr().err


def test_the_command_line_as_a_process(tmp_path) -> None:
    command = [sys.executable, "-m", "kanvolution.cli", "finetune"]
    done = subprocess.run([*command, "nowhere", "adapter=lora"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "there is no folder 'nowhere'" in done.stderr
    done = subprocess.run([*command, "adapter=functions", "--help"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and "adapter.functions=[-1]" in done.stdout and "experiment" not in done.stdout
    assert "adapter.norms=true" in done.stdout and "train the norms too" in done.stdout
