"""`Metric`: what users of the language hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunerzero.errors import InputError
from prunerzero.files import read_json, write_json
from prunerzero.metric import text, tree
from prunerzero.metric.canonical import Group, canonical
from prunerzero.metric.expression import Node
from prunerzero.metric.simplify import Mode, simplify
from prunerzero.metric.types import Shape, Sign

if TYPE_CHECKING:
    from torch import Tensor

    from prunerzero.metric.torchcode import TorchFunction


@dataclass(frozen=True, slots=True)
class Metric:
    """A pruning metric: a formula that gives each weight of a matrix a score, higher = kept.

    Immutable, hashable and picklable; equal when the trees are equal. ``str(metric)`` parses back
    to an equal metric. A notebook shows it typeset.

    Example:
        >>> import torch
        >>> metric = Metric.parse("W * sqrt(X)")
        >>> metric.terminals == {"W", "X"}
        True
        >>> metric.score(W=torch.tensor([[1.0, -2.0]]), X=torch.tensor([[9.0, 4.0]]))
        tensor([[3., 4.]])

    Attributes:
        expression: The root of the expression tree.
    """

    expression: Node

    @classmethod
    def parse(cls, source: str) -> Metric:
        """The metric of a text such as ``"W * sqrt(X)"``.

        Example:
            >>> print(Metric.parse("abs(W*W)*mms(G)"))
            abs(W * W) * mms(G)
            >>> Metric.parse("sqrrt(X)")  # doctest: +ELLIPSIS
            Traceback (most recent call last):
            ...
            prunerzero.errors.InputError: metric, column 1: unknown operator 'sqrrt'; ...?

        Raises:
            InputError: One line that names the column and what is wrong there.
        """
        return cls(text.parse(source))

    @classmethod
    def from_tree(cls, source: Mapping[str, Any]) -> Metric:
        """The metric of a JSON tree ``{"data": "mul", "left": {...}, "right": {...}}``.

        Example:
            >>> print(Metric.from_tree({"data": "sqrt", "left": {"data": "X"}}))
            sqrt(X)

        Raises:
            InputError: One line that names the path and what is wrong there.
        """
        return cls(tree.from_tree(source))

    @classmethod
    def load(cls, path: str | Path) -> Metric:
        """The metric of a JSON file, as `save` and the public Pruner-Zero code write it.

        Raises:
            InputError: The file cannot be read, is not JSON, or holds no valid tree.
        """
        document = read_json(path, "metric")
        try:
            return cls.from_tree(document)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None

    @classmethod
    def named(cls, name: str) -> Metric:
        """The formula of a recipe of the zoo, such as ``"wanda"``.

        Example:
            >>> print(Metric.named("wanda"))
            W * sqrt(X)

        Raises:
            InputError: No such recipe, or it has several formulas.
        """
        from prunerzero import zoo

        metric = zoo.load(name).metric
        if not isinstance(metric, Metric):
            raise InputError(f"recipe {name!r} has one metric a kind of matrix; use Recipe.named")
        return metric

    def to_tree(self) -> dict[str, Any]:
        """The JSON tree."""
        return tree.to_tree(self.expression)

    def save(self, path: str | Path) -> None:
        """Writes the JSON tree to a file, atomically."""
        write_json(path, self.to_tree())

    def __str__(self) -> str:
        return text.to_text(self.expression)

    @property
    def terminals(self) -> frozenset[str]:
        """Names of the terminals that scoring needs."""
        return self.expression.terminals

    @property
    def shape(self) -> Shape:
        """Static shape of the scores before they are broadcast."""
        return self.expression.shape

    @property
    def sign(self) -> Sign:
        """What is known of the scores' sign."""
        return self.expression.sign

    @property
    def size(self) -> int:
        """Number of nodes."""
        return self.expression.size

    @property
    def depth(self) -> int:
        """Levels below the root."""
        return self.expression.depth

    def simplify(self, mode: Mode = "default") -> Metric:
        """Removes operations that undo one another (design 3.4.1).

        Args:
            mode: ``"default"`` keeps the scores within 1e-6 relative; ``"paper"`` removes the
                paper's pairs whatever happens to the scores.

        Example:
            >>> print(Metric.parse("sqrt(sqr(W)) * skp(A)").simplify())
            W * A
        """
        return Metric(simplify(self.expression, mode))

    def canonical(self, group: Group = "row", nm: bool = False) -> Metric:
        """The metric that stands for all that give the same masks (design 3.4.2).

        Args:
            group: The comparison group: ``"row"``, ``"matrix"`` or ``"model"``.
            nm: The pattern is N:M, for which the group does not matter.

        Example:
            >>> print(Metric.parse("sqrt(A * W) * 2").canonical())
            A * W
        """
        return Metric(canonical(self.expression, group, nm))

    def score(self, **tensors: Tensor | None) -> Tensor:
        """Scores of a weight matrix, in float32.

        Args:
            **tensors: One tensor a terminal: ``W`` the weight itself ``[out, in]``, ``G`` and
                ``F`` ``[out, in]``, ``X`` and ``A`` ``[1, in]`` or ``[in]``. Further ones are
                ignored.

        Returns:
            A new float32 tensor ``[out, in]`` (``[1, in]`` where only column terminals are given).

        Raises:
            InputError: A terminal is missing or unknown, or a tensor does not fit.
        """
        from prunerzero.metric.scoring import score

        return score(self.expression, tensors)

    def check_rankable(self) -> None:
        """Checks that the metric can tell the weights of a row apart.

        Raises:
            InputError: It gives all weights of a row the same score.
        """
        if not self.shape.spans_columns:
            raise InputError(
                f"metric '{self}' gives all weights of a row the same score (its shape is "
                f"'{self.shape}'), so it cannot rank them"
            )

    def to_torch(self) -> TorchFunction:
        """A plain torch function of the terminals, equal to `score`.

        Its ``source`` is the text of a Python module that needs torch and nothing else.

        Example:
            >>> import torch
            >>> function = Metric.parse("W * A").to_torch()
            >>> function
            <score(W, A) = W * A>
            >>> function(torch.tensor([[1.0, -2.0]]), torch.tensor([3.0, 1.0]))
            tensor([[3., 2.]])
        """
        from prunerzero.metric.torchcode import TorchFunction

        return TorchFunction(self.expression)

    def to_sympy(self) -> Any:
        """The metric as a sympy expression (`prunerzero.metric.symbolic.to_sympy`).

        Example:
            >>> Metric.parse("sqrt(sqr(W)) * A ** 0.5").to_sympy()
            sqrt(A)*W

        Raises:
            MissingExtraError: Without sympy.
        """
        from prunerzero.metric.symbolic import to_sympy

        return to_sympy(self.expression)

    def to_latex(self) -> str:
        r"""The metric in LaTeX, without dollar signs.

        Example:
            >>> print(Metric.parse("W * sqrt(X)").to_latex())
            W \sqrt{X}

        Raises:
            MissingExtraError: Without sympy.
        """
        from prunerzero.metric.symbolic import to_latex

        return to_latex(self.expression)

    def _repr_html_(self) -> str:
        from prunerzero.notebook import formula

        return formula(self)
