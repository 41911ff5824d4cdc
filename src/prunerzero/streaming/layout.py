"""Which tensors of a checkpoint make which block of a model, by transformers' own renaming."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from prunerzero.errors import InputError
from prunerzero.models.blocks import Block
from prunerzero.packing.weightfile import TensorInfo

_NUMBER = re.compile(r"\.\d+\.")


@dataclass(frozen=True)
class Layout:
    """Where the tensors of a checkpoint go.

    Attributes:
        inside: the tensors of each block, by its index.
        outside: those of everything else that the model has. Tensors that it does not have (and
            ignores) are in neither.
        targets: the name in the model of each of them, or of the first that is made from it.
        mapping: transformers' conversions for this model.
    """

    inside: list[list[TensorInfo]]
    outside: list[TensorInfo]
    targets: dict[TensorInfo, str]
    mapping: list[Any]


# The class of a block, and the names and shapes of its parameters.
Kind = tuple[type[nn.Module], frozenset[tuple[str, torch.Size]]]


def kind_of(block: Block) -> Kind:
    """What blocks that run alike have in common: one class can hold experts in some blocks only."""
    named = block.module.named_parameters()
    return type(block.module), frozenset((name, parameter.shape) for name, parameter in named)


def find_layout(model: Any, blocks: Sequence[Block], tensors: Iterable[TensorInfo]) -> Layout:
    """Compares a checkpoint's names and shapes with a skeleton's.

    Args:
        model: the skeleton.
        blocks: all its blocks.
        tensors: the checkpoint's.

    Raises:
        InputError: naming a tensor that is missing, too many, or of another shape than config.json
            says.
    """
    mapping = get_model_conversion_mapping(model)
    state = model.state_dict()
    prefix = blocks[0].name.rpartition(".")[0]
    number = re.compile(re.escape(prefix) + r"\.(\d+)\.")
    ignored = [re.compile(text) for text in model._keys_to_ignore_on_load_unexpected or ()]
    layout = Layout([[] for _ in blocks], [], {}, mapping)
    for info in tensors:
        target, converted = _target(model, mapping, state, info.name)
        match = number.match(target)
        if target not in state:
            if match and int(match[1]) >= len(blocks) and not _any(ignored, info.name):
                raise InputError(
                    f"tensor '{info.name}': belongs to block {int(match[1])}, but config.json says "
                    f"that the model has {len(blocks)}, numbered from 0"
                )
            continue
        if not converted and tuple(state[target].shape) != info.shape:
            raise other_shape(info.name, info.shape, tuple(state[target].shape))
        layout.targets[info] = target
        (layout.inside[int(match[1])] if match else layout.outside).append(info)
    _check_outside(model, state, prefix, layout)
    _check_blocks(blocks, layout)
    return layout


def other_shape(name: str, found: tuple[int, ...], wanted: tuple[int, ...]) -> InputError:
    """The error for a tensor whose shape the configuration does not give."""
    return InputError(
        f"tensor '{name}': is {list(found)} in the weight files, but config.json makes it "
        f"{list(wanted)}"
    )


def missing(names: Sequence[str]) -> InputError:
    """The error for tensors that the configuration asks for and no file has."""
    return InputError(
        f"{len(names)} tensors of the configuration are not in the weight files, first {names[0]}"
    )


def _target(
    model: Any, mapping: Sequence[Any], state: dict[str, Any], name: str
) -> tuple[str, bool]:
    """A tensor's name in the model, and whether its values are converted on the way there."""
    prefix = model.base_model_prefix
    found, pattern = rename_source_key(
        name,
        [entry for entry in mapping if isinstance(entry, WeightRenaming)],
        [entry for entry in mapping if isinstance(entry, WeightConverter)],
        prefix,
        state,
    )
    if found not in state and name in state:
        found, pattern = rename_source_key(name, [], [], prefix, state)
    if found not in state:  # of a block that the model does not have, perhaps without the prefix
        candidates = (f"{prefix}.{found}", found)
        found = next((name for name in candidates if _NUMBER.sub(".0.", name) in state), found)
    return found, pattern is not None


def _any(patterns: Sequence[re.Pattern[str]], name: str) -> bool:
    return any(pattern.search(name) for pattern in patterns)


def _check_outside(model: Any, state: dict[str, Any], prefix: str, layout: Layout) -> None:
    if any(len(entry.target_patterns) > 1 for entry in layout.mapping):
        return  # a tensor may make several, of which only the first is known before it is loaded
    found = set(layout.targets.values())
    tied = model.all_tied_weights_keys.items()
    found |= {name for pair in tied if not found.isdisjoint(pair) for name in pair}
    gone = [name for name in state if name not in found and not name.startswith(f"{prefix}.")]
    if gone:
        raise missing(gone)


def _check_blocks(blocks: Sequence[Block], layout: Layout) -> None:
    """Blocks of one class must be made of the same tensors."""
    first: dict[type, tuple[int, Counter[tuple[str, tuple[int, ...]]]]] = {}
    for block in blocks:
        parts = Counter(
            (layout.targets[info].removeprefix(f"{block.name}."), info.shape)
            for info in layout.inside[block.index]
        )
        other, expected = first.setdefault(type(block.module), (block.index, parts))
        different = sorted((expected - parts) + (parts - expected))
        if not parts:
            raise missing([f"{block.name}.{name}" for name in block.module.state_dict()])
        if different and _same_shapes(blocks[other], block):
            raise InputError(
                f"block {block.name}: its tensor '{different[0][0]}' is missing, or not as in "
                f"{blocks[other].name}"
            )


def _same_shapes(first: Block, second: Block) -> bool:
    shapes = [
        {name: tensor.shape for name, tensor in block.module.state_dict().items()}
        for block in (first, second)
    ]
    return shapes[0] == shapes[1]
