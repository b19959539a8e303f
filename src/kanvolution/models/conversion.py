"""Any convolutional network turned into a Kolmogorov-Arnold network: `convert`."""

from __future__ import annotations

import contextlib
import difflib
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils import parametrize

from kanvolution.bases import BASES, Basis
from kanvolution.bases.basis import option_names
from kanvolution.layers import KAN_TRANSPOSED_CONVOLUTIONS, ConvSpec, KANConvNormAct
from kanvolution.layers.spec import ConvFactory
from kanvolution.layers.structures.bottleneck import BottleneckConv
from kanvolution.registry import unknown_name

INITS = ("fresh", "preserve")

Where = str | type[nn.Module] | Callable[[str, nn.Module], bool]
"""Which convolutions: a pattern of names, a type, or a predicate of name and module."""

_CONVOLUTIONS: tuple[type[nn.Module], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED: tuple[type[nn.Module], ...] = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_ALL = (*_CONVOLUTIONS, *_TRANSPOSED)


@dataclass(frozen=True)
class LayerReport:
    """What became of one convolution.

    Attributes:
        names: where it stands in the model; several names where it is shared.
        before: the convolution in words.
        after: what replaced it, in words; "" where it was left.
        reason: why it was left; "" where it was replaced.
        parameters: before and after.
        flops: floating-point operations for one position of the output, before and after. A multiplication and an
            addition are two; the functions themselves are not counted.
    """

    names: tuple[str, ...]
    before: str
    after: str
    reason: str
    parameters: tuple[int, int]
    flops: tuple[int, int]


@dataclass(frozen=True)
class ConversionReport:
    """What `convert` did. `str` of it is a table.

    Attributes:
        layers: the convolutions that were chosen, in the model's order.
        parameters: of the whole model, before and after.
        flops: of the whole model for the example, before and after; None without one. As in `LayerReport`.
    """

    layers: tuple[LayerReport, ...]
    parameters: tuple[int, int]
    flops: tuple[int, int] | None

    @property
    def replaced(self) -> tuple[LayerReport, ...]:
        """The layers that were replaced."""
        return tuple(layer for layer in self.layers if not layer.reason)

    @property
    def skipped(self) -> tuple[LayerReport, ...]:
        """The layers that were chosen and left, with the reason."""
        return tuple(layer for layer in self.layers if layer.reason)

    def __str__(self) -> str:
        rows = [("layer", "before", "after", "parameters", "FLOPs / position")]
        for layer in self.layers:
            after = layer.after or f"left: {layer.reason}"
            numbers = ("", "") if layer.reason else (_change(*layer.parameters), _change(*layer.flops))
            rows.append((", ".join(layer.names), layer.before, after, numbers[0], numbers[1]))
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        total = f"{len(self.replaced)} replaced, {len(self.skipped)} left; parameters {_change(*self.parameters)}"
        if self.flops is not None:
            total += f"; FLOPs {_change(*self.flops)}"
        return "\n".join([*lines, total])


def convert(
    model: nn.Module,
    conv: str | Mapping[str, Any] | ConvFactory = "gram",
    *,
    where: Where | Sequence[Where] | None = None,
    init: str = "fresh",
    example: Tensor | tuple[Tensor, ...] | None = None,
    **basis_options: Any,
) -> nn.Module:
    """Replace convolutions of any network, of torchvision or timm say, by Kolmogorov-Arnold convolutions.

    `nn.Conv1d`, `nn.Conv2d`, `nn.Conv3d` and their transposed forms are replaced in place by layers of the same
    arguments (groups, padding, bias, ...), device, type and mode. Norms and activations of the network stay. A module
    that stands at several places is replaced by one. Everything is checked, and all new layers are made, before the
    first is replaced.

    Args:
        model: the network.
        conv: name of a basis, for the bare layer; a `ConvSpec` or its dictionary, with its norm, activation, dropout
            and structure; or any callable with nn.Conv's arguments.
        where: which convolutions; None for all. A shell pattern ("layer1.*", "*.conv2"), a type, a predicate (name,
            module) -> bool, or a sequence of them, of which each must choose one. A pattern or type may also be that of
            a module around: it then stands for all convolutions inside.
        init: "fresh", new weights that keep the variance; or "preserve": the base function is x and takes the old
            weights, the weights of the functions are zero. The network then computes what it did and learns functions
            from there. It needs a basis that takes base="identity", no norm and no activation, and no structure other
            than `LowRank` or `Bottleneck`.
        example: an input of the network; with it the report counts the FLOPs of the whole network.
        **basis_options: options of the basis (`degree`, `grid_size`, ...), where `conv` is its name.

    Returns:
        The model, with the `ConversionReport` as `model.conversion`. It is the same object, unless it is itself a
        convolution.

    Raises:
        TypeError: `model` or `conv` is none.
        ValueError: nothing is chosen or can be replaced (the nearest names or the reasons are given), an unknown name
            or option, or a value that does not go with `init`. The model is then as it was.

    Example:
        >>> import torch, torchvision, kanvolution as kv
        >>> model = torchvision.models.resnet18().eval()
        >>> x = torch.randn(1, 3, 64, 64)
        >>> before = model(x)
        >>> model = kv.convert(model, "chebyshev", where="layer4", init="preserve", degree=4)
        >>> len(model.conversion.replaced)
        5
        >>> torch.allclose(model(x), before, atol=1e-5)
        True
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model (={model!r}) must be a torch.nn.Module")
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError("model is a ScriptModule, whose layers cannot be replaced; convert it before it is scripted")
    if init not in INITS:
        raise ValueError(unknown_name("init", init, INITS))
    factory = _resolve(conv, basis_options, preserve=init == "preserve")
    modules = dict(model.named_modules(remove_duplicate=False))
    chosen = _choose(modules, where)
    owners = Counter(id(p) for module in set(modules.values()) for p in module._parameters.values() if p is not None)
    plan: list[tuple[tuple[str, ...], nn.Module, nn.Module | str]] = []
    for names, old in chosen:
        reason = _obstacle(old, owners, factory) or _inside(names[0], modules)
        if reason:
            plan.append((names, old, reason))
            continue
        try:
            plan.append((names, old, _replacement(old, factory, init == "preserve")))
        except (ValueError, TypeError) as error:
            raise type(error)(f"{names[0] or 'the model'} ({_words(old)}): {error}") from error
    if all(isinstance(new, str) for _, _, new in plan):
        reasons = sorted({f"{names[0]}: {reason}" for names, _, reason in plan})
        raise ValueError(f"none of the {len(plan)} chosen convolutions can be replaced. {'; '.join(reasons[:5])}")
    inputs = (example,) if isinstance(example, Tensor) else example
    flops = None if inputs is None else _flops(model, *inputs)
    parameters = _parameters(model)
    layers = tuple(_report(names, old, new) for names, old, new in plan)
    for names, _, new in plan:
        if isinstance(new, nn.Module):
            model = _put(model, names, new)
    totals = None if inputs is None or flops is None else (flops, _flops(model, *inputs))
    report = ConversionReport(layers, (parameters, _parameters(model)), totals)
    object.__setattr__(model, "conversion", report)
    return model


class SamePadding(nn.Module):
    """Zeros around an image so that a convolution gives ceil(size / stride) positions, as TensorFlow and timm pad.

    The odd one of a pair goes to the end. Stands before the layer that replaces timm's `Conv2dSame`.
    """

    def __init__(self, kernel_size: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> None:
        super().__init__()
        self.kernel_size, self.stride, self.dilation = tuple(kernel_size), tuple(stride), tuple(dilation)

    def forward(self, x: Tensor) -> Tensor:
        amounts: list[int] = []
        for size, kernel, stride, dilation in zip(
            reversed(x.shape[2:]), *(reversed(v) for v in (self.kernel_size, self.stride, self.dilation)), strict=True
        ):
            total = max((math.ceil(size / stride) - 1) * stride + dilation * (kernel - 1) + 1 - size, 0)
            amounts += [total // 2, total - total // 2]
        return F.pad(x, amounts)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, dilation={self.dilation}"


def _resolve(
    conv: str | Mapping[str, Any] | ConvFactory, basis_options: Mapping[str, Any], preserve: bool
) -> ConvFactory:
    """`conv` as a ConvSpec or factory."""
    if basis_options and not isinstance(conv, str):
        raise ValueError(f"options {sorted(basis_options)} go into conv, unless it is the name of a basis")
    if isinstance(conv, str):
        conv = ConvSpec(conv, norm=None, act=None, **basis_options)
    elif isinstance(conv, Mapping):
        conv = ConvSpec.from_dict(conv)
    if not callable(conv):
        raise TypeError(
            f"conv (={conv!r}) must be the name of a basis, a ConvSpec, or a callable with nn.Conv's arguments"
        )
    return _with_identity(conv) if preserve and isinstance(conv, ConvSpec) else conv


def _with_identity(spec: ConvSpec) -> ConvSpec:
    """`spec` with the identity as base function."""
    if spec.norm is not None or spec.act not in (None, "auto") or (spec.act and BASES[spec.basis].activation):
        raise ValueError(
            f"init='preserve' keeps the network's own norms and activations, so conv (norm={spec.norm!r}, "
            f"act={spec.act!r}) must have none; pass ConvSpec({spec.basis!r}, norm=None, act=None)"
        )
    given = spec.options.get("base", "identity")
    if given != "identity":
        raise ValueError(f"base (={given!r}) must be 'identity' with init='preserve', which sets it")
    if "base" in option_names(BASES[spec.basis]):
        return replace(spec, options={**spec.options, "base": "identity"})
    return spec  # its base function is the identity, or the layer refuses


def _choose(
    modules: Mapping[str, nn.Module], where: Where | Sequence[Where] | None
) -> list[tuple[tuple[str, ...], nn.Module]]:
    """The chosen convolutions with all their names; `modules` are all modules of a model by all their names."""
    names: dict[nn.Module, list[str]] = {}
    for name, module in modules.items():
        if isinstance(module, _ALL):
            names.setdefault(module, []).append(name)
    if not names:
        raise ValueError(f"the model ({type(modules['']).__name__}) has no nn.Conv1d, nn.Conv2d or nn.Conv3d")
    if where is None:
        return [(tuple(all_names), module) for module, all_names in names.items()]
    selectors = list(where) if isinstance(where, Sequence) and not isinstance(where, str) else [where]
    chosen: set[nn.Module] = set()
    for selector in selectors:
        found = {
            module
            for module, all_names in names.items()
            if any(_matches(selector, name, module, modules) for name in all_names)
        }
        if not found:
            raise ValueError(_nothing_found(selector, names, modules))
        chosen |= found
    return [(tuple(all_names), module) for module, all_names in names.items() if module in chosen]


def _around(name: str) -> Iterator[str]:
    """A name, and the names of the modules around it, but for the model's own."""
    while name:
        yield name
        name = name.rpartition(".")[0]


def _matches(selector: object, name: str, module: nn.Module, modules: Mapping[str, nn.Module]) -> bool:
    if isinstance(selector, str):
        return any(fnmatchcase(part, selector) for part in _around(name))
    if isinstance(selector, type):
        return isinstance(module, selector) or any(isinstance(modules[part], selector) for part in _around(name))
    if callable(selector):
        return bool(selector(name, module))
    raise TypeError(f"where (={selector!r}) must be a pattern of names, a type, or a predicate (name, module) -> bool")


def _nothing_found(selector: object, names: Mapping[nn.Module, list[str]], modules: Mapping[str, nn.Module]) -> str:
    convolutions = [name for all_names in names.values() for name in all_names if name]
    message = f"where (={selector!r}) chooses none of the {len(names)} convolutions."
    if isinstance(selector, str):
        known = sorted({part for name in convolutions for part in _around(name)})
        near = difflib.get_close_matches(selector, known, n=3, cutoff=0.4) or convolutions[:3]
        return f"{message} The nearest names: {', '.join(near)}."
    if isinstance(selector, type):
        kinds = sorted({type(modules[part]).__name__ for name in convolutions for part in _around(name)})
        return f"{message} Types of convolutions and of modules around them: {', '.join(kinds)}."
    return f"{message} Their names: {', '.join(convolutions[:5])}{', ...' if convolutions[5:] else ''}."


def _is_same_padded(module: nn.Module) -> bool:
    """Whether it is timm's convolution that pads by the size of its input."""
    return type(module).__name__ == "Conv2dSame" and type(module).__module__.startswith("timm.")


def _is_transposed(module: nn.Module) -> bool:
    return isinstance(module, _TRANSPOSED)


def _obstacle(module: nn.Module, owners: Mapping[int, int], factory: ConvFactory) -> str:
    """Why a convolution cannot be replaced; "" if it can."""
    kind = type(module).__name__
    if parametrize.is_parametrized(module):
        return "its weight is parametrized"
    if any(isinstance(p, UninitializedParameter) for p in module.parameters(recurse=False)):
        return "it has no shape before the first forward"
    if module._forward_hooks or module._forward_pre_hooks:
        return "it has forward hooks, as weight_norm and spectral_norm put them"
    plain = next(cls for cls in _ALL if isinstance(module, cls))
    own = [name for name in ("forward", "_conv_forward") if _differs(type(module), plain, name)]
    if own and not _is_same_padded(module):
        return f"{kind} computes something else than {plain.__name__}"
    shared = [name for name, p in module._parameters.items() if p is not None and owners[id(p)] > 1]
    if shared:
        return f"its {' and '.join(shared)} belongs to another module, too"
    if _is_transposed(module):
        if not isinstance(factory, ConvSpec):
            return "a conv factory makes no transposed convolutions; pass a basis or a ConvSpec"
        if factory.structure is not None:
            return "structures have no transposed form"
    return ""


def _differs(cls: type, plain: type, name: str) -> bool:
    return getattr(cls, name, None) is not getattr(plain, name, None)


def _inside(name: str, modules: Mapping[str, nn.Module]) -> str:
    """Why a convolution that is part of one of our own layers is left; "" for others."""
    for part in _around(name):
        if isinstance(modules[part], KANConvNormAct | BottleneckConv):
            return "it is part of a Kolmogorov-Arnold layer"
    return ""


def _replacement(old: Any, factory: ConvFactory, preserve: bool) -> nn.Module:
    """The new layer of a convolution, with its device, type, mode and flags of gradients."""
    ndim = len(old.kernel_size)
    device, dtype = old.weight.device, old.weight.dtype
    arguments: dict[str, Any] = {
        "stride": old.stride,
        "padding": 0 if _is_same_padded(old) else old.padding,
        "dilation": old.dilation,
        "groups": old.groups,
        "bias": old.bias is not None,
    }
    if old.padding_mode != "zeros":
        arguments["padding_mode"] = old.padding_mode
    sizes = (old.in_channels, old.out_channels, old.kernel_size)
    weight = old.weight.detach()
    if isinstance(factory, ConvSpec):
        factory = replace(factory, ndim=ndim)
        if _is_transposed(old):
            arguments["output_padding"] = old.output_padding
            basis = factory.make_basis(old.in_channels, old.out_channels, old.groups)
            inner = KAN_TRANSPOSED_CONVOLUTIONS[ndim](*sizes, **arguments, device=device, dtype=dtype, basis=basis)
            new = factory.around(inner, old.in_channels, old.out_channels, device, dtype)
            # [in, out / groups, ...] -> [out, in / groups, ...]
            weight = weight.unflatten(0, (old.groups, -1)).transpose(1, 2).flatten(0, 1)
        else:
            new = factory(*sizes, **arguments, device=device, dtype=dtype)
        if factory.norm is None and factory.dropout == 0 and new.act is None:
            new = new.conv  # a drop-in, with the attributes of nn.Conv
    else:
        new = factory(*sizes, **arguments)
        if not isinstance(new, nn.Module):
            raise TypeError(f"conv made {new!r}, which is no module")
        new = new.to(device, dtype)
    if preserve:
        become_plain: Callable[..., None] | None = getattr(new, "become_plain", None)
        if become_plain is None:
            raise ValueError(
                f"init='preserve' cannot make a {type(new).__name__} compute the old convolution; it works for the "
                "plain layer, LowRank and Bottleneck"
            )
        become_plain(weight, None if old.bias is None else old.bias.detach())
    if not old.weight.requires_grad:
        new.requires_grad_(False)
    if _is_same_padded(old):
        new = nn.Sequential(SamePadding(old.kernel_size, old.stride, old.dilation), new)
    return new.train(old.training)


def _put(model: nn.Module, names: Sequence[str], new: nn.Module) -> nn.Module:
    """`model` with `new` at all of the names."""
    for name in names:
        if not name:
            return new
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, new)
    return model


