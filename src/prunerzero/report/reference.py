"""The documentation's tables of the language and the zoo, from the registries.

    python -m prunerzero.report.reference docs/metric-language.md

rewrites what stands between ``<!-- table: NAME -->`` and ``<!-- end of NAME -->``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from prunerzero import zoo
from prunerzero.errors import InputError
from prunerzero.files import atomic_path
from prunerzero.metric.operators import OPERATORS, Operator
from prunerzero.metric.terminals import TERMINALS
from prunerzero.metric.types import Shape

SHAPES = {
    Shape.FULL: "`[out, in]`",
    Shape.ROW: "`[out, 1]`",
    Shape.COLUMN: "`[1, in]`",
    Shape.SCALAR: "`[1, 1]`",
}


def markdown_table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown; bars inside the cells are escaped."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines
    )


def terminals() -> str:
    """The terminals: shape, sign, meaning, scale and what has to be computed for them."""
    return markdown_table(
        ["name", "shape", "sign", "value", "scale", "needs"],
        (
            [f"`{t.name}`", SHAPES[t.shape], t.sign, _plain(t.description), t.scale, t.needs]
            for t in TERMINALS.values()
        ),
    )


def operators() -> str:
    """The operators, the paper's fifteen first: how they are written, their value and shape."""
    return markdown_table(
        ["written", "name", "value", "result for a full x", "from"],
        (
            [
                f"`{_written(o)}`",
                f"`{o.name}`",
                _plain(o.description),
                SHAPES[o.shape(*[Shape.FULL] * o.arity)],
                "paper" if o.paper else "ours",
            ]
            for o in OPERATORS.values()
        ),
    )


def named_recipes() -> str:
    """The zoo: formula, group, update and source of each."""
    recipes = [(name, zoo.load(name)) for name in zoo.names()]
    return markdown_table(
        ["name", "formula", "group", "update", "source"],
        (
            [
                f"`{name}`",
                f"`{recipe.expression}`"
                if len(recipe.formulas) == 1
                else f"{len(recipe.formulas)} formulas, one a kind of matrix",
                recipe.group,
                recipe.update,
                recipe.source,
            ]
            for name, recipe in recipes
        ),
    )


TABLES: dict[str, Callable[[], str]] = {
    "terminals": terminals,
    "operators": operators,
    "recipes": named_recipes,
}


def refreshed(text: str) -> str:
    """A page with its tables made anew.

    Raises:
        InputError: The page names a table that does not exist, or one that does not end.
    """

    def made(found: re.Match[str]) -> str:
        name = found["name"]
        if name not in TABLES:
            raise InputError(f"no table '{name}'; there are {', '.join(TABLES)}")
        return f"<!-- table: {name} -->\n\n{TABLES[name]()}\n\n<!-- end of {name} -->"

    pattern = r"<!-- table: (?P<name>\w+) -->.*?<!-- end of (?P=name) -->"
    made_anew, count = re.subn(pattern, made, text, flags=re.DOTALL)
    if count != text.count("<!-- table: "):
        raise InputError("a table of the page has no end: <!-- end of NAME -->")
    return made_anew


def _written(operator: Operator) -> str:
    match operator.symbol, operator.arity:
        case None, 1:
            return f"{operator.name}(x)"
        case None, _:
            return f"{operator.name}(x, y)"
        case symbol, 1:
            return f"{symbol}x"
        case symbol, _:
            return f"x {symbol} {'c' if operator.constant_exponent else 'y'}"


def _plain(text: str) -> str:
    # Powers and products are no emphasis.
    return text.replace("*", r"\*")


def main() -> int:
    """Rewrites the pages that are named."""
    for name in sys.argv[1:]:
        page = Path(name)
        with atomic_path(page) as partial:
            partial.write_text(refreshed(page.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
