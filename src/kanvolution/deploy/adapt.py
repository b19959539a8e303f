"""Adapters: few trained numbers beside a network, which merge into it exactly and are saved alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.hooks import RemovableHandle

from kanvolution.bases import Basis
from kanvolution.data.info import DataInfo
from kanvolution.deploy.adapters import AdapterKind, adapter_kind
from kanvolution.files import write_json
from kanvolution.layers.layer import KANLayer
from kanvolution.layers.penalties import kan_layers
from kanvolution.models import create_model
from kanvolution.models.hub import fetch
from kanvolution.models.kan import KAN
from kanvolution.models.network import Network
from kanvolution.models.pretrained import CONFIG, load_saved, read_config
from kanvolution.models.published import PUBLISHED
from kanvolution.models.weights import WEIGHTS, read_weights, write_weights

ADAPTER_CONFIG = "adapter.json"
ADAPTER_WEIGHTS = "adapter.safetensors"
FORMAT = 1
"""Number of the layout of a saved adapter; it grows when an older one cannot be read any more."""

_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


class Adapter:
    """An adapter on a network: made by `adapt` or `load_adapter`.

    While it is attached, the network computes with base weights plus deltas, and the parameters that are trained are
    those that require gradients. `merge` makes the deltas part of the weights, `unmerge` takes them out again, and
    `remove` gives the base network back, bit by bit. Several adapters follow one another: the next is made when the one
    before is merged, and they are taken off in the opposite order.

    Attributes:
        model: the network.
        kind: what is trained.
        base: `fingerprint` of the network before, and `source`, where it is from.
        deltas: what is added to the weights of which layers.
        whole: names of the tensors that are trained, or follow the data, as a whole: norms, head, parameters of bases.
        num_classes: outputs of a new head; None where the network keeps its own.
    """

    def __init__(
        self, model: nn.Module, kind: AdapterKind, base: Mapping[str, str], num_classes: int | None = None
    ) -> None:
        self.model, self.kind, self.base, self.num_classes = model, kind, dict(base), num_classes
        self.deltas: dict[str, nn.Module] = {}
        self.whole: list[str] = []
        self.merged = False
        self._undo: list[Callable[[], object]] = []
        self._weights: dict[str, nn.Parameter] = {}
        self._flags = [(p, p.requires_grad) for p in model.parameters()]
        self._hooks: list[RemovableHandle] = []
        self._level = _level(model) + 1
        try:
            self._attach()
        except BaseException:
            self._restore()
            raise

    def _attach(self) -> None:
        model, kind = self.model, self.kind
        _set_level(model, self._level)
        self._undo.append(partial(_set_level, model, self._level - 1))
        growth = kind.grow(model)
        if growth is not None:
            self._undo.append(growth.undo)
        if self.num_classes is not None:
            self._new_head(self.num_classes)
        self._flags += [(p, p.requires_grad) for p in model.parameters()]  # those that are new, too
        self._head = head_name(model) if kind.head else None
        layers = {
            name: layer
            for name, layer in kan_layers(model)
            if isinstance(layer, KANLayer) and not _inside(name, self._head)
        }
        self._find_whole()
        deltas = kind.deltas(layers, growth)
        self._undo.append(self._take_off)
        for name, delta in deltas.items():
            layer = model.get_submodule(name)
            self._weights[name] = layer.get_parameter("weight")
            parametrize.register_parametrization(layer, "weight", delta)
            self.deltas[name] = delta
        self._train_alone()
        if not any(p.requires_grad for p in model.parameters()):
            raise ValueError(
                f"adapter {kind.name!r} finds nothing to train in this {type(model).__name__}"
                + ("" if self._head else ": it has no head (get_classifier)")
            )

    def _new_head(self, num_classes: int) -> None:
        model = self.model
        if not isinstance(model, Network) or not self.kind.head:
            raise ValueError(
                f"the network has other classes than num_classes (={num_classes}), and "
                + (
                    "its head is not trained; set adapter.head=true"
                    if isinstance(model, Network)
                    else f"a {type(model).__name__} has no head that can be replaced; give it the outputs by hand"
                )
            )
        for name in ("config", "num_classes", "head"):
            if hasattr(model, name):
                self._undo.append(partial(setattr, model, name, getattr(model, name)))
        model.reset_classifier(num_classes)

    def _find_whole(self) -> None:
        kind, state = self.kind, self.model.state_dict()
        for prefix, module in self.model.named_modules():
            trained = kind.whole or _inside(prefix, self._head) or (kind.norms and isinstance(module, _NORMS))
            if not trained and not (kind.bases and isinstance(module, Basis)):
                continue
            for name, value in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
                key = f"{prefix}.{name}" if prefix else name
                if key in state:
                    self.whole.append(key)
                    self._undo.append(partial(_copy, value, value.detach().clone()))

    def _train_alone(self) -> None:
        """Let the parameters of the adapter be trained, and nothing else."""
        model, whole = self.model, set(self.whole)
        model.requires_grad_(False)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in whole)
        for delta in self.deltas.values():
            delta.requires_grad_(True)
        # Norms that are not trained keep their running statistics, and use them in training too.
        for name, module in model.named_modules():
            frozen = not self.kind.norms and not _inside(name, self._head)
            if frozen and isinstance(module, nn.modules.batchnorm._NormBase) and module.track_running_stats:
                self._hooks.append(module.register_forward_pre_hook(_in_eval_mode))

    def _train_as_before(self) -> None:
        """Let the parameters be trained that were before."""
        for parameter, flag in self._flags:
            parameter.requires_grad_(flag)
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def _take_off(self) -> None:
        for name in self.deltas:
            layer = self.model.get_submodule(name)
            if not self.merged:
                parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
            layer.weight = self._weights[name]  # pyright: ignore[reportArgumentType]

    def _restore(self) -> None:
        while self._undo:
            self._undo.pop()()
        self._train_as_before()

    def _check_last(self, what: str) -> None:
        if not self._undo:
            raise ValueError(f"this adapter was removed from its network and cannot {what}; adapt the network again")
        if _level(self.model) != self._level:
            raise ValueError(
                f"a later adapter is on the network, so this one cannot {what}; remove the later one first"
            )

    def trainable(self) -> int:
        """Number of the parameters that are trained."""
        deltas = [p for delta in self.deltas.values() for p in delta.parameters()]
        whole = [p for name, p in self.model.named_parameters() if name in self.whole]
        return sum(p.numel() for p in (*deltas, *whole))

    @torch.no_grad()
    def merge(self) -> nn.Module:
        """Make the deltas part of the weights: the same outputs, and an ordinary network. Returns the network."""
        self._check_last("merge")
        if not self.merged:
            for name, weight in self._sums().items():
                layer = self.model.get_submodule(name)
                parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
                layer.weight = nn.Parameter(weight)  # pyright: ignore[reportArgumentType]
            self.merged = True
            self._train_as_before()
        return self.model

    def unmerge(self) -> nn.Module:
        """Take the deltas out of the weights again, which are those of the base network bit by bit."""
        self._check_last("unmerge")
        if self.merged:
            for name, delta in self.deltas.items():
                layer = self.model.get_submodule(name)
                layer.weight = self._weights[name]  # pyright: ignore[reportArgumentType]
                parametrize.register_parametrization(layer, "weight", delta)
            self.merged = False
            self._train_alone()
        return self.model

    def remove(self) -> nn.Module:
        """Give back the network as it was before, bit by bit."""
        self._check_last("be removed")
        self._restore()
        return self.model

    def state_dict(self) -> dict[str, Tensor]:
        """The tensors that make the adapter: `LAYER.weight.NAME` of deltas, and those that are trained as a whole."""
        state = self.model.state_dict()
        return {**self._delta_tensors(), **{name: state[name] for name in self.whole}}

    def _delta_tensors(self) -> dict[str, Tensor]:
        return {
            f"{name}.weight.{key}".lstrip("."): value
            for name, delta in self.deltas.items()
            for key, value in delta.state_dict().items()
        }

    @torch.no_grad()
    def merged_state_dict(self) -> dict[str, Tensor]:
        """The state dict that the network has after `merge`."""
        state = self.model.state_dict()
        if self.merged:
            return state
        for name, weight in self._sums().items():
            prefix = f"{name}." if name else ""
            state = {k: v for k, v in state.items() if not k.startswith(f"{prefix}parametrizations.weight.")}
            state[f"{prefix}weight"] = weight
        return state

    def _sums(self) -> dict[str, Tensor]:
        layers = {name: self.model.get_submodule(name) for name in self.deltas}
        return {name: layer.weight.detach().clone() for name, layer in layers.items()}  # pyright: ignore[reportCallIssue]

    def save(self, folder: str | Path, *, data: DataInfo | None = None) -> Path:
        """Write the adapter alone, as `adapter.json` and `adapter.safetensors`; an older one there is replaced.

        Args:
            folder: is made if it is not there.
            data: what the network was adapted to.

        Returns:
            The folder.

        Raises:
            ValueError: the folder holds other files.
            OSError: no space or no permission.
        """
        from kanvolution import __version__

        folder = Path(folder).expanduser()
        others = {p.name for p in folder.iterdir()} - {ADAPTER_CONFIG, ADAPTER_WEIGHTS} if folder.is_dir() else ()
        if others:
            raise ValueError(f"folder (={str(folder)!r}) holds other things ({min(others)}, ...); choose a new folder")
        folder.mkdir(parents=True, exist_ok=True)
        write_weights(folder / ADAPTER_WEIGHTS, self.state_dict())
        write_json(
            folder / ADAPTER_CONFIG,
            {
                "kanvolution": __version__,
                "format": FORMAT,
                "adapter": self.kind.to_dict(),
                "base": self.base,
                "num_classes": self.num_classes,
                "data": None if data is None else data.to_dict(),
            },
        )
        return folder


def adapt(
    model: nn.Module,
    kind: str | Mapping[str, Any] | AdapterKind,
    *,
    num_classes: int | None = None,
    source: str = "",
    **options: Any,
) -> Adapter:
    """Prepare a network for parameter-efficient fine-tuning, in place; it computes the same as before.

    All parameters are frozen but those of the adapter, which the optimiser is to be made for. A new head is the one
    thing that changes outputs.

    Args:
        model: a network or a layer.
        kind: name of a kind of adapter (see `list_adapters`), or the kind itself.
        num_classes: outputs of a new head; None, or the number that the network has, keeps its own.
        source: where the network is from, for messages and for the saved adapter.
        **options: options of the kind, where it is a name.

    Raises:
        ValueError: an unknown name or option, a value out of range, a kind that matches no layer of the network, or a
            network that has an adapter which is not merged.

    Example:
        >>> import torch, kanvolution as kv
        >>> from kanvolution.deploy import adapt
        >>> model = kv.create_model("simple4", conv="spline", num_classes=10, in_chans=1).eval()
        >>> x = torch.randn(2, 1, 28, 28)
        >>> before = model(x)
        >>> adapter = adapt(model, "lora", rank=4)
        >>> torch.equal(model(x), before)
        True
        >>> _ = [torch.nn.init.normal_(p) for p in model.parameters() if p.requires_grad]
        >>> adapted = model(x)
        >>> torch.equal(adapter.merge()(x), adapted)
        True
        >>> torch.equal(adapter.remove()(x), before)
        True
    """
    base = {"source": source, "fingerprint": fingerprint(model)}
    if num_classes is not None and num_classes == getattr(model, "num_classes", None):
        num_classes = None
    return Adapter(model, adapter_kind(kind, **options), base, num_classes)


def load_adapter(folder: str | Path, model: nn.Module, *, source: str = "") -> Adapter:
    """Put a saved adapter on the network that it was made for; `merge` makes it part of the weights.

    Args:
        folder: of `Adapter.save`.
        model: the base network.
        source: where it is from, for messages.

    Raises:
        ValueError: no adapter there, a damaged file, or one that was made for another network; both are named.
    """
    path, values = _read(folder)
    base, here = values["base"], fingerprint(model)
    if base["fingerprint"] != here:
        raise ValueError(
            f"the adapter {str(path)!r} was made for the network {_named(base['source'], base['fingerprint'])}, and "
            f"this one is {_named(source, here)}; load that network, with its adapters before this one, if any"
        )
    adapter = Adapter(model, adapter_kind(values["adapter"]), base, values["num_classes"])
    try:
        state, _ = read_weights(path / ADAPTER_WEIGHTS)
        _load(adapter, state, path / ADAPTER_WEIGHTS)
    except ValueError:
        adapter.remove()
        raise
    return adapter


def load_adapted(folder: str | Path, *, base: str | Path | None = None) -> nn.Module:
    """The adapted network of a saved adapter, merged, in evaluation mode.

    Args:
        folder: of the adapter.
        base: the base network, as in `load_base`; None takes what the adapter says.

    Raises:
        ValueError: as `load_adapter` and `load_base`.
    """
    path, values = _read(folder)
    source = str(base or values["base"]["source"])
    if not source:
        raise ValueError(f"the adapter {str(path)!r} does not say where its base network is; pass it: base=...")
    model, _ = load_base(source)
    return load_adapter(path, model, source=source).merge().eval()


def load_base(source: str | Path) -> tuple[nn.Module, DataInfo | None]:
    """A saved network in evaluation mode, and what it was trained on, if that is told.

    Args:
        source: the folder of a run or of a saved model, a repository of the Hugging Face Hub, or a name of published
            weights (`kanvolution.list_models(pretrained=True)`).

    Raises:
        ValueError: there is no such network, or it is damaged.
    """
    name = str(source)
    if name in PUBLISHED and not PUBLISHED[name].ships:
        return create_model(name, pretrained=True).eval(), None
    saved = read_config(fetch(source, (CONFIG, WEIGHTS)))
    network, _ = load_saved(saved)
    return network, None if saved.data is None else DataInfo.from_dict(saved.data)


def fingerprint(model: nn.Module) -> str:
    """A name of the weights of a network: SHA-256 of the names, types, shapes and values of its state dict.

    Raises:
        ValueError: the network has an adapter that is not merged.
    """
    if any(parametrize.is_parametrized(module) for module in model.modules()):
        raise ValueError("the network has an adapter (or another parametrization) already; merge or remove it first")
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        plain = value.detach().cpu().contiguous()
        digest.update(f"{name} {plain.dtype} {tuple(plain.shape)}\n".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes())
    return f"sha256:{digest.hexdigest()}"


def head_name(model: nn.Module) -> str | None:
    """The name of the module that gives a network's outputs: its classifier, or the last layer of a `KAN`."""
    head = model.layers[-1] if isinstance(model, KAN) else getattr(model, "get_classifier", lambda: None)()
    if head is None or not any(True for _ in head.parameters()):
        return None
    return next(name for name, module in model.named_modules() if module is head)


