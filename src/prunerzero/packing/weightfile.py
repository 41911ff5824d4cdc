"""Reading a safetensors file one tensor at a time, as bits.

Their own reader maps the file, and its pages count as the process's memory until it is closed.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from prunerzero.errors import InputError
from prunerzero.packing.encoding import Bits

ITEM_BYTES = (
    dict.fromkeys(("F64", "I64", "U64", "C64"), 8)
    | dict.fromkeys(("F32", "I32", "U32"), 4)
    | dict.fromkeys(("F16", "BF16", "I16", "U16"), 2)
    | dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F8_E8M0"), 1)
    | dict.fromkeys(("I8", "U8", "BOOL"), 1)
)
"""Bytes of an element of the types that are packed, by safetensors' names."""


@dataclass(frozen=True)
class TensorInfo:
    """A tensor, before it is read.

    Attributes:
        name: its name in the checkpoint.
        dtype: as safetensors calls it, one of `ITEM_BYTES`.
        shape: its dimensions.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return ITEM_BYTES[self.dtype]

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return math.prod(self.shape) * self.itemsize


@dataclass(frozen=True)
class WeightFile:
    """A safetensors file whose header has been read.

    Attributes:
        path: the file.
        tensors: what it holds, in the order in which safetensors lists them.
        offsets: where each tensor's bytes begin in the file.
    """

    path: Path
    tensors: dict[str, TensorInfo]
    offsets: dict[str, int]

    @classmethod
    def open(cls, path: Path) -> WeightFile:
        """Reads the header.

        Raises:
            InputError: the file is missing, not a safetensors file, shorter than its header says,
                or holds a type that is not packed.
        """
        try:
            with safe_open(path, framework="numpy") as handle:  # checks sizes and offsets
                names = list(handle.keys())
            with path.open("rb") as stream:
                length = int.from_bytes(stream.read(8), "little")
                header = json.loads(stream.read(length))
        except FileNotFoundError:
            raise _missing(path) from None
        except (OSError, SafetensorError, ValueError) as error:
            raise InputError(
                f"{path}: truncated, altered or not a safetensors file ({error})"
            ) from None
        tensors = {name: _info(path, name, header[name]) for name in names}
        offsets = {name: 8 + length + header[name]["data_offsets"][0] for name in names}
        return cls(path, tensors, offsets)

    def read(self, name: str) -> Bits:
        """The bits of one tensor, in its shape and in memory of their own.

        Raises:
            InputError: the file has become unreadable or shorter since it was opened.
        """
        tensor = self.tensors[name]
        count = math.prod(tensor.shape)
        dtype = np.dtype(f"u{tensor.itemsize}")
        try:
            bits: Bits = np.fromfile(self.path, dtype, count, offset=self.offsets[name])
        except FileNotFoundError:
            raise _missing(self.path) from None
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read ({error})") from None
        if bits.size != count:
            raise InputError(f"{self.path}: truncated, tensor '{name}' is cut short")
        return bits.reshape(tensor.shape)


def digest(bits: Bits) -> str:
    """SHA-256 of a tensor's bytes, row after row, as a dense safetensors file has them."""
    return hashlib.sha256(bits.data).hexdigest()


def _info(path: Path, name: str, entry: dict[str, Any]) -> TensorInfo:
    dtype = str(entry["dtype"])
    if dtype not in ITEM_BYTES:
        raise InputError(
            f"{path}: tensor '{name}' is {dtype}; only {', '.join(ITEM_BYTES)} can be packed"
        )
    return TensorInfo(name, dtype, tuple(entry["shape"]))


def _missing(path: Path) -> InputError:
    return InputError(f"{path}: missing; copy or export the whole directory again")
