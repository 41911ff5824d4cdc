"""Weights of one block at a time: read into a skeleton, given back as the checkpoint stores them.

Transformers itself converts names and layouts (missing prefixes, experts fused into one tensor), a
block's tensors at a time; nothing here knows an architecture.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.core_model_loading import (
    convert_and_load_state_dict_in_model,
    revert_weight_conversion,
)
from transformers.modeling_utils import LoadStateDictConfig
from transformers.utils import logging

from prunerzero.errors import InputError
from prunerzero.models.blocks import Block
from prunerzero.packing.checkpoint import DenseCheckpoint
from prunerzero.packing.encoding import Bits
from prunerzero.packing.loading import DTYPES
from prunerzero.packing.tensors import as_bits, as_tensor, typed_as
from prunerzero.packing.weightfile import TensorInfo
from prunerzero.streaming.layout import find_layout, missing, other_shape
from prunerzero.streaming.memory import trim

IN_MEMORY = "prune in memory (--no-stream)"


class WeightStore:
    """Puts weights of a checkpoint into a skeleton and takes them out again."""

    def __init__(
        self,
        model: Any,
        blocks: Sequence[Block],
        checkpoint: DenseCheckpoint,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """Compares the checkpoint's names and shapes with the skeleton's.

        Args:
            model: the skeleton (`prunerzero.streaming.skeleton.build_skeleton`).
            blocks: all its blocks.
            checkpoint: the weights.
            dtype: in which the skeleton was made.
            device: where weights are put.

        Raises:
            InputError: naming a tensor that is missing, too many, or of another shape than
                config.json says.
        """
        self.layout = find_layout(model, blocks, checkpoint.tensors)
        self._model = model
        self._checkpoint = checkpoint
        self._options = LoadStateDictConfig(
            device_map={"": device},
            dtype=dtype,
            dtype_plan=model._get_dtype_plan(dtype),
            weight_mapping=self.layout.mapping,
        )

    @contextmanager
    def loaded(self, block: Block) -> Iterator[None]:
        """The block's weights, there while the context lasts.

        Raises:
            InputError: a file has become unreadable, or a tensor does not fit.
        """
        with self._held(block.module, self.layout.inside[block.index], f"{block.name}."):
            yield

    @contextmanager
    def loaded_outside(self, head: bool) -> Iterator[None]:
        """The weights outside the blocks, there while the context lasts.

        Args:
            head: also the language-model head's, where it has some of its own.
        """
        targets = self.layout.targets
        prefix = f"{self._model.base_model_prefix}."
        has_no_base = self._model.base_model is self._model
        tied = {name for pair in self._model.all_tied_weights_keys.items() for name in pair}
        wanted = [
            info
            for info in self.layout.outside
            if head or has_no_base or targets[info].startswith(prefix) or targets[info] in tied
        ]
        with self._held(self._model, wanted, None):
            yield

    def stored(self, block: Block) -> Iterator[tuple[TensorInfo, Bits]]:
        """A loaded block's weights, as they are now, in the checkpoint's names, types and layouts.

        Where the checkpoint stores another type than the model is loaded in, weights that have not
        changed keep their bits.

        Raises:
            InputError: the conversion cannot be undone.
        """
        state = {f"{block.name}.{name}": t for name, t in block.module.state_dict().items()}
        found = revert_weight_conversion(self._model, state)
        prefix = f"{self._model.base_model_prefix}."
        for info in self.layout.inside[block.index]:
            names = (info.name, prefix + info.name, info.name.removeprefix(prefix))
            tensor = next((found[name] for name in names if name in found), None)
            if tensor is None or tuple(tensor.shape) != info.shape:
                raise _irreversible(info)
            if tensor.dtype != DTYPES[info.dtype]:
                tensor = typed_as(tensor, as_tensor(self._checkpoint.read(info), info))
            yield info, as_bits(tensor)

    def check_reversible(self, block: Block) -> None:
        """Checks that a loaded block, unchanged, is given back bit for bit.

        Raises:
            InputError: if it is not.
        """
        for info, bits in self.stored(block):
            if not (bits == self._checkpoint.read(info)).all():
                raise _irreversible(info)

    @contextmanager
    def _held(
        self, owner: nn.Module, tensors: Sequence[TensorInfo], complete: str | None
    ) -> Iterator[None]:
        before = [(part, dict(part._parameters), dict(part._buffers)) for part in owner.modules()]
        try:
            self._load(tensors, complete)
            owner.requires_grad_(False)
            yield
        finally:
            for module, parameters, buffers in before:
                module._parameters.update(parameters)
                module._buffers.update(buffers)
            trim()

    def _load(self, tensors: Sequence[TensorInfo], complete: str | None) -> None:
        """Loads tensors; all below the prefix ``complete`` must be among them."""
        state = {info.name: _Lazy(self._checkpoint, info) for info in tensors}
        with _no_progress_bar():
            found, _ = convert_and_load_state_dict_in_model(self._model, state, self._options)
        for name, shape, expected in sorted(found.mismatched_keys):
            raise other_shape(name, tuple(shape), tuple(expected))
        for name, reason in found.conversion_errors.items():
            line = str(reason).strip().splitlines()[-1]
            raise InputError(f"tensor '{name}': does not fit the model of config.json ({line})")
        if complete is None:
            self._model.tie_weights(missing_keys=set(found.missing_keys), recompute_mapping=False)
        elif gone := sorted(name for name in found.missing_keys if name.startswith(complete)):
            raise missing(gone)


class _Lazy:
    """What transformers takes for a slice of a safetensors file: read by ``[...]``, not before."""

    def __init__(self, checkpoint: DenseCheckpoint, info: TensorInfo) -> None:
        self._checkpoint = checkpoint
        self._info = info
        self.dtype = DTYPES[info.dtype]

    def __getitem__(self, index: Any) -> Tensor:
        return as_tensor(self._checkpoint.read(self._info), self._info)[index]

    def is_floating_point(self) -> bool:
        return self.dtype.is_floating_point


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _irreversible(info: TensorInfo) -> InputError:
    return InputError(
        f"tensor '{info.name}': this model's weights are converted when they are loaded, and "
        f"cannot be written back a block at a time; {IN_MEMORY}"
    )
