"""The dashboard: read-only, guarded, live."""

from __future__ import annotations

import gzip
import json
import re
import socket
import urllib.request
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from made_study import SETTINGS, evaluated, fitness_reading

from prunerzero.cli.app import main
from prunerzero.report.data import Extras, build_document
from prunerzero.report.follower import Follower
from prunerzero.report.rows import Rows
from prunerzero.report.server import is_local
from prunerzero.study import Study

TOKEN = "a-token-of-some-length"


def get(address: str, path: str = "/", **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = HTTPConnection(urlsplit(address).netloc, timeout=30)
    connection.request("GET", path, headers={"Connection": "close", **headers})
    answer = connection.getresponse()
    found = answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
    connection.close()
    return found


def events(address: str) -> Iterator[tuple[str, Any]]:
    """Server-sent events, one by one."""
    with urllib.request.urlopen(f"{address}/api/events", timeout=60) as stream:
        kind = ""
        for line in stream:
            name, _, value = line.decode().strip().partition(": ")
            if name == "event":
                kind = value
            elif name == "data":
                yield kind, json.loads(value)


def test_it_serves_the_studys_document(small: Path, serve: Callable[..., Any]) -> None:
    with Study.open(small) as study:
        expected = build_document(Rows.read(study)).model_dump(mode="json")
    before = small.read_bytes()
    with serve(small) as address:
        status, headers, body = get(address, "/api/document")
        assert status == 200
        assert json.loads(gzip.decompress(body)) == expected
        tag = headers["etag"]
        assert get(address, "/api/document", **{"If-None-Match": tag})[0] == 304
        status, _, body = get(address, "/api/candidates/3")
        assert json.loads(body)["id"] == 3
        assert get(address, "/api/candidates/999")[0] == 404
        assert get(address, "/api/candidates/x")[0] == 422
        for path in ("/static/page.js", "/static/page.css", "/static/echarts.js"):
            assert get(address, path)[0] == 200
        assert get(address, "/docs")[0] == get(address, "/openapi.json")[0] == 404
        assert get(address, "/static/../../secret")[0] == 404
    assert small.read_bytes() == before


def test_every_answer_has_a_strict_policy(small: Path, serve: Callable[..., Any]) -> None:
    with serve(small) as address:
        for path in ("/", "/api/document", "/static/page.js", "/nothing", "/api/candidates/x"):
            _, headers, _ = get(address, path)
            policy = headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert headers["x-content-type-options"] == "nosniff"
        page = get(address)[2].decode()
        assert "<script>" not in page
        assert "<style>" not in page


def test_names_from_elsewhere_are_refused(small: Path, serve: Callable[..., Any]) -> None:
    """A website cannot point a name of its own at the dashboard."""
    with serve(small) as address:
        assert get(address, "/api/document", Host="evil.example")[0] == 400
        assert get(address, "/api/document", Host="localhost")[0] == 200


def test_a_token_is_wanted_where_others_can_reach_it(
    small: Path, serve: Callable[..., Any]
) -> None:
    with serve(small, token=TOKEN) as address:
        for path in ("/", "/?token=wrong", "/api/document", f"/api/document?token={TOKEN}",
                     "/static/page.js", "/api/events"):  # fmt: skip
            status, headers, body = get(address, path)
            assert status == 401
            assert TOKEN not in str(headers) + body.decode()
        assert get(address, "/", Cookie="prunerzero-token=é")[0] == 401
        status, headers, _ = get(address, f"/?token={TOKEN}")
        assert (status, headers["location"]) == (303, "/")
        cookie = headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "samesite=strict" in cookie.lower()
        mine = cookie.partition(";")[0]
        assert get(address, "/api/document", Cookie=mine)[0] == 200


def test_a_new_candidate_arrives(small: Path, serve: Callable[..., Any]) -> None:
    """While a search holds the study open for writing."""
    with Study.open_or_create(small, SETTINGS) as writer, serve(small) as address:
        stream = events(address)
        kind, first = next(stream)
        assert (kind, first["candidates"], first["state"]) == ("study", 60, "running")
        id = writer.add_candidate(evaluated(60, -9.0), [fitness_reading()])
        kind, second = next(stream)
        while second["newest"] == first["newest"]:
            kind, second = next(stream)
        assert (second["candidates"], second["newest"], second["best"]) == (61, id, id)
        document = json.loads(gzip.decompress(get(address, "/api/document")[2]))
        assert document["candidates"]["id"][-1] == id
        assert json.loads(get(address, f"/api/candidates/{id}")[2])["readings"]
        writer.add_event("note", {"still": "writable"})
        stream.close()


def test_a_study_that_cannot_be_read_any_more_is_told(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    follower = Follower(small, Extras(), interval=0.01)
    told: list[str] = []
    follower.listen(lambda: told.append(follower.edition.fault))

    def fail(*_: object) -> bool:
        raise OSError("the disk is gone")

    monkeypatch.setattr(Rows, "update", fail)
    follower.start()
    follower._thread.join(30)
    assert told == ["no longer followed: the disk is gone"]


def test_an_analysis_that_is_made_meanwhile(small: Path) -> None:
    follower = Follower(small, Extras())
    with Study.open(small) as study:
        path = small.with_name("small.analysis.json")
        path.write_text('{"result": {"measured": [{"name": "candidate 3", "family": 1}]}}')
        follower._look(study)
        assert follower.edition.document.candidates.family[2] == 1
        path.write_text("broken")
        follower._look(study)
        assert follower.edition.document.analysis is None
        assert "not valid JSON" in follower.edition.document.notes[0]


def test_the_address_that_is_shown_can_be_followed_at_once(
    small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    met = []

    def run(_server: object, sockets: list[socket.socket]) -> None:
        found = re.search(r"http://\S+", capsys.readouterr().err)
        assert found
        address = urlsplit(found[0])
        with socket.create_connection((address.hostname, address.port), timeout=5):
            met.append(sockets[0].accept()[0])

    monkeypatch.setattr("prunerzero.report.server.DashboardServer.run", run)
    assert main(["dashboard", str(small), "--port", "0"]) == 0
    assert len(met) == 1
    met[0].close()


def test_local_addresses() -> None:
    assert all(map(is_local, ("127.0.0.1", "localhost", "::1", "127.3.2.1")))
    assert not any(map(is_local, ("0.0.0.0", "::", "192.168.1.7", "", "example.org")))


def test_wrong_usage(small: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    assert main(["dashboard", str(tmp_path / "none.db")]) == 2
    monkeypatch.setenv("PRUNERZERO_DASHBOARD_TOKEN", "short")
    assert main(["dashboard", str(small), "--host", "0.0.0.0"]) == 2
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["dashboard", str(small), "--port", str(taken.getsockname()[1])]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert [line.split(":")[1] for line in errors] == [" error"] * 3
    assert "does not exist" in errors[0]
    assert "at least 16" in errors[1]
    assert "--port" in errors[2]
