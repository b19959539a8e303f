"""Experiments from YAML files."""

import pytest

pytest.importorskip("hydra")

from kanvolution.configs import ConfigError, compose


def test_a_file_is_an_experiment(tmp_path) -> None:
    file = tmp_path / "mnist.yaml"  # the name of a shipped one is free for a file
    file.write_text("defaults:\n  - override /model: simple8\n  - _self_\ntrainer:\n  epochs: 3\nseed: 4\n")
    composed = compose([f"experiment={file}", "seed=5"])
    assert composed.choices["model"] == "simple8" and composed.values["data"]["name"] == "digits"
    assert (composed.values["trainer"]["epochs"], composed.values["seed"]) == (3, 5)
    assert compose(["experiment=mnist", "data=digits"]).choices["model"] == "simple4", "files leave nothing behind"


def test_keys_that_a_choice_beside_it_lacks_are_left_out(tmp_path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("conv:\n  degree: 2\n  norm: instance\n")
    assert compose([f"experiment={file}"]).values["conv"]["degree"] == 2
    values = compose([f"experiment={file}", "conv=spline"]).values["conv"]
    assert "degree" not in values and values["norm"] == "instance"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "there is no such file"),
        ("", "holds no keys"),
        ("a: [", "cannot be read"),
        ("- 1\n", "holds no keys"),
        ("conv:\n  degre: 2\n", r"mine sets conv\.degre"),
    ],
)
def test_bad_files(text, message, tmp_path) -> None:
    file = tmp_path / "mine.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises((ConfigError, ValueError), match=message):
        compose([f"experiment={file}"])
