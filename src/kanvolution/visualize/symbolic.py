"""Learned functions by name: fits of a f(b x + c) + d, formulas, and networks with functions replaced by them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kanvolution.checks import integer_at_least
from kanvolution.extras import require
from kanvolution.layers.conv import KANConvNd
from kanvolution.layers.linear import KANLinear
from kanvolution.registry import unknown_name
from kanvolution.visualize.importance import importance
from kanvolution.visualize.layers import Data, Edge, LayerView, in_eval, layer_view, ravel

_PLACES = 300
_STARTS = 2


@dataclass(frozen=True)
class NamedFunction:
    """A function f with a name.

    Attributes:
        value: f of a tensor.
        symbol: f of a SymPy expression, given the module `sympy`.
        complexity: how long the formula is; of equally good fits the one of least complexity is chosen.
        scaled, shifted: whether b and c in f(b x + c) say anything that a and d do not.
    """

    value: Callable[[Tensor], Tensor]
    symbol: Callable[[Any, Any], Any]
    complexity: int
    scaled: bool = True
    shifted: bool = True


NAMED_FUNCTIONS: dict[str, NamedFunction] = {
    "0": NamedFunction(torch.zeros_like, lambda sympy, x: sympy.Integer(0), 0, scaled=False, shifted=False),
    "x": NamedFunction(lambda x: x, lambda sympy, x: x, 1, scaled=False, shifted=False),
    "x^2": NamedFunction(torch.square, lambda sympy, x: x**2, 2, scaled=False),
    "|x|": NamedFunction(torch.abs, lambda sympy, x: sympy.Abs(x), 2, scaled=False),
    "relu": NamedFunction(torch.relu, lambda sympy, x: sympy.Max(x, 0), 2, scaled=False),
    "x^3": NamedFunction(lambda x: x**3, lambda sympy, x: x**3, 3, scaled=False),
    "exp": NamedFunction(lambda x: torch.exp(x.clamp_max(40)), lambda sympy, x: sympy.exp(x), 3, shifted=False),
    "sin": NamedFunction(torch.sin, lambda sympy, x: sympy.sin(x), 4),
    "tanh": NamedFunction(torch.tanh, lambda sympy, x: sympy.tanh(x), 4),
    "gaussian": NamedFunction(lambda x: torch.exp(-x * x), lambda sympy, x: sympy.exp(-(x**2)), 4),
    "silu": NamedFunction(F.silu, lambda sympy, x: x / (1 + sympy.exp(-x)), 4),
    "1/(1+x^2)": NamedFunction(lambda x: 1 / (1 + x * x), lambda sympy, x: 1 / (1 + x**2), 4),
}
"""Functions that a fit may be made of. A sigmoid is a tanh, a cosine a sine, by b and c."""


@dataclass(frozen=True)
class SymbolicFit:
    """phi(x) ~ a f(b x + c) + d, with the share R^2 of phi's variance that it explains on the data."""

    name: str
    a: float
    b: float
    c: float
    d: float
    r2: float

    @property
    def complexity(self) -> int:
        """See `NamedFunction`."""
        return NAMED_FUNCTIONS[self.name].complexity

    def __call__(self, x: Tensor) -> Tensor:
        return self.a * NAMED_FUNCTIONS[self.name].value(self.b * x + self.c) + self.d

    def expression(self, symbol: str = "x", digits: int = 3) -> Any:
        """The fit as a SymPy expression, its numbers rounded to some significant digits."""
        sympy = require("sympy", "viz")
        noise = 10.0 ** -(digits + 2)
        c = 0.0 if abs(self.c) < noise * max(1.0, abs(self.b)) else self.c
        d = 0.0 if abs(self.d) < noise * abs(self.a) else self.d
        a, b, c, d = (_rounded(sympy, value, digits) for value in (self.a, self.b, c, d))
        return a * NAMED_FUNCTIONS[self.name].symbol(sympy, b * sympy.Symbol(symbol) + c) + d

    def latex(self, symbol: str = "x", digits: int = 3) -> str:
        """The fit as LaTeX."""
        return require("sympy", "viz").latex(self.expression(symbol, digits))


