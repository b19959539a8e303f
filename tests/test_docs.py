"""The documentation is true: its examples run, its links lead somewhere, and it covers every registered basis.

Python blocks of one page share a namespace and run in order. A block after the line `<!-- no-run -->` is only compiled.
"""

import ast
import dataclasses
import inspect
import itertools
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import kanvolution as kv
from kanvolution.bases.basis import BASES, option_names
from kanvolution.compat import torch_conv_kan
from kanvolution.compat.torch_conv_kan.missing import MISSING
from kanvolution.layers.structures import STRUCTURES
from kanvolution.models import MODELS
from kanvolution.train import LOSSES, OPTIMS, SCHEDULES, TASKS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
# serve_onnx needs a file that was exported; tests/deploy/test_export.py runs it.
PROGRAMS = sorted(path for path in (ROOT / "examples").glob("*.py") if path.stem != "serve_onnx")
SHIPPED = tuple(name for name in kv.list_bases() if BASES[name].__module__.startswith("kanvolution."))

_FENCE = re.compile(r"^(?P<skip><!-- no-run -->\n+)?```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^```$", re.M | re.S)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def commands(page: Path) -> list[list[str]]:
    """The overrides of each `kanvolution train ...` line of a page, but for those that import a file."""
    blocks = (m["text"] for m in _FENCE.finditer(page.read_text(encoding="utf-8")) if m["language"] == "sh")
    lines = (shlex.split(line, comments=True) for block in blocks for line in block.splitlines())
    return [words[2:] for words in lines if words[:2] == ["kanvolution", "train"] and "--import" not in words]


def python_blocks(page: Path) -> list[tuple[int, str, bool]]:
    """(line, text, whether to run) of each Python block."""
    text = page.read_text(encoding="utf-8")
    found = (m for m in _FENCE.finditer(text) if m["language"] == "python")
    return [(text.count("\n", 0, m.start("text")), m["text"], m["skip"] is None) for m in found]


def table(text: str) -> list[list[str]]:
    """The cells of all table rows in a text."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings."""
    outside_code = _FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", outside_code, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.fixture
def registries():
    """Takes out again what a page registers."""
    before = {registry: set(registry) for registry in (BASES, LOSSES, MODELS, OPTIMS, SCHEDULES, TASKS)}
    yield
    for registry, names in before.items():
        for name in set(registry) - names:
            registry.unregister(name)


@pytest.mark.parametrize("page", [p for p in PAGES if python_blocks(p)], ids=relative)
def test_examples_on_page_run(page, registries):
    namespace = {"__name__": "__docs__"}
    for line, text, run in python_blocks(page):
        # Empty lines in front, so that a traceback names the line of the page.
        code = compile("\n" * line + text, str(page), "exec")
        if run:
            exec(code, namespace)


@pytest.mark.parametrize("page", [p for p in PAGES if commands(p)], ids=relative)
def test_options_of_commands_exist(page):
    pytest.importorskip("hydra")
    from kanvolution.configs import compose

    for overrides in commands(page):
        compose(overrides)


def test_training_page_names_the_choices():
    pytest.importorskip("hydra")
    from kanvolution.configs.groups import GROUPS

    rows = {row[0].strip("`"): row[1] for row in table((DOCS / "training.md").read_text(encoding="utf-8"))}
    for group in ("model", "data", "task", "optim", "schedule", "tracker"):
        registered = [n for n in GROUPS[group].names() if not n.startswith("own_")]
        assert sorted(re.findall(r"`(\w+)`", rows[group])) == sorted(registered), group


def test_data_page_names_data_sets_and_augmentations():
    from kanvolution import data

    rows = {row[0].strip("`"): row for row in table(section("data.md", "Data sets")) if len(row) == 3}
    assert {name: row[2].strip("`") for name, row in list(rows.items())[2:]} == {
        name: data.DATA[name].augment for name in data.list_data()
    }
    rows = {row[0].strip("`"): row[2] for row in table(section("data.md", "Augmentation"))[2:]}
    assert sorted(rows) == data.list_augments()
    info = data.DataInfo("x", 3, (8, 8), ("a", "b"), (0.5,) * 3, (0.5,) * 3, targets="masks")
    masks = torch.zeros(1, 8, 8, dtype=torch.long)
    for name, stated in rows.items():
        augment = data.create_augment(name, info)
        try:
            moved = augment is None or augment(torch.rand(1, 3, 8, 8), masks)[1] is not None
        except (TypeError, ValueError):
            moved = False
        assert stated == ("yes" if moved else "no"), name