def _report(names: tuple[str, ...], old: nn.Module, new: nn.Module | str) -> LayerReport:
    if isinstance(new, str):
        count = _parameters(old)
        return LayerReport(names, _words(old), "", new, (count, count), (0, 0))
    parameters = (_parameters(old), _parameters(new))
    return LayerReport(names, _words(old), _new_words(new), "", parameters, _position_flops(old, new))


def _words(conv: Any) -> str:
    """A convolution as "Conv2d 64 -> 128, 3x3, stride 2"."""
    text = f"{type(conv).__name__} {conv.in_channels} -> {conv.out_channels}, {'x'.join(map(str, conv.kernel_size))}"
    for name in ("stride", "dilation"):
        values = getattr(conv, name)
        if any(value != 1 for value in values):
            text += f", {name} {values[0] if len(set(values)) == 1 else 'x'.join(map(str, values))}"
    return text if conv.groups == 1 else f"{text}, groups {conv.groups}"


def _new_words(new: nn.Module) -> str:
    basis = next((m for m in new.modules() if isinstance(m, Basis)), None)
    layer = new[-1] if isinstance(new, nn.Sequential) and isinstance(new[0], SamePadding) else new
    return type(layer).__name__ + (f" {basis.name or type(basis).__name__}, K = {basis.size}" if basis else "")


