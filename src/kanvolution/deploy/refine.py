"""The functions of a trained network in another basis of their kind: finer, coarser, or on another range.

A layer's functions phi = sum_k w_k A_k become phi' = sum_j w'_j B_j. Each A_k is approximated by the B_j, by least
squares over the inputs that it sees, A_k ~ sum_j T_kj B_j, and w' = T^T w. Where the A_k are combinations of the B_j,
as for polynomials of a higher degree and for a spline whose grid is divided, phi' is phi.
"""

from __future__ import annotations

import copy
import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from kanvolution.bases import BASES, Basis, KeptFunctions, MixedBasis, basis_from_description
from kanvolution.bases.basis import option_names
from kanvolution.bases.extended import take_over
from kanvolution.checks import integer_at_least
from kanvolution.layers.layer import KANLayer
from kanvolution.layers.penalties import kan_layers
from kanvolution.models.pretrained import record_changes
from kanvolution.ops.pointwise import POINTWISE
from kanvolution.registry import unknown_name
from kanvolution.visualize.layers import Data, layer_inputs, layer_views

# Weights in least squares of places where no input of the data was, and of those outside a grid: they decide where the
# data say nothing.
_UNSEEN, _OUTSIDE = 1e-3, 1e-8


@dataclass(frozen=True)
class RefinedLayer:
    """What became of a layer.

    Attributes:
        name: of the layer.
        functions: number of its functions before and after, the base function included.
        grid_range: of its basis before and after; None for a basis without a grid.
        error: root mean square of phi' - phi over that of phi, base function aside, over the inputs it was fitted on.
    """

    name: str
    functions: tuple[int, int]
    grid_range: tuple[tuple[float, float], tuple[float, float]] | None
    error: float


@dataclass(frozen=True)
class Refined:
    """A network in other bases, in evaluation mode, and what became of each of its layers."""

    model: nn.Module
    layers: tuple[RefinedLayer, ...]


def refine(model: nn.Module, data: Data | None = None, *, layers: Sequence[str] = ("*",), **options: Any) -> Refined:
    """A copy of a network or layer whose functions are given in bases with other options.

    More functions (`degree`, `num_wavelets`, `grid_size`) leave the functions as they are, exactly for polynomials,
    frequencies and wavelets, for splines on their range when the number of intervals is a multiple of the old one (see
    `divide_grids` for all inputs), and nearly otherwise. Fewer functions, or another `grid_range`, give the nearest
    functions over the inputs of the data.

    Args:
        model: a network or a layer. It is not changed.
        data: images that show which inputs the layers see, one tensor or batches of them; None fits over the whole
            range of a grid, or over [-9, 9] where there is none.
        layers: names or shell patterns.
        **options: options of the basis that are to be others. Layers whose basis has them not are left alone.

    Returns:
        The copy, whose `config` makes it again, and for each layer its numbers of functions and its error.

    Raises:
        ValueError: no options, a layer or an option that is not there (the nearest is named), a value out of range, or
            another base function.

    Example:
        >>> import torch, kanvolution as kv
        >>> from kanvolution.deploy import refine
        >>> model = kv.create_model("simple4", conv="chebyshev", num_classes=10, in_chans=1).eval()
        >>> finer = refine(model, degree=5).model
        >>> x = torch.randn(2, 1, 28, 28)
        >>> finer.stages[0].conv.basis.size, torch.allclose(finer(x), model(x), atol=1e-5)
        (6, True)
    """
    if not options:
        raise ValueError("refine needs an option of the basis to change, e.g. grid_size=10 or degree=5")
    chosen = _layers(model, layers)
    described = {name: _description(_source(layer.basis)) for name, layer in chosen.items()}
    known = {option for description in described.values() for option in _options(description)}
    for option in options:
        if option not in known:
            raise ValueError(unknown_name("option of the layers' bases", option, known or ["(none)"]))
    wanted = {
        name: {**description, **options}
        for name, description in described.items()
        if options.keys() <= _options(description)
    }
    if not wanted:
        raise ValueError(f"no layer has a basis with all of the options {', '.join(options)}; refine them one by one")
    return _refitted(model, data, wanted)