def fit_function(
    x: Tensor, y: Tensor, *, names: Sequence[str] | None = None, tolerance: float = 0.002
) -> list[SymbolicFit]:
    """Fit values of a function by every named one, a f(b x + c) + d, by least squares.

    For given b and c the best a and d are a linear regression; b and c are searched on a grid, then refined.

    Args:
        x, y: places and values, [S], S >= 8; places that occur often count often.
        names: which of `NAMED_FUNCTIONS`; None for all.
        tolerance: fits whose R^2 is below the best by at most this are equally good.

    Returns:
        The fits; first the simplest of the equally good, then the others by R^2.

    Raises:
        ValueError: an unknown name (the nearest is named), too few values, or values that are not finite.

    Example:
        >>> import torch
        >>> from kanvolution.visualize import fit_function
        >>> x = torch.linspace(-2, 2, 100)
        >>> fit_function(x, 3 * torch.sin(2 * x) + 1)[0].name
        'sin'
    """
    if x.ndim != 1 or x.shape != y.shape or len(x) < 8:
        raise ValueError(f"x (shape {tuple(x.shape)}) and y (shape {tuple(y.shape)}) must be equal and [S] with S >= 8")
    if not (x.isfinite().all() and y.isfinite().all()):
        raise ValueError("x and y must be finite")
    chosen = list(NAMED_FUNCTIONS) if names is None else list(names)
    for name in chosen:
        if name not in NAMED_FUNCTIONS:
            raise ValueError(unknown_name("named function", name, NAMED_FUNCTIONS))
    places, values = x.detach().double().cpu(), y.detach().double().cpu()
    fits = sorted((_fit(name, places, values) for name in chosen), key=lambda fit: -fit.r2)
    equal = [fit for fit in fits if fit.r2 >= fits[0].r2 - tolerance]
    best = min(equal, key=lambda fit: (fit.complexity, -fit.r2))
    return [best, *(fit for fit in fits if fit is not best)]


def _fit(name: str, x: Tensor, y: Tensor) -> SymbolicFit:
    function = NAMED_FUNCTIONS[name]
    # b and c are sought for places of about unit size, around the middle of the data.
    centre, width = float(x.mean()), max(float(x.std()), 1e-9)
    u = (x - centre) / width
    scales = torch.logspace(-1, 0.9, 20, dtype=x.dtype) if function.scaled else torch.ones(1, dtype=x.dtype)
    if function.scaled:
        scales = torch.cat([scales, -scales]) if name in ("exp", "silu") else scales
    elif name == "relu":
        scales = torch.tensor([1.0, -1.0], dtype=x.dtype)
    shifts = torch.linspace(-4, 4, 41, dtype=x.dtype) if function.shifted else torch.zeros(1, dtype=x.dtype)
    grid = torch.cartesian_prod(scales, shifts)
    errors = _regress(function.value(grid[:, :1] * u + grid[:, 1:]), y)[2]
    b, c = grid[int(errors.argmin())].tolist()
    if function.scaled or function.shifted:
        optimize = require("scipy.optimize", "viz")
        free = [i for i, on in enumerate((function.scaled, function.shifted)) if on]
        best = float(errors.min())
        for start in errors.argsort()[:_STARTS].tolist():
            first = grid[start].numpy()

            def residuals(free_values: np.ndarray, first: np.ndarray = first) -> np.ndarray:
                both = first.copy()
                both[free] = free_values
                values = function.value(float(both[0]) * u + float(both[1]))[None]
                a, d, _ = _regress(values, y)
                return (a * values[0] + d - y).numpy()

            found = optimize.least_squares(residuals, first[free], max_nfev=40)
            error = 2 * float(found.cost) / len(y)
            if np.isfinite(error) and error < best:
                both = first.copy()
                both[free] = found.x
                best, (b, c) = error, both.tolist()
    a, d, error = _regress(function.value(b * u + c)[None], y)
    variance = float(y.var(unbiased=False))
    # A constant explains a function without variance; where there is variance it explains none of it.
    r2 = 1 - float(error) / variance if variance > 1e-24 else 1.0
    if not function.scaled:
        return _homogeneous(name, float(a), b, c, float(d), centre, width, r2)
    return SymbolicFit(name, float(a), b / width, c - b * centre / width, float(d), r2)


