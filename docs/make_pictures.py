"""Draws the functions of every basis into docs/bases/pictures: `python docs/make_pictures.py [FOLDER]`.

A registered basis without an entry in `LABELS` is drawn too, with numbered labels.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

import kanvolution as kv
from kanvolution import ops

FOLDER = Path(__file__).parent / "bases" / "pictures"
RANGE = (-3.0, 3.0)

# How the functions after the base function are written, given their index k = 0, 1, ...
LABELS: dict[str, Callable[[int], str]] = {
    "bernstein": lambda k: rf"$b_{{{k},3}}(\sigma(x))$",
    "chebyshev": lambda k: rf"$T_{k}(\tanh x)$",
    "fourier": lambda k: rf"$\{'cos' if k % 2 else 'sin'} {k // 2 + 1 if k > 1 else ''}x$",
    "gram": lambda k: rf"$\mathrm{{silu}}(G_{k}(\tanh x))$",
    "jacobi": lambda k: rf"$P_{k}^{{(1,1)}}(\tanh x)$",
    "legendre": lambda k: rf"$P_{k}(\tanh x)$",
    "wavelet_edge": lambda k: r"$\psi(x)$, $s=1$, $t=0$",
}
BASE_LABELS = {"identity": r"$b(x)=x$", "silu": r"$b(x)=\mathrm{silu}(x)$"}


def sample(basis: kv.Basis, x: Tensor) -> Tensor:
    """The functions of the first channel of a basis on the points x [P]: [K, P]."""
    channels = getattr(basis, "in_channels", 1)
    options = {"input_map": basis.input_map, "base": basis.base}
    with torch.no_grad():
        return basis.functions(x.expand(1, channels, -1), **options)[0, 0]


def draw(curves: Sequence[tuple[str, Tensor]], x: Tensor, title: str, dashed: int = 0) -> Figure:
    """A figure of labelled curves; the first `dashed` of them grey and dashed."""
    figure = Figure(figsize=(6.4, 2.9), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    colors = colormaps["viridis"].resampled(max(len(curves) - dashed, 2) + 1)
    for k, (label, y) in enumerate(curves):
        style = {"color": "0.45", "linestyle": "--"} if k < dashed else {"color": colors(k - dashed)}
        axes.plot(x.numpy(), y.numpy(), linewidth=1.6, label=label, **style)
    axes.set_xlim(*RANGE)
    shown = torch.cat([y for _, y in curves[dashed:] or curves])
    low, high = shown.min().item(), shown.max().item()
    margin = 0.1 * (high - low)
    axes.set_ylim(low - margin, high + margin)  # the base function may leave the picture
    axes.set_xlabel("x")
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=9, frameon=False)
    return figure


def basis_figure(name: str) -> Figure:
    """The functions of one basis with its default options."""
    basis = kv.create_basis(name)
    x = torch.linspace(*RANGE, 601)
    label = LABELS.get(name, lambda k: rf"$B_{{{k + (basis.base is not None)}}}(x)$")
    has_base = int(basis.base is not None)
    curves = []
    for k, y in enumerate(sample(basis, x)):
        text = BASE_LABELS.get(str(basis.base), "$b(x)$") if k < has_base else label(k - has_base)
        curves.append((text, y))
    return draw(curves, x, f"basis={name!r} at its defaults, K = {basis.size}", dashed=has_base)


def mother_wavelets() -> Figure:
    """The five mother wavelets."""
    x = torch.linspace(*RANGE, 601)
    curves = [(kind, ops.WAVELETS[kind].value(x)) for kind in ops.WAVELETS]
    return draw(curves, x, r"the mother wavelets $\psi(u)$")


def save(figure: Figure, path: Path) -> None:
    """A small PNG: 64 colours are enough for lines."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    buffer.seek(0)
    with Image.open(buffer) as image:
        image.convert("RGB").quantize(64).save(path, optimize=True)


def main(folder: Path = FOLDER, names: Sequence[str] | None = None) -> None:
    """Draw the pictures of `names` (all registered bases and the mother wavelets by default) into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in kv.list_bases() if names is None else names:
        save(basis_figure(name), folder / f"{name}.png")
    if names is None:
        save(mother_wavelets(), folder / "mother_wavelets.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
