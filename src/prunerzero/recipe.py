"""The recipe: everything a pruning run needs besides model, pattern and data."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    PlainSerializer,
    PlainValidator,
    ValidationError,
)

from prunerzero.errors import InputError
from prunerzero.files import read_json, write_json
from prunerzero.metric import Metric
from prunerzero.metric.terminals import TERMINALS
from prunerzero.pruning.allocation import Allocation, UniformAllocation
from prunerzero.pruning.pattern import Pattern
from prunerzero.suggestions import did_you_mean
from prunerzero.updates.names import STATISTICS, VALUES, Update

Group = Literal["row", "matrix", "model"]
Text = Annotated[str, Field(max_length=4096)]

FAMILIES = ("attention", "mlp")  # every matrix of a model belongs to one of them
LARGEST_FILE = 1 << 20  # bytes; a recipe is some hundred bytes long


def _metric(value: object) -> Metric:
    metric = Metric.parse(value) if isinstance(value, str) else value
    if not isinstance(metric, Metric):
        raise ValueError("must be the text of an expression, such as 'W * sqrt(X)'")
    metric.check_rankable()
    return metric


def _formulas(value: object) -> Metric | dict[str, Metric]:
    if not isinstance(value, Mapping):
        return _metric(value)
    if not value:
        raise ValueError("needs at least one formula")
    return {str(kind): _metric(text) for kind, text in value.items()}


def _formulas_text(value: Metric | dict[str, Metric]) -> str | dict[str, str]:
    if isinstance(value, Metric):
        return str(value)
    return {kind: str(metric) for kind, metric in value.items()}


class Recipe(BaseModel):
    """A metric and how it is applied; what the search evolves, the zoo lists and `prune` takes.

    Attributes:
        metric: One formula, or one for each kind (`q_proj`) or family (`attention`, `mlp`) of
            matrices.
        group: Which weights are ranked against one another; ignored for N:M patterns.
        allocation: How sparsity is spread over the model's matrices.
        update: What happens to the kept weights: nothing, SparseGPT's values under the recipe's
            mask or under one chosen along the way by the recipe's formula, or DSnoT's swaps.
        name: Empty for a recipe without a name.
        source: Where the formula comes from.
        note: Anything else a reader should know.
        provenance: Of a found recipe: study, seed, data, versions.

    Example:
        >>> recipe = Recipe.named("wanda")
        >>> recipe.expression, recipe.group
        ('W * sqrt(X)', 'row')
        >>> Recipe.from_text("W * A").with_group("matrix").to_json()
        {'metric': 'W * A', 'group': 'matrix', 'allocation': {'name': 'uniform'}, 'update': 'none'}
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    name: Annotated[str, Field(max_length=200)] = ""
    metric: Annotated[
        Metric | dict[str, Metric], PlainValidator(_formulas), PlainSerializer(_formulas_text)
    ]
    group: Group = "row"
    allocation: Allocation = UniformAllocation()
    update: Update = "none"
    source: Text = ""
    note: Text = ""
    provenance: dict[str, JsonValue] = {}

    @classmethod
    def named(cls, name: str) -> Recipe:
        """The zoo's recipe of that name, with its native group.

        Raises:
            InputError: The zoo has no such recipe.
        """
        from prunerzero import zoo

        return zoo.load(name)

    @classmethod
    def load(cls, path: str | Path) -> Recipe:
        """Reads a recipe file, or an expression tree in the reference's format.

        Raises:
            InputError: The file is missing, too large, not JSON, or not a recipe.
        """
        document = read_json(path, "recipe", LARGEST_FILE)
        if isinstance(document, dict) and "data" in document:
            try:
                return cls._of(Metric.from_tree(document))
            except InputError as error:
                raise InputError(f"metric tree {path}: {error}") from None
        return cls.from_json(document, f"recipe {path}")

    @classmethod
    def from_json(cls, document: object, where: str = "recipe") -> Recipe:
        """Builds a recipe from parsed JSON.

        Args:
            document: What `to_json` returned.
            where: What the document is, for the message.

        Raises:
            InputError: A key is unknown or missing, or a value is wrong.
        """
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            raise InputError(f"{where}: {_first_fault(error)}") from None

    @classmethod
    def from_text(cls, text: str, group: str | None = None) -> Recipe:
        """Reads what a user may give for `--metric`: a zoo name, a JSON file or an expression.

        Args:
            text: The text.
            group: Overrides the recipe's comparison group; an expression's is `row`.

        Raises:
            InputError: The text is none of these, or the group is unknown.
        """
        from prunerzero import zoo

        text = text.strip()
        if text.lower() in zoo.names():
            recipe = zoo.load(text)
        elif text.endswith(".json"):
            recipe = cls.load(text)
        elif re.fullmatch(r"[A-Za-z_][\w-]*", text) and text not in TERMINALS:
            # One word, so not an expression; and 'pruner-zero' alone would read as a difference.
            raise unknown_name(text)
        else:
            recipe = cls._of(Metric.parse(text))
        return recipe if group is None else recipe.with_group(group)

    @classmethod
    def _of(cls, metric: Metric) -> Recipe:
        metric.check_rankable()  # here, for pydantic would wrap the error
        return cls(metric=metric)

    def with_group(self, group: str) -> Recipe:
        """The same recipe with another comparison group.

        Raises:
            InputError: The group is unknown.
        """
        return self.from_json(self.to_json() | {"group": group})

    def with_update(self, update: str) -> Recipe:
        """The same recipe with another update.

        Raises:
            InputError: The update is unknown.
        """
        return self.from_json(self.to_json() | {"update": update})

    def with_allocation(self, allocation: Allocation) -> Recipe:
        """The same recipe with another allocation."""
        return self.model_copy(update={"allocation": allocation})

    def save(self, path: str | Path) -> None:
        """Writes the recipe as JSON, atomically."""
        write_json(path, self.to_json())

    def to_json(self) -> dict[str, Any]:
        """The recipe as a JSON document, without the fields that are at their defaults."""
        shown = self.model_dump(mode="json", exclude_defaults=True)
        always = self.model_dump(mode="json", include={"metric", "group", "allocation", "update"})
        return shown | always

    def metric_for(self, kind: str, family: str) -> Metric:
        """The formula that scores a matrix.

        Args:
            kind: The matrix's kind, such as `q_proj`.
            family: `attention` or `mlp`; counts where the kind has no formula of its own.

        Raises:
            InputError: The recipe has a formula for neither.
        """
        if isinstance(self.metric, Metric):
            return self.metric
        metric = self.metric.get(kind) or self.metric.get(family)
        if metric is None:
            raise InputError(
                f"recipe: no formula for '{kind}' nor its family '{family}', "
                f"only for {', '.join(self.metric)}"
            )
        return metric

    @property
    def formulas(self) -> dict[str, Metric]:
        """The formulas by kind or family; a single one has the key `""`."""
        return {"": self.metric} if isinstance(self.metric, Metric) else dict(self.metric)

    @property
    def terminals(self) -> frozenset[str]:
        """The statistics that the formulas and the update need."""
        return STATISTICS[self.update].union(*(m.terminals for m in self.formulas.values()))

    @property
    def new_values(self) -> bool:
        """Whether kept weights are given new values."""
        return self.update in VALUES

    @property
    def expression(self) -> str:
        """The formula, or all of them as `attention: ...; mlp: ...`."""
        return _join({kind: str(metric) for kind, metric in self.formulas.items()})

    def _repr_html_(self) -> str:
        from prunerzero.notebook import recipe

        return recipe(self)

    def key(self, pattern: Pattern) -> str:
        """Text that is equal for recipes which prune alike under `pattern` (design 3.4).

        N:M patterns ignore the group and fix the allocation, so both are left out then.
        """
        canonical = {
            kind: str(metric.canonical(group=self.group, nm=pattern.is_nm))
            for kind, metric in sorted(self.formulas.items())
        }
        if canonical.keys() >= set(FAMILIES) and len(set(canonical.values())) == 1:
            canonical = {"": canonical[FAMILIES[0]]}  # one formula for everything
        where = [] if pattern.is_nm else [self.group, self.allocation.key()]
        return " | ".join([_join(canonical), str(pattern), *where, self.update])


def unknown_name(name: str) -> InputError:
    """The error for a word that is no zoo name, with the nearest one if there is one."""
    from prunerzero import zoo

    return InputError(
        f"metric '{name}': not in the zoo ({', '.join(zoo.names())}) and not an expression"
        + did_you_mean(name, [*zoo.names(), *TERMINALS])
    )


def _join(formulas: dict[str, str]) -> str:
    """The formulas in one line, each after its kind; a single formula has none."""
    return "; ".join(f"{kind}: {text}" if kind else text for kind, text in formulas.items())


def _first_fault(error: ValidationError) -> str:
    """What pydantic found first, in one line that names the field."""
    fault = error.errors(include_url=False, include_context=False)[0]
    field = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        known = ", ".join(Recipe.model_fields)
        return f"unknown key '{field}'" + ("" if "." in field else f"; known are {known}")
    message = fault["msg"].removeprefix("Value error, ")
    return " ".join(f"{field}: {message}".split()) if field else f"must be an object ({message})"
