"""Wavelets with learned scale and translation (Wav-KAN)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from kanvolution.ops.expansion import Planes, TensorGradient, channelwise, expansion, sum_like
from kanvolution.ops.pointwise import Pointwise

_MORLET_FREQUENCY = 5.0
_HAT = 2 / (math.sqrt(3) * math.pi**0.25)


def _gaussian(u: Tensor) -> Tensor:
    return torch.exp(-0.5 * u * u)


def _damped(factor: Callable[[Tensor], Tensor], u: Tensor) -> Tensor:
    """factor(u) exp(-u^2/2), with zero instead of inf * 0 far out."""
    return factor(u.clamp(-40, 40)) * _gaussian(u)


def _meyer(u: Tensor) -> Tensor:
    v = u.abs()
    window, _ = _meyer_window(v)
    return torch.sin(math.pi * v.clamp_max(1)) * window


def _meyer_derivative(u: Tensor, _: Tensor) -> Tensor:
    v = u.abs().clamp_max(1)
    window, slope = _meyer_window(v)
    return torch.sign(u) * (math.pi * torch.cos(math.pi * v) * window + torch.sin(math.pi * v) * slope)


def _meyer_window(v: Tensor) -> tuple[Tensor, Tensor]:
    """Meyer's window cos(pi/2 nu(2v - 1)), 1 below v = 1/2 and 0 above v = 1, and its derivative."""
    t = (2 * v - 1).clamp(0, 1)
    angle = 0.5 * math.pi * t**4 * (35 - 84 * t + 70 * t**2 - 20 * t**3)
    inside = ((v > 0.5) & (v < 1)).to(v.dtype)
    slope = -torch.sin(angle) * math.pi * 140 * t**3 * (1 - t) ** 3 * inside
    return torch.cos(angle) * (v < 1).to(v.dtype), slope


def _shannon(u: Tensor) -> Tensor:
    return torch.sinc(u / math.pi)


def _shannon_derivative(u: Tensor, y: Tensor) -> Tensor:
    # (cos u - sinc u) / u loses all digits near 0; the series takes over there.
    near = u.abs() < 1e-2
    safe = torch.where(near, torch.ones_like(u), u)
    return torch.where(near, -u / 3 + u**3 / 30, (torch.cos(safe) - torch.sinc(safe / math.pi)) / safe)


WAVELETS: dict[str, Pointwise] = {
    "mexican_hat": Pointwise(
        lambda u: _HAT * _damped(lambda c: 1 - c * c, u),
        lambda u, y: _HAT * _damped(lambda c: c * (c * c - 3), u),
    ),
    "morlet": Pointwise(
        lambda u: torch.cos(_MORLET_FREQUENCY * u) * _gaussian(u),
        lambda u, y: _damped(
            lambda c: -(_MORLET_FREQUENCY * torch.sin(_MORLET_FREQUENCY * c) + c * torch.cos(_MORLET_FREQUENCY * c)), u
        ),
    ),
    "dog": Pointwise(
        lambda u: _damped(lambda c: -c, u),
        lambda u, y: _damped(lambda c: c * c - 1, u),
    ),
    "meyer": Pointwise(_meyer, _meyer_derivative),
    "shannon": Pointwise(_shannon, _shannon_derivative),
}
"""The mother wavelets psi(u) with their derivatives.

mexican_hat: 2 / (sqrt(3) pi^(1/4)) (1 - u^2) exp(-u^2/2); morlet: cos(5u) exp(-u^2/2); dog: d/du exp(-u^2/2);
meyer: sin(pi |u|) times Meyer's window of |u|; shannon: sin(u) / u.
Source: Bozorgasl and Chen, "Wav-KAN", arXiv 2405.12832, table 1 and its code for the last two.
"""


@expansion
def wavelet(x: Tensor, scale: Tensor, translation: Tensor, kind: str) -> Planes:
    """psi((x - translation_k) / scale_k) for scale and translation of shape [K] or [C, K]."""
    psi = WAVELETS[kind].value
    return (psi((x - t) / s) for s, t in zip(channelwise(scale, x), channelwise(translation, x), strict=True))


@wavelet.vjp
def wavelet_vjp(
    x: Tensor, grads: list[Tensor], scale: Tensor, translation: Tensor, kind: str
) -> tuple[Tensor, TensorGradient, TensorGradient]:
    """With u = (x - t)/s: dB/dx = psi'(u)/s, dB/dt = -psi'(u)/s, dB/ds = -u psi'(u)/s."""
    psi = WAVELETS[kind]
    total = torch.zeros_like(x)
    positions, slopes = [], []
    for grad, s, t in zip(grads, channelwise(scale, x), channelwise(translation, x), strict=True):
        u = (x - t) / s
        slope = grad * psi.derivative(u, psi.value(u)) / s
        total = total + slope
        positions.append(u)
        slopes.append(slope)
    return (
        total,
        lambda: sum_like((-u * slope for u, slope in zip(positions, slopes, strict=True)), scale),
        lambda: sum_like((-slope for slope in slopes), translation),
    )