def _parameters(module: nn.Module) -> int:
    """Their number, those without a shape yet left out."""
    return sum(p.numel() for p in module.parameters() if not isinstance(p, UninitializedParameter))


def _position_flops(old: Any, new: nn.Module) -> tuple[int, int]:
    """FLOPs of both for one position of the output, measured on an input that is just large enough."""
    paddings = old.padding if isinstance(old.padding, tuple) else (0,) * len(old.kernel_size)
    size = [  # of two positions, since some norms want more than one
        d * (k - 1) + 1 + s + p for k, s, d, p in zip(old.kernel_size, old.stride, old.dilation, paddings, strict=True)
    ]
    x = torch.zeros(1, old.in_channels, *size, device=old.weight.device, dtype=old.weight.dtype)
    with _evaluation(old):
        positions = old(x)[0, 0].numel()
    return round(_flops(old, x) / positions), round(_flops(new, x) / positions)


def _flops(module: nn.Module, *inputs: Tensor) -> int:
    """Floating-point operations of convolutions and matrix products in a forward."""
    from torch.utils.flop_counter import FlopCounterMode  # takes Triton along

    counter = FlopCounterMode(display=False)
    with _evaluation(module), counter:
        module(*inputs)
    return counter.get_total_flops()


@contextlib.contextmanager
def _evaluation(model: nn.Module) -> Iterator[None]:
    """A module in evaluation mode and without gradients; its modes come back afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _change(before: int, after: int) -> str:
    """Two numbers as "1,728 -> 8,640 (x 5.00)"."""
    return f"{before:,} -> {after:,} (x {after / before:.2f})" if before else f"{before:,} -> {after:,}"
