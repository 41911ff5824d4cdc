"""Hidden states of all windows between two blocks: on disk, and in memory as far as that goes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from prunerzero.packing.container import ShardWriter
from prunerzero.packing.encoding import Bits
from prunerzero.packing.loading import DTYPES
from prunerzero.packing.tensors import as_bits, as_tensor
from prunerzero.packing.weightfile import TensorInfo, WeightFile

# Bytes of one set of hidden states that are kept in memory as well; there are two at a time.
IN_MEMORY = 128 * 2**20

NAMES = {dtype: name for name, dtype in DTYPES.items()}


class States:
    """Tensors in a file, of which the first are kept in memory too.

    The file is read, not mapped: mapped pages would count as this process's memory.
    """

    def __init__(self, path: Path, device: torch.device, kept: list[Tensor] | None = None) -> None:
        """Opens a file that `write_states` has completed.

        Args:
            path: the file.
            device: where the tensors are wanted.
            kept: the first of them, if they are in memory already.
        """
        self.path = path
        self._device = device
        self._kept = kept or []
        self._file = WeightFile.open(path)

    def __len__(self) -> int:
        return len(self._file.tensors)

    def __iter__(self) -> Iterator[Tensor]:
        for position in range(len(self)):
            yield self[position]

    def __getitem__(self, position: int) -> Tensor:
        if position < len(self._kept):
            return self._kept[position].to(self._device)
        return read_tensor(self._file, str(position)).to(self._device)

    def remove(self) -> None:
        """Deletes the file."""
        self._kept = []
        self.path.unlink(missing_ok=True)


def write_states(
    path: Path, tensors: Iterable[Tensor], sizes: list[int], device: torch.device
) -> States:
    """Writes hidden states as they come; the file is on disk when this returns.

    Args:
        path: the file to make, or to make anew.
        tensors: ``[batch, length, ...]`` each, of one type and one size.
        sizes: the batch of each; their length is the model's own (some put a prompt in front).
        device: where they are wanted later.
    """
    coming = iter(tensors)
    first = next(coming)
    infos = [
        TensorInfo(str(position), NAMES[first.dtype], (size, *first.shape[1:]))
        for position, size in enumerate(sizes)
    ]
    kept: list[Tensor] = []
    room = IN_MEMORY
    with ShardWriter(path, infos, ("",)) as writer:
        for info, tensor in zip(infos, chain((first,), coming), strict=True):
            bits = as_bits(tensor)
            writer.add(info.name, info.dtype, bits.shape, bits)
            room -= bits.nbytes
            if room >= 0:
                kept.append(as_tensor(bits, info))
    sync(path)
    return States(path, device, kept)


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes named tensors; the file is on disk when this returns."""
    bits: dict[str, Bits] = {name: as_bits(tensor) for name, tensor in tensors.items()}
    infos = {
        name: TensorInfo(name, NAMES[tensor.dtype], tuple(tensor.shape))
        for name, tensor in tensors.items()
    }
    with ShardWriter(path, list(infos.values()), ("",)) as writer:
        for name, info in infos.items():
            writer.add(name, info.dtype, info.shape, bits[name])
    sync(path)


def read_tensor(file: WeightFile, name: str) -> Tensor:
    """One tensor of a file, in memory of its own."""
    return as_tensor(file.read(name), file.tensors[name])


def sync(path: Path) -> None:
    """Returns once a file's content is on disk."""
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())
