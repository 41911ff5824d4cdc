"""Spreading tensors over weight files, and writing these one tensor after the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from prunerzero.files import write_json
from prunerzero.packing.checkpoint import SHARDED
from prunerzero.packing.container import ShardWriter
from prunerzero.packing.weightfile import TensorInfo
from prunerzero.progress import Report

SHARD_BYTES = 2 * 10**9
"""Dense bytes of a weight file, unless one tensor alone has more."""

Shards = Mapping[str, Sequence[TensorInfo]]
"""The tensors of every weight file by its name."""


def spread(tensors: Iterable[TensorInfo], stem: str, limit: int) -> Shards:
    """Spreads tensors over files of at most ``limit`` dense bytes.

    Wide elements come first, so that every tensor is aligned to its elements.

    Args:
        tensors: what to write.
        stem: ``model`` gives ``model.safetensors``, or ``model-00001-of-00002.safetensors``...
        limit: bytes; a larger tensor gets a file of its own.
    """
    groups: list[list[TensorInfo]] = [[]]
    room = limit
    for tensor in sorted(tensors, key=lambda tensor: -tensor.itemsize):
        if groups[-1] and tensor.nbytes > room:
            groups.append([])
            room = limit
        groups[-1].append(tensor)
        room -= tensor.nbytes
    count = len(groups)
    if count == 1:
        return {f"{stem}.safetensors": groups[0]}
    return {f"{stem}-{n:05}-of-{count:05}.safetensors": group for n, group in enumerate(groups, 1)}


def written(
    directory: Path, shards: Shards, parts: Sequence[str], report: Report
) -> Iterator[tuple[ShardWriter, TensorInfo]]:
    """Asks for every tensor in the order of the files.

    A file is complete once the loop has gone on to the next one; a loop that is left early leaves
    unreadable files.

    Args:
        directory: where the files are made.
        shards: the tensors of every file.
        parts: the longest list of parts that a tensor may have.
        report: told of the tensors done.

    Yields:
        What the body of the loop adds the tensor to, and the tensor.
    """
    total = sum(map(len, shards.values()))
    done = 0
    for file, tensors in shards.items():
        with ShardWriter(directory / file, tensors, parts) as writer:
            for tensor in tensors:
                yield writer, tensor
                done += 1
                report("exporting", done, total)


def write_weight_map(directory: Path, shards: Shards) -> None:
    """Writes the index that says which file each tensor is in."""
    places = {tensor.name: file for file, held in shards.items() for tensor in held}
    total = sum(tensor.nbytes for held in shards.values() for tensor in held)
    write_json(directory / SHARDED, {"metadata": {"total_size": total}, "weight_map": places})


def size(directory: Path, files: Iterable[str]) -> int:
    """Bytes of weight files."""
    return sum((directory / file).stat().st_size for file in set(files))
