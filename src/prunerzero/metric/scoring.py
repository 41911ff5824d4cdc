"""Scoring: the value of an expression on tensors, in float32.

The only module of the language that imports torch. `evaluate` is the plain path on whole matrices;
`RowScorer` gives the same values block by block, so that intermediate ones stay in cache;
`ColumnScorer` scores a few columns of a weight that is changing.

Whatever the formula, as many intermediate matrices are held at once as `docs/reliability.md` says:
`plan` sees to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from prunerzero.errors import InputError, UnusableScores
from prunerzero.metric.expression import Call, Constant, Leaf, Node
from prunerzero.metric.operators import OPERATORS
from prunerzero.metric.terminals import TERMINALS
from prunerzero.metric.types import Shape
from prunerzero.timelimit import check_time

# What is known of a node before an evaluation: its value, or the reductions of its `Split`.
Parts = tuple[Tensor, ...]
Read = Callable[[str, slice], Tensor]
Recall = Callable[[Node, Callable[[], Parts]], Parts]

ALL_ROWS = slice(None)

# Intermediate matrices that equal subexpressions may keep alive; a formula that would keep more has
# them computed each time, which takes `log2` of its size and two more.
MOST_SHARED = 8
# Operators of the user's whose whole values `ColumnScorer` keeps; built-in ones need no such thing.
MOST_FIXED = 8


class _Step(NamedTuple):
    node: Node
    args: tuple[int, ...]  # positions of the steps whose results are the arguments
    done: tuple[int, ...]  # results that no later step needs


@lru_cache(maxsize=1024)
def plan(expression: Node, known: frozenset[Node] = frozenset()) -> tuple[_Step, ...]:
    """The subexpressions, each after its arguments.

    Equal ones are computed once, unless too many matrices would wait for their next use.

    Args:
        expression: What is to be computed.
        known: Of which something is known before.
    """
    shared = _ordered(expression, known, shared=True)
    if most_matrices(shared) <= MOST_SHARED:
        return shared
    return _ordered(expression, known, shared=False)


def most_matrices(steps: Sequence[_Step]) -> int:
    """How many matrices are alive at once when these steps are gone through, results too."""
    alive = most = 0
    for step in steps:
        alive += step.node.shape is Shape.FULL
        most = max(most, alive)
        alive -= sum(steps[arg].node.shape is Shape.FULL for arg in step.done)
    return most


def _ordered(expression: Node, known: frozenset[Node], *, shared: bool) -> tuple[_Step, ...]:
    """The steps of `plan`; of two arguments the one that needs more matrices comes first."""
    positions: dict[Node, int] = {}
    needs: dict[Node, int] = {}
    drafts: list[tuple[Node, tuple[int, ...]]] = []

    def args_of(node: Node) -> tuple[Node, ...]:
        if not isinstance(node, Call) or (node in known and not _is_split(node)):
            return ()
        return node.args[:1] if OPERATORS[node.operator].constant_exponent else node.args

    def need(node: Node) -> int:
        """Matrices alive at once while a node is computed."""
        if node not in needs:
            held, most = 0, 0
            for arg in sorted(args_of(node), key=need, reverse=True):
                most = max(most, held + need(arg))
                held += arg.shape is Shape.FULL
            needs[node] = max(most, held + (node.shape is Shape.FULL))
        return needs[node]

    def visit(node: Node) -> int:
        if node in positions and shared:
            return positions[node]
        args = args_of(node)
        order = sorted(range(len(args)), key=lambda index: -need(args[index]))
        steps = {index: visit(args[index]) for index in order}
        positions[node] = len(drafts)
        drafts.append((node, tuple(steps[index] for index in range(len(args)))))
        return positions[node]

    visit(expression)
    last_use = {arg: step for step, (_, args) in enumerate(drafts) for arg in args}
    return tuple(
        _Step(node, args, tuple({arg for arg in args if last_use[arg] == step}))
        for step, (node, args) in enumerate(drafts)
    )


def _is_split(node: Call) -> bool:
    """Whether reductions alone are computed ahead, not the node's value, which is a matrix."""
    return node.shape is Shape.FULL and OPERATORS[node.operator].split is not None


@lru_cache(maxsize=1024)
def _first_pass(expression: Node) -> tuple[Call, ...]:
    """The nodes of which something must be known before a block of rows can be computed.

    They are those that are no matrix (so small, and shared by a population), and those that need
    reductions of a whole matrix.
    """
    found: dict[Call, None] = {}

    def visit(node: Node) -> None:
        if not isinstance(node, Call) or node in found:
            return
        if node.shape is not Shape.FULL or _is_split(node):
            found[node] = None
        if node.shape is Shape.FULL:
            for arg in node.args:
                visit(arg)

    visit(expression)
    return tuple(found)


@lru_cache(maxsize=1024)
def _goes_by_rows(node: Node) -> bool:
    """Whether a block of rows can be computed from itself, once the first pass is done."""
    if not isinstance(node, Call) or node.shape is not Shape.FULL:
        return True
    local = OPERATORS[node.operator].row_local or _is_split(node)
    return local and all(map(_goes_by_rows, node.args))