def divide_grids(model: nn.Module, parts: int = 2, *, layers: Sequence[str] = ("*",)) -> Refined:
    """A copy of a network that computes the same, the intervals of its splines each in equal parts.

    Beside the parts, a grid gets further intervals at either end, (parts - 1) * spline_order, since the splines of a
    finer grid fall to zero sooner outside of its range.

    Args:
        model: a network or a layer. It is not changed.
        parts: of each interval, >= 2.
        layers: names or shell patterns. Layers whose basis is no spline are left alone.

    Raises:
        ValueError: no layer with splines, or fewer than 2 parts.

    Example:
        >>> import torch, kanvolution as kv
        >>> from kanvolution.deploy import divide_grids
        >>> layer = kv.KANLinear(3, 2, basis="spline", grid_size=4, spline_order=3, grid_range=(-2, 2))
        >>> finer = divide_grids(layer).model
        >>> x = 3 * torch.randn(100, 3)
        >>> finer.basis.grid_size, finer.basis.grid_range, torch.allclose(finer(x), layer(x), atol=1e-5)
        (14, (-3.5, 3.5), True)
    """
    integer_at_least("parts", parts, 2)
    wanted = {}
    for name, layer in _layers(model, layers).items():
        source = _source(layer.basis)
        if type(_whole(source)).division is not Basis.division:
            wanted[name] = {**_description(source), **_whole(source).division(parts)}
    if not wanted:
        raise ValueError("no layer has a basis with intervals that could be divided; spline has")
    return _refitted(model, None, wanted)


def fit_range(
    model: nn.Module,
    data: Data,
    *,
    quantiles: tuple[float, float] = (0.001, 0.999),
    layers: Sequence[str] = ("*",),
    samples: int = 2048,
) -> Refined:
    """A copy of a network whose grids cover the inputs that its layers see, with as many functions as before.

    Args:
        model: a network or a layer. It is not changed.
        data: images, one tensor or batches of them.
        quantiles: of the inputs of a layer, all channels together: the ends of its grid.
        layers: names or shell patterns. Layers whose basis has no grid, and such as see one value, are left alone.
        samples: values of each channel that are looked at.

    Raises:
        ValueError: quantiles that are not increasing in [0, 1], or no layer with a grid.
    """
    low, high = quantiles
    if not 0 <= low < high <= 1:
        raise ValueError(f"quantiles (={quantiles}) must be two numbers from 0 to 1 with low < high")
    seen = layer_inputs(model, data, samples=samples)
    wanted = {}
    for name, layer in _layers(model, layers).items():
        source = _source(layer.basis)
        if _grid_range(source) is None or name not in seen:
            continue
        values = POINTWISE[source.input_map].value(seen[name].double()).flatten().sort().values
        ends = [float(values[round(share * (len(values) - 1))]) for share in quantiles]
        if ends[0] < ends[1]:
            wanted[name] = {**_description(source), "grid_range": ends}
    if not wanted:
        raise ValueError("no layer has a basis with a grid whose range could be fitted; spline, rbf and relu have one")
    return _refitted(model, data, wanted, samples)


@torch.no_grad()
def refit(layer: KANLayer, basis: Basis, inputs: Tensor | None = None) -> float:
    """Give a layer another basis, in place, with the weights that change its functions least.

    Args:
        layer: the layer. Functions of low rank are fitted in their inner basis.
        basis: the other basis, made for the layer's channels, with the same base function.
        inputs: values that the functions see, [in_channels, M]; None for all of a grid's range, or of [-9, 9].

    Returns:
        The root mean square of the change of its functions over that of the functions.

    Raises:
        ValueError: another base function, or functions that differ from output to output.
    """
    mixed = layer.basis if isinstance(layer.basis, MixedBasis) else None
    old = _source(layer.basis)
    if not (old.combines and basis.combines):
        raise ValueError(
            f"basis {old.name or basis.name!r} has functions of its own for each output; none can be fitted"
        )
    if old.base != basis.base:
        raise ValueError(f"base (={basis.base!r}) must stay {old.base!r}; the other functions do not make up for it")
    channels, groups = layer.weight.shape[1] // layer.basis.size, getattr(layer, "groups", 1)
    places, weights = _places(old, basis, inputs)
    before, after = (_values(b, places) for b in (old, basis))
    if mixed is not None and mixed.mixing.shape[0] == 1:  # one fit for all channels
        before, after = (v.transpose(0, 1).flatten(1).unsqueeze(0) for v in (before, after))
        together = before.shape[-1] // len(weights)
        weights = weights.repeat(together) / together
    matrix = _approximate(before, after, weights)
    first = int(old.base is not None)
    if mixed is None:
        # [groups, outputs, inputs, K, *kernel]; the places of all groups' channels are one after the other.
        own = layer.weight.double().cpu().unflatten(1, (channels, -1)).unflatten(0, (groups, -1))
        by_group = matrix.expand(channels * groups, -1, -1).unflatten(0, (groups, channels))
        fitted = torch.einsum("goik...,gikj->goij...", own[:, :, :, first:], by_group)
        coefficients = own[:, :, :, first:].flatten(4) if own.ndim > 4 else own[:, :, :, first:].unsqueeze(-1)
        coefficients = coefficients.permute(0, 2, 1, 4, 3).flatten(2, 3).flatten(0, 1)  # [channels, edges, K]
        weight = torch.cat([own[:, :, :, :first], fitted], dim=3).flatten(2, 3).flatten(0, 1)
        layer.set_basis(basis, weight.to(layer.weight))
    else:
        own = mixed.mixing.double().cpu()
        fitted = own[:, :, first:] @ matrix
        coefficients = own[:, :, first:]
        larger = MixedBasis(copy.deepcopy(basis), mixed.rank, mixed.in_channels, mixed.shared)
        larger.inner = basis.to(mixed.mixing.device, mixed.mixing.dtype)
        value = torch.cat([own[:, :, :first], fitted], dim=2).to(mixed.mixing)
        larger.mixing = nn.Parameter(value, mixed.mixing.requires_grad)
        layer.set_basis(larger, layer.weight.detach())
    return _error(coefficients, before, before - matrix @ after, weights)


