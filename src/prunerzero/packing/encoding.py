"""How the bits of one tensor become fewer, and back. Pure functions of arrays; no files.

A weight counts as zero when all its bits are: ``-0.0`` and NaN are stored, so the way back is exact
for every type.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from prunerzero.packing import nm

Encoding = Literal["dense", "bitmask", "nm4"]
Bits = NDArray[Any]
"""A tensor's bits as unsigned integers of the width of its elements."""

_CHUNK = 1 << 18  # weights; what is gathered or scattered at once stays in the processor's cache
_PADDING = 128  # weights; so that masks and codes are whole 64-bit words, and what follows aligned


@dataclass(frozen=True)
class Packed:
    """One encoded tensor.

    Attributes:
        encoding: ``dense`` (as is), ``bitmask`` (a bit a weight, then the non-zeros) or ``nm4``
            (codes of four weights' positions, then N values for each four).
        parts: the arrays to store: ``dense``; ``mask``, ``values``; or ``codes``, ``values``.
        kept: N of ``nm4``, else None.
        axis: the dimension along which the groups of ``nm4`` lie, else None.
    """

    encoding: Encoding
    parts: dict[str, Bits] = field(repr=False)
    kept: int | None = None
    axis: int | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all parts."""
        return sum(part.nbytes for part in self.parts.values())


def encode(bits: Bits) -> Packed:
    """The smallest exact encoding; of equal ones N:4, whose values lie at fixed places.

    Args:
        bits: unsigned integers of any shape, contiguous.
    """
    nonzero = int(np.count_nonzero(bits))
    bitmask = mask_bytes(bits.size) + nonzero * bits.itemsize
    # The only N that can do: fewer are not enough, and more take more than a bitmask.
    kept = math.ceil(nm.GROUP * nonzero / bits.size) if bits.size else 0
    if 1 <= kept <= 3 and _nm_bytes(bits, kept) <= min(bitmask, bits.nbytes - 1):
        for axis in _group_axes(bits.shape):
            packed = _encode_nm(bits, kept, axis)
            if packed is not None:
                return packed
    if bitmask >= bits.nbytes:
        return Packed("dense", {"dense": bits})
    flat = bits.reshape(-1)
    mask = _mask(flat)
    return Packed("bitmask", {"mask": mask, "values": _gather(flat, mask, nonzero)})


def decode_bitmask(mask: nm.Bytes, values: Bits, shape: Sequence[int]) -> Bits:
    """The tensor behind a ``bitmask``.

    Args:
        mask: ``mask_bytes`` of the tensor's size.
        values: the non-zeros in the order of the flattened tensor.
        shape: the tensor's.

    Returns:
        Bits of that shape, of the values' width.

    Raises:
        ValueError: the mask does not keep as many weights as there are values.
    """
    size = math.prod(shape)
    padding = np.unpackbits(mask[size // 8 :], bitorder="little")[size % 8 :]
    if int(np.bitwise_count(mask).sum(dtype=np.int64)) != len(values) or padding.any():
        raise ValueError(f"its mask does not keep {len(values)} weights, as many as it has values")
    return _scatter(mask, values, size).reshape(shape)


def decode_nm(codes: nm.Bytes, values: Bits, shape: Sequence[int], kept: int, axis: int) -> Bits:
    """The tensor behind an ``nm4``.

    Args:
        codes: ``code_bytes`` of the tensor's size and ``kept``.
        values: ``kept`` values for each four weights.
        shape: the tensor's.
        kept: N.
        axis: the dimension along which the groups lie; a multiple of four wide.

    Returns:
        Bits of that shape, of the values' width.

    Raises:
        ValueError: a code is impossible.
    """
    size = math.prod(shape)
    lines = [*shape[:axis], *shape[axis + 1 :], shape[axis]]
    flat = _scatter(nm.mask_of(codes, kept), values, size)
    return np.ascontiguousarray(np.moveaxis(flat.reshape(lines), -1, axis))


def mask_bytes(size: int) -> int:
    """Bytes of the mask of ``size`` weights."""
    return -(-size // _PADDING) * (_PADDING // 8)


def code_bytes(size: int, kept: int) -> int:
    """Bytes of the codes of ``size`` weights of which ``kept`` of every four are stored."""
    return mask_bytes(size) * nm.code_bits(kept) // nm.GROUP


def _nm_bytes(bits: Bits, kept: int) -> int:
    return code_bytes(bits.size, kept) + kept * bits.size // nm.GROUP * bits.itemsize


def _group_axes(shape: Sequence[int]) -> list[int]:
    """Input features come last in most matrices, and last but one in GPT-2's and fused experts."""
    last = len(shape) - 1
    return [axis for axis in (last, last - 1) if axis >= 0 and last and shape[axis] % nm.GROUP == 0]


def _encode_nm(bits: Bits, kept: int, axis: int) -> Packed | None:
    tables = nm.tables(kept)
    lines = np.moveaxis(bits, axis, -1)
    if not tables.fits[_mask(lines[:1].reshape(-1))].all():
        return None  # most others end here, before the whole is brought in order
    flat = lines.reshape(-1)
    mask = _mask(flat)
    if not tables.fits[mask].all():
        return None
    values = _gather(flat, tables.completed[mask], kept * bits.size // nm.GROUP)
    return Packed("nm4", {"codes": nm.codes_of(mask, kept), "values": values}, kept, axis)


def _mask(flat: Bits) -> nm.Bytes:
    mask = np.zeros(mask_bytes(flat.size), np.uint8)
    mask[: -(-flat.size // 8)] = np.packbits(flat != 0, bitorder="little")
    return mask


def _gather(flat: Bits, mask: nm.Bytes, count: int) -> Bits:
    values = np.empty(count, flat.dtype)
    done = 0
    for start in range(0, flat.size, _CHUNK):
        chunk = flat[start : start + _CHUNK]
        kept = chunk.compress(_unpacked(mask, start, len(chunk)))
        values[done : done + len(kept)] = kept
        done += len(kept)
    return values


def _scatter(mask: nm.Bytes, values: Bits, size: int) -> Bits:
    # Twice as fast as flat[mask] = values, whose branches no processor predicts at 50 %: every
    # weight reads the value that it or its predecessors own, then zero or one multiplies it.
    flat = np.zeros(size, values.dtype)
    done = 0
    for start in range(0, size if len(values) else 0, _CHUNK):
        chunk = flat[start : start + _CHUNK]
        kept = _unpacked(mask, start, len(chunk))
        index = np.cumsum(kept, dtype=np.intp)
        owned = int(index[-1])
        index += done
        index -= kept
        np.take(values, index, out=chunk, mode="clip")  # past the end are only zeros
        np.multiply(chunk, kept, out=chunk)
        done += owned
    return flat


def _unpacked(mask: nm.Bytes, start: int, count: int) -> NDArray[np.bool_]:
    return np.unpackbits(mask[start // 8 :], count=count, bitorder="little").view(np.bool_)