def test_sizes_of_the_simple_networks():
    rows = table((DOCS / "models" / "simple.md").read_text(encoding="utf-8"))
    header = next(row for row in rows if row[1] == "`spline`")
    for row in (row for row in rows if row[0] in ("`simple4`", "`simple8`") and re.fullmatch(r"[\d,]+", row[1])):
        for basis, stated in zip(header[1:], row[1:], strict=True):
            model = kv.create_model(row[0].strip("`"), conv=basis.strip("`"), num_classes=10, in_chans=1)
            assert f"{sum(p.numel() for p in model.parameters()):,}" == stated


def test_overview_of_models_names_them_all():
    text = (DOCS / "models" / "index.md").read_text(encoding="utf-8")
    assert not {name for name in kv.list_models() if f"`{re.sub('v[234]$', '', name)}`" not in text}


def section(page: str, heading: str) -> str:
    """The text below a heading of a page of docs/, up to the next heading of its level."""
    text = (DOCS / page).read_text(encoding="utf-8")
    assert f"\n## {heading}\n" in text
    return text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def test_the_numbers_of_the_readme_are_those_of_the_stored_result():
    text = " ".join((ROOT / "README.md").read_text().split("<!-- result:digits -->")[1].split("##")[0].split())
    stored = json.loads((ROOT / "benchmarks/results/digits.json").read_text())
    first, second, third = (f"{100 * run['top1']:.2f}" for run in stored["runs"])
    assert [run["seed"] for run in stored["runs"]] == [0, 1, 2]
    assert f"top-1 {first}, {second} and {third} %" in text
    assert f"(mean {100 * stored['top1_mean']:.2f}, standard deviation {100 * stored['top1_std']:.2f})" in text
    first, second, third = (round(run["seconds"]) for run in stored["runs"])
    assert f"in {first}, {second} and {third} seconds" in text
    assert f"{stored['runs'][0]['parameters']:,} parameters" in text and "AMD EPYC" in stored["hardware"]


def test_table_of_conv_spec_states_its_arguments_and_defaults():
    stated = {row[0].strip("`"): row[1] for row in table(section("layers.md", "ConvSpec"))[2:]}
    parameters = dict(inspect.signature(kv.ConvSpec).parameters)
    del parameters["options"], parameters["basis_options"]
    assert set(stated) == {*parameters, "anything else"}
    for name, parameter in parameters.items():
        if name == "norm_options":
            assert stated[name] == "none"
        else:
            assert ast.literal_eval(stated[name].strip("`")) == parameter.default, name


@pytest.mark.parametrize("name", ["SelfAttention", "FocalModulation"])
def test_tables_of_attention_state_arguments_and_defaults(name):
    heading = {"SelfAttention": "Self-attention", "FocalModulation": "Focal modulation"}[name]
    stated = {
        row[0].strip("`"): ast.literal_eval(row[1].strip("`")) for row in table(section("attention.md", heading))[2:]
    }
    parameters = inspect.signature(getattr(kv, name)).parameters
    common = ("channels", "conv", "ndim", "device", "dtype")
    assert stated == {key: p.default for key, p in parameters.items() if key not in common}


@pytest.mark.parametrize(
    ("page", "heading", "registry", "filled"),
    [
        ("optimization.md", "Optimisers", OPTIMS, ["params"]),
        ("optimization.md", "Schedules", SCHEDULES, ["steps", "epochs"]),
        ("tasks.md", "Losses", LOSSES, ["weight"]),
    ],
)
def test_tables_of_what_training_chooses_from_state_the_options(page, heading, registry, filled):
    rows = {row[0].strip("`"): row[2] for row in table(section(page, heading))[2:]}
    assert set(rows) == set(registry)
    for name in rows:
        parameters = inspect.signature(registry[name]).parameters
        defaults = {key: readable(p.default) for key, p in parameters.items() if key not in filled}
        assert dict(re.findall(r"`(\w+)` \(([^)]*)\)", rows[name])) == defaults, name


def test_table_of_structures_states_their_options():
    rows = {
        row[1].strip("`"): row for row in table((DOCS / "structures.md").read_text(encoding="utf-8")) if len(row) == 3
    }
    for name in STRUCTURES:
        cls = STRUCTURES[name]
        if not cls.__module__.startswith("kanvolution."):
            continue
        assert f"[`{cls.__name__}`](#" in rows[name][0]
        stated = dict(re.findall(r"`(\w+)` \(([^)]*)\)", rows[name][2]))
        fields = {f.name: readable(f.default) for f in dataclasses.fields(cls) if f.name != "inner"}
        assert stated == fields, name


def without_braces(name):
    """`a{b,c}d` -> abd, acd."""
    parts = [part.split(",") if i % 2 else [part] for i, part in enumerate(re.split(r"\{([^}]*)\}", name))]
    return {"".join(chosen) for chosen in itertools.product(*parts)}


def names_of(text):
    return {name for quoted in re.findall(r"`([^`]+)`", text) for name in without_braces(quoted)}