def _read(folder: str | Path) -> tuple[Path, dict[str, Any]]:
    """The local folder of an adapter and its config, checked."""
    path = fetch(folder, (ADAPTER_CONFIG, ADAPTER_WEIGHTS))
    try:
        values = json.loads((path / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        if values["format"] != FORMAT:
            raise ValueError(f"its format is {values['format']}, this version reads {FORMAT}")
        if not {"source", "fingerprint"} <= values["base"].keys() or not {"adapter", "num_classes"} <= values.keys():
            raise ValueError("it lacks the adapter or its base")
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise ValueError(f"{str(path / ADAPTER_CONFIG)!r} is damaged, or of another version: {error}") from error
    return path, values


@torch.no_grad()
def _load(adapter: Adapter, state: Mapping[str, Tensor], path: Path) -> None:
    own = adapter.state_dict()
    shapes = [{name: tuple(value.shape) for name, value in tensors.items()} for tensors in (own, state)]
    odd = sorted(name for name in {**own, **state} if shapes[0].get(name) != shapes[1].get(name))
    if odd:
        raise ValueError(f"{str(path)!r} is damaged: {len(odd)} tensors do not fit the adapter (first {odd[0]})")
    for name, value in own.items():  # they share the memory of the network
        value.copy_(state[name])


def _named(source: str, digest: str) -> str:
    return f"{source!r} ({digest[:19]})" if source else f"with the weights {digest[:19]}"


def _inside(name: str, head: str | None) -> bool:
    return head is not None and (name == head or name.startswith(f"{head}.") or head == "")


def _level(model: nn.Module) -> int:
    """How many adapters are on a network."""
    return getattr(model, "_adapters", 0)


def _set_level(model: nn.Module, level: int) -> None:
    object.__setattr__(model, "_adapters", level)


@torch.no_grad()
def _copy(value: Tensor, copy: Tensor) -> None:
    value.copy_(copy)


def _in_eval_mode(module: nn.Module, inputs: Any) -> None:
    module.training = False
