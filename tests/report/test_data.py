"""The document against the study's own numbers."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_study import SETTINGS, evaluated, fitness_reading, make_study, reading

from prunerzero.errors import InputError
from prunerzero.evaluation.perplexity import paired_interval
from prunerzero.evolution.grammar import DEFAULT
from prunerzero.metric.expression import Call, Leaf
from prunerzero.report.data import Extras, build_document, command, names_in_text
from prunerzero.report.document import STATUSES, Document
from prunerzero.report.rows import Rows, SearchClock
from prunerzero.study import Study


def read(path: Path) -> Rows:
    with Study.open(path) as study:
        return Rows.read(study)


def built(path: Path, **settings: object) -> Document:
    return build_document(read(path))


def test_columns_are_the_candidates(small: Path) -> None:
    rows = read(small)
    document = build_document(rows)
    columns = document.candidates
    found = list(rows.candidates.values())
    assert columns.id == [row.id for row in found]
    assert [STATUSES[status] for status in columns.status] == [row.status for row in found]
    assert [columns.origins[origin] for origin in columns.origin] == [row.origin for row in found]
    assert columns.size == [row.size for row in found]
    for value, row in zip(columns.value, found, strict=True):
        if row.fitness is None:
            assert value is None
        else:
            assert value == math.exp(row.fitness)
    assert document.overview.counts["rejected"] == columns.status.count(1) > 0
    assert Document.model_validate_json(document.model_dump_json()) == document


def test_best_front_and_references(small: Path) -> None:
    rows = read(small)
    document = build_document(rows)
    scored = [
        (row.id, row.size, row.fitness)
        for row in rows.candidates.values()
        if row.fitness is not None
    ]
    best = [
        id for id, _, fitness in scored if all(fitness < other for n, _, other in scored if n < id)
    ]
    assert document.best == best
    front = {
        id
        for id, size, fitness in scored
        if not any(s <= size and f <= fitness and (s, f) != (size, fitness) for _, s, f in scored)
    }
    assert {member.id for member in document.front} == front
    assert [(line.name, line.candidate, line.value) for line in document.references] == [
        ("wanda", 1, 1.0)
    ]
    assert document.winner is not None
    assert document.winner.id == best[-1]
    assert document.measure.dense == 0


def test_the_papers_fitness_is_shown_as_it_is(tmp_path: Path) -> None:
    with Study.create(tmp_path / "p.db", SETTINGS | {"preset": "paper"}) as study:
        study.add_candidate(evaluated(1, 812.5), [fitness_reading()])
    document = built(tmp_path / "p.db")
    assert document.candidates.value == [812.5]
    assert document.measure.dense is None


def test_heldout_table_and_verdict(small: Path) -> None:
    rows = read(small)
    table = build_document(rows).heldout
    assert table is not None
    losses = {m.name: tuple(m.data["losses"]) for m in rows.measurements if m.purpose == "heldout"}
    winner = f"candidate {table.winner}"
    assert [row.perplexity for row in table.rows] == sorted(
        row.perplexity or 0 for row in table.rows
    )
    for row in table.rows:
        assert row.perplexity == pytest.approx(math.exp(sum(losses[row.name]) / 4))
        if row.name != winner:
            interval = paired_interval(losses[winner], losses[row.name])
            assert (row.change, row.low, row.high) == (interval.change, interval.low, interval.high)
    wanda = next(row for row in table.rows if row.name == "wanda")
    assert f"{100 * abs(wanda.change or 0):.1f} % lower than Wanda" in table.verdict
    assert {row.name: row.role for row in table.rows} == {
        winner: "winner", "wanda": "baseline", "dense": "dense"
    }  # fmt: skip


def test_a_verdict_that_the_interval_does_not_allow_is_not_given(tmp_path: Path) -> None:
    with Study.create(tmp_path / "s.db", SETTINGS) as study:
        study.add_candidate(evaluated(1, -0.1), [fitness_reading()])
        study.add_event("heldout", {"winner": 1})
        study.add_measurement(reading("candidate 1", [3.0, 3.4, 2.9], candidate=1))
        study.add_measurement(reading("wanda", [3.1, 3.0, 3.3]))
    table = built(tmp_path / "s.db").heldout
    assert table is not None
    assert "not distinguishable from Wanda" in table.verdict


def test_a_search_that_went_on_is_not_closed(small: Path) -> None:
    with Study.open_or_create(small, SETTINGS) as study:
        assert build_document(read(small)).overview.state == "running"
        study.add_event("session-start", {"budget": "40 candidates"})
    document = built(small)
    assert document.heldout is None
    assert document.overview.state == "interrupted"
    assert document.winner is not None


def test_an_empty_study(tmp_path: Path) -> None:
    Study.create(tmp_path / "s.db", SETTINGS).close()
    document = built(tmp_path / "s.db")
    assert (document.best, document.winner, document.heldout, document.front) == (
        [],
        None,
        None,
        [],
    )
    assert document.funnel.stages[0].count == 0


def test_search_time_stands_still_between_sessions(tmp_path: Path, monkeypatch) -> None:
    hours = iter(range(100))
    monkeypatch.setattr(
        "prunerzero.study.rows.now", lambda: f"2026-01-01T{next(hours):02}:00:00.000+00:00"
    )
    with Study.create(tmp_path / "s.db", SETTINGS) as study:
        study.add_candidate(evaluated(1, 0.0), [fitness_reading()])  # 00:00, before the first
        study.add_event("session-start", {})  # 01:00
        study.add_candidate(evaluated(2, 0.0), [fitness_reading()])  # 02:00, then killed
        study.add_event("session-start", {})  # 03:00
        study.add_candidate(evaluated(3, 0.0), [fitness_reading()])  # 04:00
        study.add_event("session-end", {"seconds": 5000.0})  # 05:00
    rows = read(tmp_path / "s.db")
    assert build_document(rows).candidates.at == [0, 3600, 7200]
    assert SearchClock(rows).total == 3600 + 5000


def test_funnel_counts_and_failures_by_reason(tmp_path: Path) -> None:
    with Study.create(tmp_path / "s.db", SETTINGS) as study:
        study.add_candidate(evaluated(1, 0.0, skipped=2), [fitness_reading()])
        for block in (3, 7):
            reason = f"scores of model.layers.{block}.mlp.up_proj are not finite"
            row = evaluated(block, None, status="failed", reason=reason, skipped=1)
            study.add_candidate(row)
    funnel = built(tmp_path / "s.db").funnel
    assert [stage.count for stage in funnel.stages] == [7, 3, 1, 0, 0]
    assert [(failure.reason, failure.count) for failure in funnel.failures] == [
        ("scores of a matrix are not finite", 2)
    ]


def test_elements_of_the_best_tenth(tmp_path: Path) -> None:
    with Study.create(tmp_path / "s.db", SETTINGS) as study:
        for number in range(20):
            metric = "W * sqrt(A)" if number < 3 else {"attention": "W", "mlp": "-W + F"}
            study.add_candidate(evaluated(number, float(number), metric), [fitness_reading()])
    found = built(tmp_path / "s.db").elements
    assert (found.best, found.all) == (2, 20)
    assert {row.name: (row.best, row.all) for row in found.rows} == {
        "W": (2, 20), "A": (2, 3), "sqrt": (2, 3), "mul": (2, 3), "add": (0, 17), "neg": (0, 17),
        "F": (0, 17),
    }  # fmt: skip


@given(st.integers(0, 10**6))
def test_names_read_from_text_are_those_of_the_tree(seed: int) -> None:
    metric = DEFAULT.tree(random.Random(seed))
    expected = {
        node.name if isinstance(node, Leaf) else node.operator
        for node in metric.expression.nodes()
        if isinstance(node, (Leaf, Call))
    }
    assert names_in_text(str(metric)) == expected


def test_the_command_is_one_that_the_shell_reads(tmp_path: Path) -> None:
    import shlex

    settings = SETTINGS | {
        "model": "a b; rm -rf $HOME",
        "samples": 4,
        "seed": 3,
        "preset": "random",
    }
    with Study.create(tmp_path / "s.db", settings) as study:
        study.add_event("session-start", {"budget": "90 s or 40 candidates"})
    assert shlex.split(command(read(tmp_path / "s.db"))) == [
        "prunerzero", "search", "a b; rm -rf $HOME", "--pattern", "50%", "--preset", "random",
        "--samples", "4", "--seed", "3", "--dtype", "float32", "--budget", "90s",
        "--candidates", "40", "--study", "s.db",
    ]  # fmt: skip


def test_a_random_search_beside_it(small: Path, tmp_path: Path) -> None:
    other = SETTINGS | {"preset": "random"}
    with Study.create(tmp_path / "r.db", other) as study:
        key = "W * sqrt(X) | 50% | row | uniform | none"
        study.add_candidate(evaluated(0, 0.0, "W * sqrt(X)", key=key), [fitness_reading()])
        study.add_candidate(evaluated(1, 0.5), [fitness_reading()])
        study.add_candidate(evaluated(2, -0.25), [fitness_reading()])
        study.add_candidate(evaluated(3, 0.1), [fitness_reading()])
    control = build_document(read(small), Extras(random=read(tmp_path / "r.db"))).random
    assert control is not None
    assert control.index == [1, 3, 4]
    assert control.value == [1.0, math.exp(-0.25), math.exp(-0.25)]
    with pytest.raises(InputError, match="--preset random"):
        build_document(read(small), Extras(random=read(small)))
    with Study.create(tmp_path / "x.db", other | {"pattern": "2:4"}):
        pass
    with pytest.raises(InputError, match="pattern differs"):
        build_document(read(small), Extras(random=read(tmp_path / "x.db")))


def test_following_reads_what_is_new_and_what_has_changed(tmp_path: Path) -> None:
    path = make_study(tmp_path / "s.db", 10)
    with Study.open(path) as reader, Study.open_or_create(path, SETTINGS) as writer:
        rows = Rows.read(reader)
        assert not rows.update(reader)
        waiting = evaluated(10, None, status="pending")
        writer.add_candidate(waiting)
        assert rows.update(reader)
        writer.add_candidate(evaluated(11, 0.5), [fitness_reading()])
        writer._connection.execute(
            "UPDATE candidate SET status = 'evaluated', fitness = 0.25 WHERE id = 11"
        )
        assert rows.update(reader)
        assert [row.fitness for row in list(rows.candidates.values())[10:]] == [0.25, 0.5]
        assert not rows.update(reader)
        assert rows == Rows.read(reader)
