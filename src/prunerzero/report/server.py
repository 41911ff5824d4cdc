"""The dashboard: the page, served live. It reads the study and nothing else."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from socket import socket
from typing import Any
from urllib.parse import urlsplit

from prunerzero.errors import InputError, MissingExtraError
from prunerzero.report import page
from prunerzero.report.follower import Follower

try:
    import uvicorn
    from fastapi import FastAPI, HTTPException, Request, Response
    from fastapi.responses import HTMLResponse, PlainTextResponse, RedirectResponse
    from fastapi.sse import EventSourceResponse, ServerSentEvent
except ImportError as error:
    raise MissingExtraError("report", "the dashboard") from error

COOKIE = "prunerzero-token"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
Handler = Callable[[Request], Awaitable[Response]]


def is_local(host: str) -> bool:
    """Whether an address to bind to can be reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def make_app(follower: Follower, token: str | None = None) -> FastAPI:
    """The dashboard's application.

    Without a token only requests that name this machine are answered, so that no website can
    reach the dashboard through a name of its own that it points here. With one, the token must
    come in the address once (``/?token=...``); a cookie keeps it from then on.

    Args:
        follower: follows the study; started and stopped with the application.
        token: what a visitor must know; None where only this machine can reach the server.
    """
    news = _News()
    app = FastAPI(lifespan=lambda _: lifespan(), openapi_url=None, docs_url=None, redoc_url=None)
    app.state.news = news

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()

        def wake() -> None:
            with suppress(RuntimeError):  # the loop has closed
                loop.call_soon_threadsafe(news.wake)

        follower.listen(wake)
        follower.start()
        try:
            yield
        finally:
            follower.stop()

    @app.middleware("http")
    async def guard(request: Request, answer: Handler) -> Response:
        response = _refusal(request, token)
        if response is None:
            response = await answer(request)
        response.headers.update(HEADERS)
        response.headers.setdefault("Cache-Control", "no-store")
        return response

    @app.get("/", response_class=HTMLResponse)
    def index() -> str:
        return page.dashboard_html(follower.edition.document.overview.name)

    @app.get("/static/page.css")
    def style() -> Response:
        return Response(page.style(), media_type="text/css")

    @app.get("/static/page.js")
    def script() -> Response:
        return Response(page.script(), media_type="text/javascript")

    @app.get("/static/echarts.js")
    def library() -> Response:
        return Response(page.library(), media_type="text/javascript")

    @app.get("/api/document")
    def document(request: Request) -> Response:
        edition = follower.edition
        headers = {"ETag": f'"{edition.tag}"', "Cache-Control": "no-cache"}
        if request.headers.get("If-None-Match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        headers["Content-Encoding"] = "gzip"
        return Response(edition.json, media_type="application/json", headers=headers)

    @app.get("/api/candidates/{identifier}")
    def candidate(identifier: int) -> Response:
        try:
            detail = follower.detail(identifier)
        except InputError:
            raise HTTPException(404, f"there is no candidate {identifier}") from None
        return Response(detail.model_dump_json(), media_type="application/json")

    @app.get("/api/events", response_class=EventSourceResponse)
    async def events() -> AsyncIterator[ServerSentEvent]:
        told: Any = None
        while not news.over:
            edition = follower.edition
            if edition is not told:
                told = edition
                if edition.fault:
                    yield ServerSentEvent(event="fault", data={"message": edition.fault})
                else:
                    yield ServerSentEvent(event="study", data=edition.headline, id=edition.tag)
            await news.wait(lambda told=told: follower.edition is not told)  # type: ignore[misc]

    return app


class DashboardServer(uvicorn.Server):
    """Serves a dashboard; at the end it hangs up on those who listen to events.

    They would not by themselves, and the server waits for open connections.
    """

    def __init__(self, app: FastAPI) -> None:
        """Serves with `run`, which takes the listening sockets."""
        # The grace is for who has stopped to read what he is being sent.
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=2,
        )
        super().__init__(config)
        self._news: _News = app.state.news

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        """Ends the streams of events, then the server."""
        self._news.end()
        await super().shutdown(sockets)


class _News:
    """Wakes all who wait, in one event loop."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.over = False

    def end(self) -> None:
        self.over = True
        self.wake()

    def wake(self) -> None:
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self, there_is: Callable[[], bool]) -> None:
        event = self._event  # before looking, else what comes between the two is slept through
        if not self.over and not there_is():
            await event.wait()


def _refusal(request: Request, token: str | None) -> Response | None:
    """The answer to who may not look, or to who comes with the token; None to go on."""
    if token is None:
        if _names_this_machine(request.headers.get("host", "")):
            return None
        return PlainTextResponse("this dashboard answers to localhost only", 400)
    if _same(request.cookies.get(COOKIE), token):
        return None
    if request.url.path == "/" and _same(request.query_params.get("token"), token):
        response = RedirectResponse("/", 303)
        response.set_cookie(COOKIE, token, httponly=True, samesite="strict")
        return response
    return PlainTextResponse("open the address with the token that the dashboard printed", 401)


def _names_this_machine(host: str) -> bool:
    """Whether a request's ``Host`` is this machine's own name or address, with or without port."""
    try:
        return is_local(urlsplit(f"//{host}").hostname or "")
    except ValueError:
        return False


def _same(given: str | None, token: str) -> bool:
    return given is not None and hmac.compare_digest(given.encode(), token.encode())
