"""Mixtures of experts: which parameters are stacks of expert matrices, and what routes to them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

# The last part of a path that is one of several experts held as modules of their own.
NUMBERED = re.compile(r"(experts?)\.\d+(?=\.)")


@dataclass(frozen=True)
class Stack:
    """A 3-D parameter that holds one matrix for each expert.

    Attributes:
        path: dotted path of the owner, inside the block.
        module: the owner.
        attribute: the parameter's name there.
        experts: how many.
        transposed: True for ``[experts, in, out]``, False for ``[experts, out, in]``.
    """

    path: str
    module: nn.Module
    attribute: str
    experts: int
    transposed: bool


def expert_stacks(block: nn.Module) -> Iterator[Stack]:
    """The stacks of experts in a block, in the order of its modules.

    A 3-D parameter counts as one if its first dimension is a number of experts that its owner (or
    the owner's configuration) declares. Convolutions, tokens and other 3-D parameters do not.
    """
    for path, module in block.named_modules():
        found = {
            name: parameter
            for name, parameter in module.named_parameters(recurse=False)
            if parameter.ndim == 3
            and min(parameter.shape[1:]) > 1
            and parameter.shape[0] in _expert_counts(module)
        }
        transposed = _is_transposed(module, found)
        for name, parameter in found.items():
            yield Stack(path, module, name, parameter.shape[0], transposed)


def is_router(path: str, layer: nn.Linear, config: Any) -> bool:
    """Whether a linear layer decides which experts a token meets, or how much of one it gets.

    Args:
        path: its dotted path inside the block.
        layer: the layer.
        config: the model's configuration, or None.
    """
    names = path.split(".")
    if any(name.endswith("router") for name in names):
        return True
    # Many a matrix is called a gate.
    if not any(name.endswith("gate") for name in names):
        return False
    return layer.out_features == 1 or layer.out_features in _declared(_plain(config))


def siblings_of(path: str) -> str:
    """The path with an expert's number left out; empty where the path is of no numbered expert."""
    general = NUMBERED.sub(r"\1.*", path)
    return general if general != path else ""


def _is_transposed(module: nn.Module, stacks: dict[str, nn.Parameter]) -> bool:
    declared = getattr(module, "is_transposed", None)
    if declared is not None:
        return bool(declared)
    if len(stacks) < 2:
        return False  # as torch stores linear layers
    # The last matrix's outputs are the first one's inputs: both are the model's hidden size.
    *_, first, last = (stacks[name].shape for name in sorted(stacks, key=_is_last))
    as_linear, as_product = first[2] == last[1], first[1] == last[2]
    return as_product and not as_linear


def _is_last(name: str) -> bool:
    return "down" in name or "output" in name


def _expert_counts(module: nn.Module) -> set[int]:
    return _declared(vars(module)) | _declared(_plain(getattr(module, "config", None)))


def _plain(config: Any) -> dict[str, Any]:
    return vars(config) if config is not None else {}


def _declared(values: dict[str, Any]) -> set[int]:
    return {
        value
        for name, value in values.items()
        if "expert" in name and type(value) is int and "per_tok" not in name
    }
