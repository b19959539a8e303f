"""The heads of classifiers by name: pooled features [N, F] -> logits [N, num_classes]."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kanvolution.checks import integer_at_least
from kanvolution.layers.linear import KANLinear
from kanvolution.layers.spec import ConvFactory, ConvSpec
from kanvolution.registry import unknown_name

MakeHead = Callable[[int, int], nn.Module]
"""(features, num_classes) -> a new head."""


class Matryoshka(nn.Module):
    """A linear layer whose input features are nested: the first m of them alone predict well, for each width m.

    In evaluation all features are used; `nested` gives the logits of every width. In training each sample keeps its
    first m features and loses the others, m drawn uniformly from `widths`. The expected loss is then the mean of the
    losses of all widths, which the paper minimises, and the output is one tensor of logits.

    Args:
        in_features: F.
        num_classes: number of outputs.
        widths: numbers of features, increasing, the last one F; None for F/16, F/8, F/4, F/2, F.

    Shape:
        input [N, F]; output [N, num_classes].

    Raises:
        ValueError: widths that do not increase to F.

    Source: Kusupati et al., "Matryoshka Representation Learning", arXiv 2205.13147, eq. 1 with equal weights of the
    losses and the weights of the classifiers tied (MRL-E).

    Example:
        >>> import torch
        >>> from kanvolution.models.heads import Matryoshka
        >>> head = Matryoshka(64, 10)
        >>> head.widths, head.nested(torch.randn(2, 64)).shape
        ((4, 8, 16, 32, 64), torch.Size([5, 2, 10]))
    """

    def __init__(self, in_features: int, num_classes: int, widths: Sequence[int] | None = None) -> None:
        super().__init__()
        integer_at_least("in_features", in_features, 1)
        if widths is None:
            widths = sorted({max(1, in_features >> i) for i in range(5)})
        self.widths = tuple(integer_at_least("widths", width, 1) for width in widths)
        if not self.widths or list(self.widths) != sorted(set(self.widths)) or self.widths[-1] != in_features:
            raise ValueError(f"widths (={list(widths)}) must increase and end with in_features (={in_features})")
        self.linear = nn.Linear(in_features, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            widths = torch.tensor(self.widths, device=x.device)
            kept = widths[torch.randint(len(self.widths), (x.shape[0], 1), device=x.device)]
            x = x * (torch.arange(x.shape[1], device=x.device) < kept)
        return self.linear(x)

    def nested(self, x: Tensor) -> Tensor:
        """The logits of every width, [len(widths), N, num_classes]; the last are those of all features."""
        weight, bias = self.linear.weight, self.linear.bias
        return torch.stack([F.linear(x[:, :width], weight[:, :width], bias) for width in self.widths])

    def extra_repr(self) -> str:
        return f"widths={self.widths}"


@dataclass(frozen=True)
class Head:
    """What a head is made of.

    Attributes:
        hidden: kinds of the hidden layers.
        last: kind of the last layer.
        width: features of the hidden layers.
    """

    hidden: tuple[str, ...] = ()
    last: str = "linear"
    width: int = 0


HEADS: dict[str, Head] = {
    "linear": Head(),
    "kan": Head(last="kan"),
    "hidden_kan": Head(("kan",), width=512),
    "vgg": Head(("linear", "linear"), width=1024),
    "matryoshka": Head(("linear",), "matryoshka", 1024),
    "kan_matryoshka": Head(("kan",), "matryoshka", 512),
}
"""Heads by name. Linear hidden layers are followed by ReLU, and all hidden layers by dropout."""


def named_head(name: str, conv: ConvFactory, width: int | None = None, drop_rate: float = 0.0) -> MakeHead:
    """What makes the head `name` of `HEADS`.

    Args:
        name: of the head.
        conv: the network's conv factory; KAN layers take its basis.
        width: features of the hidden layers; None for the head's own.
        drop_rate: dropout after hidden layers.

    Raises:
        ValueError: an unknown name, a width without hidden layers, or a KAN head without a basis to take.
    """
    if name not in HEADS:
        raise ValueError(unknown_name("head", name, HEADS))
    head = HEADS[name]
    if width is not None:
        integer_at_least("head_width", width, 1)
        if not head.hidden:
            raise ValueError(f"head_width (={width}) needs a head with hidden layers, e.g. head='hidden_kan'")
    if "kan" in (*head.hidden, head.last) and not isinstance(conv, ConvSpec):
        raise ValueError(
            f"head {name!r} takes its basis from conv, which must be the name of a basis or a ConvSpec; "
            "use head='linear' with a conv factory of your own"
        )

    return partial(_make, head, conv, width or head.width, drop_rate)  # no closure: networks are pickled


def _make(head: Head, conv: ConvFactory, width: int, drop_rate: float, features: int, num_classes: int) -> nn.Module:
    """A head of `features` inputs, its hidden layers of `width`."""
    modules: list[nn.Module] = []
    for kind in head.hidden:
        modules += _layer(kind, conv, features, width)
        modules += [nn.ReLU()] if kind == "linear" else []
        modules.append(nn.Dropout(drop_rate))
        features = width
    modules += _layer(head.last, conv, features, num_classes)
    return modules[0] if len(modules) == 1 else nn.Sequential(*modules)


def _layer(kind: str, conv: ConvFactory, features: int, outputs: int) -> list[nn.Module]:
    if kind == "kan":
        assert isinstance(conv, ConvSpec)
        return [KANLinear(features, outputs, basis=conv.basis, **conv.options)]
    return [Matryoshka(features, outputs) if kind == "matryoshka" else nn.Linear(features, outputs)]
