"""The JSON tree form: ``{"data": "mul", "left": {...}, "right": {...}}``, as in the reference.

Unary operators use ``left``; a terminal's ``data`` is its name, a constant's a number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prunerzero.errors import InputError
from prunerzero.metric.expression import MAX_DEPTH, Call, Constant, Leaf, Node
from prunerzero.metric.operators import OPERATORS
from prunerzero.metric.terminals import TERMINALS
from prunerzero.suggestions import did_you_mean

_SIDES = ("left", "right")


def from_tree(tree: Any) -> Node:
    """Builds an expression from its JSON tree.

    Raises:
        InputError: One line that names the path ("left.right") and what is wrong there.
    """
    return _build(tree, ())


def to_tree(node: Node) -> dict[str, Any]:
    """The JSON tree of an expression."""
    if isinstance(node, Leaf):
        return {"data": node.name}
    if isinstance(node, Constant):
        return {"data": node.value}
    assert isinstance(node, Call)
    return {"data": node.operator} | {
        side: to_tree(arg) for side, arg in zip(_SIDES, node.args, strict=False)
    }


def _build(tree: Any, path: tuple[str, ...]) -> Node:
    if len(path) > MAX_DEPTH:
        raise _error((*path[:3], "..."), f"more than {MAX_DEPTH} levels deep")
    if not isinstance(tree, Mapping):
        raise _error(path, f"expected an object with 'data', got {type(tree).__name__}")
    unknown = [key for key in tree if key not in ("data", *_SIDES)]
    if unknown:
        raise _error(path, f"unknown key {unknown[0]!r}; there are 'data', 'left', 'right'")
    if "data" not in tree:
        raise _error(path, "'data' is missing")
    data = tree["data"]
    children = [side for side in _SIDES if side in tree]
    if isinstance(data, str) and data in OPERATORS:
        needed = list(_SIDES[: OPERATORS[data].arity])
        if children != needed:
            got = " and ".join(children) or "none"
            raise _error(path, f"operator {data!r} needs {' and '.join(needed)}, got {got}")
        args = tuple(_build(tree[side], (*path, side)) for side in needed)
        return _made(path, Call, data, args)
    if children:
        if isinstance(data, str) and data not in TERMINALS:
            raise _error(path, f"unknown operator {data!r}{did_you_mean(data, OPERATORS)}")
        raise _error(path, f"{data!r} is a leaf and has no {children[0]!r}")
    if isinstance(data, str) and data in TERMINALS:
        return Leaf(data)
    if isinstance(data, str):
        raise _error(path, f"unknown terminal {data!r}; there are {', '.join(TERMINALS)}")
    if isinstance(data, bool) or not isinstance(data, int | float):
        raise _error(path, f"'data' must be a name or a number, got {type(data).__name__}")
    return _made(path, Constant, data)


def _made(path: tuple[str, ...], make: Any, *args: Any) -> Node:
    try:
        node: Node = make(*args)
    except OverflowError:
        raise _error(path, "the number is out of range") from None
    except InputError as error:
        raise _error(path, error) from None
    return node


def _error(path: tuple[str, ...], message: object) -> InputError:
    return InputError(f"metric, {'.'.join(path) or 'root'}: {message}")
