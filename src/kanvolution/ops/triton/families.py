"""The families of functions for the inside of a Triton kernel, and the table of them.

Each function is written for one k, a constant of the compilation: `value(u, k, first, second, S)` is B_k(u). A
recurrence runs up to k. A kernel that needs all k calls it for each; the compiler finds the common steps and computes
them once.
`first` and `second` are the tuples of the learned tensors' entries for the channel, S that of the family's numbers. All
is in float32.
"""

# Bodies of device functions are Triton's language, which has other types.
# pyright: reportGeneralTypeIssues=false, reportArgumentType=false, reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import triton
import triton.language as tl

from kanvolution import ops
from kanvolution.ops.expansion import Expansion
from kanvolution.ops.triton.pointwise import ones, sigmoid, zeros

# ------------------------------------------------------------------------------------------ polynomials


@triton.jit
def chebyshev_value(u, k: tl.constexpr, first, second, S: tl.constexpr):
    before = u
    value = ones(u)
    for _ in tl.static_range(k):
        following = 2.0 * u * value - before
        before = value
        value = following
    return value


@triton.jit
def chebyshev_slope(u, k: tl.constexpr, first, second, S: tl.constexpr):
    """T'_k = k U_{k-1}, k >= 1."""
    before = zeros(u)
    value = ones(u)
    for _ in tl.static_range(k - 1):
        following = 2.0 * u * value - before
        before = value
        value = following
    return k * value


@triton.jit
def legendre_value(u, k: tl.constexpr, first, second, S: tl.constexpr):
    before = zeros(u)
    value = ones(u)
    for i in tl.static_range(k):
        following = ((2 * i + 1) / (i + 1)) * (u * value) - (i / (i + 1)) * before
        before = value
        value = following
    return value


@triton.jit
def legendre_slope(u, k: tl.constexpr, first, second, S: tl.constexpr):
    """P'_k = sum of (2i + 1) P_i over i = k - 1, k - 3, ..."""
    total = zeros(u)
    for i in tl.static_range(k):
        if (k - 1 - i) % 2 == 0:
            total += (2 * i + 1) * legendre_value(u, i, first, second, S)
    return total


@triton.jit
def _jacobi(u, k: tl.constexpr, a: tl.constexpr, b: tl.constexpr):
    before = zeros(u)
    value = ones(u)
    for i in tl.static_range(k):
        if i == 0:
            following = 0.5 * ((a - b) + (a + b + 2) * u)
        else:
            # Written without names in between: a name may not be given two constants.
            following = (
                (2 * i + a + b + 1) * (2 * i + a + b + 2) / (2 * (i + 1) * (i + a + b + 1)) * u
                + (2 * i + a + b + 1) * (a * a - b * b) / (2 * (i + 1) * (i + a + b + 1) * (2 * i + a + b))
            ) * value - (i + a) * (i + b) * (2 * i + a + b + 2) / ((i + 1) * (i + a + b + 1) * (2 * i + a + b)) * before
        before = value
        value = following
    return value


@triton.jit
def jacobi_value(u, k: tl.constexpr, first, second, S: tl.constexpr):
    return _jacobi(u, k, S[1], S[2])


@triton.jit
def jacobi_slope(u, k: tl.constexpr, first, second, S: tl.constexpr):
    """(k + a + b + 1)/2 P_{k-1}^(a+1,b+1), k >= 1."""
    return 0.5 * (k + S[1] + S[2] + 1) * _jacobi(u, k - 1, S[1] + 1, S[2] + 1)


@triton.jit
def _power(u, exponent: tl.constexpr):
    result = ones(u)
    for _ in tl.static_range(exponent):
        result = result * u
    return result


@triton.jit
def _bernstein(u, k: tl.constexpr, degree: tl.constexpr):
    """C(degree, k) u^k (1 - u)^(degree - k); zero for k out of range."""
    if k < 0 or k > degree:
        return zeros(u)
    else:
        result = _power(u, k) * _power(1.0 - u, degree - k)
        for i in tl.static_range(k):
            result = result * ((degree - i) / (i + 1))
        return result


@triton.jit
def bernstein_value(u, k: tl.constexpr, first, second, S: tl.constexpr):
    return _bernstein(u, k, S[0])


@triton.jit
def bernstein_slope(u, k: tl.constexpr, first, second, S: tl.constexpr):
    if S[0] == 0:
        return zeros(u)
    else:
        return S[0] * (_bernstein(u, k - 1, S[0] - 1) - _bernstein(u, k, S[0] - 1))


