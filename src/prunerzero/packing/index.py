"""``packed.json``: what every tensor of a packed checkpoint is, and where."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StrictInt, ValidationError, model_validator

from prunerzero.errors import InputError
from prunerzero.files import read_json, write_json
from prunerzero.packing.encoding import Encoding
from prunerzero.packing.nm import GROUP

INDEX = "packed.json"
STEM = "packed"
FORMAT = "prunerzero-packed"
VERSION = 1

_Dimension = Annotated[StrictInt, Field(ge=0)]


class Entry(BaseModel):
    """One tensor of a packed checkpoint.

    Attributes:
        encoding: how it is stored.
        dtype: of its elements, as safetensors calls it.
        shape: of the dense tensor.
        file: the weight file with its parts.
        sha256: of the dense tensor's bytes, so of what decoding has to give.
        kept: N of ``nm4``.
        axis: the dimension along which the groups of ``nm4`` lie.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    encoding: Encoding
    dtype: str
    shape: tuple[_Dimension, ...]
    # A bare name: an index cannot point out of its directory.
    file: Annotated[str, Field(pattern=r"^packed(-\d{5}-of-\d{5})?\.safetensors$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    kept: Annotated[StrictInt, Field(ge=1, le=3)] | None = None
    axis: _Dimension | None = None

    @model_validator(mode="after")
    def _has_groups(self) -> Entry:
        if (self.encoding == "nm4") != (self.kept is not None) or (self.kept is None) != (
            self.axis is None
        ):
            raise ValueError("kept and axis belong to nm4, and to nothing else")
        if self.axis is not None and (
            self.axis >= len(self.shape) or self.shape[self.axis] % GROUP
        ):
            raise ValueError(f"axis {self.axis} is no dimension of a multiple of {GROUP} weights")
        return self


def is_packed(directory: str | Path) -> bool:
    """Whether the directory is a packed checkpoint (undamaged or not)."""
    return (Path(directory) / INDEX).is_file()


def write_index(directory: Path, entries: dict[str, Entry]) -> None:
    """Writes ``packed.json``.

    Args:
        directory: the checkpoint's.
        entries: every tensor by its name, in the order in which it is to be loaded.
    """
    tensors = {name: entry.model_dump(exclude_none=True) for name, entry in entries.items()}
    document = {"format": FORMAT, "version": VERSION, "sha256": _digest(tensors)}
    write_json(directory / INDEX, document | {"tensors": tensors})


def read_index(directory: Path) -> dict[str, Entry]:
    """Reads ``packed.json``.

    Returns:
        Every tensor by its name, in the order of the file.

    Raises:
        InputError: it is none, of another version, or altered.
    """
    path = directory / INDEX
    document = read_json(path, "packed index")
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise InputError(f"packed index {path}: its format is not '{FORMAT}'")
    version = document.get("version")
    if version != VERSION:
        raise InputError(
            f"packed index {path}: version {version!r}, but this prunerzero reads {VERSION}; "
            "update prunerzero"
        )
    tensors = document.get("tensors")
    if not isinstance(tensors, dict) or document.get("sha256") != _digest(tensors):
        raise InputError(f"packed index {path}: altered, its checksum differs; export it again")
    return {name: _entry(path, name, value) for name, value in tensors.items()}


def _entry(path: Path, name: str, value: object) -> Entry:
    try:
        return Entry.model_validate(value)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_context=False)[0]
        field = "".join(f" {part}:" for part in fault["loc"])
        message = fault["msg"].removeprefix("Value error, ")
        raise InputError(f"packed index {path}, tensor '{name}':{field} {message}") from None


def _digest(tensors: dict[str, Any]) -> str:
    text = json.dumps(tensors, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
