"""The weight files of a saved model: named, divided and typed as those that it was loaded from."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from prunerzero.errors import InputError
from prunerzero.files import read_json, require_space, write_json
from prunerzero.packing.checkpoint import SHARDED, SINGLE, DenseCheckpoint
from prunerzero.packing.shards import write_weight_map, written
from prunerzero.packing.weightfile import TensorInfo
from prunerzero.progress import silent

USUAL_SHARD = 5 * 10**9  # bytes


def require_room(model: Any, directory: str | Path, source: str | Path) -> None:
    """Makes sure that a model can be saved, before anything is done for it.

    Args:
        model: the causal LM, in memory.
        directory: to be made.
        source: what it was loaded from; its tensors will go into files like those there, for which
            they are copied once (`shard_as`).

    Raises:
        InputError: too little disk space.
    """
    from prunerzero.models.hub import local_files
    from prunerzero.packing.loading import DTYPES

    weights = sum(parameter.nbytes for parameter in model.parameters())
    files = local_files(str(source))
    before = _dense(files) if files is not None else None
    work = 0
    if before is not None:
        names = {file.path.name for file in before.tensors.values()}
        stored = {DTYPES.get(info.dtype) for info in before.tensors}
        loaded = {parameter.dtype for parameter in model.parameters()}
        if names != {SINGLE} or weights > USUAL_SHARD or stored != loaded:
            work = sum(info.nbytes for info in before.tensors)
    require_space(directory, weights, work)


def _dense(source: Path) -> DenseCheckpoint | None:
    """A checkpoint's tensors; None where they are packed, or in pickle files."""
    try:
        return DenseCheckpoint.open(source)
    except InputError:
        return None


def shard_as(source: Path, directory: Path, *, types: bool = False) -> None:
    """Puts the tensors of a saved checkpoint into the files that they were in before.

    Transformers spreads the tensors of a model that it has loaded in another order.

    Args:
        source: the checkpoint that the model was loaded from.
        directory: the one that was saved.
        types: give them the types that they had there, too.
    """
    from prunerzero.packing.tensors import as_bits, as_tensor, typed_as

    before = _dense(source)
    if before is None:
        return
    saved = DenseCheckpoint.open(directory)
    places = {info.name: file.path.name for info, file in before.tensors.items()}
    olds = {info.name: info for info in before.tensors} if types else {}
    files: defaultdict[str, list[TensorInfo]] = defaultdict(list)
    place = next(iter(places.values()))
    retyped = {}  # by its name, how a tensor was stored
    for info in saved.tensors:
        place = places.get(info.name, place)  # one that is new stays with its neighbour
        old = olds.get(info.name, info)
        if old.dtype != info.dtype and old.shape == info.shape:
            retyped[info.name] = old
        files[place].append(retyped.get(info.name, info))
    paths = {file.path for file in saved.tensors.values()}
    if {path.name for path in paths} == {SINGLE} == files.keys() and not retyped:
        return
    news = {info.name: info for info in saved.tensors}
    with TemporaryDirectory(prefix=".shards-", dir=directory) as scratch:
        for writer, info in written(Path(scratch), files, ("",), silent):
            bits = saved.read(news[info.name])
            if info.name in retyped:
                tensor = as_tensor(bits, news[info.name])
                bits = as_bits(typed_as(tensor, as_tensor(before.read(info), info)))
            writer.add(info.name, info.dtype, info.shape, bits)
        for path in paths:
            path.unlink()
        for name in files:
            os.replace(Path(scratch) / name, directory / name)
    (directory / SHARDED).unlink(missing_ok=True)
    if files.keys() != {SINGLE}:
        write_weight_map(directory, files)
    if retyped:
        _declare_types_as(source, directory)


def _declare_types_as(source: Path, directory: Path) -> None:
    """Lets a saved configuration name the type of the weights that the source's names, or none."""
    path = directory / "config.json"
    document = read_json(path, "configuration")
    before = read_json(source / "config.json", "configuration")
    if before.get("model_type") != document.get("model_type"):  # one half of it was loaded
        before = next(
            (part for part in before.values() if isinstance(part, dict)
             and part.get("model_type") == document.get("model_type")),
            before,
        )  # fmt: skip
    _copy_type(before, document)
    write_json(path, document)


def _copy_type(before: dict[str, Any], document: dict[str, Any]) -> None:
    document.pop("dtype", None)
    if (dtype := before.get("dtype", before.get("torch_dtype"))) is not None:
        document["dtype"] = dtype
    for name, part in document.items():
        if isinstance(part, dict) and isinstance(before.get(name), dict):
            _copy_type(before[name], part)
