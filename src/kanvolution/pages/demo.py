"""A page on this machine to try a network on: draw or drop an image, see what it predicts and why."""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import torch
from torch import Tensor
from torch.utils.data import Dataset

from kanvolution.data.images import fit_image
from kanvolution.extras import require
from kanvolution.models.segmenter import predicted_mask
from kanvolution.pages.layers import edge_charts, edge_name
from kanvolution.pages.pictures import heat_over, picture, signed
from kanvolution.pages.templates import asset, render
from kanvolution.pages.uploads import FORMATS, MARGIN, MOST_BYTES, ink_share, place_drawing, read_upload
from kanvolution.registry import unknown_name
from kanvolution.train.checkpoint import Run
from kanvolution.visualize.attribution import grad_cam
from kanvolution.visualize.examples import overlay, pixels
from kanvolution.visualize.importance import importance
from kanvolution.visualize.layers import LayerView, layer_maps, layer_views

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

_CLASSES = 10
_FUNCTIONS = 6
_EXAMPLES = 12
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Explainer:
    """What the page shows of an image: the prediction, where the network looks, and its strongest functions.

    Args:
        run: a saved run.
        examples: images of its data, normalised; some of them are offered on the page.
    """

    def __init__(self, run: Run, examples: Dataset | None = None) -> None:
        self.run, self.info = run, run.info
        self.views = {view.name: view for view in layer_views(run.model) if len(view.kernel_size) == 2}
        self.examples: list[Tensor] = []
        self.share = MARGIN
        if examples is not None:
            size = len(examples)  # pyright: ignore[reportArgumentType]
            order = torch.randperm(size, generator=torch.Generator().manual_seed(0)).tolist()
            self.examples = [self.info.denormalise(examples[i][0]) for i in order[:_EXAMPLES]]
            if self.info.in_chans == 1:
                self.share = ink_share(torch.stack(self.examples), self.info)

    def uploaded(self, data: bytes, *, drawing: bool = False, invert: bool = False) -> Tensor:
        """An image as the network's data have it, [C, H, W] in [0, 1]. Raises ValueError as `read_upload`."""
        image = read_upload(data, self.info.in_chans)
        if drawing:
            return place_drawing(image, self.info, self.share)
        image = fit_image(image, self.info.image_size, self.info.crop_share)
        return 1 - image if invert else image

    def explain(self, image: Tensor, layer: str | None = None) -> dict[str, Any]:
        """What the network makes of an image [C, H, W] in [0, 1], in JSON types.

        Raises:
            ValueError: a layer that is not there (the nearest is named).
        """
        if layer is not None and layer not in self.views:
            raise ValueError(unknown_name("layer", layer, self.views or ["(none)"]))
        started = time.perf_counter()
        inputs = self.info.normalise(image).unsqueeze(0)
        with torch.no_grad():
            output = self.run.model(inputs)
        found: dict[str, Any] = {"input": picture(pixels(image))}
        if self.info.targets == "labels":
            found["classes"] = self._classes(output[0].float().softmax(0))
        else:
            mask = predicted_mask(output)[0]
            counts = torch.bincount(mask.flatten(), minlength=self.info.num_classes)
            found["mask"] = picture(overlay(image, mask))
            found["classes"] = self._classes(counts / mask.numel())
        try:
            found["cam"] = picture(heat_over(image, grad_cam(self.run.model, inputs)[0]))
        except ValueError:  # a network without a feature map
            found["cam"] = None
        found["functions"] = self._functions(inputs, layer)
        found["milliseconds"] = round(1000 * (time.perf_counter() - started))
        return found

    def _classes(self, shares: Tensor) -> list[dict[str, Any]]:
        best = shares.topk(min(_CLASSES, len(shares)))
        names = self.info.class_names
        return [
            {"name": names[index], "share": share}
            for share, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]

    def _functions(self, inputs: Tensor, layer: str | None) -> list[dict[str, Any]]:
        """The functions of a layer that vary most over this image, and what each makes of its channel."""
        maps = layer_maps(self.run.model, inputs)
        name = layer if layer is not None else next((name for name in self.views if name in maps), None)
        if name is None or name not in maps:
            return []
        view: LayerView = self.views[name]
        seen = maps[name][0].float().cpu()
        values = seen.flatten(1)
        if values.shape[1] < 2:
            return []
        ranked = importance(view, values)
        edges = ranked.ranked(_FUNCTIONS)
        results = view.curves(edges, values).total.view(len(edges), *seen.shape[1:])
        return [
            {
                "edge": edge_name(edge)[0],
                "tap": edge_name(edge)[1],
                "share": f"{100 * ranked.share(edge):.1f} %",
                "chart": chart,
                "map": picture(signed(result)),
            }
            for edge, chart, result in zip(edges, edge_charts(view, values, edges), results, strict=True)
        ]


