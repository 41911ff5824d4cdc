"""Checkpoints of pickle files, for those who ask: converted to safetensors once, and cached.

Unpickling runs whatever the file says. PyTorch's ``weights_only`` loader builds tensors and plain
containers alone; what asks for more is refused.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prunerzero.errors import InputError
from prunerzero.files import atomic_directory, cache_dir, read_json, require_space, write_json
from prunerzero.packing.checkpoint import SHARDED, SINGLE, copy_others

PICKLE = "pytorch_model.bin"
PICKLES = "pytorch_model.bin.index.json"


def without_pickle(name: str) -> str:
    """The name of a model that needs no unpickling: its own, or that of its conversion.

    Args:
        name: a model's name as a user gives it. Only a directory whose weights are in
            ``pytorch_model.bin`` or its shards is converted.

    Raises:
        InputError: a file is missing, damaged, holds anything but tensors, or its index points out
            of the directory; or the cache cannot be written.
    """
    directory = Path(name)
    if not os.path.isfile(directory / "config.json") or any(
        (directory / file).is_file() for file in (SINGLE, SHARDED)
    ):
        return name
    files = _files(directory)
    if not files:
        return name
    target = cache_dir() / "models" / f"{directory.resolve().name}-{_identity(files)}"
    if not (target / "config.json").is_file():
        _convert(directory, files, target)
    return str(target)


def _files(directory: Path) -> list[Path]:
    if (directory / PICKLE).is_file():
        return [directory / PICKLE]
    index = directory / PICKLES
    if not index.is_file():
        return []
    document = read_json(index, "weight index")
    weight_map: Any = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(f"weight index {index}: no weight_map of tensor names to files")
    names = sorted(set(map(str, weight_map.values())))
    for file in names:
        if Path(file).name != file:
            raise InputError(f"weight index {index}: '{file}' is no file name")
        if not (directory / file).is_file():
            raise InputError(f"{directory / file}: missing; copy the whole directory again")
    return [directory / file for file in names]


def _identity(files: list[Path]) -> str:
    stats = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(repr(stats).encode()).hexdigest()[:12]


def _convert(directory: Path, files: list[Path], target: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    require_space(target, sum(file.stat().st_size for file in files))
    single = len(files) == 1
    places: dict[str, str] = {}
    try:
        with atomic_directory(target) as temporary:
            copy_others(directory, temporary)
            for number, file in enumerate(files, start=1):
                tensors = _read(file)
                name = f"model-{number:05}-of-{len(files):05}.safetensors"
                # Tied tensors share memory, which safetensors does not store.
                copies = {key: tensor.clone().contiguous() for key, tensor in tensors.items()}
                save_file(copies, temporary / (SINGLE if single else name), {"format": "pt"})
                places |= dict.fromkeys(tensors, name)
            if not single:
                write_json(temporary / SHARDED, {"metadata": {}, "weight_map": places})
    except SafetensorError as error:
        raise InputError(f"{target}: cannot be written ({error})") from None


def _read(file: Path) -> Mapping[str, Any]:
    import torch

    try:
        found = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged and hostile files fail in many ways
        raise InputError(
            f"{file}: damaged, or holds more than tensors, and is not read then "
            f"({type(error).__name__})"
        ) from None
    if not isinstance(found, Mapping) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in found.items()
    ):
        raise InputError(f"{file}: no mapping of names to tensors")
    return found
