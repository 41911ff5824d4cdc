"""Decoder blocks of a causal language model and the prunable matrices inside them, by inspection.

Nothing here knows an architecture by name: blocks are found through what transformers itself
declares (``_no_split_modules``), matrices through the layer types that multiply by a weight and
through parameters that stack the matrices of experts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from prunerzero.errors import InputError
from prunerzero.models.experts import expert_stacks, is_router, siblings_of
from prunerzero.models.matrices import Matrix, apply_mask
from prunerzero.models.selection import EVERYTHING, Selection
from prunerzero.models.watching import watch_inputs

__all__ = [
    "EVERYTHING",
    "Block",
    "Matrix",
    "Selection",
    "apply_mask",
    "coverage",
    "find_blocks",
    "prunable_matrices",
    "watch_inputs",
]

# Modules that mix tokens; every other matrix belongs to the family "mlp".
MIXERS = ("attn", "attention", "mamba", "ssm")


@dataclass(frozen=True)
class Block:
    """One decoder block: its index, dotted name, module and prunable matrices."""

    index: int
    name: str
    module: nn.Module
    matrices: tuple[Matrix, ...]


def find_blocks(model: nn.Module, selection: Selection = EVERYTHING) -> list[Block]:
    """Finds the decoder blocks and their prunable matrices.

    The blocks are the ``ModuleList`` with items of a class that transformers names in
    ``_no_split_modules``; without such a list, the ``ModuleList`` with most parameters.
    Embeddings and ``lm_head`` lie outside the blocks and so are never pruned; routers inside are
    not either. A matrix that several blocks share belongs to the first.

    Args:
        model: a Hugging Face causal LM.
        selection: what to prune.

    Returns:
        The blocks in order of execution.

    Raises:
        InputError: if the model has no repeated blocks, no matrix in them can be pruned or is
            selected, or too small a part of their weights is in such matrices.
    """
    prefix, modules = _block_list(model, selection.blocks)
    matrices = _unique(
        matrix
        for index, block in enumerate(modules)
        for matrix in _matrices(block, f"{prefix}.{index}", index, len(modules), model)
    )
    if not matrices:
        kind = type(modules[0]).__name__
        raise InputError(f"model {type(model).__name__}: block {kind} holds no Linear or Conv1D")
    _check_coverage(model, modules, matrices, selection.min_coverage)
    kept = [matrix for matrix in _unambiguous(matrices) if selection.takes(matrix.name)]
    if not kept:
        raise InputError(
            f"selection: no matrix is left to prune; their names are like {matrices[0].name}"
        )
    return [
        Block(
            index,
            f"{prefix}.{index}",
            block,
            tuple(matrix for matrix in kept if matrix.block == index),
        )
        for index, block in enumerate(modules)
    ]


def prunable_matrices(model: nn.Module, selection: Selection = EVERYTHING) -> list[Matrix]:
    """All prunable matrices of the model, block by block."""
    return [matrix for block in find_blocks(model, selection) for matrix in block.matrices]


def coverage(blocks: Iterable[Block]) -> float:
    """The share of the blocks' weights that is in their prunable matrices."""
    blocks = list(blocks)
    inside = sum(matrix.weight.numel() for block in blocks for matrix in block.matrices)
    return inside / _parameter_count(block.module for block in blocks)


def _block_list(model: nn.Module, name: str) -> tuple[str, nn.ModuleList]:
    owner = type(model).__name__
    lists = {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) > 0
    }
    if name:
        if name not in lists:
            known = ", ".join(lists) or "none"
            raise InputError(f"blocks '{name}': model {owner} has no such list; it has {known}")
        return name, lists[name]
    declared = set(getattr(model, "_no_split_modules", None) or ())
    matching = [
        path
        for path, modules in lists.items()
        if any(type(module).__name__ in declared for module in modules)
    ]
    candidates = matching or list(lists)
    if not candidates:
        raise InputError(f"model {owner}: no list of decoder blocks found in it")
    path = max(candidates, key=lambda path: _parameter_count([lists[path]]))
    return path, lists[path]


def _parameter_count(modules: Iterable[nn.Module]) -> int:
    """Weights in parameters of two and more dimensions: not those of norms, nor biases."""
    parameters = {p for module in modules for p in module.parameters() if p.ndim > 1}
    return sum(parameter.numel() for parameter in parameters)


def _check_coverage(
    model: nn.Module, modules: nn.ModuleList, matrices: list[Matrix], least: float
) -> None:
    total = _parameter_count([modules])
    share = sum(matrix.weight.numel() for matrix in matrices) / total
    if share >= least:
        return
    found = {matrix.parameter for matrix in matrices}
    name, missed = max(
        (
            (name, parameter)
            for name, parameter in modules.named_parameters()
            if parameter not in found and parameter.ndim > 1
        ),
        key=lambda pair: pair[1].numel(),
    )
    raise InputError(
        f"model {type(model).__name__}: only {share:.0%} of its blocks' weights are in matrices "
        f"that can be pruned ({least:.0%} wanted); the largest other "
        f"parameter is {name} {tuple(missed.shape)}; lower the minimum coverage to prune the rest"
    )


def _matrices(
    block: nn.Module, prefix: str, index: int, blocks: int, model: nn.Module
) -> Iterator[Matrix]:
    config: Any = getattr(model, "config", None)
    for path, module in block.named_modules():
        if not isinstance(module, (nn.Linear, Conv1D)):
            continue
        if isinstance(module, nn.Linear) and is_router(path, module, config):
            continue
        yield Matrix(
            name=f"{prefix}.{path}",
            kind=path.split(".")[-1],
            family=_family(path),
            block=index,
            blocks=blocks,
            module=module,
            transposed=isinstance(module, Conv1D),
            siblings=siblings_of(f"{prefix}.{path}"),
        )
    for stack in expert_stacks(block):
        name = ".".join(part for part in (prefix, stack.path, stack.attribute) if part)
        for expert in range(stack.experts):
            yield Matrix(
                name=f"{name}.{expert}",
                kind=stack.attribute,
                family=_family(stack.path),
                block=index,
                blocks=blocks,
                module=stack.module,
                transposed=stack.transposed,
                attribute=stack.attribute,
                expert=expert,
                siblings=f"{name}.*",
            )


def _family(path: str) -> str:
    return "attention" if any(word in path for word in MIXERS) else "mlp"


def _unique(matrices: Iterable[Matrix]) -> list[Matrix]:
    """Each stored matrix once, however many modules hold it."""
    found: dict[tuple[nn.Parameter, int | None], Matrix] = {}
    for matrix in matrices:
        found.setdefault((matrix.parameter, matrix.expert), matrix)
    return list(found.values())


def _unambiguous(matrices: list[Matrix]) -> list[Matrix]:
    """The matrices, with longer kinds where one would be of two families (GPT-2's ``c_proj``)."""
    families: dict[str, set[str]] = defaultdict(set)
    for matrix in matrices:
        families[matrix.kind].add(matrix.family)
    return [
        replace(matrix, kind=".".join(matrix.name.split(".")[-2:]))
        if matrix.expert is None and len(families[matrix.kind]) > 1
        else matrix
        for matrix in matrices
    ]
