import csv
import json
import math

import pytest

from prunerzero.cli.app import main
from prunerzero.study import Candidate, Measurement, Study


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "s.db"
    shared = {"step": 0, "recipe": {"metric": "W"}, "size": 1, "origin": "zoo"}
    reading = Measurement(purpose="fitness", windows="w", tokens=8, loss=3.0)
    with Study.create(path, {"pattern": "50%", "seed": 3}) as study:
        for key, fitness in (("W", 0.5), ("W * A", 0.25)):
            candidate = Candidate(
                key=key, expression=key, status="evaluated", fitness=fitness, skipped=1, **shared
            )
            study.add_candidate(candidate, [reading])
        study.add_candidate(
            Candidate(key="G", expression="G", status="failed", reason="a, b", **shared)
        )
        heldout = {"purpose": "heldout", "windows": "h", "tokens": 8}
        study.add_measurement(Measurement(name="dense", loss=math.log(20), **heldout))
        study.add_measurement(Measurement(candidate_id=2, loss=math.log(40), **heldout))
        study.add_event("heldout")
    return path


@pytest.mark.parametrize("arguments", [[], ["show"]])
def test_show(path, capsys, arguments):
    assert main(["study", *arguments, str(path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["settings"] == {"pattern": "50%", "seed": 3}
    assert document["candidates"] == 3
    assert document["counts"] == {"pending": 0, "evaluated": 2, "rejected": 0, "failed": 1}
    assert document["skipped"] == 2
    assert document["best"]["expression"] == "W * A"
    assert document["best"]["fitness"] == 0.25
    assert document["heldout_readings"] == 1
    assert [row["name"] for row in document["heldout"]] == ["dense", "candidate 2"]
    assert [row["perplexity"] for row in document["heldout"]] == pytest.approx([20, 40])


def test_show_as_text(path, capsys):
    assert main(["study", str(path)]) == 0
    out = capsys.readouterr().out
    rows = dict(line.split("  ", 1) for line in out.splitlines())
    assert rows["best expression"].strip() == "W * A"
    assert rows["setting: pattern"].strip() == '"50%"'
    assert float(rows["held-out perplexity: dense"]) == pytest.approx(20)


@pytest.fixture
def climbed(tmp_path):
    """A study in which rung 0 threw away the best candidate."""
    path = tmp_path / "ladder.db"

    def reading(rung, ratio, **notes):
        data = {"kl": [0.5] * 8, "log_ratio": ratio, "standard_error": 0.01, **notes}
        return Measurement(purpose="fitness", windows="w", tokens=8, loss=3.0, rung=rung, data=data)

    climbs = [
        (0.0, [Measurement(purpose="fitness", windows="w", tokens=8, loss=3.0)]),
        (0.2, [reading(0, 0.2, slack=0.0)]),
        (-0.3, [reading(0, 0.1, slack=0.0), reading(1, -0.3, audit=True)]),
        (0.1, [reading(0, 0.0, slack=0.5), reading(1, 0.4)]),
    ]
    with Study.create(path, {}) as study:
        for step, (fitness, measurements) in enumerate(climbs):
            candidate = Candidate(
                step=step,
                key=str(step),
                status="evaluated",
                recipe={},
                expression="W",
                size=1,
                origin="zoo",
                fitness=fitness,
            )
            study.add_candidate(candidate, measurements)
    return path


def test_show_the_ladder(climbed, capsys):
    assert main(["study", str(climbed), "--json"]) == 0
    ladder = json.loads(capsys.readouterr().out)["ladder"]
    counts = ("proposals", "duplicates", "screened", "promoted", "audited", "confirmed", "won")
    assert [ladder[name] for name in counts] == [4, 0, 4, 1, 1, 0, 1]
    assert ladder["agreement"] == [{"rungs": [0, 1], "tau": -1.0, "readings": 2, "audits": 1}]
    assert ladder["top_lost"] == 1.0
    assert ladder["slack"] == 0.5


def test_show_the_ladder_as_text(climbed, path, capsys):
    assert main(["study", str(climbed)]) == 0
    rows = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    rows = {name: cell.strip() for name, cell in rows.items()}
    assert [rows[f"{name} rung 1"] for name in ("promoted to", "audited on")] == ["1", "1"]
    assert "promoted to rung 2" not in rows
    assert rows["won"] == "1"
    agreement = "tau -1.00 (2 candidates on both, 1 of them audits)"
    assert rows["agreement of rungs 0 and 1"] == agreement
    assert rows["top 10 that rung 0 would lose"] == "100% (estimated from 1 audits)"
    assert rows["slack of rung 0"] == "0.5 standard errors"
    assert main(["study", str(path)]) == 0  # without a ladder
    out = capsys.readouterr().out
    assert "measured on rung 0" in out
    assert "slack" not in out


def test_show_of_an_empty_study(tmp_path, capsys):
    Study.create(tmp_path / "e.db", {}).close()
    assert main(["study", str(tmp_path / "e.db"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["best"] is None
    assert main(["study", str(tmp_path / "e.db")]) == 0


def test_check_of_a_sound_study(path, capsys):
    assert main(["study", "check", str(path)]) == 0
    assert capsys.readouterr().out == f"{path}: sound, 3 candidates\n"
    assert main(["study", "check", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["problems"] == []


def test_check_of_a_broken_study(path, capsys):
    with Study.open_or_create(path, {"pattern": "50%", "seed": 3}) as study:
        study.add_duplicate("W", 1, 0)
    assert main(["study", "check", str(path), "--json"]) == 2
    out, err = capsys.readouterr()
    assert json.loads(out)["problems"] == ["known as a duplicate and yet evaluated: key W"]
    assert err.endswith("1 problems, the first: known as a duplicate and yet evaluated: key W\n")
    assert main(["study", "check", str(path)]) == 2
    assert "known as a duplicate" in capsys.readouterr().out


def test_export(path, capsys, tmp_path):
    assert main(["study", "export", str(path)]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["key"] for row in rows] == ["W", "W * A", "G"]
    assert rows[0]["recipe"] == {"metric": "W"}

    target = tmp_path / "out.csv"
    assert main(["study", "export", str(path), "--format", "csv", "--output", str(target)]) == 0
    with target.open(newline="") as stream:
        table = list(csv.DictReader(stream))
    assert [row["reason"] for row in table] == ["", "", "a, b"]
    assert json.loads(table[1]["recipe"]) == {"metric": "W"}
    assert float(table[1]["fitness"]) == 0.25
