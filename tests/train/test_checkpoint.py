import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import kanvolution as kv
from kanvolution.train import load_run, save_run
from tests.train.toy import toy_data, toy_model


@pytest.fixture
def saved(tmp_path):
    model = toy_model(kv.ConvSpec("spline", grid_size=4, norm="instance"))
    save_run(tmp_path, model, toy_data().info, epoch=3)
    return tmp_path, model


def change(folder, edit) -> None:
    state = load_file(folder / "model.safetensors")
    edit(state)
    save_file(state, folder / "model.safetensors")


def test_a_run_is_rebuilt_with_equal_outputs(saved) -> None:
    folder, model = saved
    run = load_run(folder)
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(run.model(x), model.eval()(x))
    assert run.epoch == 3 and run.info == toy_data().info and run.model.config == model.config


def test_keys_and_shapes_that_do_not_fit_are_all_listed(saved) -> None:
    folder, _ = saved

    def edit(state: dict) -> None:
        del state["head.bias"]
        state["extra.weight"] = torch.zeros(1)
        state["head.weight"] = torch.zeros(2, 2)

    change(folder, edit)
    with pytest.raises(ValueError) as caught:
        load_run(folder)
    text = str(caught.value)
    assert "Missing: 1 (head.bias). Unexpected: 1 (extra.weight)." in text
    assert "Of another shape: 1 (head.weight, [2, 2] in the file and [4, 4] in the model)" in text


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_missing_or_damaged_file_is_named(saved, name: str) -> None:
    folder, _ = saved
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=rf"{name}.* is damaged"):
        load_run(folder)
    (folder / name).unlink()
    with pytest.raises(ValueError, match=f"is not the folder of a saved model: it has no {name}"):
        load_run(folder)


def test_a_pickle_is_not_loaded(saved) -> None:
    folder, model = saved
    torch.save(model.state_dict(), folder / "model.safetensors")
    with pytest.raises(ValueError, match="no safetensors file"):
        load_run(folder)


def test_a_model_that_is_not_registered_says_how_to_register_it(saved) -> None:
    folder, _ = saved
    config = json.loads((folder / "config.json").read_text())
    config["model"]["name"] = "of_my_own"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"unknown model 'of_my_own'.*--import"):
        load_run(folder)


def test_a_model_made_by_hand_is_passed_in(tmp_path) -> None:
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4))
    save_run(tmp_path, model, toy_data().info)
    with pytest.raises(ValueError, match=r"made by hand; make it and pass it: model=..."):
        load_run(tmp_path)
    fresh = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4))
    x = torch.randn(1, 1, 8, 8)
    assert torch.equal(load_run(tmp_path, fresh).model(x), model(x))


def test_shared_and_channels_last_tensors_are_saved(tmp_path) -> None:
    model = toy_model().to(memory_format=torch.channels_last)
    model.stages[1] = model.stages[2]
    save_run(tmp_path, model, toy_data().info)
    assert load_file(tmp_path / "model.safetensors").keys() == model.state_dict().keys()
