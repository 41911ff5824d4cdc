"""Studies to show, and a server that shows one."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from made_study import make_study

from prunerzero.report.rows import Rows
from prunerzero.study import Study


def read(path: Path) -> Rows:
    with Study.open(path) as study:
        return Rows.read(study)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A closed study of 60 candidates."""
    return make_study(tmp_path / "small.db", 60, close=True)


@pytest.fixture
def serve() -> Callable[..., Any]:
    """Serves a study on a free port for the length of a ``with``; gives the address."""
    from prunerzero.report.data import Extras
    from prunerzero.report.follower import Follower
    from prunerzero.report.server import DashboardServer, make_app

    @contextmanager
    def serving(path: Path, token: str | None = None) -> Iterator[str]:
        app = make_app(Follower(path, Extras(), interval=0.05), token)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            server = DashboardServer(app)
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
            thread.start()
            try:
                yield f"http://127.0.0.1:{listener.getsockname()[1]}"
            finally:
                server.should_exit = True
                thread.join()

    return serving
