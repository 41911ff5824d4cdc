"""The page in a real Chromium: numbers, colours of both schemes, width, keyboard, live updates."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from made_study import KINDS, SETTINGS, evaluated, fitness_reading, make_study

from prunerzero.report.data import build_document
from prunerzero.report.document import AllocationMap, Document, MaskPicture, Masks, Overlap
from prunerzero.report.heldout import closing_winner
from prunerzero.report.report import write_report
from prunerzero.report.rows import Rows
from prunerzero.study import Study

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium (Debian: apt install chromium)"),
]

SERIES = """id => Object.fromEntries(echarts.getInstanceByDom(document.getElementById(id))
    .getOption().series.map(({name, data}) => [name ?? "", data]))"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    # As root, as in containers, Chromium has no sandbox.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with (
        playwright.sync_playwright() as driver,
        driver.chromium.launch(executable_path=CHROMIUM, args=arguments) as launched,
    ):
        yield launched


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens an address; in the end nothing may have been complained about."""
    contexts, complaints = [], []

    def opened(address: str, width: int = 1280, scheme: str = "light") -> Any:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda m: complaints.append(f"{m.type}: {m.text}"))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: outside(request, address))
        page.goto(address)
        page.wait_for_selector("#state:has-text('candidates')")
        return page

    def outside(request: Any, address: str) -> None:
        root = "/".join(address.split("/")[:3])
        if not request.url.startswith((root, "data:", "blob:")):
            complaints.append(f"asked for {request.url}")

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture
def rich(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Document]:
    """A report with all that may lie beside a study: its numbers are made up."""

    def masks(rows: Rows, *_others: Any) -> Masks:
        candidate = closing_winner(rows)
        assert candidate is not None
        grid = [[0.3 + 0.01 * block + 0.1 * kind for block in range(5)] for kind in range(4)]
        return Masks(
            candidate=candidate,
            picture=MaskPicture(
                matrix="layers.2.q_proj", rows=3, of_rows=9, columns=4, of_columns=8,
                weights=[[0.1 * column + 0.2 * row for column in range(4)] for row in range(3)],
                winner=[[1, 0, 1, 0], [0, 1, 0, 1], [1, 1, 0, 0]],
                wanda=[[0, 0, 1, 1], [0, 1, 1, 0], [1, 0, 0, 1]],
            ),
            overlap=[Overlap(candidate=candidate, kinds=list(KINDS), values=grid)],
            allocation=AllocationMap(exact=True, kinds=list(KINDS), values=grid),
        )  # fmt: skip

    monkeypatch.setattr("prunerzero.report.masks.picture_masks", masks)
    change = {"change": 0.25, "low": 0.2, "high": 0.3}
    small.with_suffix(".analysis.json").write_text(json.dumps({"format": 1, "result": {
        "measured": [{"name": f"candidate {id}", "family": id % 9} for id in range(2, 40)],
        "principles": [{"statement": "Gradients matter", "source": "paper", "verdict": "holds",
                        "confidence": "high", "evidence": ["36 with it"], "q": 0.01}],
        "ablation": [{"edit": "without the factor A ** c", "kinds": list(KINDS), "change": change}],
        "enrichment": [{"kind": "operator", "name": "sqrt", "best_with": 5, "best": 5,
                        "all_with": 21, "all": 43, "p": 0.02, "q": 0.26}],
    }}))  # fmt: skip
    with Study.create(tmp_path / "r.db", SETTINGS | {"preset": "random"}) as study:
        key = "W * sqrt(X) | 50% | row | uniform | none"
        study.add_candidate(evaluated(0, 0.0, "W * sqrt(X)", key=key), [fitness_reading()])
        study.add_candidate(evaluated(1, -0.25), [fitness_reading()])
    said = {"source": "news", "prompt": "Once", "text": "upon", "dense": "a time", "model": "a",
            "same_tokens": 1}  # fmt: skip
    (tmp_path / "e.json").write_text(json.dumps({
        "model": "pruned", "against": "dense", "perplexity": {"wikipedia": 38.2},
        "tasks": {"arc": {"acc": 0.5, "acc_norm": 0.625}}, "deep": {"continuations": [said]},
    }))  # fmt: skip
    document = write_report(
        small, tmp_path / "rich.html", evaluations=[tmp_path / "e.json"],
        random=tmp_path / "r.db", masks=True,
    )  # fmt: skip
    return (tmp_path / "rich.html").as_uri(), document


@pytest.fixture
def report(small: Path, tmp_path: Path) -> tuple[str, Document]:
    document = write_report(small, tmp_path / "r.html")
    return (tmp_path / "r.html").as_uri(), document


def test_every_chart_holds_the_studys_numbers(
    visit: Callable[..., Any], report: tuple[str, Document], small: Path
) -> None:
    address, document = report
    page = visit(address)
    with Study.open(small) as study:
        rows = {row.id: row for row in study.candidates()}

    series = page.evaluate(SERIES, "chart-candidates")
    *steps, last = series["best so far"]
    assert [(place, id) for place, _, id in steps] == [(id, id) for id in document.best]
    assert [value for _, value, _ in steps] == pytest.approx(
        [math.exp(rows[id].fitness or 0) for id in document.best]
    )
    assert last[:2] == [60, steps[-1][1]]
    assert series["wanda"] == [[0, 1], [60, 1]]
    assert series["dense"] == [[0, 0], [60, 0]]
    at = dict(zip(document.candidates.id, document.candidates.at, strict=True))
    timed = page.evaluate(SERIES, "chart-time")["best so far"]
    assert [moment for moment, _, _ in timed[:-1]] == [at[id] for id in document.best]

    series = page.evaluate(SERIES, "chart-population")
    front = series.pop("Pareto front")
    assert [id for _, _, id in front] == [member.id for member in document.front]
    assert [id for _, _, id in series.pop("winner")] == [
        document.heldout and document.heldout.winner
    ]
    points = {id: (size, value) for group in series.values() for size, value, id in group}
    assert points == {
        id: (row.size, pytest.approx(math.exp(row.fitness)))
        for id, row in rows.items()
        if row.fitness is not None
    }
    assert set(series) == {row.origin for row in rows.values() if row.fitness is not None}

    bars = page.evaluate(SERIES, "chart-funnel")["candidates"]
    assert bars == [stage.count for stage in document.funnel.stages]
    shares = page.evaluate(SERIES, "chart-elements")
    elements = document.elements
    assert sorted(shares["all"]) == pytest.approx(
        sorted(row.all / elements.all for row in elements.rows)
    )
    assert sorted(shares["best tenth"]) == pytest.approx(
        sorted(row.best / elements.best for row in elements.rows)
    )


def test_charts_of_what_lies_beside_the_study(
    visit: Callable[..., Any], rich: tuple[str, Document]
) -> None:
    address, document = rich
    page = visit(address)
    masks = document.masks
    assert masks is not None
    hidden = page.eval_on_selector_all("figure[hidden] .chart", "found => found.map(e => e.id)")
    assert hidden == []

    def cells(id: str) -> dict[tuple[int, int], float]:
        (found,) = page.evaluate(SERIES, id).values()
        return {(x, y): value for x, y, value in found}

    def expected(lines: Any) -> dict[tuple[int, int], float]:
        return {(x, y): value for y, line in enumerate(lines) for x, value in enumerate(line)}

    assert cells("chart-allocation") == expected(masks.allocation.values)
    assert cells("chart-overlap") == expected(masks.overlap[0].values)
    assert cells("chart-dense") == expected(masks.picture.weights)
    assert cells("chart-winner-mask") == expected(masks.picture.winner)
    assert cells("chart-wanda-mask") == expected(masks.picture.wanda)

    random = page.evaluate(SERIES, "chart-candidates")["random search"]
    last = [2, pytest.approx(math.exp(-0.25))]
    assert random == [[1, 1], last, last]  # to the end of that search
    series = page.evaluate(
        """() => echarts.getInstanceByDom(document.getElementById("chart-population"))
        .getOption().series.filter(({type}) => type === "scatter")
        .map(({name, data, symbol}, index) =>
            [name, data.map(each => each[2]), symbol, index % 7])"""
    )
    families = {name: ids for name, ids, _, _ in series if name.startswith("mask family")}
    found = document.candidates
    assert families == {
        f"mask family {family + 1}": [
            id
            for id, its, value in zip(found.id, found.family, found.value, strict=True)
            if its == family and value is not None
        ]
        for family in range(9)
    }
    looks = [(symbol, colour) for name, _, symbol, colour in series if name in families]
    assert len(set(looks)) == len(looks)

    (tree,) = page.evaluate(SERIES, "chart-tree").values()
    costs = [node for node in _nodes(tree[0]) if node.get("cost") is not None]
    assert [(node["cost"], node["name"].startswith("^")) for node in costs] == [(0.25, True)]
    text = page.inner_text("main")
    for shown in ("Gradients matter: holds", "38.2", "50.0 %", "62.5 %", "a time", "+25.0 %"):
        assert shown in text


def _nodes(node: Any) -> Iterator[Any]:
    yield node
    for child in node["children"]:
        yield from _nodes(child)


def test_tables_hold_them_too(visit: Callable[..., Any], report: tuple[str, Document]) -> None:
    address, document = report
    page = visit(address)
    table = document.heldout
    assert table is not None
    shown = page.locator("#heldout tbody tr").all()
    assert len(shown) == len(table.rows)
    for line, row in zip(shown, table.rows, strict=True):
        assert row.name in line.inner_text()
        perplexity = float(line.locator("td").nth(2).inner_text())
        assert perplexity == pytest.approx(row.perplexity, rel=1e-4)
    assert table.verdict in page.inner_text("#heldout")
    assert page.inner_text("#command") == document.overview.command
    for name in ("No random search", "prunerzero analyze", "--masks", "No evaluation was given"):
        assert name in page.inner_text("main")
    hidden = page.eval_on_selector_all("figure[hidden] .chart", "found => found.map(e => e.id)")
    assert {"chart-allocation", "chart-dense", "chart-overlap"} <= set(hidden)


def test_a_candidate_by_keyboard_and_by_click(
    visit: Callable[..., Any], report: tuple[str, Document]
) -> None:
    address, document = report
    page = visit(address)
    assert document.winner is not None  # shown before anything is chosen
    page.wait_for_selector(f"#detail h3:has-text('Candidate {document.winner.id}')")
    assert page.evaluate("document.activeElement.id") == ""
    page.fill("#number", "")
    page.focus("#number")
    page.keyboard.type("17")
    page.keyboard.press("Enter")
    page.wait_for_selector("#detail h3:has-text('Candidate 17')")
    assert page.evaluate("document.activeElement.id") == "detail"
    assert page.locator("#detail math").count() == 4
    tree = page.evaluate(SERIES, "chart-candidate")[""]

    assert [node["name"] for node in _nodes(tree[0])][:3] == ["·", "·", "W"]
    page.click("#next")
    page.wait_for_selector("#detail h3:has-text('Candidate 18')")
    page.locator("#detail dd button").first.click()  # a parent
    page.wait_for_selector("#detail h3:not(:has-text('Candidate 18'))")
    page.locator("#front button").first.click()
    page.wait_for_selector(f"#detail h3:has-text('Candidate {document.front[0].id}')")
    member = document.front[-1]
    x, y = page.evaluate(
        """([size, value]) => echarts.getInstanceByDom(document.getElementById("chart-population"))
        .convertToPixel({xAxisIndex: 0, yAxisIndex: 0}, [size, value])""",
        [member.size, member.value],
    )
    page.locator("#chart-population").click(position={"x": x, "y": y})
    page.wait_for_selector(f"#detail h3:has-text('Candidate {member.id}')")
    page.fill("#number", "61")
    page.evaluate("document.getElementById('number').removeAttribute('max')")
    page.keyboard.press("Enter")
    page.wait_for_selector("#detail:has-text('there is no candidate 61')")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280, 2560])
def test_it_fits_every_width_and_scheme(
    visit: Callable[..., Any], report: tuple[str, Document], width: int, scheme: str
) -> None:
    page = visit(report[0], width, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ink, back = page.evaluate(
        "['color', 'backgroundColor'].map(name => getComputedStyle(document.body)[name])"
    )
    assert _contrast(ink, back) > 7
    for button in page.locator("button:visible").all():
        box = button.bounding_box()
        assert box["width"] >= 24
        assert box["height"] >= 24


def test_hostile_text_is_shown_as_text(visit: Callable[..., Any], tmp_path: Path) -> None:
    hostile = "</script><img src=x onerror=alert(1)><b>bold</b>"
    with Study.create(tmp_path / "s.db", SETTINGS | {"model": hostile}) as study:
        for number in range(3):
            recipe = {"metric": {hostile: "W", "mlp": hostile}, "group": hostile}
            row = evaluated(number, -number, recipe=recipe, expression=hostile, origin=hostile)
            study.add_candidate(row, [fitness_reading()])
    write_report(tmp_path / "s.db", tmp_path / "r.html")
    page = visit((tmp_path / "r.html").as_uri())
    page.fill("#number", "2")
    page.keyboard.press("Enter")
    page.wait_for_selector("#detail h3")
    assert page.locator("img, main b").count() == 0
    assert hostile in page.inner_text("#front")
    assert hostile in page.inner_text("#detail")


def test_live_updates_arrive(
    visit: Callable[..., Any], small: Path, serve: Callable[..., Any]
) -> None:
    with Study.open_or_create(small, SETTINGS) as writer, serve(small) as address:
        page = visit(address)
        assert "running, 60 candidates" in page.inner_text("#state")
        page.fill("#number", "5")
        page.keyboard.press("Enter")
        page.wait_for_selector("#detail h3:has-text('Candidate 5')")
        id = writer.add_candidate(evaluated(60, -9.0), [fitness_reading()])
        page.wait_for_selector("#state:has-text('61 candidates')")
        best = page.evaluate(SERIES, "chart-candidates")["best so far"]
        assert best[-1] == [61, pytest.approx(math.exp(-9)), id]
        assert page.inner_text("#detail h3") == "Candidate 5"
        document = page.evaluate("fetch('api/document').then(answer => answer.json())")
    with Study.open(small) as study:
        expected = build_document(Rows.read(study)).model_dump(mode="json")
    expected["overview"]["state"] = "running"
    assert document == expected


def test_twenty_thousand_candidates(
    visit: Callable[..., Any], tmp_path: Path, serve: Callable[..., Any]
) -> None:
    path = make_study(tmp_path / "big.db", 20_000, close=True)
    with serve(path) as address:
        page = visit(address)
        series = page.evaluate(SERIES, "chart-population")
        shown = sum(
            len(data) for name, data in series.items() if name not in ("Pareto front", "winner")
        )
        with Study.open(path) as study:
            assert shown == study.counts()["evaluated"]
        page.fill("#number", "12345")
        page.keyboard.press("Enter")
        page.wait_for_selector("#detail h3:has-text('Candidate 12345')")


def _contrast(first: str, second: str) -> float:
    """WCAG's contrast ratio of two colours ``rgb(...)``."""

    def luminance(colour: str) -> float:
        channels = [int(part) / 255 for part in colour.strip("rgb()").split(",")[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    dark, light = sorted((luminance(first), luminance(second)))
    return (light + 0.05) / (dark + 0.05)
