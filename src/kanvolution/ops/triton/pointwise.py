"""The functions of `ops.POINTWISE` and their derivatives for the inside of a Triton kernel; all in float32."""

# Bodies of device functions are Triton's language, which has other types.
# pyright: reportGeneralTypeIssues=false, reportArgumentType=false, reportAttributeAccessIssue=false

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl


@triton.jit
def zeros(x):
    return x * 0.0


@triton.jit
def ones(x):
    return x * 0.0 + 1.0


@triton.jit
def identity(x):
    return x


@triton.jit
def sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def sigmoid_derivative(x):
    s = sigmoid(x)
    return s * (1.0 - s)


@triton.jit
def silu(x):
    return x * sigmoid(x)


@triton.jit
def silu_derivative(x):
    s = sigmoid(x)
    return s + x * s * (1.0 - s)


@triton.jit
def tanh(x):
    """By exponentials; near zero, where they would cancel, by the series to x^7, whose error is below 6e-8 x."""
    e = tl.exp(-2.0 * tl.abs(x))
    far = (1.0 - e) / (1.0 + e)
    square = x * x
    near = x * (1.0 + square * (-1.0 / 3.0 + square * (2.0 / 15.0 - square * (17.0 / 315.0))))
    return tl.where(tl.abs(x) < 0.2, near, tl.where(x < 0, -far, far))


@triton.jit
def tanh_derivative(x):
    """4 e / (1 + e)^2 with e = exp(-2 |x|)."""
    e = tl.exp(-2.0 * tl.abs(x))
    return 4.0 * e / ((1.0 + e) * (1.0 + e))


@triton.jit
def gelu(x):
    return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))


@triton.jit
def gelu_derivative(x):
    cdf = 0.5 * (1.0 + tl.erf(x * 0.7071067811865476))
    return cdf + x * tl.exp(-0.5 * x * x) * 0.3989422804014327


@triton.jit
def relu(x):
    return tl.maximum(x, 0.0)


@triton.jit
def relu_derivative(x):
    return tl.where(x > 0, 1.0, 0.0)


class DevicePointwise(NamedTuple):
    """value(x) and derivative(x) as Triton functions."""

    value: Any
    derivative: Any


DEVICE_POINTWISE: dict[str, DevicePointwise] = {
    "identity": DevicePointwise(identity, ones),
    "silu": DevicePointwise(silu, silu_derivative),
    "gelu": DevicePointwise(gelu, gelu_derivative),
    "relu": DevicePointwise(relu, relu_derivative),
    "tanh": DevicePointwise(tanh, tanh_derivative),
    "sigmoid": DevicePointwise(sigmoid, sigmoid_derivative),
}
"""By the names of `ops.POINTWISE`."""
