"""Some of the functions of another basis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from kanvolution.bases.basis import CONTEXT, Basis, Extension, check_keep


class KeptFunctions(Basis):
    """Some functions of another basis; the others are not part of the expansion. `Basis.kept` makes it.

    Args:
        inner: the other basis. What is attached to it is attached to this one instead.
        keep: numbers of the functions kept, increasing; 0 is the base function, if there is one.

    Raises:
        ValueError: no number, numbers that do not increase, or one that is not there.
    """

    def __init__(self, inner: Basis, keep: Sequence[int]) -> None:
        keep = tuple(keep)
        check_keep(keep, inner.size)
        if isinstance(inner, KeptFunctions):
            inner, keep = inner._released(), tuple(inner.keep[k] for k in keep)
        first = int(inner.base is not None)
        with_base = first > 0 and keep[0] == 0
        super().__init__(len(keep) - with_base, input_map=inner.input_map, base=inner.base if with_base else None)
        self.inner = inner
        self.keep = keep
        self.backend = inner.backend
        self.activation = inner.activation  # type: ignore[misc]
        for name in CONTEXT:
            if hasattr(inner, name):
                setattr(self, name, getattr(inner, name))
        self.attach(
            norm=inner.norm,
            input_dropout=inner.input_dropout,
            function_dropout=inner.function_dropout if self.num_functions else None,
        )
        inner.norm = inner.input_dropout = inner.function_dropout = None
        self.train(inner.training)

    def reset_parameters(self) -> None:
        self.inner.reset_parameters()

    def functions(self, x: Tensor, *, keep: Sequence[int] | None = None, **options: Any) -> Tensor:
        # Without a base function the inner basis counts its own functions from 0.
        first = int(self.inner.base is not None) if options.get("base") is None else 0
        own = tuple(k - first for k in self.keep if k >= first)
        return self.inner.functions(x, keep=own if keep is None else tuple(own[k] for k in keep), **options)

    def extension(self, count: int) -> Extension:
        raise ValueError(
            f"functions of basis {self.inner.name!r} were left out, so none can be added (count={count}); give the "
            "layers the whole basis again (deploy.refine with another degree or grid)"
        )

    def describe(self) -> dict[str, Any]:
        return {**self.inner.describe(), "keep": list(self.keep)}

    def options(self) -> dict[str, Any]:
        return {"keep": self.keep}

    def _released(self) -> Basis:
        """The inner basis, with what is attached here."""
        self.inner.attach(norm=self.norm, input_dropout=self.input_dropout, function_dropout=self.function_dropout)
        return self.inner
