"""A metric as a plain torch function, and as Python source that needs torch and nothing else."""

from __future__ import annotations

import inspect
from types import CodeType, FunctionType

from torch import Tensor

from prunerzero import __version__
from prunerzero.errors import InputError
from prunerzero.metric import kernels
from prunerzero.metric.expression import Call, Constant, Leaf, Node
from prunerzero.metric.operators import OPERATORS
from prunerzero.metric.scoring import plan, score
from prunerzero.metric.terminals import TERMINALS
from prunerzero.metric.text import to_text
from prunerzero.metric.types import Shape

_INFIX = {"add": "+", "sub": "-", "mul": "*"}
# What functions of `kernels` need beside torch.
_IMPORTS = {
    "_kept_finite": "from collections.abc import Callable",
    "power": "from functools import reduce\nfrom operator import mul",
}


class TorchFunction:
    """A metric as a function of tensors, one a terminal, in the order of `arguments`.

    Attributes:
        expression: The metric's expression.
        arguments: Names of the terminals, `W` first.
    """

    def __init__(self, expression: Node) -> None:
        """Makes the function of an expression."""
        self.expression = expression
        self.arguments = tuple(sorted(expression.terminals, key=lambda name: (name != "W", name)))
        self.__name__ = "score"
        self.__doc__ = _summary(expression)

    def __call__(self, *tensors: Tensor, **named: Tensor) -> Tensor:
        """Scores ``[out, in]``, as `prunerzero.Metric.score` gives them.

        Raises:
            InputError: Too many tensors, one is given twice or missing, or does not fit.
        """
        if len(tensors) > len(self.arguments):
            raise InputError(f"score: takes {', '.join(self.arguments)}, got {len(tensors)}")
        given = dict(zip(self.arguments, tensors, strict=False))
        if twice := given.keys() & named.keys():
            raise InputError(f"score: {min(twice)} is given twice")
        return score(self.expression, given | named)

    def __repr__(self) -> str:
        return f"<score({', '.join(self.arguments)}) = {self.expression}>"

    @property
    def source(self) -> str:
        """Source of a module with one public function ``score``, which needs only torch.

        It computes what calling this object does, without the checks of its arguments.

        Raises:
            InputError: An operator is the user's own, whose source is not known here.
        """
        return _module(self.expression, self.arguments)


def _summary(expression: Node) -> str:
    return f"Scores of a weight matrix, float32 [out, in], higher = kept: {to_text(expression)}."


def _module(expression: Node, arguments: tuple[str, ...]) -> str:
    needed: dict[str, None] = {}
    body = [f"    {line}" for name in arguments for line in _reading(name)]
    names: list[str] = []
    for number, (node, steps, _) in enumerate(plan(expression)):
        names.append(node.name if isinstance(node, Leaf) else f"v{number}")
        args = [names[step] for step in steps]
        if not isinstance(node, Leaf):
            device = f", device={arguments[0]}.device" if arguments else ""
            body.append(f"    {names[-1]} = {_value(node, args, needed, device)}")
    full = next((name for name in arguments if TERMINALS[name].shape is Shape.FULL), None)
    result = names[-1] if full is None else f"{names[-1]}.expand_as({full}).contiguous()"
    functions = _with_helpers(needed)
    imports = [line for name, line in _IMPORTS.items() if name in functions]
    lines = [
        f'"""{to_text(expression)}: a pruning metric, written by prunerzero {__version__}."""',
        "",
        "from __future__ import annotations",
        "",
        *([*imports, ""] if imports else []),
        "import torch",
        "from torch import Tensor",
        *_constants(functions),
        *(f"\n\n{inspect.getsource(getattr(kernels, name)).rstrip()}" for name in functions),
        "",
        "",
        "@torch.no_grad()",
        f"def score({', '.join(f'{name}: Tensor' for name in arguments)}) -> Tensor:",
        f'    """{_summary(expression)}',
        "",
        *(f"    {name}: {TERMINALS[name].description}." for name in arguments if name != "W"),
        *(["    W: the weight itself."] if "W" in arguments else []),
        '    """',
        *body,
        f"    return {result}",
        "",
    ]
    return "\n".join(lines)


def _reading(name: str) -> list[str]:
    shaped = ".reshape(1, -1)" if TERMINALS[name].shape is Shape.COLUMN else ""
    return [f"{name} = {name}.detach().float(){shaped}{'.abs()' if name == 'W' else ''}"]


def _value(node: Node, args: list[str], needed: dict[str, None], device: str) -> str:
    if isinstance(node, Constant):
        return f"torch.full((1, 1), {node.value!r}{device})"
    assert isinstance(node, Call)
    if node.operator in _INFIX:
        return f" {_INFIX[node.operator]} ".join(args)
    if node.operator == "neg":
        return f"-{args[0]}"
    operator = OPERATORS[node.operator]
    kernel = operator.kernel
    if inspect.getmodule(kernel) is not kernels:
        raise InputError(
            f"operator {node.operator!r}: is your own, so its source is not known; call the "
            "function itself"
        )
    if operator.constant_exponent:
        exponent = node.args[1]
        assert isinstance(exponent, Constant)
        args = [*args, repr(exponent.value)]
    name = kernel.__name__
    needed[name] = None
    return f"{name}({', '.join(args)})"


def _with_helpers(needed: dict[str, None]) -> list[str]:
    """These functions of `kernels` and all that they call, in the order of that file."""
    found: set[str] = set()
    waiting = list(needed)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            function = getattr(kernels, name)
            waiting += [other for other in _names(function.__code__) if _is_kernel(other)]
    return [name for name, value in vars(kernels).items() if name in found and callable(value)]


def _names(code: CodeType) -> set[str]:
    """All global names in a function, nested ones too."""
    nested = (part for part in code.co_consts if isinstance(part, CodeType))
    return set(code.co_names).union(*map(_names, nested))


def _is_kernel(name: str) -> bool:
    value = getattr(kernels, name, None)
    return isinstance(value, FunctionType) and value.__module__ == kernels.__name__


def _constants(functions: list[str]) -> list[str]:
    used = set[str]().union(*(_names(getattr(kernels, name).__code__) for name in functions))
    found = [f"{n} = {v!r}" for n, v in vars(kernels).items() if n.isupper() and n in used]
    return ["", *found] if found else []
