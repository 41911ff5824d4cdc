"""``prunerzero metrics``: the zoo."""

from __future__ import annotations

from prunerzero.cli.common import Json, emit, print_table

EXAMPLES = (
    "prunerzero metrics",
    "prunerzero metrics --json",
)


def command(json: Json = False) -> None:
    """List the named metrics with their formulas and sources."""
    from prunerzero import zoo

    rows = [
        {
            "name": name,
            "expression": recipe.expression,
            "group": recipe.group,
            "source": recipe.source,
        }
        for name, recipe in ((name, zoo.load(name)) for name in zoo.names())
    ]
    if json:
        emit(rows)
    else:
        columns = ("name", "expression", "group", "source")
        for row in rows:
            count = len(zoo.load(row["name"]).formulas)
            if count > 1:
                row["expression"] = f"{count} formulas, by kind of matrix"
        print_table(columns, [[row[column] for column in columns] for row in rows])
