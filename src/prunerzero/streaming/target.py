"""The weight files of the output: the source's, with the blocks' tensors written as they come."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import BinaryIO

from prunerzero.packing.checkpoint import SHARDED, SINGLE, DenseCheckpoint
from prunerzero.packing.encoding import Bits
from prunerzero.packing.weightfile import TensorInfo, WeightFile
from prunerzero.streaming.states import sync

CHUNK = 8 * 2**20  # bytes copied at once


class Target:
    """Files with the names, headers and sizes of the source's, so every tensor's place is known.

    A block is written as soon as it is finished, wherever its tensors lie, and writing it twice
    does no harm.
    """

    def __init__(self, directory: Path, source: Path, checkpoint: DenseCheckpoint) -> None:
        """Writes nothing yet.

        Args:
            directory: where the files go.
            source: the checkpoint's directory.
            checkpoint: its tensors.
        """
        self._directory = directory
        self._source = source
        self._checkpoint = checkpoint

    def prepare(self, later: Collection[TensorInfo]) -> None:
        """Makes the files, with all tensors but those that are written later."""
        self._directory.mkdir(exist_ok=True)
        held = {file.path: file for file in self._checkpoint.tensors.values()}
        for file in held.values():
            path = self._directory / file.path.name
            with file.path.open("rb") as source, path.open("wb") as target:
                target.truncate(file.path.stat().st_size)
                header = 8 + int.from_bytes(source.read(8), "little")
                _copy(source, target, 0, header)
                for name, info in file.tensors.items():
                    if info not in later:
                        start = file.offsets[name]
                        _copy(source, target, start, info.nbytes)
                target.flush()
                os.fsync(target.fileno())
        index = self._source / SHARDED
        if index.is_file() and not (self._source / SINGLE).is_file():
            shutil.copyfile(index, self._directory / SHARDED)

    def write(self, tensors: Iterable[tuple[TensorInfo, Bits]]) -> None:
        """Writes tensors to their places; they are on disk when this returns."""
        touched: dict[Path, WeightFile] = {}
        for info, bits in tensors:
            file = self._checkpoint.tensors[info]
            path = self._directory / file.path.name
            with path.open("rb+") as stream:
                stream.seek(file.offsets[info.name])
                stream.write(bits.data)  # `tofile` would not say why it failed
            touched[path] = file
        for path in touched:
            sync(path)


def _copy(source: BinaryIO, target: BinaryIO, start: int, count: int) -> None:
    source.seek(start)
    target.seek(start)
    for place in range(0, count, CHUNK):
        target.write(source.read(min(CHUNK, count - place)))
