"""Figures of README and docs come from the stored results.

A paragraph or table below `<!-- result:NAME -->` has its numbers from the files in benchmarks/results whose path begins
with NAME, up to the next heading or mark. What others published, and what is computed (sizes, operations), is marked by
`<!-- published by others -->` and `<!-- computed -->`. Elsewhere no text has figures that look measured.
"""

import itertools
import json
import re
import runpy
import statistics
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGES = [
    p for p in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))) if p.name not in ("results.md", "speed.md")
]

# Code, formulas, comments that are no marks, and links are no prose.
_NOT_PROSE = re.compile(r"^```.*?^```$|`[^`\n]*`|\$\$.*?\$\$|\$[^$\n]*\$|\]\([^)]*\)|arXiv:? [\d.]+", re.M | re.S)
_MARK = re.compile(r"<!-- (result:[\w./-]+|published by others|computed) -->")
_NUMBER = re.compile(r"(?<![\w.])\d+\.\d+(?![\w.]*\d)")
# A share with decimals, a spread, a speed-up, a score.
_MEASURED = re.compile(r"\d\.\d+ ?%|\d ± \d|\d\.\d+ ?\u00d7|\d\.\d+ times|(?:top-\d|[Aa]ccuracy|Dice) (?:of )?\d+\.\d")


def blocks(text: str) -> Iterator[tuple[str | None, str]]:
    """(mark or None, prose) of the parts of a page; a mark holds up to the next one or the next heading."""
    text = _NOT_PROSE.sub(" ", text)
    for section in re.split(r"^(?=#+ )", text, flags=re.M):
        mark, start = None, 0
        for found in _MARK.finditer(section):
            yield mark, section[start : found.start()]
            mark, start = found[1], found.end()
        yield mark, section[start:]


def leaves(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        yield from itertools.chain.from_iterable(map(leaves, value.values()))
    elif isinstance(value, list):
        yield from itertools.chain.from_iterable(map(leaves, value))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)


def spreads(runs: list[dict[str, Any]]) -> Iterator[float]:
    """Mean and standard deviation over the seeds of equal runs, which differ in nothing that was asked for."""
    groups = defaultdict(list)
    for run in runs:
        asked = {k: v for k, v in run.items() if k not in ("seed", "seconds", "top1", "commit", "command", "hardware")}
        groups[json.dumps(asked, sort_keys=True)].append(run["top1"])
    for scores in groups.values():
        yield statistics.fmean(scores)
        if len(scores) > 1:
            yield statistics.stdev(scores)


def sources(name: str) -> tuple[list[float], str]:
    """The numbers of the stored files, what follows from them, and the text of stored summaries."""
    paths = [p for p in sorted(RESULTS.rglob("*")) if p.relative_to(RESULTS).as_posix().startswith(name)]
    numbers: list[float] = []
    loaded = [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.suffix == ".json"]
    for result in loaded:
        numbers += leaves(result)
        numbers += spreads([run for run in result.get("runs", []) if "top1" in run])
        base = result.get("base", {}).get("parameters")
        if base:
            numbers += [run["trained"] / base for run in result["runs"]]
        steps = result.get("steps", [])
        for key in ("parameters", "operations", "latency_ms"):
            numbers += [b[key] / a[key] for a, b in itertools.permutations(steps, 2) if a.get(key) and b.get(key)]
        numbers += [f / s for f, s in itertools.permutations(leaves(result.get("bytes", [])), 2)]
        for times in result.get("latency_ms", {}).values() if isinstance(result.get("latency_ms"), dict) else ():
            numbers += [a / b for a, b in itertools.permutations(times.values(), 2) if a and b]
    numbers += spreads([result for result in loaded if "top1" in result])
    text = " ".join(path.read_text(encoding="utf-8") for path in paths if path.suffix == ".md")
    return numbers, text


def stated_by(number: str, values: list[float], text: str) -> bool:
    """Whether a number as written is one of the values, a hundred of it (percent), or a millionth, as rounded there."""
    digits = len(number.partition(".")[2])
    step = 0.5000001 * 10**-digits
    near = (abs(scale * value - float(number)) <= step for value in values for scale in (1, 100, 1e-6))
    return number in _NUMBER.findall(text) or any(near)


@pytest.mark.parametrize("program", ["make_results.py", "make_speed.py"])
def test_pages_of_results_are_what_the_programs_make_of_the_stored_files(program: str) -> None:
    made = runpy.run_path(str(ROOT / "docs" / program))
    assert made["PAGE"].read_text(encoding="utf-8") == made["page"](), f"run python docs/{program}"


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_figures_come_from_stored_results(path: Path) -> None:
    wrong = []
    for mark, prose in blocks(path.read_text(encoding="utf-8")):
        if mark is None:
            wrong += [f"{found[0]!r} has no mark" for found in _MEASURED.finditer(prose)]
        elif mark.startswith("result:"):
            name = mark.removeprefix("result:")
            values, text = sources(name)
            assert values, f"{mark}: no file in benchmarks/results begins with {name}"
            wrong += [f"{n} is not in {name}" for n in _NUMBER.findall(prose) if not stated_by(n, values, text)]
    assert not wrong, wrong


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("top-1 99.12 %", "has no mark"),
        ("It is 1.43 times as fast.", "has no mark"),
        ("<!-- result:digits -->\ntop-1 99.71 %", "99.71 is not in digits"),
        ("<!-- result:digits -->\n99.72 %\n\n# Next\n\n99.72 %", "has no mark"),
        ("<!-- result:nothing -->\n1.5", "no file"),
    ],
)
def test_a_figure_from_nowhere_is_found(text: str, complaint: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(AssertionError, match=complaint):
        test_figures_come_from_stored_results(page)


def test_mean_spread_and_share_of_a_stored_result_are_known(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- result:digits -->\n99.44 ± 0.28 %\n<!-- published by others -->\n85.37 %\n\n`1.5 %` $2.5 \\%$"
    )
    test_figures_come_from_stored_results(page)
