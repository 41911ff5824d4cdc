"""From a packed checkpoint back to the dense one; one tensor in memory at a time."""

from __future__ import annotations

from pathlib import Path

from prunerzero.errors import InputError
from prunerzero.files import atomic_directory, require_space
from prunerzero.packing.checkpoint import copy_others, refuse_others
from prunerzero.packing.index import INDEX, is_packed
from prunerzero.packing.pack import Export, count_encodings
from prunerzero.packing.reader import PackedCheckpoint
from prunerzero.packing.shards import SHARD_BYTES, size, spread, write_weight_map, written
from prunerzero.progress import Report, silent


def unpack(
    source: str | Path,
    output: str | Path,
    *,
    shard_bytes: int = SHARD_BYTES,
    report: Report = silent,
) -> Export:
    """Restores a dense checkpoint, with the bits that were packed.

    Args:
        source: a packed checkpoint.
        output: directory to make; new or empty, and written as a whole or not at all.
        shard_bytes: bytes of one weight file.
        report: told of the tensors done.

    Raises:
        InputError: the source is not packed, or damaged, or the output cannot be written.
    """
    source, output = Path(source), Path(output)
    if not is_packed(source):
        raise InputError(f"checkpoint {source}: not packed, as it holds no {INDEX}")
    refuse_others(source)
    checkpoint = PackedCheckpoint.open(source)
    tensors = [checkpoint.info(name) for name in checkpoint.entries]
    require_space(output, sum(tensor.nbytes for tensor in tensors))
    shards = spread(tensors, "model", shard_bytes)
    with atomic_directory(output) as temporary:
        copy_others(source, temporary)
        for writer, tensor in written(temporary, shards, ("",), report):
            bits = checkpoint.read(tensor.name)
            writer.add(tensor.name, tensor.dtype, tensor.shape, bits)
        if len(shards) > 1:
            write_weight_map(temporary, shards)
    nbytes = size(output, shards)
    return Export(nbytes, nbytes, count_encodings(checkpoint.entries.values()))
