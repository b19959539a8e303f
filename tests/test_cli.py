import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import kanvolution as kv
from kanvolution.cli import COMMANDS, main
from kanvolution.data import DATA
from tests.train.toy import CHANNELS

TINY = [f"model.channels={CHANNELS}", "trainer.batch_size=256", "trainer.epochs=1"]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> str:
    folder = str(tmp_path_factory.mktemp("runs") / "run")
    assert main(["train", *TINY, f"output_dir={folder}"]) == 0
    return folder


@pytest.fixture
def image(tmp_path) -> str:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)).save(tmp_path / "a.png")
    return str(tmp_path / "a.png")


def test_train_prints_a_line_for_each_epoch_and_a_table(tmp_path, capsys) -> None:
    folder = tmp_path / "run"
    assert main(["train", *TINY, "trainer.epochs=2", f"output_dir={folder}"]) == 0
    out = capsys.readouterr().out
    lines = [line for line in out.splitlines() if line.startswith("epoch ")]
    assert len(lines) == 2 and "epoch 2/2" in lines[1] and "top-1" in lines[1] and "images/s" in lines[1]
    for name in ("top-1", "AUC", "parameters", "seconds", "run folder", str(folder)):
        assert name in out[out.rindex("epoch 2/2") :]
    assert {"curves.png", "confusion.png", "model.safetensors", "config.yaml"} <= {p.name for p in folder.iterdir()}