def _homogeneous(
    name: str, a: float, sign: float, c: float, d: float, centre: float, width: float, r2: float
) -> SymbolicFit:
    """f(t x) = t^p f(x) for t > 0: the width of the data goes into a, so that b is 1 or -1 and the formula short."""
    power = {"0": 0, "x": 1, "|x|": 1, "relu": 1, "x^2": 2, "x^3": 3}[name]
    a, c = a / width**power, c * width - sign * centre
    if name == "0":
        return SymbolicFit(name, 0.0, 1.0, 0.0, d, r2)
    if name == "x":  # a (x + c) + d has one constant too many
        return SymbolicFit(name, a, 1.0, 0.0, d + a * c, r2)
    return SymbolicFit(name, a, sign, c, d, r2)


def _regress(values: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For every row f of values [R, S]: a, d of the best a f + d, and its mean squared error; inf where not finite."""
    finite = values.isfinite().all(1)
    values = torch.where(finite[:, None], values, torch.zeros_like(values))
    centred, target = values - values.mean(1, keepdim=True), y - y.mean()
    variance = centred.square().mean(1)
    a = torch.where(
        variance > 1e-24, (centred * target).mean(1) / variance.clamp_min(1e-24), torch.zeros_like(variance)
    )
    d = y.mean() - a * values.mean(1)
    error = (target - a[:, None] * centred).square().mean(1)
    return a, d, torch.where(finite, error, torch.full_like(error, torch.inf))


def _rounded(sympy: Any, value: float, digits: int) -> Any:
    rounded = float(f"{value:.{digits}g}")
    return sympy.Integer(round(rounded)) if rounded == round(rounded) else sympy.Float(rounded, digits)


@dataclass(frozen=True)
class SymbolicTable:
    """Fits of a layer's most important functions."""

    view: LayerView
    edges: tuple[Edge, ...]
    shares: tuple[float, ...]
    fits: tuple[SymbolicFit, ...]

    def __str__(self) -> str:
        rows = [("edge", "share", "function", "R²", "formula")]
        for edge, share, fit in zip(self.edges, self.shares, self.fits, strict=True):
            rows.append((str(edge), f"{100 * share:.1f} %", fit.name, f"{fit.r2:.4f}", str(fit.expression())))
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = ["  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join(lines)

    def latex(self) -> str:
        """The functions as lines of a LaTeX `align*`."""
        lines = []
        for edge, fit in zip(self.edges, self.fits, strict=True):
            index = f"{edge.output},{edge.input}" + (f",{ravel(edge.tap, self.view.kernel_size)}" if edge.tap else "")
            lines.append(rf"\varphi_{{{index}}}(x) &\approx {fit.latex()}")
        return "\\begin{align*}\n" + " \\\\\n".join(lines) + "\n\\end{align*}"

    def fits_above(self, r2: float) -> dict[Edge, SymbolicFit]:
        """The fits that explain at least a share `r2` of the variance, for `replace_functions`."""
        return {edge: fit for edge, fit in zip(self.edges, self.fits, strict=True) if fit.r2 >= r2}


def symbolic(
    view: LayerView, inputs: Tensor, *, count: int = 16, names: Sequence[str] | None = None, tolerance: float = 0.002
) -> SymbolicTable:
    """Fit the most important functions of a layer, over the values their inputs really have.

    Args:
        view: the layer.
        inputs: [in_channels, M], M >= 8, see `layer_inputs`.
        count: how many edges.
        names, tolerance: see `fit_function`.

    Raises:
        ValueError: see `fit_function` and `importance`.
    """
    integer_at_least("count", count, 1)
    found = importance(view, inputs)
    edges = found.ranked(count)
    values = inputs[:, :_PLACES]
    curves = view.curves(edges, values).total
    fits = [
        fit_function(values[edge.input], curve, names=names, tolerance=tolerance)[0]
        for edge, curve in zip(edges, curves, strict=True)
    ]
    return SymbolicTable(view, tuple(edges), tuple(found.share(edge) for edge in edges), tuple(fits))


class SymbolicLayer(nn.Module):
    """A layer with some of its functions replaced by fits; the others are computed as before.

    Args:
        layer: a `KANConv{n}d` or `KANLinear`; a copy of it is changed.
        fits: what replaces which edge.

    Raises:
        TypeError: another kind of layer.
        ValueError: no fits, or functions that see a normalised input.
    """

    def __init__(self, layer: nn.Module, fits: Mapping[Edge, SymbolicFit]) -> None:
        super().__init__()
        if not isinstance(layer, (KANConvNd, KANLinear)):
            raise TypeError(f"layer (a {type(layer).__name__}) must be a KANConv or KANLinear")
        if not fits:
            raise ValueError("fits must name at least one edge to replace")
        view = LayerView(layer)
        if view.normalised:
            raise ValueError("the functions see a normalised input; only functions of the input itself can be replaced")
        self.layer = copy.deepcopy(layer)
        self.fits = list(fits.values())
        weight = layer.weight.detach()
        edges = list(fits)
        position = [ravel(edge.tap, view.kernel_size) for edge in edges]
        pick = weight.new_zeros(view.out_channels, len(edges), max(1, view.weight.shape[-1]))
        with torch.no_grad():
            kept = self.layer.weight.view(view.out_channels, view.inputs_per_group, view.basis.size, -1)
            for row, (edge, tap) in enumerate(zip(edges, position, strict=True)):
                kept[edge.output, edge.input % view.inputs_per_group, :, tap] = 0
                pick[edge.output, row, tap] = 1
        self.register_buffer("inputs", torch.tensor([edge.input for edge in edges]), persistent=False)
        self.register_buffer("pick", pick.reshape(view.out_channels, len(edges), *view.kernel_size), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        layer: Any = self.layer
        inputs, pick = self.get_buffer("inputs"), self.get_buffer("pick")
        if isinstance(layer, KANLinear):
            return y + F.linear(self._values(x[..., inputs], -1), pick)
        batched = x.ndim == layer.ndim + 2
        x = x if batched else x.unsqueeze(0)
        if layer.padding_mode != "zeros":
            x = F.pad(x, layer._amounts(), mode=layer.padding_mode)
        extra = layer._convolve(self._values(x[:, inputs], 1), pick, None, 1)
        return y + (extra if batched else extra.squeeze(0))

    def _values(self, x: Tensor, dim: int) -> Tensor:
        columns = x.unbind(dim)
        return torch.stack([fit(column) for fit, column in zip(self.fits, columns, strict=True)], dim)


def replace_functions(model: nn.Module, fits: Mapping[str, Mapping[Edge, SymbolicFit]]) -> nn.Module:
    """A copy of a network with functions of some layers replaced by their fits.

    Args:
        model: the network; it stays as it is.
        fits: for each layer, by name, what replaces which edge (`SymbolicTable.fits_above`).

    Raises:
        ValueError: a layer that is not there (the nearest is named).
    """
    changed = copy.deepcopy(model)
    for name, chosen in fits.items():
        view = layer_view(changed, name)
        if chosen:
            changed = _with_module(changed, name, SymbolicLayer(view.layer, chosen))
    return changed


def _with_module(model: nn.Module, name: str, new: nn.Module) -> nn.Module:
    if name not in dict(model.named_modules()):
        return new  # the model is the layer itself
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, new)
    return model


@torch.no_grad()
def output_change(before: nn.Module, after: nn.Module, inputs: Data) -> dict[str, float]:
    """What a change of a network does to its outputs on data, both in evaluation mode.

    Returns:
        `relative_rms`: root mean square of the difference over that of the outputs before; `agreement`: share of
        equal decisions (largest entry along dimension 1).
    """
    batches = [inputs] if isinstance(inputs, Tensor) else [b if isinstance(b, Tensor) else b[0] for b in inputs]
    difference = size = agreed = count = 0.0
    with in_eval(before), in_eval(after):
        for batch in batches:
            old, new = before(batch).double(), after(batch).double()
            difference += float((new - old).square().sum())
            size += float(old.square().sum())
            same = old.argmax(1) == new.argmax(1)
            agreed, count = agreed + float(same.sum()), count + same.numel()
    return {"relative_rms": (difference / max(size, 1e-300)) ** 0.5, "agreement": agreed / max(count, 1.0)}
