"""The report as a file: whole, inert, and in need of nothing."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from made_study import SETTINGS, evaluated, fitness_reading

from prunerzero.cli.app import main
from prunerzero.report.report import write_report
from prunerzero.study import Study

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>&\"'<!--"


class _Elements(HTMLParser):
    """Tags with attributes, and the text of each script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.styles: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append((dict(attrs), ""))
        if tag == "style":
            self.styles.append("")

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "script" and self.cdata_elem == "script":
            attributes, before = self.scripts[-1]
            self.scripts[-1] = attributes, before + data
        if self.cdata_elem == "style":
            self.styles[-1] += data


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A study in which whatever may be text is markup."""
    path = tmp_path / "<b>&.db"
    settings = SETTINGS | {"model": HOSTILE, "calibration": HOSTILE}
    with Study.create(path, settings) as study:
        recipe = {"metric": {HOSTILE: HOSTILE}, "group": HOSTILE, "allocation": {
            "name": "curves", "curves": {HOSTILE: [0.1, -0.1]}}}  # fmt: skip
        row = evaluated(1, -0.5, expression=HOSTILE, recipe=recipe, origin=HOSTILE)
        study.add_candidate(row, [fitness_reading()])
        row = evaluated(2, None, status="failed", reason=HOSTILE, recipe=recipe)
        study.add_candidate(row)
        study.add_event("heldout", {"winner": 1})
        from made_study import reading

        study.add_measurement(reading("candidate 1", [3.0, 3.1], candidate=1))
        study.add_measurement(reading(HOSTILE, [3.0, 3.1]))
    return path


def test_text_of_a_study_stays_text(hostile: Path, tmp_path: Path) -> None:
    write_report(hostile, tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    page = _Elements(text)
    assert [attributes.get("id") for attributes, _ in page.scripts] == [
        "document", "details", None, None,
    ]  # fmt: skip
    assert not any(tag == "img" for tag, _ in page.tags)
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert "<b>&" not in text
    document = json.loads(page.scripts[0][1])
    assert document["overview"]["settings"]["model"] == HOSTILE
    assert document["winner"]["formulas"][0]["tree"] == {}


def test_the_policy_allows_the_pages_own_parts_alone(small: Path, tmp_path: Path) -> None:
    write_report(small, tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    page = _Elements(text)
    (policy,) = [a["content"] for tag, a in page.tags if a.get("http-equiv")]
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy

    def sources(directive: str) -> set[str]:
        return set(re.search(rf"{directive} ([^;]*)", policy)[1].split())  # type: ignore[index]

    def digest(source: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"

    run = [source for attributes, source in page.scripts if "type" not in attributes]
    assert sources("script-src") == set(map(digest, run))
    assert sources("style-src") == set(map(digest, page.styles))
    loaded = [a.get("src") or a.get("href") for _, a in page.tags if "src" in a or "href" in a]
    assert all(address and address.startswith(("#", "data:")) for address in loaded)


def test_every_candidates_details_are_in_the_file(small: Path, tmp_path: Path) -> None:
    write_report(small, tmp_path / "r.html")
    page = _Elements((tmp_path / "r.html").read_text())
    packed = json.loads(page.scripts[1][1])
    details = {}
    for chunk in packed["chunks"].values():
        details |= json.loads(gzip.decompress(base64.b64decode(chunk)))
    with Study.open(small) as study:
        for row in study.candidates():
            shown = details[str(row.id)]
            assert shown["formulas"] == [] or shown["formulas"][0]["tree"]
            assert [parent["id"] for parent in shown["parents"]] == list(row.parents)
            own = study.measurements(candidate_id=row.id)
            assert [each["log_ratio"] for each in shown["readings"]] == [
                m.data.get("log_ratio") for m in own
            ]


def test_the_command(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = small.read_bytes()
    output = tmp_path / "r.html"
    assert main(["report", str(small), "--output", str(output), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["output"] == str(output)
    assert printed["heldout"]["rows"]
    assert small.read_bytes() == before
    assert main(["report", str(tmp_path / "none.db"), "--output", str(output)]) == 2
    assert main(["report", str(small), "--output", str(tmp_path)]) == 2
    missing = tmp_path / "none.json"
    assert main(["report", str(small), "--output", str(output), "--evaluation", str(missing)]) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert len([line for line in errors if line.startswith("prunerzero: error:")]) == 3
