"""Results as text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

Row = dict[str, Any]


def line(results: Sequence[Row]) -> str:
    """One line for the results of a case: the training steps in units of the roof's."""
    roof = results[0]
    texts = [f"{roof['case']:8s} {roof['basis']:13s} roof step {1e3 * roof['step']['median']:8.1f} ms"]
    for r in results[1:]:
        texts.append(f"{r['contestant']} " + (ratio(r, roof, "step") or f"wrong ({r['error']:.0e})"))
    return "  ".join(texts)


def markdown(record: Row) -> str:
    """The results as Markdown: for each case a table with a row for each basis, and one of the parts of a step."""
    out = ["; ".join(f"{key}: {value}" for key, value in {**record["machine"], **record["options"]}.items()), ""]
    for name, case in record["cases"].items():
        rows = [r for r in record["results"] if r["case"] == name]
        out += [f"### {name}", "", "; ".join(f"{key}: {value}" for key, value in case.items()), ""]
        out += [*times(rows), "", *memory(rows, case["input_bytes"]), ""]
        if any(r["parts"] for r in rows):
            out += [*parts(rows), ""]
    out.append("Times are in units of the roof's, and so are the parts of a training step.")
    return "\n".join(out) + "\n"


def times(rows: Sequence[Row]) -> list[str]:
    """A table of the times in units of the roof's."""
    names = [name for name in _contestants(rows) if name != "roof"]
    heads = ["basis", "K", "roof forward (ms)", "roof step (ms)"]
    heads += [f"{kind}, {name}" for kind in ("forward", "step") for name in names]
    body = []
    for basis, found in by_basis(rows).items():
        roof = found["roof"]
        cells = [basis, str(roof["functions"]), *(f"{1e3 * roof[kind]['median']:.1f}" for kind in ("forward", "step"))]
        for kind in ("forward", "step"):
            cells += [(ratio(found[name], roof, kind) or "wrong") if name in found else "" for name in names]
        body.append(cells)
    return table(heads, body)


def memory(rows: Sequence[Row], input_bytes: int) -> list[str]:
    """A table of what is kept for backward, in inputs, of the peak in units of the plain network's, of compilation."""
    names = [name for name in _contestants(rows) if name != "roof"]
    compiled = [name for name in names if any(r["compile_seconds"] for r in rows if r["contestant"] == name)]
    heads = ["basis", *(f"kept, {name}" for name in names), *(f"peak / plain, {name}" for name in names)]
    heads += [f"compilation (s), {name}" for name in compiled]
    body = []
    for basis, found in by_basis(rows).items():
        cells = [basis]
        cells += [f"{found[name]['kept'] / input_bytes:.1f}" if name in found else "" for name in names]
        plain = found["plain"]["peak"]
        cells += [f"{found[name]['peak'] / plain:.2f}" if name in found else "" for name in names]
        cells += [f"{found[name]['compile_seconds']:.1f}" if name in found else "" for name in compiled]
        body.append(cells)
    return table(heads, body)


def parts(rows: Sequence[Row]) -> list[str]:
    """A table of the parts of a training step in units of the roof's step."""
    heads = list(dict.fromkeys(part for r in rows for part in r["parts"]))
    body = []
    for basis, found in by_basis(rows).items():
        whole = found["roof"]["step"]["median"]
        for name, r in found.items():
            body.append([basis, name, *(f"{r['parts'][p] / whole:.2f}" if p in r["parts"] else "" for p in heads)])
    return table(["basis", "contestant", *heads], body, left=2)


def by_basis(rows: Iterable[Row]) -> dict[str, dict[str, Row]]:
    """The results of a case by basis and contestant."""
    found: dict[str, dict[str, Row]] = {}
    for r in rows:
        found.setdefault(r["basis"], {})[r["contestant"]] = r
    return found


def ratio(result: Row, roof: Row, kind: str) -> str:
    """The median time in units of the roof's; nothing of what is wrong."""
    return f"{result[kind]['median'] / roof[kind]['median']:.2f}" if result["correct"] else ""


def table(heads: Sequence[str], body: Iterable[Sequence[str]], left: int = 1) -> list[str]:
    """A table of Markdown whose first `left` columns are aligned to the left."""
    rule = "|" + "---|" * left + "--:|" * (len(heads) - left)
    return [f"| {' | '.join(heads)} |", rule, *(f"| {' | '.join(row)} |" for row in body)]


def _contestants(rows: Iterable[Row]) -> list[str]:
    return list(dict.fromkeys(r["contestant"] for r in rows))