class RangeCounter:
    """Counts the inputs of layers that lie outside the grid of their basis, where splines and bumps are zero.

    A context manager: while it is open, every forward pass of the model counts.

    Args:
        model: a network or a layer.

    Attributes:
        counts: for each layer with a grid (of splines, radial functions, bumps) [below, inside, above].

    Raises:
        ValueError: a model without Kolmogorov-Arnold layers.

    Example:
        >>> import torch, kanvolution as kv
        >>> from kanvolution.deploy import RangeCounter
        >>> layer = kv.KANLinear(2, 3, basis="spline", grid_range=(-1, 1))
        >>> with RangeCounter(layer) as counter:
        ...     _ = layer(torch.tensor([[-2.0, 0.0], [0.5, 3.0]]))
        >>> counter.counts, counter.outside
        ({'KANLinear': [1, 2, 1]}, {'KANLinear': 0.5})
    """

    def __init__(self, model: nn.Module) -> None:
        self._layers = {
            name: (layer, source, ends)
            for name, layer in _layers(model, ("*",)).items()
            if (ends := _grid_range(source := _source(layer.basis))) is not None
        }
        self.counts = {name: [0, 0, 0] for name in self._layers}
        self._handles: list[RemovableHandle] = []

    @property
    def outside(self) -> dict[str, float]:
        """The share of the inputs of each layer that lie outside; 0 for a layer that has not run."""
        return {name: (below + above) / max(sum(c), 1) for name, c in self.counts.items() for below, _, above in [c]}

    def __enter__(self) -> RangeCounter:
        for name, (layer, source, ends) in self._layers.items():
            seen_by = layer if source.norm is None else source.norm
            hook = self._hook(name, source.input_map, ends, of_output=seen_by is source.norm)
            self._handles.append(seen_by.register_forward_hook(hook))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _hook(self, name: str, input_map: str, ends: tuple[float, float], of_output: bool) -> Callable[..., None]:
        def count(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            mapped = POINTWISE[input_map].value((output if of_output else inputs[0]).detach())
            below, above = int((mapped < ends[0]).sum()), int((mapped > ends[1]).sum())
            for i, number in enumerate((below, mapped.numel() - below - above, above)):
                self.counts[name][i] += number

        return count


def _layers(model: nn.Module, patterns: Sequence[str]) -> dict[str, KANLayer]:
    """The layers with functions, by the names that `layer_inputs` gives them."""
    found = {
        name or type(model).__name__: layer
        for name, layer in kan_layers(model)
        if isinstance(layer, KANLayer) and _source(layer.basis).num_functions
    }
    if not found:
        raise ValueError(f"{type(model).__name__} has no Kolmogorov-Arnold layer with functions")
    chosen = {}
    for pattern in patterns:
        names = [name for name in found if fnmatch.fnmatchcase(name, pattern)]
        if not names:
            raise ValueError(unknown_name("layer", pattern, found))
        chosen.update({name: found[name] for name in names})
    return {name: layer for name, layer in found.items() if name in chosen}


def _source(basis: Basis) -> Basis:
    """The basis whose functions see the input: the inner one of a low-rank layer."""
    return basis.inner if isinstance(basis, MixedBasis) else basis


def _whole(basis: Basis) -> Basis:
    """The basis of a kind in the registry: the inner one where some functions were left out."""
    return basis.inner if isinstance(basis, KeptFunctions) else basis


def _description(basis: Basis) -> dict[str, Any]:
    """What makes the whole basis again, with the base function that there is."""
    return {**_whole(basis).describe(), "base": basis.base}


def _grid_range(basis: Basis) -> tuple[float, float] | None:
    """The ends of the grid outside of which the functions are zero, or nearly; None for a basis without."""
    whole = _whole(basis)
    return None if _first_ones_stay(whole) else getattr(whole, "grid_range", None)


def _options(description: Mapping[str, Any]) -> set[str]:
    return set(option_names(BASES[description["name"]]))


def _refitted(
    model: nn.Module, data: Data | None, wanted: Mapping[str, Mapping[str, Any]], samples: int = 2048
) -> Refined:
    """A copy of the model with the bases described for each layer."""
    seen = {}
    if data is not None:
        visible = {view.name for view in layer_views(model)}
        seen = layer_inputs(model, data, [name for name in wanted if name in visible], samples=samples)
    result = copy.deepcopy(model).eval()
    layers = _layers(result, ("*",))
    made = []
    for name, description in wanted.items():
        layer = layers[name]
        groups = getattr(layer, "groups", 1)
        inputs = layer.weight.shape[1] // layer.basis.size * groups
        basis = basis_from_description(description, in_channels=inputs, out_channels=len(layer.weight), groups=groups)
        basis.to(layer.weight.device, layer.weight.dtype)
        old = _whole(_source(layer.basis))
        if _first_ones_stay(old):
            take_over(basis, old)
        made.append((name, layer, basis))
    found = []
    for name, layer, basis in made:
        old = _source(layer.basis)
        functions, ranges = (old.size, basis.size), [_grid_range(b) for b in (old, basis)]
        error = refit(layer, basis, seen.get(name))
        grid_range = None if ranges[0] is None or ranges[1] is None else (ranges[0], ranges[1])
        found.append(RefinedLayer(name, functions, grid_range, error))
    record_changes(result)
    return Refined(result, tuple(found))


def _first_ones_stay(basis: Basis) -> bool:
    """Whether a larger basis of the kind has the same functions and further ones after them."""
    try:
        return basis.extension(1).before == 0
    except ValueError:
        return False


def _places(old: Basis, new: Basis, inputs: Tensor | None) -> tuple[Tensor, Tensor]:
    """Where functions are compared, [channels or 1, M] in float64, and how much each place weighs, [M]."""
    x = torch.linspace(-9, 9, 721, dtype=torch.float64)
    ranges = [r for r in (_grid_range(old), _grid_range(new)) if r is not None]
    weights = torch.ones_like(x)
    if ranges:
        low, high = min(r[0] for r in ranges), max(r[1] for r in ranges)
        around = torch.linspace(2 * low - high, 2 * high - low, 2163, dtype=torch.float64)
        x = torch.cat([x, around])
        mapped = POINTWISE[new.input_map].value(x)
        inside = (mapped >= ranges[-1][0]) & (mapped <= ranges[-1][1])
        weights = torch.where(inside, torch.ones_like(x), _OUTSIDE)
    weights = weights / weights.sum()
    if inputs is None:
        return x.unsqueeze(0), weights
    inputs = inputs.double().cpu()
    places = torch.cat([inputs, x.expand(len(inputs), -1)], dim=1)
    return places, torch.cat([torch.full((inputs.shape[1],), 1 / inputs.shape[1]).double(), _UNSEEN * weights])


def _values(basis: Basis, places: Tensor) -> Tensor:
    """The functions without the base function, [channels or 1, K, M]."""
    own = copy.deepcopy(basis).cpu().double()
    channels = max(places.shape[0], getattr(own, "in_channels", 1))
    x = places.expand(channels, -1).unsqueeze(0)
    return own.functions(x, input_map=own.input_map, base=None)[0]


def _approximate(before: Tensor, after: Tensor, weights: Tensor) -> Tensor:
    """T [channels or 1, K, K'] with before ~ T after; a function that is in both stays what it is."""
    channels = max(len(before), len(after))
    before, after = (v.expand(channels, -1, -1) for v in (before, after))
    size = before.abs().amax((0, 2)).clamp_min(1e-300)
    matrix = before.new_zeros(channels, before.shape[1], after.shape[1])
    fitted = []
    for k in range(before.shape[1]):
        distance = (after - before[:, k : k + 1]).abs().amax((0, 2)) / size[k]
        nearest = int(distance.argmin())
        if float(distance[nearest]) < 1e-12:
            matrix[:, k, nearest] = 1
        else:
            fitted.append(k)
    if fitted:
        root = weights.sqrt().unsqueeze(-1)
        columns, targets = after.mT * root, before[:, fitted].mT * root
        solution = torch.linalg.lstsq(columns, targets, rcond=1e-10, driver="gelsd").solution
        matrix[:, fitted] = solution.mT
    return matrix


def _error(coefficients: Tensor, before: Tensor, residual: Tensor, weights: Tensor) -> float:
    """Relative root mean square of sum_k coefficients[c, e, k] residual[c, k] over channels c and edges e."""

    def power(values: Tensor) -> float:
        gram = torch.einsum("ckm,clm,m->ckl", values, values, weights)
        gram = gram.expand(len(coefficients), -1, -1)
        return float(torch.einsum("cek,ckl,cel->", coefficients, gram, coefficients).clamp_min(0))

    whole = power(before)
    return (power(residual) / whole) ** 0.5 if whole > 0 else 0.0