@torch.no_grad()
def evaluate(expression: Node, inputs: Mapping[str, Tensor]) -> Tensor:
    """The value of an expression on prepared tensors: the reference, nothing is checked.

    Args:
        expression: The expression.
        inputs: A float32 tensor for each terminal used, all on one device: full ones
            ``[out, in]``, column ones ``[1, in]``. ``W`` is already absolute.

    Returns:
        A float32 tensor of the expression's static shape, which may be one of ``inputs`` itself.
    """
    device = next((tensor.device for tensor in inputs.values()), None)
    return _run(plan(expression), lambda name, _: inputs[name], ALL_ROWS, {}, device)


def _run(
    steps: tuple[_Step, ...],
    read: Read,
    rows: slice,
    known: Mapping[Node, Parts],
    device: torch.device | None,
) -> Tensor:
    results: list[Tensor | None] = []
    for node, arg_steps, done in steps:
        check_time()
        args: list[Any] = [results[step] for step in arg_steps]
        if isinstance(node, Leaf):
            result = read(node.name, rows)
        elif isinstance(node, Constant):
            result = torch.full((1, 1), node.value, dtype=torch.float32, device=device)
        else:
            assert isinstance(node, Call)
            parts = known.get(node)
            result = _call(node, args, parts and [_of_rows(part, rows) for part in parts])
        results.append(result)
        del args
        for step in done:  # large matrices: keep no more alive than needed
            results[step] = None
    final = results[-1]
    assert final is not None
    return final


def _of_rows(part: Tensor, rows: slice) -> Tensor:
    spans_rows = part.dim() == 2 and len(part) > 1
    return part[rows] if spans_rows else part


def _call(node: Call, args: list[Any], parts: Sequence[Tensor] | None) -> Tensor:
    operator = OPERATORS[node.operator]
    if parts is not None:
        return operator.split.finish(*args, *parts) if operator.split and args else parts[0]
    if operator.constant_exponent:
        exponent = node.args[1]
        assert isinstance(exponent, Constant)
        args.append(exponent.value)
    return operator.kernel(*args)


def afresh(_node: Node, compute: Callable[[], Parts]) -> Parts:
    """Remembers nothing: the default `Recall`."""
    return compute()


class RowScorer:
    """An expression on one matrix, for any block of its rows.

    A first pass computes what a block cannot know; then `rows` equals those rows of `evaluate`.
    With an operator that may look at the whole matrix, all rows are computed at once.

    Args:
        expression: The expression.
        read: Gives a terminal's rows, float32: a full one's ``[rows, in]``, a column one's
            ``[1, in]`` whatever the rows. ``W`` is already absolute.
        device: Where these tensors are.
        recall: Called with a node and a function that computes what has to be known of it over
            the whole matrix; may return what the function returned before. The tensors are
            ``[1, in]``, ``[out, 1]`` or smaller.
    """

    def __init__(
        self, expression: Node, read: Read, device: torch.device, recall: Recall = afresh
    ) -> None:
        self._read = read
        self._device = device
        self._recall = recall
        self._known = self._ahead(expression)
        self._plan = plan(expression, frozenset(self._known))
        self._whole = None if _goes_by_rows(expression) else self._run(ALL_ROWS)

    def rows(self, rows: slice = ALL_ROWS) -> Tensor:
        """The value for some rows, ``[rows or 1, in or 1]``; it must not be written to."""
        return self._run(rows) if self._whole is None else _of_rows(self._whole, rows)

    @torch.no_grad()
    def _run(self, rows: slice) -> Tensor:
        return _run(self._plan, self._read, rows, self._known, self._device)

    def _ahead(self, *expressions: Node) -> dict[Node, Parts]:
        return {
            node: self._recall(node, partial(self._compute, node))
            for expression in expressions
            for node in _first_pass(expression)
        }

    @torch.no_grad()
    def _compute(self, node: Call) -> Parts:
        known = self._ahead(*node.args)

        def whole(part: Node) -> Tensor:
            steps = plan(part, frozenset(known))
            return _run(steps, self._read, ALL_ROWS, known, self._device)

        split = OPERATORS[node.operator].split
        if split is None or not _is_split(node):
            return (whole(node),)
        return split.reduce(*map(whole, node.args))


