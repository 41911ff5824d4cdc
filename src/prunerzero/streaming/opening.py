"""A checkpoint opened for streaming: everything about it but its weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prunerzero.models.blocks import EVERYTHING, Block, Selection, find_blocks
from prunerzero.models.compute import Compute, compute_for, find_device
from prunerzero.models.loading import load_tokenizer
from prunerzero.packing.checkpoint import DenseCheckpoint, refuse_others
from prunerzero.packing.index import is_packed
from prunerzero.packing.reader import PackedCheckpoint
from prunerzero.streaming.capture import Frame
from prunerzero.streaming.layout import find_layout
from prunerzero.streaming.skeleton import build_skeleton, read_config
from prunerzero.streaming.source import (
    local_checkpoint,
    open_checkpoint,
    weights_dtype,
)
from prunerzero.streaming.store import WeightStore


@dataclass(frozen=True)
class Opened:
    """A model whose weights stay on disk until they are asked for.

    Attributes:
        directory: the checkpoint's.
        checkpoint: its weights.
        model: the skeleton.
        blocks: all its blocks.
        store: puts weights into the skeleton.
        frame: what is around the blocks.
        compute: device and precision of the passes.
        dtype: type of the skeleton's weights.
    """

    directory: Path
    checkpoint: DenseCheckpoint
    model: Any
    blocks: list[Block]
    store: WeightStore
    frame: Frame
    compute: Compute
    dtype: torch.dtype

    def tokenizer(self) -> Any:
        """The checkpoint's tokenizer, or None where it has none."""
        options = {"local_files_only": True, "trust_remote_code": False}
        return load_tokenizer(str(self.directory), self.model, options)


def open_model(
    name: str,
    dtype: str | None = None,
    device: str | None = None,
    selection: Selection = EVERYTHING,
) -> Opened:
    """Opens a checkpoint and compares it with its configuration.

    Args:
        name: hub id, checkpoint directory, ``.gguf`` file or alias.
        dtype: precision of the passes; None takes bfloat16 where the hardware has it. float32 loads
            the weights in it.
        device: ``cpu``, ``cuda:0``...; None takes the first GPU, else the CPU.
        selection: which blocks and matrices are pruned.

    Raises:
        InputError: it is quantised, an adapter, damaged, or not what its config.json says.
    """
    directory = local_checkpoint(name)
    checkpoint = open_checkpoint(directory)
    config = read_config(directory)
    kind = weights_dtype(config, checkpoint.tensors, dtype)
    # Compute follows from where weights lie and their type; the skeleton's lie nowhere.
    compute = compute_for(nn.Linear(1, 1, device=find_device(device), dtype=kind), dtype)
    model = build_skeleton(config, kind, compute.device)
    blocks = find_blocks(model, selection)
    store = WeightStore(model, blocks, checkpoint, kind, compute.device)
    frame = Frame(model, blocks, store, compute)
    return Opened(directory, checkpoint, model, blocks, store, frame, compute, kind)


def check_checkpoint(directory: Path) -> None:
    """Checks that a checkpoint, dense or packed, can be loaded, without reading its weights.

    Raises:
        InputError: it is quantised, an adapter, damaged, or not what its config.json says.
    """
    if is_packed(directory):
        refuse_others(directory)
        packed = PackedCheckpoint.open(directory)
        tensors = [packed.info(name) for name in packed.entries]
    else:
        tensors = list(open_checkpoint(directory).tensors)
    config = read_config(directory)
    model = build_skeleton(config, weights_dtype(config, tensors, None), torch.device("cpu"))
    find_layout(model, find_blocks(model, Selection(min_coverage=0.0)), tensors)
