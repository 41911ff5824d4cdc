import json

from prunerzero.cli.app import main

PUBLISHED = {"magnitude", "wanda", "gblm", "ria", "pruner-zero"}


def test_metrics_lists_the_zoo(capsys):
    assert main(["metrics", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["name"] for row in rows} >= PUBLISHED
    for row in rows:
        assert set(row) == {"name", "expression", "group", "source"}
        assert all(isinstance(value, str) and value for value in row.values())
    assert main(["metrics"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(rows) + 1
