"""Who takes part in a case: modules that do the same work, each with its input and the context it runs in."""

from __future__ import annotations

import contextlib
import copy
import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from kanvolution.bases import set_backend
from kanvolution.bases.basis import compute_dtype
from kanvolution.benchmark.cases import Case, LayerCase
from kanvolution.benchmark.settings import DTYPES, Settings
from kanvolution.layers import ConvSpec
from kanvolution.layers.conv import KANConvNd

Context = Callable[[], contextlib.AbstractContextManager[Any]]

# torch-conv-kan's layers by our basis, with the names of both in `kanvolution.compat.torch_conv_kan`. Its Bernstein
# layer computes other functions, and cannot be differentiated in the input in training.
PEERS: dict[str, str] = {
    "spline": "KANConv2DLayer",
    "rbf": "FastKANConv2DLayer",
    "legendre": "KALNConv2DLayer",
    "chebyshev": "KACNConv2DLayer",
    "gram": "KAGNConv2DLayer",
    "jacobi": "KAJNConv2DLayer",
    "relu": "ReLUKANConv2DLayer",
    "wavelet_edge": "WavKANConv2DLayer",
}


@dataclass
class Contestant:
    """A module and its input.

    Args:
        module: in training mode.
        x: its input; a training step includes its gradient where it requires one.
        context: of the forward pass.
        standard: what its results must agree with: "formula", those of its layers with the formula; a module to compare
            with in its place; or None for one that computes other functions.
    """

    module: nn.Module
    x: Tensor
    context: Context = contextlib.nullcontext
    standard: str | nn.Module | None = None

    def forward(self) -> Tensor:
        """The output, without what a backward would need."""
        with torch.no_grad(), self.context():
            return self.module(self.x)

    def step(self, seed: Tensor | None = None) -> list[Tensor]:
        """The output of a training step, and the gradients of the input and all parameters.

        Args:
            seed: the gradient of the output; by default that of its mean over each sample, summed over samples.
        """
        with self.context():
            y = self.module(self.x)
        tensors = [t for t in (self.x, *self.module.parameters()) if t.requires_grad]
        seed = torch.ones_like(y) / y[0].numel() if seed is None else seed.to(y.dtype)
        return [y.detach(), *torch.autograd.grad(y, tensors, seed)]

    def of_layer(self, name: str, x: Tensor) -> Contestant:
        """The layer of that name, with an input of its own."""
        x = x.detach().requires_grad_()
        return Contestant(self.module.get_submodule(name), x, self.context)


def contestants(basis: str, case: Case, settings: Settings, peers: Any = None) -> dict[str, Contestant]:
    """The contestants of a case by name; the roof first.

    Args:
        basis: name of the basis.
        case: what they compute.
        settings: backends, device, types.
        peers: the package `kan_convs` of torch-conv-kan, or None. It takes part in layers.
    """
    torch.manual_seed(0)
    spec = ConvSpec(basis, act="silu")
    layout = torch.channels_last if settings.channels_last else torch.contiguous_format

    def placed(module: nn.Module) -> nn.Module:
        module = module.to(settings.device)
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.ndim == 4:  # `Module.to` refuses others
                tensor.data = tensor.data.contiguous(memory_format=layout)
        return module

    own = placed(case.make(spec))
    x = _input(case, settings)

    def inside() -> contextlib.AbstractContextManager[Any]:
        dtype = DTYPES[settings.dtype]
        return torch.autocast(x.device.type, dtype, enabled=dtype != torch.float32)

    def formula() -> contextlib.AbstractContextManager[Any]:
        return _both(inside(), _formula())

    roof = with_ready_expansions(copy.deepcopy(own), x, inside)
    plain = placed(case.make(ConvSpec("identity", act="silu")))
    found = {
        "roof": Contestant(placed(roof), x, inside),
        "plain": Contestant(plain, x, inside),
        "autograd": Contestant(own, x, formula, "formula"),
    }
    for backend in settings.backends:
        found[backend] = Contestant(set_backend(copy.deepcopy(own), backend), x, inside, "formula")
    if peers is not None and isinstance(case, LayerCase) and basis in PEERS:
        from kanvolution.compat import torch_conv_kan

        def make(package: Any) -> nn.Module:
            layer = getattr(package, PEERS[basis])(case.inputs, case.outputs, 3, padding=1, norm_layer=nn.BatchNorm2d)
            return placed(layer)

        theirs = make(peers)
        found["torch-conv-kan"] = Contestant(theirs, x, inside)
        for backend in settings.backends:
            ours = set_backend(make(torch_conv_kan), backend)
            ours.load_state_dict(theirs.state_dict())
            found[f"compat {backend}"] = Contestant(ours, x, inside, theirs)
    return found


