"""A basis of one's own, from its formula to a trained network: Hermite functions on handwritten digits.

h_k(x) = H_k(x) exp(-x^2/2) / sqrt(2^k k! sqrt(pi)) are orthonormal on the real line. They satisfy

    h_{k+1} = sqrt(2/(k+1)) x h_k - sqrt(k/(k+1)) h_{k-1}        h'_k = sqrt(k/2) h_{k-1} - sqrt((k+1)/2) h_{k+1}

Run it with `python examples/own_basis.py`; it needs scikit-learn for the digits.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import kanvolution as kv
from kanvolution.ops import Planes, Slopes, expansion


@expansion
def hermite(x: Tensor, degree: int) -> Planes:
    """h_0(x) ... h_degree(x)."""
    previous, current = torch.zeros_like(x), math.pi**-0.25 * torch.exp(-0.5 * x * x)
    for k in range(degree + 1):
        yield current
        previous, current = current, math.sqrt(2 / (k + 1)) * x * current - math.sqrt(k / (k + 1)) * previous


@hermite.derivative
def hermite_derivative(x: Tensor, degree: int) -> Slopes:
    """Optional: with it, backward needs x alone. Without it, autograd goes through `hermite`."""
    values = list(hermite.values(x, degree + 1))
    for k in range(degree + 1):
        below = math.sqrt(k / 2) * values[k - 1] if k else torch.zeros_like(x)
        yield below - math.sqrt((k + 1) / 2) * values[k + 1]


@kv.register_basis("hermite")
class Hermite(kv.Basis):
    """h_0 ... h_degree, beside silu(x)."""

    def __init__(self, degree: int = 3, input_map: str = "identity", base: str | None = "silu") -> None:
        super().__init__(degree + 1, input_map=input_map, base=base)
        self.degree = degree

    def functions(self, x: Tensor, **options: Any) -> Tensor:
        return hermite(x, self.degree, **options)


def main() -> None:
    torch.manual_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 8 - 1  # [1797, 1, 8, 8] in [-1, 1]
    labels = torch.tensor(digits.target)
    order = torch.randperm(len(labels))
    train, test = order[:1440], order[1440:]

    conv = kv.ConvSpec("hermite", degree=3)  # the basis is known by its name from here on
    model = nn.Sequential(
        conv(1, 16, 3, padding=1),
        conv(16, 32, 3, stride=2, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )
    print(f"{sum(p.numel() for p in model.parameters())} parameters")

    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for epoch in range(4):
        model.train()
        for batch in train[torch.randperm(len(train))].split(64):
            loss = F.cross_entropy(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            accuracy = (model(images[test]).argmax(1) == labels[test]).float().mean().item()
        print(f"epoch {epoch + 1}: loss {loss.item():.3f}, accuracy on held-out digits {accuracy:.3f}")


if __name__ == "__main__":
    main()
