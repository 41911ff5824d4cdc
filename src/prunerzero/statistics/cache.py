"""Statistics of the dense model, kept on disk so that a second run starts at once.

A cache file holds one raw sum of every matrix. It is named by what determines it: the model's
weights, the calibration tokens and the precision. It is written whole or not at all, and read back with safetensors.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from prunerzero.files import atomic_path, cache_dir
from prunerzero.models.blocks import Matrix
from prunerzero.models.compute import Compute
from prunerzero.statistics.collectors import Sample, finish, raw_sums
from prunerzero.statistics.gathering import Advance, RawStatistics, gather_raw

# Part of every key: raised when the meaning of the stored sums changes.
VERSION = "1"


class Statistics:
    """Terminals of every prunable matrix, finished on demand from raw sums."""

    def __init__(self, raw: RawStatistics, sample: Sample) -> None:
        self._raw = raw
        self._sample = sample

    def of(self, matrix: Matrix, terminals: frozenset[str]) -> dict[str, Tensor]:
        """The data terminals of one matrix: ``[1, in]`` activations, ``[out, in]`` gradients."""
        return finish(terminals, self._raw[matrix.name], self._sample)


def gather_statistics(
    model: nn.Module,
    matrices: list[Matrix],
    tokens: Tensor,
    terminals: frozenset[str],
    compute: Compute,
    advance: Advance = lambda done: None,
) -> Statistics:
    """Statistics of the dense model on calibration windows, from the cache where it has them.

    Args:
        model: the dense causal LM.
        matrices: its prunable matrices.
        tokens: calibration token ids ``[windows, length]``.
        terminals: names of the terminals wanted.
        compute: device and precision.
        advance: called with the number of windows done (not called on a cache hit).
    """
    wanted = raw_sums(terminals)
    sample = Sample(sequences=tokens.shape[0], tokens=tokens.numel())
    if not wanted:
        return Statistics({matrix.name: {} for matrix in matrices}, sample)
    paths = {key: _path(model, tokens, key, compute) for key in sorted(wanted)}
    found = {key: _read(path, matrices, compute.device) for key, path in paths.items()}
    missing = frozenset(key for key, sums in found.items() if sums is None)
    if missing:
        gathered = gather_raw(model, matrices, tokens, missing, compute, advance)
        for key in missing:
            found[key] = {name: sums[key].contiguous() for name, sums in gathered.items()}
            with atomic_path(paths[key]) as temporary:
                save_file(found[key], temporary)
    raw = {
        matrix.name: {key: sums[matrix.name] for key, sums in found.items() if sums is not None}
        for matrix in matrices
    }
    return Statistics(raw, sample)


def model_hash(model: nn.Module) -> str:
    """SHA-256 over names, types and bytes of all parameters and the configuration."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        digest.update(f"{name}:{parameter.dtype}:{tuple(parameter.shape)}".encode())
        stored = parameter.detach().cpu().contiguous()
        digest.update(stored.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def tokens_hash(tokens: Tensor) -> str:
    """SHA-256 of token ids and their shape."""
    shape = f"{tuple(tokens.shape)}".encode()
    return hashlib.sha256(shape + tokens.cpu().contiguous().numpy().tobytes()).hexdigest()


def _path(model: nn.Module, tokens: Tensor, raw_sum: str, compute: Compute) -> Path:
    parts = [VERSION, model_hash(model), tokens_hash(tokens), raw_sum, str(compute.dtype)]
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
    return cache_dir() / "statistics" / f"{key}.safetensors"


def _read(path: Path, matrices: list[Matrix], device: torch.device) -> dict[str, Tensor] | None:
    if not path.is_file():
        return None
    try:
        stored = load_file(path, device=str(device))
        return {matrix.name: stored[matrix.name] for matrix in matrices}
    except (SafetensorError, OSError, KeyError):
        # A damaged cache file costs a second pass, never a run.
        return None
