"""A convolution with its norm, activation and dropout: the unit networks are made of."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from kanvolution.bases import Basis
from kanvolution.layers.conv import KANConvNd
from kanvolution.registry import unknown_name

NORM_SITES = ("output", "functions")
DROPOUT_SITES = ("full", "poly", "degree", "output")


class KANConvNormAct(nn.Module):
    """dropout -> Kolmogorov-Arnold convolution -> norm -> activation, each part optional and at a site of choice.

    Args:
        conv: a `KANConv1d`, `KANConv2d` or `KANConv3d`, a transposed one, or a module made of them (see
            `layers.structures`).
        norm: norm module, or None. It belongs to one layer alone.
        act: activation module, or None.
        dropout: dropout module, or None.
        norm_site: "output" (after the convolution) or "functions" (on the input of the basis functions; the base
            function sees the input as it is, as in FastKAN).
        dropout_site: "full" (on the input), "poly" (on the input of the basis functions only), "degree" (on single
            functions of single channels) or "output" (after the activation). "poly" and "degree" spare the base
            function. Sites as in arXiv 2407.01092, section on regularisation.

    Shape:
        as the convolution.

    Raises:
        ValueError: unknown site, or a site on the functions of a basis that has none (`identity`).

    Example:
        >>> import torch, kanvolution as kv
        >>> conv = kv.KANConv2d(3, 8, 3, padding=1, bias=False, basis="rbf")
        >>> block = kv.KANConvNormAct(conv, norm=torch.nn.BatchNorm2d(8), act=torch.nn.SiLU())
        >>> block(torch.randn(2, 3, 8, 8)).shape
        torch.Size([2, 8, 8, 8])
    """

    def __init__(
        self,
        conv: nn.Module,
        norm: nn.Module | None = None,
        act: nn.Module | None = None,
        dropout: nn.Module | None = None,
        *,
        norm_site: str = "output",
        dropout_site: str = "full",
    ) -> None:
        super().__init__()
        if norm_site not in NORM_SITES:
            raise ValueError(unknown_name("norm_site", norm_site, NORM_SITES))
        if dropout_site not in DROPOUT_SITES:
            raise ValueError(unknown_name("dropout_site", dropout_site, DROPOUT_SITES))
        self.conv = conv
        self.norm = norm if norm_site == "output" else None
        self.act = act
        self.dropout = dropout if dropout_site in ("full", "output") else None
        self.norm_site = norm_site
        self.dropout_site = dropout_site
        if norm is not None and norm_site == "functions" and not isinstance(conv, KANConvNd):
            raise ValueError(
                f"norm_site='functions' needs a KANConv, which has one input for its functions; with a "
                f"{type(conv).__name__} use norm_site='output'"
            )
        on_functions = (norm is not None and norm_site == "functions") or (
            dropout is not None and dropout_site in ("poly", "degree")
        )
        bases = list(_bases_of(conv))
        if on_functions and not (bases and all(basis.num_functions for basis in bases)):
            raise ValueError(
                f"{type(conv).__name__} has no functions (beside a base function, if any), so nothing can act on them; "
                "use norm_site='output' and dropout_site='full' or 'output'"
            )
        for basis in bases:
            basis.attach(
                norm=norm if norm_site == "functions" else None,
                input_dropout=dropout if dropout_site == "poly" else None,
                function_dropout=dropout if dropout_site == "degree" else None,
            )

    def become_plain(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """Compute what an ordinary convolution does; see `KANConv2d.become_plain`.

        Raises:
            ValueError: also where a norm or an activation follows, or the convolution inside cannot.
        """
        if self.norm is not None or self.act is not None:
            raise ValueError(
                "a norm or an activation is part of the block; an ordinary convolution has norm=None, act=None"
            )
        become_plain = getattr(self.conv, "become_plain", None)
        if become_plain is None:
            raise ValueError(f"a {type(self.conv).__name__} cannot begin as an ordinary convolution")
        become_plain(weight, bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.dropout is not None and self.dropout_site == "full":
            x = self.dropout(x)
        x = self.conv(x)
        if self.norm is not None:
            x = self.norm(x)
        if self.act is not None:
            x = self.act(x)
        if self.dropout is not None and self.dropout_site == "output":
            x = self.dropout(x)
        return x


def _bases_of(module: nn.Module) -> Iterator[Basis]:
    """The bases of all layers in `module`, not those inside other bases."""
    if isinstance(module, Basis):
        yield module
        return
    for child in module.children():
        yield from _bases_of(child)