@triton.jit
def _gram(u, k: tl.constexpr, beta):
    """G_k, with beta_0 not part of the recurrence: G_1 = u."""
    before = zeros(u)
    value = ones(u)
    for i in tl.static_range(k):
        following = u * value
        if i > 0:
            following -= beta[i] * before
        before = value
        value = following
    return value


@triton.jit
def _gram_slope(u, k: tl.constexpr, beta):
    """G'_{k+1} = G_k + u G'_k - beta_k G'_{k-1}."""
    before = zeros(u)
    slope = zeros(u)
    for i in tl.static_range(k):
        following = _gram(u, i, beta) + u * slope
        if i > 0:
            following -= beta[i] * before
        before = slope
        slope = following
    return slope


@triton.jit
def _silu_slope(g):
    s = sigmoid(g)
    return s + g * s * (1.0 - s)


@triton.jit
def gram_value(u, k: tl.constexpr, first, second, S: tl.constexpr):
    g = _gram(u, k, first)
    return g * sigmoid(g)


@triton.jit
def gram_slope(u, k: tl.constexpr, first, second, S: tl.constexpr):
    return _silu_slope(_gram(u, k, first)) * _gram_slope(u, k, first)


@triton.jit
def gram_partial(u, k: tl.constexpr, j: tl.constexpr, which: tl.constexpr, first, second, S: tl.constexpr):
    """d silu(G_k) / d beta_j: zero up to k = j, then by the recurrence, which -G_{j-1} enters at k = j + 1."""
    before = zeros(u)
    slope = -_gram(u, j - 1, first)
    for i in tl.static_range(j + 1, k):
        following = u * slope - first[i] * before
        before = slope
        slope = following
    return _silu_slope(_gram(u, k, first)) * slope


# ------------------------------------------------------------------------------------------ local functions


@triton.jit
def _harmonic(u, n: tl.constexpr):
    """sin(n u) and cos(n u), by the sums of angles: sines that have to be right for any u take many steps each."""
    sine = tl.sin(u)
    cosine = tl.cos(u)
    s = sine
    c = cosine
    for _ in tl.static_range(n - 1):
        following = s * cosine + c * sine
        c = c * cosine - s * sine
        s = following
    return s, c


