"""The HTML, style sheets and scripts beside this file, and how they are filled in: everything is escaped."""

from __future__ import annotations

from importlib import resources
from typing import Any

from kanvolution.extras import require


def asset(name: str) -> str:
    """The text of a file of `assets`."""
    return (resources.files("kanvolution.pages") / "assets" / name).read_text(encoding="utf-8")


def render(name: str, **values: Any) -> str:
    """A template of `assets` with its values. Strings are escaped where they are filled in, unless it says `|safe`."""
    from kanvolution import __version__

    jinja2 = require("jinja2", "viz")
    loader = jinja2.FunctionLoader(asset)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(name).render(version=__version__, **values)
