"""Mixture of experts: of many convolutions each sample goes through a few, which a gate chooses."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kanvolution.checks import integer_at_least
from kanvolution.layers.collect import HeldLosses
from kanvolution.layers.structures.structure import (
    ConvArguments,
    MakeBasis,
    Structure,
    build_conv,
    register_structure,
)
from kanvolution.ops.expansion import working_dtype

_LEAST_NOISE = 1e-2


@register_structure("experts")
@dataclass(frozen=True)
class Experts(Structure):
    """`num_experts` convolutions, of which a gate sends each sample through k: k times the time of one of them.

    Makes a `MixtureOfExperts`, which see. It nests: `Experts(inner=Bottleneck())` has whole bottlenecks as experts,
    `Bottleneck(inner=Experts())` has the experts between the 1x1 convolutions. Groups of channels stay apart in the
    experts; the gate looks at all channels.

    Source: Shazeer et al., "Outrageously Large Neural Networks", arXiv 1701.06538, sections 2 and 4, appendix A.

    Args:
        num_experts: number of experts, >= 1.
        k: experts for each sample, 1 <= k <= num_experts.
        noisy: whether noise is added to the gate's logits in training.
        balance: weight of the balance losses, >= 0; `collect_losses` collects them.
        inner: structure of each expert.
    """

    num_experts: int = 8
    k: int = 2
    noisy: bool = True
    balance: float = 0.01
    inner: Structure | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self.num_experts, self.k, self.balance)

    def build(self, ndim: int, make_basis: MakeBasis, arguments: ConvArguments) -> nn.Module:
        return MixtureOfExperts(
            [build_conv(ndim, make_basis, arguments, self.inner) for _ in range(self.num_experts)],
            arguments.in_channels,
            self.k,
            ndim=ndim,
            noisy=self.noisy,
            balance=self.balance,
            device=arguments.device,
            dtype=arguments.dtype,
        )


def _check(num_experts: int, k: int, balance: float) -> None:
    integer_at_least("num_experts", num_experts, 1)
    if integer_at_least("k", k, 1) > num_experts:
        raise ValueError(f"k (={k}) must be <= num_experts (={num_experts}); choose fewer experts for each sample")
    if not balance >= 0:
        raise ValueError(f"balance (={balance}) must be >= 0; 0.01 is a usual weight")


class Routing(NamedTuple):
    """What a gate decides for N samples.

    Attributes:
        experts: [N, k] indices of the chosen experts.
        gates: [N, k] their weights, each row summing to one.
        importance: [num_experts] sums of the gates (eq. 6).
        load: [num_experts] numbers of samples, smooth in the gate's weights where there is noise (eq. 10).
    """

    experts: Tensor
    gates: Tensor
    importance: Tensor
    load: Tensor


class NoisyTopKGate(nn.Module):
    """Noisy top-k gating: for the pooled input x [N, C],

        H(x)_i = (x W_g)_i + z_i (softplus((x W_n)_i) + 0.01),    z_i standard normal, in training only      (eq. 4)
        G(x) = softmax(KeepTopK(H(x), k)), zero for the experts that are not kept                            (eq. 3, 5)

    The 0.01 is not in the paper; it bounds the divisor of the load. Load of an expert (appendix A, eq. 8-10):

        Load(X)_i = sum_x Phi(((x W_g)_i - kth_excluding(H(x), k, i)) / (softplus((x W_n)_i) + 0.01))

    Without noise (eval mode, noisy=False) and for k = num_experts the load counts the samples and has no gradient.
    Everything is computed in float32 at least, autocast or not.

    With k = 1 the only kept gate is one, so that the gate learns from the load alone, and not at all without noise.

    Args:
        in_channels: C.
        num_experts: number of experts, >= 1.
        k: experts for each sample, 1 <= k <= num_experts.
        noisy: whether there is noise. W_g starts at zero then (appendix A) and the noise spreads the samples; without
            noise it starts random, since zeros would send all samples to the same experts.
        device, dtype: of the parameters.

    Shape:
        input [N, C, *S], any number of spatial dimensions; returns a `Routing`.

    Source: arXiv 1701.06538.
    """

    def __init__(
        self,
        in_channels: int,
        num_experts: int,
        k: int,
        noisy: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_channels = integer_at_least("in_channels", in_channels, 1)
        _check(num_experts, k, 0)
        self.num_experts = num_experts
        self.k = k
        self.noisy = noisy
        self.weight = nn.Parameter(torch.empty(num_experts, in_channels, device=device, dtype=dtype))
        self.noise_weight = nn.Parameter(torch.empty_like(self.weight)) if noisy else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """W_g and W_n at zero, or W_g random where there is no noise."""
        if self.noise_weight is None:
            nn.init.normal_(self.weight, std=self.in_channels**-0.5)
        else:
            nn.init.zeros_(self.weight)
            nn.init.zeros_(self.noise_weight)

    def forward(self, x: Tensor) -> Routing:
        pooled = x.mean(tuple(range(2, x.ndim)), dtype=working_dtype(x.dtype))
        clean = logits = _product(pooled, self.weight)
        scale = None
        if self.training and self.noise_weight is not None:
            scale = F.softplus(_product(pooled, self.noise_weight)) + _LEAST_NOISE
            logits = clean + torch.randn_like(clean) * scale
        top, order = logits.topk(min(self.k + 1, self.num_experts), dim=1)
        experts, gates = order[:, : self.k], top[:, : self.k].softmax(1)
        chosen = torch.zeros_like(logits).scatter(1, experts, 1.0)
        if scale is None or self.k == self.num_experts:
            load = chosen.sum(0)
        else:
            # Without expert i, the k-th largest logit is the next one if i was kept, else the k-th itself.
            others = torch.where(chosen > 0, top[:, self.k :], top[:, self.k - 1 : self.k])
            load = _normal_cdf((clean - others) / scale).sum(0)
        importance = torch.zeros_like(logits).scatter(1, experts, gates).sum(0)
        return Routing(experts, gates, importance, load)

    def extra_repr(self) -> str:
        return f"{self.in_channels}, num_experts={self.num_experts}, k={self.k}, noisy={self.noisy}"


def _product(x: Tensor, weight: Tensor) -> Tensor:
    # Not a matmul: autocast would round that to 16 bits, and a rounded logit can change the choice.
    return (x.unsqueeze(1) * weight.to(x.dtype)).sum(2)


def _normal_cdf(x: Tensor) -> Tensor:
    return 0.5 * (1 + torch.erf(x * math.sqrt(0.5)))


def variation(values: Tensor) -> Tensor:
    """CV(values)^2, the squared coefficient of variation: unbiased variance over squared mean; zero for one value.

    Source: arXiv 1701.06538, eq. 7 and 11.
    """
    if values.numel() == 1:
        return values.sum() * 0
    return values.var() / values.mean().square().clamp_min(1e-10)


class MixtureOfExperts(nn.Module):
    """y[n] = sum over the k experts e that the gate keeps for sample n of G(x[n])_e expert_e(x[n]).

    In training it holds two losses for `collect_losses`: `importance`, balance * CV(importance)^2 (eq. 6-7), and
    `load`, balance * CV(load)^2 (appendix A). Under gradient checkpointing use `use_reentrant=False`.

    What is computed:

    * eager: only the chosen experts. The samples are sorted by expert and each expert gets its own in one slice; their
      numbers are read from the device once for each forward. An expert without samples is not run, and its parameters
      get a gradient of zeros. Norms with batch statistics see the samples of their expert, which can be a single one
      (enough for a norm over images, but not for images of 1x1 pixels).
    * compiled, exported and traced: every expert on every sample, and a sum weighted by gates that are mostly zero:
      num_experts / k times the time, but shapes that do not depend on the data and no wait for the device. Norms with
      batch statistics inside the experts see all samples there; put the norm after the mixture to have equal results.

    The experts start independent of each other, so that with equal gates the output has 1/k of an expert's variance.

    Args:
        experts: modules [N, in_channels, *S] -> [N, out_channels, *S'], all of the same shapes: what a conv factory
            makes, say.
        in_channels: channels of the input.
        k: experts for each sample, 1 <= k <= len(experts).
        ndim: dimensions of space of the input, to check it; None takes any.
        noisy: whether noise is added to the gate's logits in training.
        balance: weight of the balance losses, >= 0.
        device, dtype: of the gate's parameters.

    Shape:
        input [N, in_channels, *S]; output that of the experts.

    Raises:
        ValueError: no expert, k or balance out of range, or an input of other channels.

    Source: Shazeer et al., "Outrageously Large Neural Networks", arXiv 1701.06538, eq. 1, 3-11.

    Example:
        >>> import torch, kanvolution as kv
        >>> spec = kv.ConvSpec("gram", norm="instance")
        >>> experts = [spec(8, 16, 3, padding=1) for _ in range(4)]
        >>> kv.MixtureOfExperts(experts, 8, k=2)(torch.randn(5, 8, 9, 9)).shape
        torch.Size([5, 16, 9, 9])
    """

    def __init__(
        self,
        experts: Iterable[nn.Module],
        in_channels: int,
        k: int = 2,
        *,
        ndim: int | None = None,
        noisy: bool = True,
        balance: float = 0.01,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.experts = nn.ModuleList(experts)
        _check(len(self.experts), k, balance)
        self.k = k
        self.ndim = ndim
        self.balance = balance
        self.gate = NoisyTopKGate(in_channels, len(self.experts), k, noisy, device, dtype)
        self.losses = HeldLosses()

    def forward(self, x: Tensor) -> Tensor:
        channels = self.gate.in_channels
        right = x.ndim >= 3 if self.ndim is None else x.ndim == self.ndim + 2
        if not right or x.shape[1] != channels:
            space = "" if self.ndim is None else f" with {self.ndim} dimensions of space"
            raise ValueError(
                f"input (shape {tuple(x.shape)}) must have shape [N, {channels}, *S]{space}: the batch, in_channels"
            )
        routing = self.gate(x)
        losses = {"importance": routing.importance, "load": routing.load}
        self.losses.hold({name: self.balance * variation(v) for name, v in losses.items()}, self.training)
        # Sizes that depend on the data would break a graph, or be frozen into a trace.
        static = torch.compiler.is_compiling() or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
        return self._all(x, routing) if static else self._chosen(x, routing)

    def _all(self, x: Tensor, routing: Routing) -> Tensor:
        """Every expert on every sample."""
        columns = routing.experts.unsqueeze(2) == torch.arange(len(self.experts), device=x.device)
        gates = (routing.gates.unsqueeze(2) * columns).sum(1)
        y = _weighted(self.experts[0](x), gates[:, 0])
        for i in range(1, len(self.experts)):
            y = y + _weighted(self.experts[i](x), gates[:, i])
        return y

    def _chosen(self, x: Tensor, routing: Routing) -> Tensor:
        """Every expert on its own samples. A slot is one of the k choices of a sample; slots are sorted by expert."""
        batch = len(x)
        choices = routing.experts.T.flatten()
        order = choices.argsort(stable=True)
        numbers = torch.arange(len(self.experts), device=x.device)
        sizes = (choices.unsqueeze(1) == numbers).sum(0).tolist()
        # Indexing and sums of whole slices keep channels_last, where index_select, index_add and a sum over k do not.
        slices = x[order % max(batch, 1)].split(sizes)
        # A batch of none goes through the first expert, which knows the output's shape.
        used = [i for i, size in enumerate(sizes) if size > 0] or [0]
        slots = torch.cat([self.experts[i](slices[i]) for i in used])
        back = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=x.device))
        first, *others = _weighted(slots[back], routing.gates.T.flatten()).unflatten(0, (self.k, batch)).unbind()
        y = sum(others, first)
        idle = [p for i, expert in enumerate(self.experts) if i not in used for p in expert.parameters()]
        if not self.training:
            idle += [p for p in (self.gate.noise_weight,) if p is not None]
        idle = [p for p in idle if p.requires_grad]
        return _TakingPart.apply(y, *idle) if idle and torch.is_grad_enabled() else y

    def extra_repr(self) -> str:
        return f"k={self.k}, balance={self.balance}"


def _weighted(y: Tensor, gates: Tensor) -> Tensor:
    return y * gates.to(y.dtype).view(-1, *(1,) * (y.ndim - 1))


class _TakingPart(torch.autograd.Function):
    """y itself, with a gradient of zeros for parameters it does not depend on: data-parallel training waits for it."""

    @staticmethod
    def forward(y: Tensor, *idle: Tensor) -> Tensor:
        return y.view_as(y)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        return (grads[0], *(torch.zeros_like(p) for p in ctx.saved_tensors))
