"""How objects show themselves in a notebook: small pieces of HTML, without style sheets."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from prunerzero.errors import MissingExtraError

if TYPE_CHECKING:
    from prunerzero.metric import Metric
    from prunerzero.recipe import Recipe


def formula(metric: Metric) -> str:
    """A formula, typeset where sympy is installed, and as text."""
    from prunerzero.metric.symbolic import to_mathml

    text = f"<code>{escape(str(metric))}</code>"
    try:
        return f"<math>{to_mathml(metric.expression)}</math> &emsp; {text}"
    except MissingExtraError:
        return text


def recipe(recipe: Recipe) -> str:
    """A recipe: its formulas, typeset, and how they are applied."""
    formulas = {kind or "formula": Markup(formula(one)) for kind, one in recipe.formulas.items()}
    rest = {
        "ranked": f"per {recipe.group}",
        "allocation": recipe.allocation.name,
        "update": recipe.update,
        "source": recipe.source,
    }
    shown = {name: value for name, value in rest.items() if value}
    return properties(f"Recipe {recipe.name}".strip(), {**formulas, **shown})


def table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], title: str = "", note: str = ""
) -> str:
    """A table; cells are text, or `Markup` that is HTML already.

    Args:
        columns: Headings; all empty for none.
        rows: Cells; None is shown as nothing, a float with five digits.
        title: What stands above it.
        note: What stands below it.
    """
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    parts = [f"<strong>{escape(title)}</strong>"] if title else []
    parts.append(f"<table>{f'<tr>{head}</tr>' if any(columns) else ''}{body}</table>")
    return "".join(parts) + (f"<small>{escape(note)}</small>" if note else "")


class Tabular(ABC):
    """A result that is a table: of `_rows`, one dictionary of named cells each."""

    _title = ""

    @abstractmethod
    def _rows(self) -> list[dict[str, Any]]: ...

    def to_frame(self) -> Any:
        """The result as a pandas data frame.

        Raises:
            MissingExtraError: Without pandas.
        """
        rows = self._rows()
        return data_frame(rows, _columns(rows))

    def _repr_html_(self) -> str:
        rows = self._rows()
        columns = _columns(rows)
        return table(columns, [[row.get(name) for name in columns] for row in rows], self._title)


def _columns(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def properties(title: str, values: Mapping[str, object]) -> str:
    """A table of names and values."""
    return table(("", ""), values.items(), title)


class Markup(str):
    """A cell that is HTML already."""

    __slots__ = ()


def _cell(value: object) -> str:
    if isinstance(value, Markup):
        return f'<td style="text-align:left">{value}</td>'
    text = "" if value is None else f"{value:.5g}" if isinstance(value, float) else str(value)
    align = "right" if isinstance(value, (int, float)) else "left"
    return f'<td style="text-align:{align}">{escape(text)}</td>'


def data_frame(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> Any:
    """A pandas data frame of rows.

    Raises:
        MissingExtraError: Without pandas.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise MissingExtraError("notebook", "a data frame") from error
    return pd.DataFrame(list(rows), columns=list(columns))
