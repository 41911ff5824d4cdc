"""``prunerzero dashboard``: the page of a study, live."""

from __future__ import annotations

import os
import re
import secrets
import socket
from pathlib import Path
from typing import Annotated

import typer

from prunerzero.cli.common import Json, emit, note
from prunerzero.cli.report import Evaluations, RandomStudy
from prunerzero.cli.study import StudyFile
from prunerzero.errors import InputError

TOKEN = "PRUNERZERO_DASHBOARD_TOKEN"
SHORTEST = 16  # characters of a token

EXAMPLES = (
    "prunerzero dashboard s.db",
    "prunerzero dashboard s.db --host 0.0.0.0 --port 8080",
)


def command(
    study: StudyFile,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port; 0 takes a free one.")
    ] = 8750,
    evaluation: Evaluations = None,
    random: RandomStudy = None,
    json: Json = False,
) -> None:
    """Serve the report live while a search goes on; reads the study only.

    On another address than this machine's own, visitors need a token: the one in
    $PRUNERZERO_DASHBOARD_TOKEN, or a new one that is printed.
    """
    from prunerzero.report.follower import Follower
    from prunerzero.report.report import read_extras
    from prunerzero.report.rows import Rows
    from prunerzero.report.server import DashboardServer, is_local, make_app
    from prunerzero.study import Study

    token = None if is_local(host) else _token()
    listener = _listen(host, port)
    with Study.open(study) as opened:
        path, settings = opened.path, opened.settings
    extras = read_extras(Rows(path, settings), evaluation or (), random)
    app = make_app(Follower(path, extras), token)
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{listener.getsockname()[1]}/"
    listener.listen()  # who follows the address at once waits for the server, and is not refused
    if json:
        emit({"study": str(path), "address": address, "token": token})
    note(f"dashboard of {Path(study).name}: {address}{'' if token is None else f'?token={token}'}")
    note("Ctrl-C ends it; the search is not touched")
    DashboardServer(app).run(sockets=[listener])


def _token() -> str:
    """The token that visitors from elsewhere need.

    Raises:
        InputError: The one that the user has set would be easy to guess, or break an address.
    """
    token = os.environ.get(TOKEN) or secrets.token_urlsafe(24)
    if not re.fullmatch(rf"[A-Za-z0-9_-]{{{SHORTEST},200}}", token):
        raise InputError(
            f"${TOKEN}: must be at least {SHORTEST} letters, digits, '-' or '_'; "
            "unset it to have one made"
        )
    return token


def _listen(host: str, port: int) -> socket.socket:
    """Binds before anything is read, so that a port in use is found at once.

    Raises:
        InputError: The address cannot be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise InputError(f"host '{host}': {(error.strerror or str(error)).lower()}") from None
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        reason = (error.strerror or str(error)).lower()
        raise InputError(
            f"port {port} of {host}: {reason}; give another with --port, 0 for any"
        ) from None
    return listener
