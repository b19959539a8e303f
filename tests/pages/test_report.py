"""The report of runs: what it says, that it says it alone and safely, and how it behaves in a browser."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

import kanvolution as kv
from kanvolution.cli import main
from kanvolution.data import create_data
from kanvolution.pages import ReportedRun, write_report
from kanvolution.pages.records import read_records, run_names, summary_rows
from kanvolution.train import TrainerConfig, fit, save_run
from kanvolution.train.progress import Silent
from tests.pages.conftest import HOSTILE

pytest.importorskip("captum")
pytest.importorskip("matplotlib")


class Page(HTMLParser):
    """Text, addresses and scripts of a page."""

    def __init__(self, file: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def count(self, style: str) -> int:
        return sum(style in (attributes.get("class") or "").split() for _, attributes in self.tags)


def reported(run: Any, images: bool = True) -> ReportedRun:
    folder, model, data = run
    return ReportedRun(folder, model, data.info, data.val if images else None)


@pytest.fixture(scope="module")
def both(runs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("report") / "both.html"
    return write_report([reported(runs["gram"]), reported(runs["spline"])], file, count=3)


def test_it_has_the_metrics_the_layers_the_images_and_the_records(both, runs) -> None:
    page = Page(both)
    for name in ("gram", "spline"):
        folder = runs[name][0]
        result = json.loads((folder / "result.json").read_text())
        assert f"{100 * result['metrics']['top1']:.2f} %" in page.text
        assert f"{result['parameters']:,}" in page.text
        assert folder.name in page.text
    for layer in range(4):
        assert f"stages.{layer}.conv" in page.text
    assert page.count("panel") == 2 * 4 * 3  # runs, layers, functions
    assert page.count("pair") == 2 * 8
    mistakes = [json.loads((runs[n][0] / "result.json").read_text())["tables"]["mistakes"] for n in ("gram", "spline")]
    assert page.count("shot") == sum(min(12, len(rows) - 1) for rows in mistakes)
    for text in (
        "inputs outside of the grid",
        "learning rate",
        "Reliability",
        "conv.basis",
        "torch",
        "predicted class",
    ):
        assert text in page.text


def test_nothing_is_loaded_from_elsewhere_and_only_its_own_script_may_run(both) -> None:
    page, text = Page(both), both.read_text()
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "action", "data", "poster", "srcset"):
                assert value is not None and value.startswith(("data:", "#")), (tag, value)
    assert "url(" not in text and "@import" not in text and "http" not in re.sub(r"http-equiv", "", text)
    [script] = re.findall(r"<script>(.*?)</script>", text, re.S)
    [policy] = [a["content"] for tag, a in page.tags if tag == "meta" and "http-equiv" in a]
    assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in policy
    assert policy.startswith("default-src 'none'")


def test_what_comes_from_the_run_is_escaped(both) -> None:
    text = both.read_text()
    assert HOSTILE not in text and "<img src=x" not in text and "gram <b>" not in text
    page = Page(both)
    assert HOSTILE in page.text and "gram <b>" in page.text
    assert not any(attributes.get("src") == "x" for _, attributes in page.tags)


def test_a_segmentation_has_its_classes_and_masks(runs, tmp_path) -> None:
    page = Page(write_report([reported(runs["masks"])], tmp_path / "a.html", count=1))
    assert page.count("triple") == 6 and "predicted mask" in page.text and "HD95" in page.text
    assert "Confusion matrix" not in page.text and page.count("pair") == 8


def test_without_data_there_are_functions_over_normal_inputs_and_no_images(runs, tmp_path) -> None:
    page = Page(write_report([reported(runs["gram"], images=False)], tmp_path / "a.html", count=2))
    assert page.count("panel") == 8 and "standard-normal inputs" in page.text and "made without data" in page.text
    assert not any(tag == "img" for tag, _ in page.tags) and page.count("hist") == 0


def test_a_run_that_is_not_finished(tmp_path) -> None:
    model, data = (
        kv.create_model("simple4", "gram", num_classes=10, in_chans=1, channels=[2] * 4),
        create_data("digits"),
    )
    save_run(tmp_path, model, data.info)
    record = {"epoch": 1, "lr": 0.1, "train_loss": 1.5, "val_loss": None, "val_top1": 0.25, "seconds": 2.0}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(record) + "\n")
    page = Page(write_report([ReportedRun(tmp_path, model, data.info)], tmp_path / "a.html", count=1))
    assert "not finished" in page.text and "25.00 %" in page.text


def test_only_chosen_layers_and_a_layer_that_one_run_lacks(runs, tmp_path) -> None:
    chosen = [reported(runs["gram"], images=False), reported(runs["masks"], images=False)]
    page = Page(write_report(chosen, tmp_path / "a.html", layers=["stages.1.*"], count=1))
    assert page.count("layer") == 1 and page.count("panel") == 1 and "No such layer" in page.text


def test_a_network_without_such_layers(tmp_path) -> None:
    torch.manual_seed(0)
    data = create_data("digits")
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    fit(model, data, trainer=TrainerConfig(epochs=1), tracker="none", output_dir=tmp_path / "run", progress=Silent())
    page = Page(write_report([ReportedRun(tmp_path / "run", model, data.info, data.val)], tmp_path / "a.html"))
    assert "no layer whose functions can be shown" in page.text and "Grad-CAM cannot be computed" in page.text


def test_names_tell_runs_apart(tmp_path) -> None:
    assert run_names([tmp_path / "a" / "x", tmp_path / "b" / "x"]) == ["a/x", "b/x"]
    assert run_names([tmp_path / "a", tmp_path / "b"]) == ["a", "b"]
    assert run_names([tmp_path / "a", tmp_path / "a"])[0].endswith("(1)")


def test_the_best_of_each_metric_is_marked(runs) -> None:
    records = [read_records(runs[name][0]) for name in ("gram", "spline")]
    rows = {row.name: row for row in summary_rows(records)}
    losses = [record.metrics["loss"] for record in records]
    assert rows["loss"].best == {losses.index(min(losses))}
    assert rows["network"].best == frozenset()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": ["stages.1.con"]}, "Did you mean 'stages.1.conv'"),
        ({"count": 0}, "count"),
        ({"path": "missing/a.html"}, "there is no folder"),
    ],
)
def test_bad_values_are_named(runs, tmp_path, options: dict[str, Any], message: str) -> None:
    path = tmp_path / options.pop("path", "a.html")
    with pytest.raises(ValueError, match=message):
        write_report([reported(runs["gram"], images=False)], path, **options)
    assert not path.exists()


def test_bad_folders_and_files_are_named(runs, tmp_path) -> None:
    _, model, data = runs["gram"]
    with pytest.raises(ValueError, match="at least one run"):
        write_report([], tmp_path / "a.html")
    with pytest.raises(ValueError, match="is not the folder of a run"):
        write_report([ReportedRun(tmp_path, model, data.info)], tmp_path / "a.html")
    save_run(tmp_path, model, data.info)
    for name, text in (("metrics.jsonl", "{broken"), ("result.json", "[]"), ("config.yaml", "a: *&")):
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=rf"{name}' is damaged"):
            write_report([ReportedRun(tmp_path, model, data.info)], tmp_path / "a.html")
        (tmp_path / name).unlink()


def test_the_command(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(tmp_path / "conv=gram")
    overrides = [
        "model.channels=[2,2,2,2]",
        "trainer.epochs=1",
        "trainer.batch_size=256",
        "tracker=none",
        "trainer.cpu=true",
    ]
    assert main(["train", *overrides, f"output_dir='{run}'"]) == 0
    assert main(["report", run, "--count", "1", "--layer", "stages.0.*"]) == 0
    file = Path(run) / "report.html"
    assert "conv=gram" in Page(file).text
    capsys.readouterr()
    assert main(["report", run]) == 2
    assert "is there already" in capsys.readouterr().err
    assert main(["report", run, "--output", str(tmp_path / "b.html"), "--layer", "stage.0.conv"]) == 2
    assert "Did you mean 'stages.0.conv'" in capsys.readouterr().err
    assert main(["report", "data=digits"]) == 2
    assert "name the folder of a run" in capsys.readouterr().err


def test_the_command_without_data(runs, tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("hydra")
    _, model, data = runs["gram"]
    save_run(tmp_path, model, data.info)
    assert main(["report", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "does not tell its data" in error and "--no-data" in error
    assert main(["report", str(tmp_path), "--no-data", "--count", "1"]) == 0


def opened(browser: Any, file: Path, **options: Any) -> tuple[Any, list[str], list[str]]:
    """The page in a browser, its errors and the addresses it asked for."""
    page, errors, asked = browser.new_page(**options), [], []
    page.on("console", lambda message: errors.append(message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("dialog", lambda dialog: (errors.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(file.as_uri())
    return page, errors, asked


def test_in_a_browser_nothing_fails_and_no_request_leaves(browser, both) -> None:
    page, errors, asked = opened(browser, both)
    page.wait_for_function("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")
    assert errors == []
    assert [url for url in asked if not url.startswith("data:")] == [both.as_uri()]
    page.close()


def test_in_a_browser_the_picker_shows_one_layer(browser, both) -> None:
    page, errors, _ = opened(browser, both)
    shown = lambda: page.locator(".layer:visible .layer-name").all_text_contents()  # noqa: E731
    assert shown() == ["stages.0.conv"]
    page.get_by_label("Layer", exact=True).select_option(label="stages.2.conv")
    assert shown() == ["stages.2.conv"]
    page.get_by_label("next layer").press("Enter")
    assert shown() == ["stages.3.conv"] and page.get_by_label("next layer").is_disabled()
    assert page.locator("#layer").input_value() == "3"
    page.get_by_label("previous layer").click()
    assert shown() == ["stages.2.conv"]
    page.emulate_media(media="print")
    assert shown() == [f"stages.{i}.conv" for i in range(4)], "on paper there is no picker"
    assert errors == []
    page.close()


def test_in_a_browser_it_fits_a_phone_light_and_dark(browser, both) -> None:
    colors = []
    for scheme in ("light", "dark"):
        page, errors, _ = opened(browser, both, viewport={"width": 390, "height": 844}, color_scheme=scheme)
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        wide = page.evaluate(
            "[...document.querySelectorAll('main *')].filter((e) => !e.closest('.scroll') && !e.closest('svg') && "
            "e.getBoundingClientRect().right > 390.5).map((e) => e.outerHTML.slice(0, 80))"
        )
        assert wide == [] and errors == []
        colors.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        page.close()
    assert colors[0] != colors[1]


def test_in_a_browser_only_what_differs_is_listed_until_asked_for(browser, both) -> None:
    page, _, _ = opened(browser, both)
    rows = page.locator("#configuration tbody tr:visible")
    assert rows.locator("th").all_text_contents() == ["conv.basis"]
    page.get_by_label("only what differs").uncheck()
    assert rows.locator("th").all_text_contents() == ["conv.basis", "note"]
    page.close()