def test_the_default_folder_tells_what_was_trained(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", *TINY, "conv=legendre"]) == 0
    assert [p.name.partition("-simple4")[2] for p in (tmp_path / "runs").iterdir()] == ["-legendre-digits"]


def test_on_a_terminal_there_is_a_bar_with_rate_and_time_left() -> None:
    import os
    import pty
    import tempfile

    main_end, other_end = pty.openpty()
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [sys.executable, "-m", "kanvolution.cli", "train", *TINY, f"output_dir={folder}/run"],
            stdout=other_end,
            stderr=other_end,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "160"},
        )
        os.close(other_end)
        shown = b""
        try:
            while chunk := os.read(main_end, 65536):
                shown += chunk
        except OSError:  # the other end was closed: the run is over
            pass
        os.close(main_end)
        assert process.wait(timeout=60) == 0
    text = shown.decode()
    assert "━" in text and "images/s" in text and "left" in text and "epoch 1/1  lr" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "conv.degre=2"], "unknown key 'conv.degre'. Did you mean 'conv.degree'"),
        (["train", "conv=grm"], "unknown choice of conv 'grm'. Did you mean 'gram'"),
        (["train", "conv.norm=btach"], "unknown norm 'btach'. Did you mean 'batch'"),
        (["train", "conv.degree=-1"], "degree (=-1)"),
        (["train", "trainer.mixed_precision=fp61"], "Did you mean 'fp16'"),
        (["train", "data=npz", "data.path=nowhere.npz"], "data.path (='nowhere.npz') is not a file"),
        (["train", "data=mnist", "data.path=nowhere"], "data.download=true"),
        (["train", "--import", "nowhere.py"], "--import nowhere.py"),
        (["train", "--imprt=x.py"], "unknown option '--imprt=x.py'. Did you mean '--import'"),
        (["trian"], "unknown command 'trian'. Did you mean 'train'"),
        (["predict", "nowhere", "a.png"], "there is no folder 'nowhere'"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys, arguments: list, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    errors = capsys.readouterr().err
    assert message in errors and errors.startswith("kanvolution: error: ") and errors.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_a_run_folder_is_not_overwritten(run, capsys) -> None:
    assert main(["train", *TINY, f"output_dir={run}"]) == 2
    assert "is not empty, and a run is never overwritten" in capsys.readouterr().err


def test_debug_shows_the_traceback() -> None:
    with pytest.raises(ValueError, match="Did you mean"):
        main(["train", "--debug", "conv=grm"])


def test_predict_prints_classes_or_json(run, image, capsys) -> None:
    assert main(["predict", run, image, image, "--top", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and all(line.startswith(image) and line.count("%") == 3 for line in lines)
    assert main(["predict", run, image, "--json", "--top", "2"]) == 0
    (record,) = json.loads(capsys.readouterr().out)
    assert record["file"] == image and record["class"] in "0123456789" and len(record["top"]) == 2
    assert record["top"][record["class"]] == record["probability"]
    assert main(["predict", run, image, "--json", "--invert"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["probability"] != record["probability"]


def test_predict_names_a_broken_file_and_classifies_none(run, image, tmp_path, capsys) -> None:
    (tmp_path / "bad.png").write_text("no image")
    assert main(["predict", run, image, str(tmp_path / "bad.png")]) == 2
    captured = capsys.readouterr()
    assert "bad.png" in captured.err and captured.out == ""


OWN = """
import torch
import kanvolution as kv
from kanvolution.data import DataInfo, DataSets, TensorImages, register_data

@kv.register_model("cli_net")
class Net(torch.nn.Module):
    def __init__(self, conv, num_classes, in_chans, width: int = 4):
        super().__init__()
        self.conv = conv(in_chans, width, 3, padding=1)
        self.head = torch.nn.Linear(width, num_classes)

    def forward(self, x):
        return self.head(self.conv(x).mean((2, 3)))

@register_data("cli_stripes")
def stripes(count: int = 16):
    labels = torch.arange(count) % 2
    images = labels.view(-1, 1, 1, 1) * torch.ones(count, 1, 6, 6)
    info = DataInfo("cli_stripes", 1, (6, 6), ("dark", "light"), mean=(0.5,), std=(0.5,))
    return DataSets(TensorImages(images, labels), TensorImages(images, labels), info)
"""


def test_a_model_and_data_of_ones_own_are_imported_for_train_and_predict(tmp_path, image, capsys) -> None:
    (tmp_path / "own.py").write_text(OWN)
    own = ["--import", str(tmp_path / "own.py")]
    folder = str(tmp_path / "run")

    def forget() -> None:
        kv.models.MODELS.unregister("cli_net")
        DATA.unregister("cli_stripes")
        for name in [name for name in sys.modules if name.startswith("kanvolution_import_own")]:
            del sys.modules[name]

    overrides = ["model=cli_net", "model.width=5", "data=cli_stripes", "trainer.epochs=2", f"output_dir={folder}"]
    assert main(["train", *own, *overrides]) == 0
    forget()
    assert main(["predict", folder, image]) == 2
    errors = capsys.readouterr().err
    assert "unknown model 'cli_net'" in errors and "--import" in errors
    # Named twice, it is imported once.
    assert main(["predict", folder, image, *own, *own, "--json"]) == 0
    forget()
    assert json.loads(capsys.readouterr().out)[0]["class"] in ("dark", "light")


def test_the_example_of_own_data_is_a_choice_on_the_command_line(tmp_path, capsys) -> None:
    example = str(Path(__file__).parents[1] / "examples" / "own_data.py")
    overrides = ["data=shapes", "data.count=60", "data.noise=0.1", "trainer.epochs=1", "model.channels=[2,2,2,2]"]
    try:
        assert main(["train", "--import", example, *overrides, f"output_dir={tmp_path / 'run'}"]) == 0
    finally:
        DATA.unregister("shapes")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["data"]["class_names"] == ["disc", "square", "cross"]


def test_an_error_in_a_users_file_names_it(tmp_path, capsys) -> None:
    (tmp_path / "own.py").write_text("import kanvolution as kv\nkv.no_such_name\n")
    assert main(["train", "--import", str(tmp_path / "own.py")]) == 2
    errors = capsys.readouterr().err
    assert "own.py" in errors and "no_such_name" in errors


def test_lists_and_version(capsys) -> None:
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in kv.list_models())
    assert main(["bases"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in kv.list_bases()) and "degree=3" in out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"kanvolution {kv.__version__}\n"


def test_help(capsys) -> None:
    assert main([]) == 2
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out and COMMANDS[name].help in out for name in COMMANDS)
    assert main(["train", "--help"]) == 0
    out = " ".join(capsys.readouterr().out.split())  # lines are broken anywhere
    assert (
        "conv.degree=3" in out
        and "_{simple4, simple8}[_{" in out
        and "imagenet1k_vgg11v2_gram" in out
        and "--multirun" in out
        and "--import" in out
    )
    assert main(["train", "conv=spline", "--help"]) == 0
    assert "conv.grid_size=5" in capsys.readouterr().out


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, flag: str, capsys) -> None:
    try:
        code = main([command, flag])
    except SystemExit as ended:
        code = ended.code
    out = capsys.readouterr().out
    assert code == 0 and out.startswith(f"usage: kanvolution {command}") and "--debug" in out


def test_the_modules_of_the_command_import_no_optional_package() -> None:
    code = (
        "import sys, kanvolution.cli, kanvolution.train, kanvolution.data, kanvolution.configs, kanvolution.visualize;"
        "names = 'accelerate hydra omegaconf sklearn torchmetrics rich matplotlib'.split();"
        "found = [n for n in names if n in sys.modules];"
        "assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