class ColumnScorer:
    """An expression on a few columns at a time, of a weight that changes as it is pruned.

    What an operator needs of a whole row, column or matrix (a sum, an extreme) is taken once, from
    the weight as it was; values in their place follow the changing weight.

    Args:
        expression: The expression.
        inputs: As for `evaluate`, with the weight before any change.

    Raises:
        UnusableScores: Too many operators need whole matrices.
    """

    def __init__(self, expression: Node, inputs: Mapping[str, Tensor]) -> None:
        self._inputs = inputs
        self._known: dict[Node, Parts] = {}
        self._fixed = 0  # of the known, those that are matrices
        self._prepare(expression)
        self._plan = plan(expression, frozenset(self._known))
        self._device = next((tensor.device for tensor in inputs.values()), None)

    @torch.no_grad()
    def columns(self, columns: slice, weight: Tensor) -> Tensor:
        """Scores of some columns.

        Args:
            columns: Which.
            weight: What is in them now, float32 ``[out, columns]``.

        Returns:
            float32 ``[out or 1, columns]``; it must not be written to.
        """
        now = weight.abs()

        def read(name: str, _: slice) -> Tensor:
            return now if name == "W" else _of_columns(self._inputs[name], columns)

        known = {
            node: tuple(_of_columns(part, columns) for part in parts)
            for node, parts in self._known.items()
        }
        return _run(self._plan, read, ALL_ROWS, known, self._device)

    def _prepare(self, node: Node) -> None:
        if not isinstance(node, Call) or node in self._known:
            return
        operator = OPERATORS[node.operator]
        if not operator.elementwise:
            if operator.split is None or not _is_split(node):
                self._fixed += node.shape is Shape.FULL
                if self._fixed > MOST_FIXED:
                    raise UnusableScores(
                        f"metric: more than {MOST_FIXED} operators that need a whole matrix cannot "
                        "choose a mask along the way (update 'sparsegpt-adaptive')"
                    )
                self._known[node] = (evaluate(node, self._inputs),)
                return
            values = [evaluate(arg, self._inputs) for arg in node.args]
            self._known[node] = operator.split.reduce(*values)
        for arg in node.args:
            self._prepare(arg)


def _of_columns(part: Tensor, columns: slice) -> Tensor:
    spans_columns = part.dim() == 2 and part.shape[1] > 1
    return part[:, columns] if spans_columns else part


def score(expression: Node, tensors: Mapping[str, Tensor | None]) -> Tensor:
    """Scores of a weight matrix.

    Args:
        expression: The expression.
        tensors: One tensor a terminal, in any floating dtype: ``W`` the weight itself
            ``[out, in]`` (its absolute value is taken), other full terminals likewise, column
            terminals ``[1, in]`` or ``[in]``. Terminals that the expression does not use may be
            there.

    Returns:
        A new float32 tensor ``[out, in]``; where no ``[out, in]`` tensor is given, the
        expression's own shape.

    Raises:
        InputError: A terminal is missing or unknown, or a tensor's type, shape or device is wrong.
    """
    given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    for name in given:
        if name not in TERMINALS:
            raise InputError(f"score: unknown terminal {name!r}; there are {', '.join(TERMINALS)}")
    missing = sorted(expression.terminals - given.keys())
    if missing:
        raise InputError(f"score: the metric needs terminal {missing[0]!r}, which was not given")
    shaped = {name: _two_dimensional(name, tensor) for name, tensor in given.items()}
    size = _matrix_size(shaped)
    used = {
        name: _prepared(name, tensor)
        for name, tensor in shaped.items()
        if name in expression.terminals
    }
    devices = {tensor.device for tensor in used.values()}
    if len(devices) > 1:
        raise InputError(f"score: tensors on several devices ({', '.join(map(str, devices))})")
    result = evaluate(expression, used)
    if size is not None:
        result = result.expand(size)
    shared = any(result.data_ptr() == tensor.data_ptr() for tensor in given.values())
    return result.clone() if shared else result.contiguous()


def _two_dimensional(name: str, tensor: Tensor) -> Tensor:
    if not isinstance(tensor, Tensor):
        raise InputError(f"score: {name} must be a torch tensor, got {type(tensor).__name__}")
    if tensor.is_complex():
        raise InputError(f"score: {name} must be real, got {tensor.dtype}")
    if tensor.dim() == 1 and TERMINALS[name].shape is Shape.COLUMN:
        tensor = tensor.unsqueeze(0)
    if tensor.dim() != 2 or tensor.numel() == 0:
        raise InputError(f"score: {name} must be a matrix, got shape {list(tensor.shape)}")
    return tensor


def _matrix_size(tensors: Mapping[str, Tensor]) -> tuple[int, int] | None:
    """``(out, in)`` as the full terminals say; checks every tensor against it."""
    full = [name for name in tensors if TERMINALS[name].shape is Shape.FULL]
    reference = "W" if "W" in full else next(iter(full or tensors), None)
    if reference is None:
        return None
    rows, columns = tensors[reference].shape
    for name, tensor in tensors.items():
        shape = TERMINALS[name].shape
        expected = [rows if shape.spans_rows else 1, columns if shape.spans_columns else 1]
        if list(tensor.shape) != expected:
            raise InputError(
                f"score: {name} has shape {list(tensor.shape)}, must be {expected}"
                + (f" as {reference} is {[rows, columns]}" if name != reference else "")
            )
    return (rows, columns) if full else None


def _prepared(name: str, tensor: Tensor) -> Tensor:
    prepared = tensor.detach().to(torch.float32)
    return prepared.abs() if name == "W" else prepared
