"""The checkpoint that is pruned: found on disk, and refused where it cannot be streamed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from prunerzero.errors import InputError
from prunerzero.models.finite import is_finite
from prunerzero.models.hub import reachable
from prunerzero.models.loading import locate_model
from prunerzero.models.names import refuse_adapter
from prunerzero.packing.checkpoint import DenseCheckpoint
from prunerzero.packing.encoding import Bits
from prunerzero.packing.index import INDEX, is_packed
from prunerzero.packing.loading import DTYPES
from prunerzero.packing.tensors import as_tensor
from prunerzero.packing.weightfile import TensorInfo
from prunerzero.progress import Report, silent

# What a hub snapshot needs; the same weights in other formats are left there.
WANTED = ["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja"]


def local_checkpoint(name: str) -> Path:
    """The directory behind a model's name, downloaded or converted if need be.

    Args:
        name: hub id, checkpoint directory, ``.gguf`` file or alias.

    Raises:
        InputError: there is no such model, or it is an adapter.
    """
    source = locate_model(name)
    if Path(source).is_dir():
        return Path(source)
    from huggingface_hub import snapshot_download

    local = not reachable(source)
    try:
        found = snapshot_download(source, allow_patterns=WANTED, local_files_only=local)
    except Exception as error:  # the hub fails in many ways, none of them ours
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"model '{name}': cannot be downloaded: {reason}") from None
    return Path(found)


def open_checkpoint(directory: Path) -> DenseCheckpoint:
    """Reads the headers of a checkpoint's weight files.

    Raises:
        InputError: it is an adapter, quantised or packed, or a file is missing or damaged.
    """
    refuse_adapter(directory)
    if is_packed(directory):
        raise InputError(
            f"checkpoint {directory}: is packed ({INDEX}); `prunerzero export` it to dense first, "
            "or prune in memory (--no-stream)"
        )
    checkpoint = DenseCheckpoint.open(directory)
    checkpoint.refuse_codes()
    return checkpoint


def fingerprint(directory: Path, checkpoint: DenseCheckpoint) -> str:
    """What tells this checkpoint from another, or from itself after a change."""
    digest = hashlib.sha256((directory / "config.json").read_bytes())
    for path in sorted({file.path for file in checkpoint.tensors.values()}):
        stat = path.stat()
        digest.update(f"{path.name}:{stat.st_size}:{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def check_finite(checkpoint: DenseCheckpoint, report: Report = silent) -> None:
    """Reads all weights once and refuses those that are no numbers, before hours are spent on them.

    Raises:
        InputError: naming the first tensor with a NaN or an infinity, or a truncated file.
    """
    for done, info in enumerate(checkpoint.tensors, start=1):
        refuse_not_finite(info, checkpoint.read(info))
        report("checking weights", done, len(checkpoint.tensors))


def refuse_not_finite(info: TensorInfo, bits: Bits) -> None:
    """Refuses a tensor that holds NaN or infinity.

    Raises:
        InputError: naming it.
    """
    if not is_finite(as_tensor(bits, info)):
        raise InputError(f"tensor '{info.name}' holds NaN or infinity")


def weights_dtype(config: Any, tensors: Iterable[TensorInfo], dtype: str | None) -> torch.dtype:
    """The type in which transformers would load the weights (``dtype="auto"``).

    Args:
        config: the model's configuration.
        tensors: of its checkpoint.
        dtype: of the passes; float32 wants weights in it too, as there is no autocast to float32.
    """
    if dtype == "float32":
        return torch.float32
    declared = getattr(config, "dtype", None)
    if isinstance(declared, torch.dtype):
        return declared
    stored = [DTYPES[info.dtype] for info in tensors if info.dtype in DTYPES]
    return next((kind for kind in stored if kind.is_floating_point), torch.float32)