def test_migration_page_names_everything_of_torch_conv_kan():
    rows = [*table(section("migration.md", "Names")), *table(section("migration.md", "Networks"))]
    stated = names_of(" ".join(row[0] for row in rows))
    assert stated == set(torch_conv_kan.__all__) - {
        *("BatchRangeLegendre", "PeerMixture", "convert_simple", "from_pretrained")
    }
    assert set(MISSING) <= names_of(section("migration.md", "What is not there yet"))


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_links_lead_somewhere(page):
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in _LINK.findall(text):
        if re.match(r"[a-z]+://", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.is_file(), f"{relative(page)} links to {target}, which is not there"
        if anchor:
            assert anchor in anchors(file), f"{relative(page)} links to {target}, which has no such heading"
        if DOCS in page.parents:
            assert DOCS in file.parents, f"{relative(page)} links to {target}, which is outside of the site"


@pytest.mark.parametrize("page", [p for p in PAGES if DOCS in p.parents], ids=relative)
def test_page_is_in_navigation(page):
    assert f": {page.relative_to(DOCS).as_posix()}\n" in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_mathematics_is_closed(page):
    text = re.sub(r"`[^`\n]*`", "", _FENCE.sub("", page.read_text(encoding="utf-8")))
    assert text.count("$$") % 2 == 0
    for paragraph in re.split(r"\n\s*\n", re.sub(r"\$\$.*?\$\$", "", text, flags=re.S)):
        assert paragraph.count("$") % 2 == 0, paragraph


@pytest.mark.parametrize("name", SHIPPED)
class TestBasis:
    def page(self, name):
        return DOCS / "bases" / f"{name}.md"

    def test_has_a_page_with_its_picture(self, name):
        text = self.page(name).read_text(encoding="utf-8")
        assert f'`basis="{name}"`' in text
        assert f"`kanvolution.bases.{BASES[name].__name__}`" in text
        assert f"(pictures/{name}.png)" in text

    def test_page_states_the_options_and_their_defaults(self, name):
        section = self.page(name).read_text(encoding="utf-8").partition("\n## Options\n")[2].partition("\n## ")[0]
        stated = {row[0].strip("`"): ast.literal_eval(row[1].strip("`")) for row in table(section)[2:]}
        parameters = inspect.signature(BASES[name]).parameters
        assert stated == {option: parameters[option].default for option in option_names(BASES[name])}

    def test_page_states_the_number_of_functions(self, name):
        section = self.page(name).read_text(encoding="utf-8").partition("\n## Options\n")[2]
        stated = re.search(r"(\d+) at the defaults", section) or re.search(r"\$K = (\d+)\$", section)
        assert stated, "the options section states K"
        assert int(stated[1]) == kv.create_basis(name).size

    def test_readme_row(self, name):
        rows = {row[0]: row for row in table((ROOT / "README.md").read_text(encoding="utf-8"))}
        row = rows[f"[`{name}`](docs/bases/{name}.md)"]
        parameters = inspect.signature(BASES[name]).parameters
        stated = dict(re.findall(r"`(\w+)` \(([^)]*\)?)\)(?:, |$)", row[2]))
        assert set(stated) == set(option_names(BASES[name])) - {"input_map", "base"}
        for option, text in stated.items():
            assert readable(parameters[option].default) == text, option
        assert int(row[3]) == kv.create_basis(name).size

    def test_index_row(self, name):
        assert f"](bases/{name}.md)" in (DOCS / "index.md").read_text(encoding="utf-8")


def readable(value) -> str:
    """A default as README writes it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ", ".join(readable(v) for v in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def test_pictures_are_small_and_can_be_drawn(tmp_path):
    stored = sorted((DOCS / "bases" / "pictures").iterdir())
    assert all(path.stat().st_size < 40_000 for path in stored)
    assert all(path.stat().st_size < 150_000 for path in (DOCS / "pictures").iterdir())
    assert [path.stem for path in stored] == sorted([*SHIPPED, "mother_wavelets"])
    pytest.importorskip("matplotlib")
    program = runpy.run_path(str(DOCS / "make_pictures.py"))
    program["main"](tmp_path, names=["wavelet_edge"])
    assert [path.name for path in tmp_path.iterdir()] == ["wavelet_edge.png"]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_example_runs(program, tmp_path):
    pytest.importorskip("sklearn")
    command = [sys.executable, "-W", "error", str(program)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path, env=environment)
    assert result.returncode == 0, result.stderr
    assert result.stdout
    assert not list(tmp_path.iterdir()), "an example leaves no files behind"


def test_command_line_page_names_the_commands():
    from kanvolution.cli import COMMANDS

    rows = {row[0]: row[1] for row in table((DOCS / "cli.md").read_text(encoding="utf-8"))[2:]}
    stated = {re.search(r"`([\w-]+)`", name)[1]: text for name, text in rows.items()}
    assert stated == {name: COMMANDS[name].help for name in COMMANDS}
