"""Charts as SVG inside of HTML: small, sharp on paper, with the colours of the page's style sheet, light or dark."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

from kanvolution.extras import require

_WIDTH, _HEIGHT = 360, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 10, 10, 36
_PANEL = (172, 122)
TIMES, _MINUS = "\u00d7", "\u2212"


@dataclass(frozen=True)
class Line:
    """A line of a chart: its points (None and values that are not finite are gaps), the number of its colour."""

    x: Sequence[float]
    y: Sequence[float | None]
    color: int = 0
    dashed: bool = False


@dataclass(frozen=True)
class _Axis:
    """Values to places along one axis."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (self.end - self.start) * (value - low) / ((high - low) or 1.0)

    def ticks(self, count: int = 5, *, integers: bool = False) -> list[float]:
        ticker = require("matplotlib.ticker", "viz")
        if self.log:
            ticks = ticker.LogLocator(subs=(1.0, 2.0, 5.0)).tick_values(self.low, self.high)
        else:
            ticks = ticker.MaxNLocator(count, integer=integers).tick_values(self.low, self.high)
        inside = [float(t) for t in ticks if self.low - 1e-12 <= t <= self.high * (1 + 1e-9) + 1e-12]
        return inside[:: max(1, -(-len(inside) // 8))]


def line_chart(
    lines: Sequence[Line], *, title: str, x_label: str, y_label: str, log: bool = False, integers: bool = True
) -> str:
    """Lines over common axes.

    Args:
        lines: at least one finite point among them.
        title: for those who do not see the chart.
        x_label, y_label: with units.
        log: the y axis is logarithmic; values must be positive.
        integers: ticks of the x axis are whole numbers.
    """
    points = [(x, y) for line in lines for x, y in zip(line.x, line.y, strict=True) if _finite(y)]
    xs, ys = [x for x, _ in points], [y for _, y in points if y is not None]
    low, high = min(ys), max(ys)
    if log:
        low, high = low / 1.1, high * 1.1
    else:
        pad = 0.05 * (high - low) or 0.5 * abs(high) or 1.0
        low, high = low - pad, high + pad
    across = _Axis(min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1, _LEFT + 6, _WIDTH - _RIGHT - 6)
    up = _Axis(low, high, _HEIGHT - _BOTTOM, _TOP, log)
    parts = [_frame(across, up, x_label, y_label, integers)]
    for line in lines:
        style = f"line c{line.color % 8}" + (" dashed" if line.dashed else "")
        for piece in _pieces(line):
            places = [(across(x), up(y)) for x, y in piece]
            parts.append(f'<polyline class="{style}" points="{_points(places)}"/>')
            if len(line.x) <= 40:
                parts += [f'<circle class="dot c{line.color % 8}" cx="{a:.1f}" cy="{b:.1f}" r="2"/>' for a, b in places]
    return _svg(_WIDTH, _HEIGHT, title, parts)


def reliability_chart(bins: Sequence[Sequence[float | None]], title: str, color: int = 0) -> str:
    """Accuracy of each bin of confidence; `bins` as of `train.metrics.calibration_bins`."""
    across = _Axis(0, 1, _LEFT, _WIDTH - _RIGHT)
    up = _Axis(0, 1, _HEIGHT - _BOTTOM, _TOP)
    parts = [_frame(across, up, "confidence of the predicted class", "accuracy", False)]
    for low, high, images, confidence, accuracy in bins:
        if not images:
            continue
        x, width, top = across(low or 0), across(high or 0) - across(low or 0), up(accuracy or 0)
        note = f"{images} images, confidence {100 * (confidence or 0):.1f} %, right {100 * (accuracy or 0):.1f} %"
        parts.append(
            f'<rect class="bar c{color % 8}" x="{x + 0.5:.1f}" y="{top:.1f}" width="{width - 1:.1f}" '
            f'height="{up(0) - top:.1f}"><title>{note}</title></rect>'
        )
    parts.append(_rule("guide", across(0), up(0), across(1), up(1)))
    return _svg(_WIDTH, _HEIGHT, title, parts)


def function_panel(
    x: Sequence[float],
    total: Sequence[float],
    base: Sequence[float] | None,
    functions: Sequence[float] | None,
    counts: Sequence[float] | None,
    bounds: Sequence[float] = (),
    title: str = "",
) -> str:
    """A function and its two parts over the histogram of its inputs.

    Args:
        x: places, evenly spaced.
        total: the function.
        base, functions: its base part and its basis part; None leaves them out.
        counts: of the inputs in equal bins over the range of x.
        bounds: ends of the basis' grid; those inside of the range are marked.
        title: for those who do not see the chart.
    """
    width, height = _PANEL
    shown = [*total, *(base or ()), *(functions or ())]
    low, high = min(*shown, 0.0), max(*shown, 0.0)
    pad = 0.06 * (high - low) or 1.0
    across = _Axis(x[0], x[-1], 34, width - 4)
    up = _Axis(low - pad, high + pad, height - 18, 4)
    parts = []
    if counts is not None and max(counts) > 0:
        step = (across.end - across.start) / len(counts)
        tall = 0.8 * (up.start - up.end) / max(counts)
        corners = [(across.start, up.start)]
        for number, count in enumerate(counts):
            y = up.start - tall * count
            corners += [(across.start + step * number, y), (across.start + step * (number + 1), y)]
        parts.append(f'<polygon class="hist" points="{_points([*corners, (across.end, up.start)])}"/>')
    parts.append(_rule("axis", 34, up(0), width - 4, up(0)))
    for bound in bounds:
        if x[0] < bound < x[-1]:
            parts.append(_rule("guide", across(bound), 4, across(bound), height - 18))
    for style, values in (("base", base), ("part", functions), ("phi", total)):
        if values is not None:
            places = [(across(a), up(b)) for a, b in zip(x, values, strict=True)]
            parts.append(f'<polyline class="{style}" points="{_points(places)}"/>')
    parts += [_text("tick", 31, up(tick) + 3, _number(tick), "end") for tick in up.ticks(3)]
    parts += [_text("tick", across(tick), height - 6, _number(tick)) for tick in across.ticks(4)]
    return _svg(width, height, title, parts)


def confusion_chart(confusion: Sequence[Sequence[int]], names: Sequence[str], title: str) -> str:
    """A confusion matrix: shares of each true class as shades, numbers of images as text."""
    cell, shorts = 29, [name if len(name) <= 12 else name[:11] + "…" for name in names]
    margin = 28 + 6.2 * max(map(len, shorts))
    size = margin + cell * len(names) + 4
    centre = margin + cell * len(names) / 2
    parts = [_text("label", centre, 12, "predicted class"), _text("label", 12, centre, "true class", turn=-90)]
    upright = max(map(len, shorts)) <= 2
    for i, name in enumerate(shorts):
        middle = margin + cell * (i + 0.5)
        if upright:
            parts.append(_text("tick", middle, margin - 6, name))
        else:
            parts.append(_text("tick", middle + 3.5, margin - 5, name, "start", turn=-90))
        parts.append(_text("tick", margin - 5, middle + 3.5, name, "end"))
    for i, row in enumerate(confusion):
        total = max(1, sum(row))
        for j, count in enumerate(row):
            x, y, share = margin + cell * j, margin + cell * i, count / total
            kind = "right" if i == j else "wrong"
            note = f"{count} of {total} {_escape(names[i])} taken for {_escape(names[j])}"
            parts.append(
                f'<rect class="cell {kind}" x="{x:.1f}" y="{y:.1f}" width="{cell - 1}" height="{cell - 1}" rx="2" '
                f'fill-opacity="{_shade(share, i == j)}"><title>{note}</title></rect>'
            )
            if count:
                strong = " strong" if _shade(share, i == j) > 0.55 else ""
                parts.append(_text(f"count{strong}", x + (cell - 1) / 2, y + cell / 2 + 3, _count(count)))
    return _svg(size, size, title, parts, fixed=True)


def _shade(share: float, right: bool) -> float:
    """Few mistakes are still to be seen."""
    return round(share if right or not share else min(1.0, 0.12 + 1.5 * share), 3)


def _count(count: int) -> str:
    return str(count) if count < 10_000 else f"{count / 1000:.0f}k"


def _frame(across: _Axis, up: _Axis, x_label: str, y_label: str, integers: bool) -> str:
    parts = []
    for tick in up.ticks():
        y = up(tick)
        parts.append(_rule("grid", _LEFT, y, _WIDTH - _RIGHT, y))
        parts.append(_text("tick", _LEFT - 5, y + 3.5, _number(tick), "end"))
    bottom = _HEIGHT - _BOTTOM
    parts += [_text("tick", across(tick), bottom + 14, _number(tick)) for tick in across.ticks(integers=integers)]
    parts.append(_rule("axis", _LEFT, bottom, _WIDTH - _RIGHT, bottom))
    parts.append(_text("label", (_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 5, x_label))
    parts.append(_text("label", 10, (_TOP + bottom) / 2, y_label, turn=-90))
    return "".join(parts)


def _text(style: str, x: float, y: float, text: str, anchor: str = "middle", turn: int = 0) -> str:
    place = f'transform="translate({x:.1f} {y:.1f}) rotate({turn})"' if turn else f'x="{x:.1f}" y="{y:.1f}"'
    return f'<text class="{style}" {place} text-anchor="{anchor}">{_escape(text)}</text>'


def _rule(style: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{style}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _pieces(line: Line) -> list[list[tuple[float, float]]]:
    """The runs of finite points."""
    pieces: list[list[tuple[float, float]]] = [[]]
    for x, y in zip(line.x, line.y, strict=True):
        if y is not None and math.isfinite(y):
            pieces[-1].append((x, y))
        elif pieces[-1]:
            pieces.append([])
    return [piece for piece in pieces if piece]


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _points(places: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)


def _number(value: float) -> str:
    return f"{value:.6g}".replace("-", _MINUS) if abs(value) > 1e-12 else "0"


def _svg(width: float, height: float, title: str, parts: Sequence[str], *, fixed: bool = False) -> str:
    size = f' width="{width:.0f}" height="{height:.0f}"' if fixed else ""
    label = f' role="img" aria-label="{_escape(title)}"'
    return f'<svg viewBox="0 0 {width:.0f} {height:.0f}"{size}{label}>{"".join(parts)}</svg>'


def _escape(text: str) -> str:
    return html.escape(text, quote=True)
