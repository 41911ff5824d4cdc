"""From a dense checkpoint to a packed one; one tensor in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from prunerzero.errors import InputError
from prunerzero.files import SPARE, atomic_directory, free_space, require_space
from prunerzero.packing.checkpoint import DenseCheckpoint, copy_others
from prunerzero.packing.container import ShardWriter, part_name
from prunerzero.packing.encoding import Bits, Encoding, Packed, encode
from prunerzero.packing.index import INDEX, STEM, Entry, is_packed, write_index
from prunerzero.packing.shards import SHARD_BYTES, size, spread, written
from prunerzero.packing.weightfile import TensorInfo, digest
from prunerzero.progress import Report, silent

_PARTS = ("codes", "values")  # no tensor has more, and no part's name is longer


Check = Callable[[TensorInfo, Bits], None]


@dataclass(frozen=True)
class Export:
    """What an export did.

    Attributes:
        nbytes: of the weight files written.
        dense_nbytes: of the dense checkpoint's weight files.
        tensors: how many tensors have each encoding in the packed checkpoint.
    """

    nbytes: int
    dense_nbytes: int
    tensors: dict[str, int]

    @property
    def ratio(self) -> float:
        """Bytes written, of the dense checkpoint's."""
        return self.nbytes / self.dense_nbytes


def pack(
    source: str | Path,
    output: str | Path,
    *,
    shard_bytes: int = SHARD_BYTES,
    check: Check | None = None,
    report: Report = silent,
) -> Export:
    """Packs a checkpoint: every tensor in its smallest exact encoding; the rest is copied.

    Args:
        source: a Hugging Face checkpoint with safetensors, typically a pruned one.
        output: directory to make; new or empty, and written as a whole or not at all.
        shard_bytes: dense bytes of one weight file.
        check: called with each tensor and its bits; raises for those that are not to be packed.
        report: told of the tensors done.

    Raises:
        InputError: the source is no such checkpoint, or the output cannot be written.
    """
    source, output = Path(source), Path(output)
    if is_packed(source):
        raise InputError(f"checkpoint {source}: is packed ({INDEX}); it can be exported to dense")
    checkpoint = DenseCheckpoint.open(source)
    if free_space(output) < checkpoint.nbytes + SPARE:  # only then is it worth reading all twice
        sizes = (encode(checkpoint.read(tensor)).nbytes for tensor in checkpoint.tensors)
        require_space(output, sum(sizes))
    shards = spread(checkpoint.tensors, STEM, shard_bytes)
    entries: dict[str, Entry] = {}
    with atomic_directory(output) as temporary:
        copy_others(source, temporary)
        for writer, tensor in written(temporary, shards, _PARTS, report):
            bits = checkpoint.read(tensor)
            if check is not None:
                check(tensor, bits)
            packed = encode(bits)
            _add(writer, tensor, packed)
            entries[tensor.name] = _entry(tensor, packed, bits, writer.file)
        # In the order of the source: where config.json names no type, transformers takes the first.
        write_index(temporary, {tensor.name: entries[tensor.name] for tensor in checkpoint.tensors})
    return Export(
        size(output, shards),
        checkpoint.nbytes,
        count_encodings(entries.values()),
    )


def count_encodings(entries: Iterable[Entry]) -> dict[str, int]:
    """How many tensors have each encoding."""
    found = [entry.encoding for entry in entries]
    return {encoding: found.count(encoding) for encoding in get_args(Encoding)}


def _add(writer: ShardWriter, tensor: TensorInfo, packed: Packed) -> None:
    for part, data in packed.parts.items():
        dtype = "U8" if part in ("mask", "codes") else tensor.dtype
        writer.add(part_name(tensor.name, part), dtype, data.shape, data)


def _entry(tensor: TensorInfo, packed: Packed, bits: Bits, file: str) -> Entry:
    return Entry(
        encoding=packed.encoding,
        dtype=tensor.dtype,
        shape=tensor.shape,
        file=file,
        sha256=digest(bits),
        kept=packed.kept,
        axis=packed.axis,
    )
