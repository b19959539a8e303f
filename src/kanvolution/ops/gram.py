"""Gram polynomials with learned recurrence coefficients, passed through SiLU."""

from __future__ import annotations

import torch
from torch import Tensor

from kanvolution.ops.expansion import Planes, expansion
from kanvolution.ops.pointwise import sigmoid, silu


def gram_coefficients(degree: int, points: int) -> Tensor:
    """Recurrence coefficients of the monic discrete Gram polynomials on `points` equidistant points of [-1, 1].

    With x_j = -1 + (2j - 1)/m, j = 1 ... m, the polynomials G_{n+1} = x G_n - beta_n G_{n-1},
    beta_n = n^2 (m^2 - n^2) / (m^2 (4 n^2 - 1)), are orthogonal under summation over the points; as m grows they become
    the monic Legendre polynomials. Source: Barnard, Dahlquist, Pearce, Reichel, Richards, "Gram polynomials and the
    Kummer function", J. Approx. Theory 94 (1998), recurrence of section 1, rescaled to monic form.

    Returns:
        float32 tensor [degree + 1]; entry n is beta_n. Entries 0 and `degree` do not enter G_0 ... G_degree.
    """
    n = torch.arange(degree + 1, dtype=torch.float64)
    beta = n**2 * (points**2 - n**2) / (points**2 * (4 * n**2 - 1))
    return beta.abs().float()  # abs: no negative zero at n = 0


@expansion
def gram(x: Tensor, beta: Tensor) -> Planes:
    """silu(G_k(x)), k = 0 ... degree, with G_{k+1} = x G_k - beta_k G_{k-1} and beta of shape [degree + 1].

    Source: Drokin, "Kolmogorov-Arnold Convolutions", arXiv 2407.01092.
    """
    return (silu(value) for value in _recurrence(x, beta))


@gram.vjp
def gram_vjp(x: Tensor, grads: list[Tensor], beta: Tensor) -> tuple[Tensor, Tensor]:
    """Adjoint of the recurrence (Clenshaw): a_k = h_k + x a_{k+1} - beta_{k+1} a_{k+2}, h_k the gradient of G_k."""
    values = list(_recurrence(x, beta))
    coefficients = beta.unbind()
    degree = len(coefficients) - 1
    grad_x = torch.zeros_like(x)
    grad_beta = [torch.zeros_like(coefficients[0]) for _ in coefficients]
    adjoint, above, above_two = None, None, None
    for k in range(degree, 0, -1):
        s = sigmoid(values[k])
        adjoint = grads[k] * torch.addcmul(s, values[k] * s, 1 - s)
        if above is not None:
            adjoint = torch.addcmul(adjoint, x, above)
        if above_two is not None:
            adjoint = torch.addcmul(adjoint, above_two, coefficients[k + 1], value=-1)
        grad_x = torch.addcmul(grad_x, adjoint, values[k - 1])
        if k >= 2:
            grad_beta[k - 1] = -(adjoint * values[k - 2]).sum()
        above, above_two = adjoint, above
    return grad_x, torch.stack(grad_beta)


def _recurrence(x: Tensor, beta: Tensor) -> Planes:
    before, value = torch.ones_like(x), x
    yield before
    for k, coefficient in enumerate(beta.unbind()[:-1]):
        # beta_0 is not part of the recurrence: G_1 = x.
        if k:
            before, value = value, torch.addcmul(x * value, before, coefficient, value=-1)
        yield value
