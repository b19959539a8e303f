"""The page to try a network on: what it answers, what it refuses, and how it behaves in a browser."""

from __future__ import annotations

import io
import struct
import threading
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from kanvolution.cli import main
from kanvolution.data import DataInfo
from kanvolution.train import load_run, predict, save_run
from tests.pages.conftest import HOSTILE

pytest.importorskip("captum")
pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
Image = pytest.importorskip("PIL.Image")

from kanvolution.pages import uploads  # noqa: E402
from kanvolution.pages.demo import Explainer, demo_app, is_loopback, listen  # noqa: E402


def encoded(image: Any, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def square(size: int = 64) -> Any:
    image = Image.new("L", (size, size))
    image.paste(255, (size // 8, size // 8, size // 2, size // 2))
    return image


@pytest.fixture(scope="module")
def client(runs) -> Iterator[Any]:
    from starlette.testclient import TestClient

    folder, _, data = runs["gram"]
    app = demo_app(load_run(folder), data.val, hosts=["workstation"])
    with TestClient(app, base_url="http://127.0.0.1:7860") as made:
        yield made


def ask(client: Any, body: bytes = b"", **query: str) -> tuple[int, dict[str, Any]]:
    response = client.post("/predict", params=query, content=body)
    return response.status_code, response.json()


def test_an_upload_is_classified_as_predict_does(client, runs) -> None:
    status, found = ask(client, encoded(square()))
    assert status == 200
    run = load_run(runs["gram"][0])
    [expected] = predict(run, [square()], top=4)
    assert [entry["name"] for entry in found["classes"]] == list(expected.classes)
    assert [entry["share"] for entry in found["classes"]] == pytest.approx(expected.probabilities, abs=1e-6)
    assert found["cam"].startswith("data:image/") and found["input"].startswith("data:image/")
    assert len(found["functions"]) == 6
    shares = [float(entry["share"].rstrip(" %")) for entry in found["functions"]]
    assert shares == sorted(shares, reverse=True)
    first = found["functions"][0]
    assert first["chart"].startswith("<svg") and first["map"].startswith("data:image/") and " → " in first["edge"]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP"])
def test_every_format_and_mode(client, kind: str) -> None:
    assert ask(client, encoded(square().convert("RGB"), kind))[0] == 200


def test_light_and_dark_can_be_swapped_and_a_layer_chosen(client) -> None:
    swapped = Image.eval(square(), lambda value: 255 - value)
    plain, inverted = ask(client, encoded(square())), ask(client, encoded(swapped), invert="1")
    for ours, its in zip(plain[1]["classes"], inverted[1]["classes"], strict=True):  # 1 - (1 - x) is x but for rounding
        assert ours["name"] == its["name"] and ours["share"] == pytest.approx(its["share"], abs=1e-6)
    assert ask(client, encoded(square()), layer="stages.2.conv")[1]["functions"] != plain[1]["functions"]


def test_examples_are_those_of_the_data(client) -> None:
    status, found = ask(client, example="0")
    assert status == 200 and found["classes"]
    status, found = ask(client, example="99")
    assert status == 400 and "there are 12" in found["error"]


def test_a_segmentation_has_a_mask_and_the_share_of_each_class(runs) -> None:
    folder, _, data = runs["masks"]
    found = Explainer(load_run(folder), data.val).explain(torch.rand(1, 16, 16))
    assert found["mask"].startswith("data:image/")
    assert sum(entry["share"] for entry in found["classes"]) == pytest.approx(1)
    assert {entry["name"] for entry in found["classes"]} == {"ground", HOSTILE}


def test_nothing_stays_hooked(runs) -> None:
    run = load_run(runs["gram"][0])
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    Explainer(run).explain(torch.rand(1, 16, 16))
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in run.model.modules())
    assert all(torch.equal(value, before[name]) for name, value in run.model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in run.model.parameters())


def bomb(width: int = 60_000, height: int = 60_000) -> bytes:
    """A PNG of a few bytes whose head promises a great many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


DAMAGED = {
    "nothing": b"",
    "text": b"no image",
    "truncated": encoded(square())[:60],
    "half a photo": encoded(square(256).convert("RGB"), "JPEG")[:900],
    "a format that is not read": encoded(square(), "TIFF"),
    "a program for a printer": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    "changed": encoded(square()).replace(b"IDAT", b"IDOT"),
}


@pytest.mark.parametrize("data", DAMAGED.values(), ids=list(DAMAGED))
def test_what_is_no_image_is_refused(client, data: bytes) -> None:
    status, found = ask(client, data)
    assert status == 400 and "no image that can be read" in found["error"]


@pytest.mark.parametrize(("width", "height"), [(60_000, 60_000), (12_000, 10_000), (7_000, 7_000)])
def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(
    client, monkeypatch: pytest.MonkeyPatch, width: int, height: int
) -> None:
    monkeypatch.setattr(uploads, "image_tensor", lambda *_: pytest.fail("it was decoded"))
    status, found = ask(client, bomb(width, height))
    assert status == 400 and "at most 32,000,000" in found["error"]


def test_too_many_bytes_are_refused_while_they_arrive(client) -> None:
    sent = []

    def endless() -> Iterator[bytes]:
        for _ in range(40):
            sent.append(1)
            yield b"\0" * 10**6

    status, found = ask(client, endless())  # pyright: ignore[reportArgumentType]
    assert status == 413 and "10,000,000 bytes" in found["error"]


def test_unknown_layers_and_empty_drawings_are_named(client) -> None:
    status, found = ask(client, encoded(square()), layer="stages.1.con")
    assert status == 400 and "Did you mean 'stages.1.conv'" in found["error"]
    status, found = ask(client, encoded(Image.new("L", (20, 20))), drawing="1")
    assert status == 400 and found["error"] == "nothing is drawn yet"


@pytest.mark.parametrize(
    ("host", "known"),
    [
        ("127.0.0.1:7860", True),
        ("localhost:7860", True),
        ("[::1]:7860", True),
        ("192.168.0.7", True),
        ("workstation:7860", True),
        ("evil.example:7860", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example", False),
        ("", False),
        ("[", False),
    ],
)
def test_only_addresses_and_given_names_are_served(client, host: str, known: bool) -> None:
    response = client.get("/", headers={"host": host})
    assert response.status_code == (200 if known else 400)


def test_pages_of_others_get_no_answer(client) -> None:
    for origin, status in (("https://evil.example", 403), ("null", 403), ("http://127.0.0.1:7860", 200)):
        response = client.post("/predict", content=encoded(square()), headers={"origin": origin})
        assert response.status_code == status


def test_the_page_needs_nothing_else_and_says_so(client, runs) -> None:
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    for response in (page, client.get("/missing.js"), client.get("/predict")):
        assert "default-src 'none'" in response.headers["content-security-policy"]
        assert response.headers["x-content-type-options"] == "nosniff"
    assert client.get("/missing.js").status_code == 404 and client.get("/report.html").status_code == 404
    assert "http" not in page.text and "gram &lt;b&gt;" in page.text and "gram <b>" not in page.text
    for name, kind in (("style.css", "text/css"), ("demo.css", "text/css"), ("demo.js", "text/javascript")):
        response = client.get(f"/{name}")
        assert response.status_code == 200 and response.headers["content-type"].startswith(kind)
        assert "http" not in response.text


def test_a_drawing_is_put_where_the_data_have_it() -> None:
    info = DataInfo("x", 1, (28, 28), ("a", "b"), (0.1,), (0.3,))
    drawn = torch.zeros(1, 280, 280)
    drawn[:, 100:200, 30:50] = 1
    placed = uploads.place_drawing(drawn, info, 20 / 28)
    ink = placed[0] > 0.5
    assert placed.shape == (1, 28, 28) and ink.any(1).nonzero().flatten().tolist() == list(range(4, 24))
    assert ink.any(0).nonzero().flatten().tolist() == list(range(12, 16))
    assert uploads.ink_share(placed.unsqueeze(0), info) == pytest.approx(20 / 28)
    dark = DataInfo("x", 1, (28, 28), ("a", "b"), (0.9,), (0.3,))
    torch.testing.assert_close(uploads.place_drawing(drawn, dark, 20 / 28), 1 - placed)
    assert uploads.ink_share(torch.zeros(2, 1, 4, 4), info) == uploads.MARGIN


def test_ports_and_hosts() -> None:
    address = listen("127.0.0.1", 0)
    port = address.socket.getsockname()[1]
    assert address.url == f"http://127.0.0.1:{port}/"
    with pytest.raises(ValueError, match=rf"port \(={port}\) cannot be used"):
        listen("127.0.0.1", port)
    address.socket.close()
    with pytest.raises(ValueError, match="must be between 0 and 65535"):
        listen("127.0.0.1", 70_000)
    assert [is_loopback(h) for h in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "10.0.0.1", "box")] == [True] * 3 + [
        False
    ] * 3


def test_the_command_warns_of_other_machines(
    tmp_path, runs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    served = []
    monkeypatch.setattr("kanvolution.pages.demo.serve", lambda app, address: served.append(address))
    _, model, data = runs["gram"]
    save_run(tmp_path, model, data.info)
    for host, warned in (("127.0.0.1", False), ("0.0.0.0", True)):
        assert main(["demo", str(tmp_path), "--host", host, "--port", "0"]) == 0
        printed = capsys.readouterr()
        assert printed.out.startswith(f"http://{host}:") and ("can be reached" in printed.err) == warned
        assert "without images of the run's data" in printed.err
    for address in served:
        address.socket.close()
    assert main(["demo", str(tmp_path), "data=digits"]) == 2
    assert "do not match the checkpoint" in capsys.readouterr().err


@pytest.fixture(scope="module")
def address(runs) -> Iterator[str]:
    """The page, served."""
    import uvicorn

    folder, _, data = runs["gram"]
    where = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(demo_app(load_run(folder), data.val), log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [where.socket]}, daemon=True)
    thread.start()
    yield where.url
    server.should_exit = True
    thread.join(10)
    where.socket.close()


@pytest.fixture
def page(browser, address) -> Iterator[Any]:
    opened, errors, asked = browser.new_page(viewport={"width": 390, "height": 844}), [], []
    opened.set_default_timeout(15_000)
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.on("console", lambda message: errors.append(message.text))
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(address)
    yield opened
    assert [url for url in asked if not url.startswith((address, "data:"))] == []
    # A browser notes every answer that is an error; nothing else may be noted.
    assert [error for error in errors if "400 (Bad Request)" not in error] == []
    opened.close()


def test_in_a_browser_a_drawing_is_predicted_with_its_functions(page) -> None:
    box = page.locator("#pad").bounding_box()
    page.mouse.move(box["x"] + 60, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(box["x"] + 120, box["y"] + 200, steps=5)
    page.mouse.up()
    page.locator("#found").wait_for()
    assert page.locator("#classes .num").count() == 4 and page.locator("#panels svg").count() == 6
    assert page.locator("#cam").evaluate("image => image.decode().then(() => image.naturalWidth)") >= 112
    best = page.locator("#classes .best").inner_text()
    assert page.locator("#message").inner_text().startswith(best)
    first = page.locator("#panels svg").first.get_attribute("aria-label")
    page.locator("#layer").select_option("stages.2.conv")
    page.locator('#panels svg[aria-label$="stages.2.conv"]').first.wait_for()
    assert first is not None and first.endswith("stages.0.conv")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.locator("#clear").click()
    assert not page.locator("#found").is_visible() and page.locator("#panels svg").count() == 0


def test_in_a_browser_the_keyboard_draws_and_chooses_examples(page) -> None:
    page.locator("#pad").focus()
    for _ in range(5):
        page.keyboard.press("Shift+ArrowDown")
    page.locator("#found").wait_for()
    page.keyboard.press("Delete")
    assert not page.locator("#found").is_visible()
    page.locator(".example").nth(1).press("Enter")
    page.locator("#found").wait_for()


def test_in_a_browser_a_damaged_file_is_told_and_a_good_one_follows(page) -> None:
    page.locator("#file").set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": b"no image"})
    page.locator("#message.error").wait_for()
    assert "no image that can be read" in page.locator("#message").inner_text()
    assert not page.locator("#found").is_visible()
    page.locator("#file").set_input_files({"name": "b.png", "mimeType": "image/png", "buffer": encoded(square())})
    page.locator("#found").wait_for()
    assert page.locator("#message.error").count() == 0
    large = {"name": "c.png", "mimeType": "image/png", "buffer": b"\0" * (uploads.MOST_BYTES + 1)}
    page.locator("#file").set_input_files(large)
    page.locator("#message.error").wait_for()
    assert "too large" in page.locator("#message").inner_text()
