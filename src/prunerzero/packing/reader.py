"""Reading a packed checkpoint: one tensor at a time, each checked against its checksum."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from prunerzero.errors import InputError
from prunerzero.packing.container import check_header, part_name
from prunerzero.packing.encoding import Bits, code_bytes, decode_bitmask, decode_nm, mask_bytes
from prunerzero.packing.index import Entry, read_index
from prunerzero.packing.nm import GROUP
from prunerzero.packing.weightfile import ITEM_BYTES, TensorInfo, WeightFile, digest


@dataclass(frozen=True)
class PackedCheckpoint:
    """The weights of a packed directory.

    Attributes:
        directory: the directory.
        entries: every tensor by its name.
        files: the weight files by their names.
    """

    directory: Path
    entries: dict[str, Entry]
    files: dict[str, WeightFile]

    @classmethod
    def open(cls, directory: Path) -> PackedCheckpoint:
        """Reads the index and the headers of the weight files, and compares them.

        What the index claims costs nothing: sizes are compared before anything is allocated.

        Raises:
            InputError: the index is not readable or altered, a weight file missing or cut short, or
                the two do not fit.
        """
        entries = read_index(directory)
        names = sorted({entry.file for entry in entries.values()})
        files = {name: WeightFile.open(directory / name) for name in names}
        for name in names:
            check_header(directory / name)
        for name, entry in entries.items():
            _check(files[entry.file], name, entry)
        return cls(directory, entries, files)

    def info(self, name: str) -> TensorInfo:
        """What the tensor is once it is decoded."""
        entry = self.entries[name]
        return TensorInfo(name, entry.dtype, entry.shape)

    def read(self, name: str) -> Bits:
        """Decodes the bits of one tensor; safe to call from several threads.

        Returns:
            Bits in the tensor's shape, contiguous and in memory of their own.

        Raises:
            InputError: a file is damaged, or the tensor is not the one that was packed.
        """
        entry = self.entries[name]
        file = self.files[entry.file]
        parts = {part: file.read(part_name(name, part)) for part in _sizes(entry)}
        try:
            bits = _decode(parts, entry)
        except ValueError as error:
            raise InputError(f"{file.path}: tensor '{name}': altered, {error}") from None
        if digest(bits) != entry.sha256:
            raise InputError(
                f"{file.path}: tensor '{name}': altered, its checksum differs; copy or export the "
                "directory again"
            )
        return bits


def _check(file: WeightFile, name: str, entry: Entry) -> None:
    if entry.dtype not in ITEM_BYTES:
        raise InputError(f"{file.path}: tensor '{name}': unknown type '{entry.dtype}' in the index")
    for part, size in _sizes(entry).items():
        full = part_name(name, part)
        found = file.tensors.get(full)
        if found is None:
            raise InputError(f"{file.path}: tensor '{name}': missing, there is no '{full}'")
        dtype = "U8" if part in ("mask", "codes") else entry.dtype
        shape = entry.shape if part == "dense" else found.shape[:1]
        count = math.prod(found.shape)
        # A bitmask has as many values as ones, which decoding counts.
        fits = count <= size if (entry.encoding, part) == ("bitmask", "values") else count == size
        if found.dtype != dtype or found.shape != shape or not fits:
            raise InputError(
                f"{file.path}: tensor '{name}': altered, '{full}' is {found.dtype} "
                f"{list(found.shape)}, which is not what {entry.dtype} {list(entry.shape)} has"
            )


def _sizes(entry: Entry) -> dict[str, int]:
    """The tensor's parts and the most elements that each has."""
    size = math.prod(entry.shape)
    if entry.encoding == "dense":
        return {"dense": size}
    if entry.kept is None:
        return {"mask": mask_bytes(size), "values": size}
    return {"codes": code_bytes(size, entry.kept), "values": entry.kept * size // GROUP}


def _decode(parts: dict[str, Bits], entry: Entry) -> Bits:
    if entry.encoding == "dense":
        return parts["dense"]
    if entry.kept is None or entry.axis is None:
        return decode_bitmask(parts["mask"], parts["values"], entry.shape)
    return decode_nm(parts["codes"], parts["values"], entry.shape, entry.kept, entry.axis)
