import json

import pytest

from prunerzero.cli.app import main
from prunerzero.data.assets import ASSETS


@pytest.fixture(autouse=True)
def _empty_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("PRUNERZERO_CACHE", str(tmp_path))


@pytest.mark.parametrize("arguments", [[], ["list"]])
def test_assets_lists_what_is_there(capsys, arguments):
    assert main(["assets", *arguments, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == list(ASSETS)
    assert not any(row["present"] for row in rows)
    assert all(row["licence"] and row["bytes"] > 0 for row in rows)


def test_assets_tells_how_to_get_what_is_missing(capsys):
    assert main(["assets"]) == 0
    assert capsys.readouterr().out.endswith("get what is missing with: prunerzero assets fetch\n")


def test_fetch_reports_what_it_did(capsys, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "prunerzero.data.assets.fetch", lambda names, progress: asked.append(names) or ["news"]
    )
    assert main(["assets", "fetch", "news", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"fetched": ["news"]}
    assert main(["assets", "fetch"]) == 0
    assert asked == [["news"], None]