@triton.jit
def fourier_value(u, k: tl.constexpr, first, second, S: tl.constexpr):
    s, c = _harmonic(u, k // 2 + 1)
    return s if k % 2 == 0 else c


@triton.jit
def fourier_slope(u, k: tl.constexpr, first, second, S: tl.constexpr):
    s, c = _harmonic(u, k // 2 + 1)
    return (k // 2 + 1) * c if k % 2 == 0 else -(k // 2 + 1) * s


@triton.jit
def _cardinal(u, order: tl.constexpr):
    """M_p(u) as in `ops.spline`: by the terms of its left half, at min(u, p + 1 - u)."""
    if order == 0:
        return tl.where((u >= 0) & (u < 1), 1.0, 0.0)
    else:
        half: tl.constexpr = 0.5 * (order + 1)
        rising = tl.maximum(half - tl.abs(u - half), 0.0)
        total = _power(rising, order)
        sign_binomial = 1.0
        for j in tl.static_range(1, (order + 2) // 2):
            sign_binomial = sign_binomial * (-(order + 2 - j) / j)
            rising = tl.maximum(rising - 1.0, 0.0)
            total += sign_binomial * _power(rising, order)
        for j in tl.static_range(2, order + 1):
            total = total * (1.0 / j)
        return total


@triton.jit
def _piece(u, S: tl.constexpr):
    """In which interval u is, counted from the first function's left end, and where in it; S = (grid_size, order, low,
    high).
    """
    at = (u - S[2]) * (S[0] / (S[3] - S[2])) + S[1]
    interval = tl.floor(at)
    return interval, at - interval


@triton.jit
def spline_value(u, k: tl.constexpr, first, second, S: tl.constexpr):
    """Function k begins in interval k. The pieces M_p(t + j) are the same for all of them."""
    interval, t = _piece(u, S)
    total = zeros(u)
    for j in tl.static_range(S[1] + 1):
        total = tl.where(interval == k + j, _cardinal(t + j, S[1]), total)
    return total


@triton.jit
def spline_slope(u, k: tl.constexpr, first, second, S: tl.constexpr):
    if S[1] == 0:
        return zeros(u)
    else:
        interval, t = _piece(u, S)
        total = zeros(u)
        for j in tl.static_range(S[1] + 1):
            slope = zeros(u)
            if j < S[1]:
                slope = _cardinal(t + j, S[1] - 1)
            if j > 0:
                slope -= _cardinal(t + (j - 1), S[1] - 1)
            total = tl.where(interval == k + j, slope * (S[0] / (S[3] - S[2])), total)
        return total


@triton.jit
def rbf_value(u, k: tl.constexpr, first, second, S: tl.constexpr):
    at = (u - first[k]) / S[0]
    return tl.exp(-at * at)


@triton.jit
def rbf_slope(u, k: tl.constexpr, first, second, S: tl.constexpr):
    at = (u - first[k]) / S[0]
    return (-2.0 / S[0]) * at * tl.exp(-at * at)


@triton.jit
def rbf_partial(u, k: tl.constexpr, j: tl.constexpr, which: tl.constexpr, first, second, S: tl.constexpr):
    return -rbf_slope(u, k, first, second, S)


@triton.jit
def relu_bumps_value(u, k: tl.constexpr, first, second, S: tl.constexpr):
    left = tl.maximum(u - first[k], 0.0)
    right = tl.maximum(second[k] - u, 0.0)
    root = left * right * (4.0 / (S[0] * S[0]))
    return root * root


@triton.jit
def relu_bumps_partial(u, k: tl.constexpr, j: tl.constexpr, which: tl.constexpr, first, second, S: tl.constexpr):
    left = tl.maximum(u - first[k], 0.0)
    right = tl.maximum(second[k] - u, 0.0)
    common = (32.0 / (S[0] * S[0] * S[0] * S[0])) * left * right
    if which == 0:
        return -common * right
    else:
        return common * left


@triton.jit
def relu_bumps_slope(u, k: tl.constexpr, first, second, S: tl.constexpr):
    """A bump moves with its edges."""
    left = relu_bumps_partial(u, k, k, 0, first, second, S)
    return -(left + relu_bumps_partial(u, k, k, 1, first, second, S))


# ------------------------------------------------------------------------------------------ wavelets


@triton.jit
def _gaussian(u):
    return tl.exp(-0.5 * u * u)


@triton.jit
def _cosine(x):
    """By its series to x^14, for |x| <= pi / 2: `tl.cos` would prepare for any x, which takes registers."""
    y = x * x
    value = 1.0 - y * (1.0 / 182.0)
    for i in tl.static_range(6):
        value = 1.0 - y * (1.0 / ((12 - 2 * i) * (11 - 2 * i))) * value
    return value


@triton.jit
def _sine(x):
    """By its series to x^13, for |x| <= pi / 2."""
    y = x * x
    value = 1.0 - y * (1.0 / 156.0)
    for i in tl.static_range(5):
        value = 1.0 - y * (1.0 / ((11 - 2 * i) * (10 - 2 * i))) * value
    return x * value


@triton.jit
def _meyer_angle(t):
    return 1.5707963267948966 * _power(t, 4) * (35.0 + t * (-84.0 + t * (70.0 - 20.0 * t)))


MEXICAN_HAT, MORLET, DOG, MEYER, SHANNON = (
    tl.constexpr(list(ops.WAVELETS).index(name)) for name in ("mexican_hat", "morlet", "dog", "meyer", "shannon")
)


def numbers(scalars: tuple[Any, ...]) -> tuple[Any, ...]:
    """A family's scalars for a kernel: in place of a wavelet's name, its number. (Triton before 3.7 knows no tuples of
    strings.)
    """
    names = list(ops.WAVELETS)
    return tuple(names.index(scalar) if isinstance(scalar, str) else scalar for scalar in scalars)


@triton.jit
def psi(u, kind: tl.constexpr):
    """The mother wavelets of `ops.WAVELETS`."""
    if kind == MEXICAN_HAT:
        near = tl.minimum(tl.maximum(u, -40.0), 40.0)  # no inf * 0 far out
        return 0.8673250705840776 * (1.0 - near * near) * _gaussian(u)
    elif kind == MORLET:
        return tl.cos(5.0 * u) * _gaussian(u)
    elif kind == DOG:
        return -tl.minimum(tl.maximum(u, -40.0), 40.0) * _gaussian(u)
    elif kind == MEYER:
        v = tl.abs(u)
        t = tl.minimum(tl.maximum(2.0 * v - 1.0, 0.0), 1.0)
        inside = _cosine(3.141592653589793 * (tl.minimum(v, 1.0) - 0.5)) * _cosine(_meyer_angle(t))
        return tl.where(v < 1.0, inside, 0.0)
    else:
        tl.static_assert(kind == SHANNON)
        near = tl.abs(u) < 1e-2
        safe = tl.where(near, 1.0, u)
        return tl.where(near, 1.0 - u * u / 6.0, tl.sin(safe) / safe)


@triton.jit
def psi_slope(u, kind: tl.constexpr):
    near = tl.minimum(tl.maximum(u, -40.0), 40.0)
    if kind == MEXICAN_HAT:
        return 0.8673250705840776 * near * (near * near - 3.0) * _gaussian(u)
    elif kind == MORLET:
        return -(5.0 * tl.sin(5.0 * near) + near * tl.cos(5.0 * near)) * _gaussian(u)
    elif kind == DOG:
        return (near * near - 1.0) * _gaussian(u)
    elif kind == MEYER:
        v = tl.minimum(tl.abs(u), 1.0)
        t = tl.minimum(tl.maximum(2.0 * v - 1.0, 0.0), 1.0)
        angle = _meyer_angle(t)
        window = -_sine(angle) * 439.822971502571 * _power(t * (1.0 - t), 3)
        turned = 3.141592653589793 * (v - 0.5)
        slope = _cosine(turned) * window - 3.141592653589793 * _sine(turned) * _cosine(angle)
        sign = tl.where(u > 0, 1.0, 0.0) - tl.where(u < 0, 1.0, 0.0)
        return tl.where(v < 1.0, sign * slope, 0.0)
    else:
        tl.static_assert(kind == SHANNON)
        # (cos u - sin u / u) / u loses all digits near zero; the series takes over there.
        small = tl.abs(u) < 1e-2
        safe = tl.where(small, 1.0, u)
        return tl.where(small, -u / 3.0 + u * u * u / 30.0, (tl.cos(safe) - tl.sin(safe) / safe) / safe)


@triton.jit
def wavelet_value(u, k: tl.constexpr, first, second, S: tl.constexpr):
    """First and second are scale and translation."""
    return psi((u - second[k]) / first[k], S[0])


@triton.jit
def wavelet_slope(u, k: tl.constexpr, first, second, S: tl.constexpr):
    scale = first[k]
    return psi_slope((u - second[k]) / scale, S[0]) / scale


@triton.jit
def wavelet_partial(u, k: tl.constexpr, j: tl.constexpr, which: tl.constexpr, first, second, S: tl.constexpr):
    slope = -wavelet_slope(u, k, first, second, S)
    if which == 1:
        return slope
    else:
        return slope * (u - second[k]) / first[k]


@triton.jit
def nothing(u, k: tl.constexpr, first, second, S: tl.constexpr):
    """Of the family without functions, and in place of what a family does not have; never called."""
    return zeros(u)


def _own(k: int) -> tuple[int, ...]:
    return (k,)


@dataclass(frozen=True)
class Family:
    """A family's device functions.

    Args:
        value, slope: `(u, k, first, second, S)` to B_k(u) and B'_k(u).
        constants: how many functions at the beginning are constant; their slope is not asked for.
        partial: `(u, k, j, which, first, second, S)` to the derivative of B_k by entry j of the first (which = 0) or
            second learned tensor.
        depends: on which entries j of the learned tensors function k depends.
    """

    value: Any
    slope: Any
    constants: int = 0
    partial: Any = nothing
    depends: Callable[[int], tuple[int, ...]] = _own


DEVICE_FAMILIES: dict[Expansion, Family] = {
    ops.legendre: Family(legendre_value, legendre_slope, 1),
    ops.chebyshev: Family(chebyshev_value, chebyshev_slope, 1),
    ops.jacobi: Family(jacobi_value, jacobi_slope, 1),
    ops.bernstein: Family(bernstein_value, bernstein_slope),
    ops.gram: Family(gram_value, gram_slope, 1, gram_partial, lambda k: tuple(range(1, k))),
    ops.fourier: Family(fourier_value, fourier_slope),
    ops.spline: Family(spline_value, spline_slope),
    ops.rbf: Family(rbf_value, rbf_slope, 0, rbf_partial),
    ops.relu_bumps: Family(relu_bumps_value, relu_bumps_slope, 0, relu_bumps_partial),
    ops.wavelet: Family(wavelet_value, wavelet_slope, 0, wavelet_partial),
    ops.no_functions: Family(nothing, nothing),
}
"""By the operator of `ops` that they belong to. A family that is not here is evaluated by ordinary operators."""

_BY_VALUES = {family.values: device for family, device in DEVICE_FAMILIES.items()}


def device_family(values: Callable[..., Any]) -> Family | None:
    """The entry of the family whose function is `values`, if it has one."""
    return _BY_VALUES.get(values)
