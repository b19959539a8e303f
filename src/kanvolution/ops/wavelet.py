"""Wavelets with learned scale and translation (Wav-KAN)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from kanvolution.ops.expansion import Planes, TensorGradient, channelwise, expansion, sum_like
from kanvolution.ops.pointwise import exp

_MORLET_FREQUENCY = 5.0
_HAT = 2 / (math.sqrt(3) * math.pi**0.25)


class Wavelet(NamedTuple):
    """A mother wavelet psi(u) and its derivative."""

    value: Callable[[Tensor], Tensor]
    derivative: Callable[[Tensor], Tensor]


def _near(u: Tensor) -> Tensor:
    """u, limited where exp(-u^2/2) is zero anyway, so that no factor before it is infinite."""
    return u.clamp(-40, 40)


# On a CPU each of these operators reads and writes memory: they are as few as can be.


def _mexican_hat(u: Tensor) -> Tensor:
    square = _near(u).square()
    return torch.rsub(square, _HAT, alpha=_HAT) * exp(square, -0.5)


def _mexican_hat_derivative(u: Tensor) -> Tensor:
    u = _near(u)
    square = u.square()
    return torch.addcmul(-3 * _HAT * u, u, square, value=_HAT) * exp(square, -0.5)


def _morlet(u: Tensor) -> Tensor:
    return torch.cos(_MORLET_FREQUENCY * u) * exp(u.square(), -0.5)


def _morlet_derivative(u: Tensor) -> Tensor:
    u = _near(u)
    angle = _MORLET_FREQUENCY * u
    factor = torch.addcmul(_MORLET_FREQUENCY * torch.sin(angle), u, torch.cos(angle))
    return -factor * exp(u.square(), -0.5)


def _dog(u: Tensor) -> Tensor:
    u = _near(u)
    return -u * exp(u.square(), -0.5)


def _dog_derivative(u: Tensor) -> Tensor:
    square = _near(u).square()
    return (square - 1) * exp(square, -0.5)


def _meyer(u: Tensor) -> Tensor:
    v = u.abs()
    window, _ = _meyer_window(v)
    return torch.sin(math.pi * v.clamp_max(1)) * window


def _meyer_derivative(u: Tensor) -> Tensor:
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


def _shannon_derivative(u: Tensor) -> Tensor:
    # (cos u - sinc u) / u loses all digits near 0; the series takes over there.
    near = u.abs() < 1e-2
    safe = torch.where(near, torch.ones_like(u), u)
    return torch.where(near, -u / 3 + u**3 / 30, (torch.cos(safe) - torch.sinc(safe / math.pi)) / safe)


WAVELETS: dict[str, Wavelet] = {
    "mexican_hat": Wavelet(_mexican_hat, _mexican_hat_derivative),
    "morlet": Wavelet(_morlet, _morlet_derivative),
    "dog": Wavelet(_dog, _dog_derivative),
    "meyer": Wavelet(_meyer, _meyer_derivative),
    "shannon": Wavelet(_shannon, _shannon_derivative),
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
    derivative = WAVELETS[kind].derivative
    total = torch.zeros_like(x)
    positions, slopes = [], []
    for grad, s, t in zip(grads, channelwise(scale, x), channelwise(translation, x), strict=True):
        u = (x - t) / s
        slope = grad * derivative(u)
        total = torch.addcdiv(total, slope, s)
        positions.append(u)
        slopes.append(slope)
    return (
        total,
        lambda: -sum_like((u * slope for u, slope in zip(positions, slopes, strict=True)), scale) / scale,
        lambda: -sum_like(slopes, translation) / scale,
    )
