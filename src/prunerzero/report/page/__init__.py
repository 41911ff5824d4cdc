"""The page: one template, style and scripts, for the file and for the dashboard alike."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files

from prunerzero import __version__
from prunerzero.errors import MissingExtraError
from prunerzero.report.document import Detail, Document

# In this order: a later one uses what the earlier ones define.
SCRIPTS = ("dom.js", "theme.js", "formula.js", "charts.js", "sections.js", "main.js")
CHUNK = 200  # candidates whose details are compressed together


@cache
def style() -> str:
    """The style sheet."""
    return _text("page.css")


@cache
def script() -> str:
    """The page's own scripts, in one scope of their own."""
    return '"use strict";\n(() => {\n' + "\n".join(map(_text, SCRIPTS)) + "\n})();\n"


@cache
def library() -> str:
    """Apache ECharts, minified."""
    return _text("vendor/echarts.min.js")


def report_html(document: Document, details: Mapping[int, Detail]) -> str:
    """The page as one file that needs no network, whose policy allows none.

    Args:
        document: what it shows.
        details: all about each candidate that can be chosen.

    Raises:
        MissingExtraError: without jinja2.
    """
    hashes = " ".join(map(_hash, (library(), script())))
    return _render(
        title=document.overview.name,
        embedded=True,
        policy=f"default-src 'none'; script-src {hashes}; style-src {_hash(style())}; "
        "img-src data:; base-uri 'none'; form-action 'none'",
        document=_inert(document.model_dump_json()),
        details=_inert(json.dumps({"size": CHUNK, "chunks": _chunks(details.values())})),
        style=style(),
        library=library(),
        script=script(),
    )


def dashboard_html(title: str) -> str:
    """The page without data, which it asks the server for.

    Raises:
        MissingExtraError: without jinja2.
    """
    return _render(title=title, embedded=False)


def _render(*, title: str, embedded: bool, **values: str) -> str:
    try:
        from jinja2 import Environment
        from markupsafe import Markup
    except ImportError as error:
        raise MissingExtraError("report", "the page") from error
    environment = Environment(autoescape=True, keep_trailing_newline=True)
    template = environment.from_string(_text("page.html.j2"))
    policy = values.pop("policy", "")
    # What is marked is our own files, and JSON that `_inert` has gone over.
    marked = {name: Markup(value) for name, value in values.items()}
    return template.render(
        title=title, embedded=embedded, policy=Markup(policy), version=__version__, **marked
    )


def _chunks(details: Iterable[Detail]) -> dict[str, str]:
    """Details by chunk, each compressed: a page of 20,000 opens only what is looked at."""
    chunks: dict[int, list[Detail]] = {}
    for detail in details:
        chunks.setdefault(detail.id // CHUNK, []).append(detail)
    return {
        str(number): base64.b64encode(
            gzip.compress(
                json.dumps({each.id: each.model_dump(mode="json") for each in chunk}).encode(),
                mtime=0,
            )
        ).decode()
        for number, chunk in chunks.items()
    }


def _inert(document: str) -> str:
    """JSON that cannot end the element it stands in, nor begin a comment."""
    return document.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _hash(source: str) -> str:
    digest = hashlib.sha256(source.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _text(name: str) -> str:
    return files(__name__).joinpath(name).read_text(encoding="utf-8")
