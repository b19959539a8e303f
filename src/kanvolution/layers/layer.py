"""What the convolution, the transposed convolution and the linear layer have in common: a basis, a weight, a bias."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from kanvolution.bases import Basis, MixedBasis, resolve_basis, set_backend
from kanvolution.checks import divisible, integer_at_least
from kanvolution.layers.arguments import check_floating_point, per_dimension
from kanvolution.layers.initialization import init_weight


class KANLayer(nn.Module):
    """A basis of K functions, `weight` [outputs, inputs of a group * K, *kernel], and `bias` [outputs] or None.

    The functions of one input channel lie next to each other in dimension 1 of the weight.
    """

    basis: Basis
    weight: nn.Parameter
    bias: nn.Parameter | None

    def _make_parameters(
        self,
        sizes: tuple[int, int],
        groups: int,
        kernel_size: tuple[int, ...],
        bias: bool,
        basis: str | Basis,
        basis_options: dict[str, Any],
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        inputs, outputs = sizes
        self.basis = resolve_basis(basis, basis_options, inputs, outputs, groups).to(device, dtype)
        shape = (outputs, inputs // groups * self.basis.size, *kernel_size)
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(outputs, device=device, dtype=dtype)) if bias else None
        self._reset_weight()  # the basis has its values already, perhaps trained ones

    def reset_parameters(self) -> None:
        """Initialise so that standard-normal input gives output of variance one; the bias starts at zero."""
        self.basis.reset_parameters()
        self._reset_weight()

    @torch.no_grad()
    def become_plain(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """Take the weights of an ordinary layer and compute what it does: x carries them, the functions weigh nothing.

        Args:
            weight: [outputs, inputs of a group, *kernel].
            bias: [outputs]; None where the layer has none.

        Raises:
            ValueError: the base function is not the identity, or the layer is of another shape.
        """
        functions = self.basis.size
        shape = (self.weight.shape[0], self.weight.shape[1] // functions, *self.weight.shape[2:])
        if tuple(weight.shape) != shape or (bias is None) != (self.bias is None):
            given, wanted = ("with a bias" if b is not None else "without a bias" for b in (bias, self.bias))
            raise ValueError(f"weight (shape {tuple(weight.shape)}, {given}) must have shape {shape}, {wanted}")
        self.basis.make_first_identity()
        self.weight.zero_()
        self.weight[:, ::functions] = weight
        if bias is not None and self.bias is not None:
            self.bias.copy_(bias)

    def set_basis(self, basis: Basis, weight: Tensor) -> None:
        """Put another basis, with its weights, in place of the layer's; what is attached to the old one goes along.

        Args:
            basis: made for the layer's channels.
            weight: [outputs, inputs of a group * K, *kernel].

        Raises:
            ValueError: a weight of another shape, or an adapter on the layer's weight.
        """
        check_unparametrized(self)
        inputs = self.weight.shape[1] // self.basis.size
        shape = (self.weight.shape[0], inputs * basis.size, *self.weight.shape[2:])
        if tuple(weight.shape) != shape:
            raise ValueError(f"weight (shape {tuple(weight.shape)}) must have shape {shape} for {basis.size} functions")
        old = _attachable(self.basis)
        basis = basis.to(self.weight.device, self.weight.dtype).train(self.basis.training)
        basis.attach(norm=old.norm, input_dropout=old.input_dropout, function_dropout=old.function_dropout)
        set_backend(basis, self.basis.backend)
        self.basis = basis
        self.weight = nn.Parameter(weight.to(self.weight), self.weight.requires_grad)

    def _reset_weight(self) -> None:
        init_weight(self.weight, self.basis, self._gain())
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def _gain(self) -> float:
        """By how much the weights are larger than inputs * taps terms would have them."""
        return 1.0


def check_unparametrized(layer: nn.Module) -> None:
    """Raises ValueError for a layer whose parameters are computed from others, as by an adapter."""
    if parametrize.is_parametrized(layer):
        raise ValueError(
            f"parameters of this {type(layer).__name__} are computed from others; merge the adapter, or remove the "
            "parametrization, before the layer is changed"
        )


def _attachable(basis: Basis) -> Basis:
    """The basis that norms and dropouts are attached to."""
    return basis.inner if isinstance(basis, MixedBasis) else basis


class KANImageLayer(KANLayer):
    """A `KANLayer` over [N, in_channels, *S] or [in_channels, *S], with the arguments that all convolutions share."""

    ndim: int

    def _set_sizes(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...],
        dilation: int | tuple[int, ...],
        groups: int,
    ) -> None:
        self.in_channels = integer_at_least("in_channels", in_channels, 1)
        self.out_channels = integer_at_least("out_channels", out_channels, 1)
        self.groups = integer_at_least("groups", groups, 1)
        divisible("in_channels", in_channels, "groups", groups)
        divisible("out_channels", out_channels, "groups", groups)
        self.kernel_size = per_dimension("kernel_size", kernel_size, self.ndim, 1)
        self.stride = per_dimension("stride", stride, self.ndim, 1)
        self.dilation = per_dimension("dilation", dilation, self.ndim, 1)

    def _check_input(self, x: Tensor) -> None:
        check_floating_point(x)
        ndim = self.ndim
        if x.ndim not in (ndim + 1, ndim + 2):
            raise ValueError(
                f"input (shape {tuple(x.shape)}) must have {ndim + 2} dimensions [N, C, ...], "
                f"or {ndim + 1} without the batch, for {type(self).__name__}"
            )
        channels = x.shape[-ndim - 1]
        if channels != self.in_channels:
            raise ValueError(
                f"input (shape {tuple(x.shape)}) has {channels} channels, but in_channels is {self.in_channels}"
            )

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        zeros, ones = (0,) * self.ndim, (1,) * self.ndim
        defaults = {"padding": zeros, "output_padding": zeros, "dilation": ones, "groups": 1, "padding_mode": "zeros"}
        for name, default in defaults.items():
            value = getattr(self, name, default)
            if value != default:
                text += f", {name}={value!r}"
        return text if self.bias is not None else f"{text}, bias=False"
