"""Seeing what every prunable matrix is multiplied with, as a model runs.

Layers are watched through hooks. Experts that share a parameter have no module each, so while their
owner runs, products with a slice of that parameter are watched instead.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from prunerzero.models.matrices import Matrix

# Functions of inputs and a weight, in this order.
PRODUCTS = frozenset(
    {
        F.linear,
        torch.matmul,
        torch.mm,
        torch.bmm,
        Tensor.matmul,
        Tensor.mm,
        Tensor.bmm,
        Tensor.__matmul__,
    }
)

# Called with a matrix, its inputs [..., in_features], and for an expert's matrix the weight that
# the router gave the expert for each of them, [tokens], where that can be seen.
InputHook = Callable[[Matrix, Tensor, Tensor | None], None]


class Handle(Protocol):
    """What ends a watch."""

    def remove(self) -> None:
        """Detaches from the model."""


def watch_inputs(matrices: Iterable[Matrix], hook: InputHook) -> list[Handle]:
    """Calls ``hook`` at each product of inputs and one of the matrices."""
    handles: list[Handle] = []
    stacks: dict[nn.Module, list[Matrix]] = defaultdict(list)

    def attach(matrix: Matrix) -> Handle:
        return matrix.module.register_forward_pre_hook(
            lambda _module, arguments: hook(matrix, arguments[0], None)
        )

    for matrix in matrices:
        if matrix.expert is None:
            handles.append(attach(matrix))
        else:
            stacks[matrix.module].append(matrix)
    handles.extend(_StackWatch(module, mine, hook) for module, mine in stacks.items())
    return handles


class _StackWatch:
    """Watches the experts of one module.

    Transformers can run experts by fused kernels in which a single expert's inputs never appear;
    while the module runs, its plain implementation is chosen instead.
    """

    def __init__(self, module: nn.Module, matrices: list[Matrix], hook: InputHook) -> None:
        self._hook = hook
        self._matrices: dict[str, dict[int, Matrix]] = defaultdict(dict)
        for matrix in matrices:
            assert matrix.expert is not None
            self._matrices[matrix.attribute][matrix.expert] = matrix
        self._running: list[tuple[_Products, Any]] = []
        self._handles = [
            module.register_forward_pre_hook(self._enter, with_kwargs=True),
            module.register_forward_hook(self._leave, always_call=True),
        ]

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        config: Any = getattr(module, "config", None)
        implementation = getattr(config, "_experts_implementation", None)
        if implementation is not None:
            config._experts_implementation = "eager"
        routing = _routing([*args, *kwargs.values()])

        def tell(attribute: str, expert: int, inputs: Tensor) -> None:
            matrix = self._matrices[attribute].get(expert)
            if matrix is not None and len(inputs):
                self._hook(matrix, inputs, _gates(routing, expert, len(inputs)))

        mode = _Products({name: getattr(module, name) for name in self._matrices}, tell)
        mode.__enter__()
        self._running.append((mode, implementation))

    def _leave(self, module: nn.Module, *_: Any) -> None:
        mode, implementation = self._running.pop()
        mode.__exit__(None, None, None)
        if implementation is not None:
            config: Any = module.config
            config._experts_implementation = implementation


class _Products(TorchFunctionMode):
    """Tells of every product with a slice of one of the stacks, or with a whole one."""

    def __init__(
        self, stacks: Mapping[str, Tensor], tell: Callable[[str, int, Tensor], None]
    ) -> None:
        super().__init__()
        self._tell = tell
        self._stacks = [
            (stack.data_ptr(), stack.stride(0) * stack.element_size(), len(stack), name)
            for name, stack in stacks.items()
        ]

    def __torch_function__(
        self,
        func: Any,
        _types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in PRODUCTS:
            given = [*args, *kwargs.values()]
            self._find(given[0], given[1])
        return func(*args, **kwargs)

    def _find(self, inputs: Tensor, weight: Tensor) -> None:
        place = weight.data_ptr()
        for start, step, count, name in self._stacks:
            if not start <= place < start + count * step:
                continue
            expert = (place - start) // step
            if weight.ndim == 2:
                self._tell(name, expert, inputs)
            else:
                for index, mine in enumerate(inputs[: len(weight)]):
                    # All experts at once: tokens that are not routed to one are zero there.
                    self._tell(name, expert + index, mine[mine.any(-1)])


def _routing(given: list[Any]) -> tuple[Tensor, Tensor] | None:
    """The chosen experts and their weights ``[tokens, chosen]``, from an owner's arguments."""
    tensors = [value for value in given[1:] if isinstance(value, Tensor) and value.ndim == 2]
    chosen = [value for value in tensors if not value.is_floating_point()]
    weights = [value for value in tensors if value.is_floating_point()]
    if len(chosen) != 1 or len(weights) != 1:
        return None
    return chosen[0], weights[0]


def _gates(routing: tuple[Tensor, Tensor] | None, expert: int, count: int) -> Tensor | None:
    """The router's weight of one expert for each token that meets it, in the order of its inputs.

    The plain implementations of transformers go through an expert's tokens choice by choice.
    """
    if routing is None:
        return None
    chosen, weights = routing
    choice, token = torch.where((chosen == expert).T)
    if len(token) != count:
        return None
    return weights[token, choice] if weights.shape == chosen.shape else weights[token, expert]
