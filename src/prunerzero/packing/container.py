"""Writing safetensors files a tensor at a time; their own writer wants all of a file in memory.

A file is the length of its header (8 bytes, little-endian), the header (JSON, padded with blanks)
and the data. The room for the header is set aside before the data are written.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from prunerzero.errors import InputError
from prunerzero.packing.encoding import Bits
from prunerzero.packing.weightfile import TensorInfo

_ALIGNMENT = 8


class ShardWriter:
    """One safetensors file in the making; complete once its ``with`` block has ended.

    Attributes:
        file: the file's name.
    """

    def __init__(self, path: Path, tensors: Sequence[TensorInfo], parts: Sequence[str]) -> None:
        """Sets the room for the header aside.

        Args:
            path: the file to make.
            tensors: those that will be added.
            parts: the longest list of parts that a tensor may have.
        """
        # As if every number had as many digits as the largest, and every tensor all the parts.
        total = sum(tensor.nbytes for tensor in tensors) + _ALIGNMENT
        worst = {
            part_name(tensor.name, part): _entry(tensor.dtype, shape, total, total)
            for tensor in tensors
            for shape in [max(tensor.shape, (total,), key=lambda shape: len(str(shape)))]
            for part in parts
        }
        length = len(_header(worst))
        self._room = length + -length % _ALIGNMENT
        self.file = path.name
        self._entries: dict[str, Any] = {}
        self._end = 0
        self._stream = path.open("wb")
        self._stream.seek(8 + self._room)

    def add(self, name: str, dtype: str, shape: Sequence[int], data: Bits) -> None:
        """Appends a tensor.

        Args:
            name: its name in the file.
            dtype: as safetensors calls it.
            shape: its dimensions.
            data: its bits, contiguous.
        """
        start, self._end = self._end, self._end + data.nbytes
        self._entries[name] = _entry(dtype, shape, start, self._end)
        self._stream.write(data.data)  # `tofile` would not say why it failed

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._stream:
            if kind is None:
                self._stream.seek(0)
                self._stream.write(self._room.to_bytes(8, "little"))
                self._stream.write(_header(self._entries).ljust(self._room))


def check_header(path: Path) -> None:
    """Compares a header with what `ShardWriter` writes for the same tensors, byte for byte.

    Raises:
        InputError: It is not the same, so it was altered.
    """
    with path.open("rb") as stream:
        found = stream.read(int.from_bytes(stream.read(8), "little"))
    entries = json.loads(found)
    entries.pop("__metadata__", None)
    if found != _header(entries).ljust(len(found)):
        raise InputError(f"{path}: altered, its header differs; copy or export the directory again")


def part_name(name: str, part: str) -> str:
    """The name in the file of a part of a tensor; the part "" is the tensor itself."""
    return f"{name}:{part}" if part else name


def _entry(dtype: str, shape: Sequence[int], start: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


def _header(entries: dict[str, Any]) -> bytes:
    document = {"__metadata__": {"format": "pt"}} | entries
    return json.dumps(document, separators=(",", ":")).encode()
