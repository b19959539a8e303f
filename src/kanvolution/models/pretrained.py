"""Saved models: a folder, here or on the hub, that rebuilds its network. The format of run folders as well.

`config.json` holds what makes the network again, `model.safetensors` its weights. Nothing is ever unpickled.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from kanvolution.files import write_json, write_text
from kanvolution.layers.spec import ConvFactory
from kanvolution.models.card import model_card
from kanvolution.models.changes import apply_changes, changes_between
from kanvolution.models.hub import fetch, upload
from kanvolution.models.kan import KAN
from kanvolution.models.registry import create_model
from kanvolution.models.weights import WEIGHTS, load_weights, network_dtype, read_weights, rounded, write_weights
from kanvolution.registry import Registry

CONFIG = "config.json"
CARD = "README.md"
_FILES = (CONFIG, WEIGHTS, CARD)

NETWORKS: Registry[Callable[..., nn.Module]] = Registry("class of a saved network")
"""Constructors of networks that are not made by `create_model`; a config names them by its entry "class"."""
NETWORKS.register("KAN")(KAN)


@NETWORKS.register("torch_conv_kan")
def _torch_conv_kan(**options: Any) -> nn.Module:
    """A network by its name in torch-conv-kan; the names are known to the floor above."""
    from kanvolution.compat.torch_conv_kan.models import from_config

    return from_config(**options)


class _Described(Protocol):
    def to_dict(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class SavedConfig:
    """What `config.json` says: the config of the network (None for one made by hand), and of its data, if any."""

    path: Path
    model: Mapping[str, Any] | None
    data: Mapping[str, Any] | None


def save_pretrained(
    model: nn.Module,
    folder: str | Path,
    *,
    data: _Described | Mapping[str, Any] | None = None,
    overwrite: bool = False,
    repo_id: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    metrics: Mapping[str, float] | None = None,
    weights_dtype: torch.dtype | None = None,
) -> Path:
    """Save a network of `create_model`, or a `KAN`, so that `from_pretrained` makes it again.

    The folder gets `config.json`, `model.safetensors` and a model card, `README.md`. Before anything is written, it is
    checked that the config makes a network of the same weights.

    Args:
        model: the network, also one that is compiled or wrapped for data-parallel training. One whose convolutions come
            from a factory of one's own is saved as well; loading it takes `from_pretrained(..., conv=factory)`.
        folder: a new or empty folder; it is made.
        data: what the network was trained on, a `DataInfo`: with it `kanvolution predict` can use the folder.
        overwrite: replace what an earlier call wrote. A folder with anything else in it is never touched.
        repo_id: what the program on the model card loads; by default the folder's name.
        metadata: further entries for the head of the model card, such as `license` or `datasets`.
        metrics: what it reached on the validation images, as shares of 1 (`{"top1": 0.99}`): for `config.json` and the
            model card.
        weights_dtype: a type to round the weights of convolutions and linear layers to in the file, such as
            `torch.bfloat16`, which halves it. The network is loaded in the type that it has now.

    Returns:
        The folder.

    Raises:
        ValueError: the folder is not empty; the network has no config, an option in it that JSON cannot hold, or was
            changed so that its config makes another network.

    Example:
        >>> import tempfile, torch, kanvolution as kv
        >>> model = kv.create_model("simple4", conv="gram", num_classes=10, in_chans=1).eval()
        >>> folder = kv.save_pretrained(model, tempfile.mkdtemp())
        >>> again, x = kv.from_pretrained(folder), torch.randn(1, 1, 28, 28)
        >>> torch.equal(again(x), model(x))
        True
    """
    folder = Path(folder).expanduser()
    _check_folder(folder, overwrite)
    model = _unwrapped(model)
    config = model_config(model)
    if config is None:
        raise ValueError(
            f"this {type(model).__name__} cannot be saved with what makes it again: it was not made by create_model. "
            "Register its constructor with register_model, or keep its state dict by safetensors"
        )
    check_config(model, config)
    described = _plain_data(data)
    source = repo_id or folder.resolve().name
    card = model_card(model, config, source=source, data=described, metadata=metadata, metrics=metrics)
    state, facts = rounded(model.state_dict(), weights_dtype)
    folder.mkdir(parents=True, exist_ok=True)
    write_weights(folder / WEIGHTS, state, facts)
    write_config(folder, model, described, metrics)
    write_text(folder / CARD, card)
    return folder


def from_pretrained(
    source: str | Path,
    *,
    model: nn.Module | None = None,
    conv: str | Mapping[str, Any] | ConvFactory | None = None,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
) -> nn.Module:
    """The saved network in a folder or a repository of the Hugging Face Hub, in evaluation mode and on the CPU.

    Args:
        source: a folder of `save_pretrained`, the folder of a run of `kanvolution train`, or the id of a repository
            with the same files ("user/name").
        model: a network to load the weights into, in place of the one that the config makes.
        conv: the conv factory of a network that was made with a factory of one's own.
        revision: branch, tag or commit of the repository.
        cache_dir: where downloads are kept; None for the hub's own place.
        token: for private repositories; None for the one of `hf auth login`.
        local_files_only: use what is in the cache, without the network.
        force_download: download again what is in the cache.

    Raises:
        ValueError: no such folder or repository, a hub that cannot be reached (the message says what to download and
            where to put it), a damaged file, a network that cannot be made, or weights of another architecture.
    """
    folder = fetch(
        source,
        (CONFIG, WEIGHTS),
        revision=revision,
        cache_dir=cache_dir,
        token=token,
        local_files_only=local_files_only,
        force_download=force_download,
    )
    network, _ = load_saved(read_config(folder), model, conv)
    return network


def push_to_hub(
    model: nn.Module,
    repo_id: str,
    *,
    revision: str | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
    commit_message: str = "Upload model with kanvolution",
    create_pr: bool = False,
    data: _Described | Mapping[str, Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> str:
    """Save a network to a repository of the Hugging Face Hub, which is made if it is not there.

    Args:
        model, data, metadata: see `save_pretrained`.
        repo_id: "user/name".
        revision: the branch; None for the main one.
        private: whether a new repository is private; None for the owner's default.
        token: with the right to write; None for the one of `hf auth login`.
        commit_message: of the commit.
        create_pr: open a pull request instead of committing.

    Returns:
        The address of the commit or pull request.

    Raises:
        ValueError: as `save_pretrained`, or the hub cannot be reached or refuses.
    """
    with tempfile.TemporaryDirectory() as temporary:
        save_pretrained(model, temporary, data=data, repo_id=repo_id, metadata=metadata)
        return upload(
            temporary,
            repo_id,
            revision=revision,
            private=private,
            token=token,
            commit_message=commit_message,
            create_pr=create_pr,
        )


def model_config(model: nn.Module) -> dict[str, Any] | None:
    """What makes `model` again, in JSON types; None for a network made by hand.

    Raises ValueError for an option that JSON cannot hold.
    """
    config = getattr(model, "config", None)
    if not isinstance(config, Mapping):
        return None
    return {str(key): _plain(key, value) for key, value in config.items()}


def write_config(
    folder: Path, model: nn.Module, data: Mapping[str, Any] | None, metrics: Mapping[str, float] | None = None
) -> None:
    """Write `config.json`: version of the package, config of the network (null for one made by hand), data, metrics."""
    from kanvolution import __version__

    measured = {} if metrics is None else {"metrics": dict(metrics)}
    write_json(folder / CONFIG, {"kanvolution": __version__, "model": model_config(model), "data": data, **measured})


def read_config(folder: Path) -> SavedConfig:
    """Read `config.json`. Raises ValueError if it is damaged, or of another library."""
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        saved = SavedConfig(folder, config["model"], config.get("data"))
        if not all(isinstance(part, Mapping | None) for part in (saved.model, saved.data)):
            raise TypeError("model and data must be dictionaries")
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise ValueError(
            f"{str(path)!r} is damaged, or was not written by kanvolution: {type(error).__name__}: {error}"
        ) from error
    return saved


def load_saved(
    saved: SavedConfig, model: nn.Module | None = None, conv: str | Mapping[str, Any] | ConvFactory | None = None
) -> tuple[nn.Module, dict[str, str]]:
    """The network of a saved folder in evaluation mode, in the type of its weights, and the weights' metadata.

    Args and errors as `from_pretrained`.
    """
    path = saved.path / WEIGHTS
    if model is None:
        model = _build(saved, conv)
    elif conv is not None:
        raise ValueError("conv goes into the network that the config makes; give model or conv, not both")
    state, metadata = read_weights(path)
    dtype = network_dtype(state, metadata)
    if dtype is not None:
        model = model.to(dtype)
    load_weights(model, state, source=repr(str(path)))
    return model.eval(), metadata


def _build(saved: SavedConfig, conv: str | Mapping[str, Any] | ConvFactory | None) -> nn.Module:
    name = repr(str(saved.path))
    if saved.model is None:
        raise ValueError(f"the network of {name} was made by hand; make it and pass it: model=...")
    config = dict(saved.model)
    if conv is not None:
        config["conv"] = conv
    if "conv" in config and config["conv"] is None:
        raise ValueError(
            f"the network of {name} was made with a conv factory, which a file cannot hold; pass that factory: conv=..."
        )
    try:
        return make_network(config)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"the network of {name} cannot be made: {error} A model or basis of your own must be registered before it "
            "is loaded (on the command line: --import FILE)"
        ) from error


def make_network(config: Mapping[str, Any]) -> nn.Module:
    """The network of a config. Raises ValueError or TypeError as its constructor does."""
    arguments = dict(config)
    if "class" not in arguments:
        return create_model(**arguments)
    changes = arguments.pop("changes", None)
    network = NETWORKS[arguments.pop("class")](**arguments)
    if changes:
        apply_changes(network, changes)
        object.__setattr__(network, "config", dict(config))
    return network


def with_changes(network: nn.Module, config: Mapping[str, Any]) -> dict[str, Any]:
    """A config of `network` that also says in what its layers differ from those that the config makes.

    Raises:
        ValueError: a layer that no file can describe: its basis is not registered.
    """
    config = {key: value for key, value in config.items() if key != "changes"}
    changes = changes_between(network, _twin(config))
    return {**config, "changes": changes} if changes else config


def record_changes(network: nn.Module) -> None:
    """Write into `network.config`, if it has one, in what its layers differ from those that the config makes.

    Raises:
        ValueError: as `with_changes`.
    """
    config = getattr(network, "config", None)
    if isinstance(config, Mapping):
        object.__setattr__(network, "config", with_changes(network, config))


def _unwrapped(model: nn.Module) -> nn.Module:
    """The network inside what torch.compile and data-parallel training put around it."""
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return _unwrapped(model.module)
    inner = model._modules.get("_orig_mod")
    return model if inner is None else _unwrapped(inner)


def _check_folder(folder: Path, overwrite: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"folder (={str(folder)!r}) is a file; choose another name")
    found = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    other = [name for name in found if name not in _FILES]
    if other:
        raise ValueError(
            f"folder (={str(folder)!r}) holds other things ({', '.join(other[:3])}{', ...' if other[3:] else ''}), "
            "which are not overwritten; choose a new folder"
        )
    if found and not overwrite:
        raise ValueError(
            f"folder (={str(folder)!r}) holds a saved model; choose a new folder, or replace it with overwrite=True"
        )


def check_config(model: nn.Module, config: Mapping[str, Any]) -> None:
    """Raises ValueError if the config does not make a network of the weights that `model` has."""
    twin = _twin(config)
    if twin is None:
        return
    shapes = [{name: tuple(value.shape) for name, value in m.state_dict().items()} for m in (model, twin)]
    if shapes[0] == shapes[1]:
        return
    different = sorted(name for name in {**shapes[0], **shapes[1]} if shapes[0].get(name) != shapes[1].get(name))
    raise ValueError(
        f"the network was changed after it was made, and its config makes another one: {len(different)} weights differ "
        f"(first {different[0]}). Register a constructor of the changed network with register_model; "
        "reset_classifier changes the head and the config"
    )


def _twin(config: Mapping[str, Any]) -> nn.Module | None:
    """A network of the config, without values; None for one of a factory that is not here."""
    if "conv" in config and config["conv"] is None:
        return None
    try:
        with torch.device("meta"):
            return make_network(config)
    except Exception:  # a network of the user's that needs values while it is made, which the meta device has not
        with torch.random.fork_rng(devices=[]):
            return make_network(config)


def _plain_data(data: _Described | Mapping[str, Any] | None) -> dict[str, Any] | None:
    if data is None:
        return None
    return dict(data) if isinstance(data, Mapping) else data.to_dict()


def _plain(option: object, value: Any) -> Any:
    """`value` in JSON types; what has a `to_dict` (`ConvSpec`, structures) as its dictionary."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(option, part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(option, part) for part in value]
    if callable(getattr(value, "to_dict", None)):
        return value.to_dict()
    raise ValueError(
        f"option {option} (={value!r}) of the network cannot be written to {CONFIG}; pass numbers, strings, lists, "
        "a ConvSpec or a Structure"
    )