def in_float32(formula: Contestant) -> Contestant:
    """The same in float32, for comparisons."""
    x = formula.x.detach().float().requires_grad_(formula.x.requires_grad)
    return Contestant(formula.module, x, _formula)


def layer_inputs(contestant: Contestant) -> dict[str, Tensor]:
    """What each of our layers in it sees, by the layer's name."""
    found: dict[str, Tensor] = {}
    hooks = []
    for name, layer in contestant.module.named_modules():
        if isinstance(layer, KANConvNd):

            def record(layer: nn.Module, inputs: tuple[Tensor, ...], name: str = name) -> None:
                found[name] = inputs[0].detach()

            hooks.append(layer.register_forward_pre_hook(record))
    contestant.forward()
    for hook in hooks:
        hook.remove()
    return found


def _input(case: Case, settings: Settings) -> Tensor:
    """A layer's input as the layer before it gives it; images are in float32."""
    shape = (case.batch, case.inputs, case.size, case.size)
    layout = torch.channels_last if settings.channels_last else torch.contiguous_format
    dtype = DTYPES[settings.dtype] if case.learns_input else torch.float32
    x = torch.randn(shape).to(settings.device, dtype).contiguous(memory_format=layout)
    return x.requires_grad_(case.learns_input)


@contextlib.contextmanager
def _both(
    outer: contextlib.AbstractContextManager[Any], inner: contextlib.AbstractContextManager[Any]
) -> Iterator[None]:
    with outer, inner:
        yield


@contextlib.contextmanager
def _formula() -> Iterator[None]:
    """Layers composed of ordinary operators, differentiated by autograd."""
    with (
        mock.patch("kanvolution.ops.expansion.is_transforming", lambda: True),
        mock.patch("kanvolution.ops.edge_wavelet.is_transforming", lambda: True),
    ):
        yield


# ------------------------------------------------------------------------------------------------------- the roof


class _Ready(torch.autograd.Function):
    """Gives an expansion that is there already for the tensor it would be made of; costs nothing either way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, expanded: Tensor) -> Tensor:
        ctx.channels = x.shape[1]
        return expanded.view_as(expanded)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0][:, : ctx.channels], None


class ReadyExpansion(nn.Module):
    """A plain convolution of an expansion that is there already: what `layer` costs without its functions.

    Args:
        layer: a layer of K functions for each of C channels.
        x: an input of it, [N, C, *S]; the expansion has its layout and the type that it would have.

    Shape:
        input like x, of which nothing is read; output [N, O, *S'].
    """

    def __init__(self, layer: KANConvNd, x: Tensor) -> None:
        super().__init__()
        channels = layer.in_channels * layer.basis.size
        arguments = (layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups)
        convolution: Any = getattr(nn, f"Conv{layer.ndim}d")
        bias = layer.bias is not None
        self.conv = convolution(channels, layer.out_channels, *arguments, bias=bias, device=x.device)
        # Not a buffer: it counts as what autograd keeps.
        self.expanded = torch.randn(x.shape[0], channels, *x.shape[2:], dtype=compute_dtype(x), device=x.device)
        if x.ndim == 4 and not x.is_contiguous():
            self.expanded = self.expanded.contiguous(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(_Ready.apply(x, self.expanded))


def with_ready_expansions(module: nn.Module, x: Tensor, context: Context) -> nn.Module:
    """`module`, all of whose layers are replaced by `ReadyExpansion`s for an input like x."""
    for name, seen in layer_inputs(Contestant(module, x, context)).items():
        layer = module.get_submodule(name)
        assert isinstance(layer, KANConvNd)
        with context():
            module.set_submodule(name, ReadyExpansion(layer, seen))
    return module


# ------------------------------------------------------------------------------------------------------- the peer


def import_peer(folder: Path) -> Any:
    """The package `kan_convs` of a checkout of torch-conv-kan. Raises ValueError where there is none."""
    if not (folder / "kan_convs" / "__init__.py").is_file():
        raise ValueError(
            f"peer (={str(folder)!r}) must be a checkout of torch-conv-kan, with the folder kan_convs in it"
        )
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module("kan_convs")
    finally:
        sys.path.remove(str(folder))
