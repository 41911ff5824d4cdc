"""Operators and terminals of the user's own, where workers are.

They are registered in the coordinator's process. A worker has those that its import of the script,
or of the module that a function is from, has registered there; the others travel.
"""

from __future__ import annotations

import importlib
import pickle
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from prunerzero.errors import InputError, first_line
from prunerzero.metric import OPERATORS, TERMINALS, Call
from prunerzero.metric.operators import BUILT_IN as BUILT_IN_OPERATORS
from prunerzero.metric.terminals import BUILT_IN as BUILT_IN_TERMINALS
from prunerzero.recipe import Recipe
from prunerzero.statistics.collectors import COLLECTORS

SCRIPT = "__main__"


@dataclass(frozen=True)
class Own:
    """An operator or a terminal that workers must know.

    Attributes:
        what: "operator 'name'", as an error says it.
        name: its name.
        module: where its function is from.
        content: what the registries hold of it, pickled; None if that cannot be.
    """

    what: str
    name: str
    module: str
    content: bytes | None

    @property
    def known(self) -> bool:
        """Whether this process knows it."""
        return self.name in OPERATORS or self.name in TERMINALS


def own_names(vocabulary: Iterable[str], recipes: Iterable[Recipe]) -> list[str]:
    """The names, of those that a search starts with, that are not built in."""
    found = set(vocabulary)
    for recipe in recipes:
        found |= recipe.terminals
        for metric in recipe.formulas.values():
            nodes = metric.expression.nodes()
            found |= {node.operator for node in nodes if isinstance(node, Call)}
    return sorted(found - BUILT_IN_OPERATORS - BUILT_IN_TERMINALS)


def packed(names: Sequence[str], dumps: Callable[[Any], bytes] | None = None) -> list[Own]:
    """What workers need to know these names.

    Args:
        names: registered here.
        dumps: pickles functions by value, wherever they are defined; by default they must be found
            by name, in a script or a module.

    Raises:
        InputError: workers cannot come by one, as it is from a notebook or a console.
    """
    return [_packed(name, dumps) for name in names]


def _packed(name: str, dumps: Callable[[Any], bytes] | None) -> Own:
    operator, collector = OPERATORS.get(name), COLLECTORS.get(name)
    function: Any = operator.kernel if operator else collector.finish if collector else None
    module = getattr(function, "__module__", None) or type(function).__module__
    what = f"{'operator' if operator else 'terminal'} '{name}'"
    if dumps is None and module == SCRIPT and not _is_script():
        raise InputError(
            f"{what}: worker processes cannot import what a notebook or a console defines; "
            "register it in a module, and import that"
        )
    content = None
    with suppress(Exception):  # of any kind: whatever a function holds may refuse
        content = (dumps or pickle.dumps)((operator, TERMINALS.get(name), collector))
    return Own(what, name, module, content)


def _is_script() -> bool:
    """Whether processes can import what the interpreter was started with."""
    main = sys.modules[SCRIPT]
    return bool(getattr(main, "__file__", None) or getattr(main, "__spec__", None))


def install(own: Iterable[Own]) -> None:
    """Registers in a worker what it does not know yet.

    Raises:
        InputError: it cannot come by one.
    """
    for one in own:
        reason = "nothing registers it when they start"
        if not one.known and one.module != SCRIPT:
            try:
                importlib.import_module(one.module)
            except Exception as error:  # whatever a user's module raises
                reason = f"{type(error).__name__}: {first_line(error)}"
        if not one.known and one.content is not None:
            try:
                _register(one.name, *pickle.loads(one.content))  # noqa: S301  the coordinator's
            except Exception as error:  # its function is not there by that name
                reason = f"{type(error).__name__}: {first_line(error)}"
        if not one.known:
            raise InputError(
                f"{one.what}: workers do not have it ({reason}); register it at the top of the "
                "script, outside 'if __name__ == \"__main__\"', or in a module that it imports"
            )


def _register(name: str, operator: Any, terminal: Any, collector: Any) -> None:
    """Puts into the registries what was accepted in the coordinator's."""
    for registry, value in ((OPERATORS, operator), (TERMINALS, terminal), (COLLECTORS, collector)):
        if value is not None:
            registry[name] = value