def demo_app(run: Run, examples: Dataset | None = None, *, hosts: Sequence[str] = ()) -> Starlette:
    """The page as an ASGI application.

    Requests are answered one at a time. Nothing that is sent is stored.

    Args:
        run: a saved run, see `kanvolution.train.load_run`.
        examples: images of its data, normalised, some of which are offered on the page.
        hosts: names, beside localhost and addresses, by which the machine is called. A request for another name is
            refused: a page elsewhere whose name is made to lead here (DNS rebinding) reads nothing.

    Raises:
        ImportError: starlette is not installed; the message names the extra.
    """
    applications = require("starlette.applications", "demo")
    routing = require("starlette.routing", "demo")
    responses = require("starlette.responses", "demo")
    middleware = require("starlette.middleware", "demo")
    base = require("starlette.middleware.base", "demo")
    anyio = require("anyio", "demo")
    explainer = Explainer(run, examples)
    one_at_a_time = anyio.CapacityLimiter(1)
    page = render(
        "demo.html",
        run=run.path.resolve().name,
        info=run.info,
        layers=list(explainer.views),
        examples=[picture(pixels(image)) for image in explainer.examples],
        draws=run.info.in_chans == 1 and run.info.targets == "labels",
        formats=", ".join(FORMATS),
        most_bytes=MOST_BYTES,
    )
    files = {"style.css": "text/css", "demo.css": "text/css", "demo.js": "text/javascript"}

    def failed(message: str, status: int) -> Response:
        return responses.JSONResponse({"error": message}, status)

    async def index(request: Request) -> Response:
        return responses.HTMLResponse(page)

    async def file(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in files:
            return failed(f"there is no {name}", 404)
        return responses.Response(asset(name), media_type=files[name])

    async def predict(request: Request) -> Response:
        query = request.query_params
        try:
            if "example" in query:
                job = partial(_example, explainer, query["example"])
            else:
                body = await _body(request)
                if body is None:
                    return failed(f"the file is too large; at most {MOST_BYTES:,} bytes are taken", 413)
                options = {name: query.get(name) == "1" for name in ("drawing", "invert")}
                job = partial(explainer.uploaded, body, **options)
            layer = query.get("layer") or None
            work = lambda: explainer.explain(job(), layer)  # noqa: E731
            return responses.JSONResponse(await anyio.to_thread.run_sync(work, limiter=one_at_a_time))
        except ValueError as error:
            return failed(str(error), 400)

    async def guard(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        host = request.headers.get("host", "")
        if not _is_known(host, hosts):
            return failed(f"host {host!r} is not served here; use 127.0.0.1, or name it: --allow-host", 400)
        origin = request.headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return failed("this page answers to itself alone", 403)
        response = await call_next(request)
        response.headers.update(_HEADERS)
        return response

    return applications.Starlette(
        routes=[
            routing.Route("/", index),
            routing.Route("/predict", predict, methods=["POST"]),
            routing.Route("/{name}", file),
        ],
        middleware=[middleware.Middleware(base.BaseHTTPMiddleware, dispatch=guard)],
    )


def _example(explainer: Explainer, number: str) -> Tensor:
    if not number.isdecimal() or int(number) >= len(explainer.examples):
        raise ValueError(f"example {number!r} is not there; there are {len(explainer.examples)}, from 0")
    return explainer.examples[int(number)]


async def _body(request: Request) -> bytes | None:
    """The body of a request; None as soon as it is larger than what is taken."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > MOST_BYTES:
            return None
        parts.append(part)
    return b"".join(parts)


def _is_known(host: str, names: Sequence[str]) -> bool:
    """Whether the host of a request is an address, localhost, or a name that was given."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    if name == "localhost" or name in (known.lower() for known in names):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a host of this name or address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass(frozen=True)
class Address:
    """Where the page is: a socket that listens, and the page's URL."""

    socket: Any
    url: str


def listen(host: str, port: int) -> Address:
    """Listen on a host and port (0: any free one).

    Raises:
        ValueError: a port out of range, a host that is not of this machine, or a port that is taken.
    """
    if not 0 <= port <= 65535:
        raise ValueError(f"port (={port}) must be between 0 and 65535")
    try:
        family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        opened = socket.create_server(place[:2], family=family)
    except OSError as error:
        raise ValueError(
            f"host (={host!r}) and port (={port}) cannot be used: {error.strerror or error}; choose another port, 0 "
            "takes any free one"
        ) from error
    shown = f"[{host}]" if ":" in host else host
    return Address(opened, f"http://{shown}:{opened.getsockname()[1]}/")


def serve(app: Starlette, address: Address) -> None:
    """Answer requests until the process is interrupted."""
    uvicorn = require("uvicorn", "demo")
    config = uvicorn.Config(app, log_level="warning", limit_concurrency=32, timeout_keep_alive=5, server_header=False)
    uvicorn.Server(config).run(sockets=[address.socket])
