"""Statistics of the dense model, kept on disk so that a second run starts at once.

A cache file holds one raw sum of every matrix. It is named by what determines it: the model's
weights and configuration, the calibration tokens and the precision. It is written whole or not at
all, with a checksum. A cache that cannot be read or written, or was altered, costs a second pass,
never a run. Gram matrices, which can be larger than the model, are kept up to `GRAM_BYTES`; those
that several matrices share, once. Sums of a user's own are not kept, for their functions may change
under their names.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from prunerzero.errors import InputError
from prunerzero.files import atomic_path, cache_dir
from prunerzero.models.compute import Compute
from prunerzero.models.matrices import Matrix
from prunerzero.progress import Advance, silent
from prunerzero.statistics.collectors import GRAM, TOKEN_SUMS, Sample, finish, raw_sums
from prunerzero.statistics.gathering import RawStatistics, fill_unreached, gather_raw

# Part of every key: raised when the meaning of the stored sums changes.
VERSION = "1"

GRAM_BYTES = 1 << 30
ALIASES = "aliases"  # in a cache file's header: names of matrices that share another's sum

CHECKSUM = "sha256"  # of the sums, in a cache file's header

# Parts of a configuration that say where a model came from, not what it computes.
PLACE = frozenset({"_name_or_path", "transformers_version", "architectures", "dtype"})


class DenseStatistics(Protocol):
    """Terminals of the dense model's matrices: `Statistics`, or what is kept on disk."""

    @property
    def unreached(self) -> list[str]:
        """Names of matrices that no token met."""

    def of(self, matrix: Matrix, terminals: frozenset[str]) -> dict[str, Tensor]:
        """The data terminals of one matrix."""


class Statistics:
    """Terminals of every prunable matrix, finished on demand from raw sums.

    Args:
        raw: raw sums by matrix.
        sample: how much text they run over.
        matrices: the matrices. Experts that no token met are given their siblings' statistics
            (`fill_unreached`).

    Attributes:
        unreached: names of those experts' matrices.
    """

    def __init__(self, raw: RawStatistics, sample: Sample, matrices: Iterable[Matrix]) -> None:
        self.unreached = fill_unreached(raw, matrices)
        self._raw = raw
        self._sample = sample

    def of(self, matrix: Matrix, terminals: frozenset[str]) -> dict[str, Tensor]:
        """The data terminals of one matrix: ``[1, in]`` activations, ``[out, in]`` gradients."""
        device = matrix.parameter.device  # a model may be spread over several
        raw = {name: sums.to(device) for name, sums in self._raw[matrix.name].items()}
        return finish(terminals, raw, self._sample)


def gather_statistics(
    model: nn.Module,
    matrices: list[Matrix],
    tokens: Tensor,
    terminals: frozenset[str],
    compute: Compute,
    advance: Advance = silent,
    *,
    held: RawStatistics | None = None,
) -> Statistics:
    """Statistics of the dense model on calibration windows, from the cache where it has them.

    Args:
        model: the dense causal LM.
        matrices: its prunable matrices.
        tokens: calibration token ids ``[windows, length]``.
        terminals: names of the terminals wanted.
        compute: device and precision.
        advance: called with the number of windows done (not called on a cache hit).
        held: raw sums that the caller has already, of every matrix.
    """
    wanted = raw_sums(terminals)
    sample = Sample(sequences=tokens.shape[0], tokens=tokens.numel())
    if not wanted:
        return Statistics({matrix.name: {} for matrix in matrices}, sample, matrices)
    parts = [VERSION, model_hash(model), tokens_hash(tokens), str(compute)]
    found: dict[str, dict[str, Tensor]] = {}
    for name, sums in (held or {}).items():
        for key in wanted & sums.keys():
            found.setdefault(key, {})[name] = sums[key]
    paths = {key: _path([*parts, key]) for key in sorted(wanted - found.keys() - TOKEN_SUMS.keys())}
    for key, path in paths.items():
        with suppress(SafetensorError, OSError, KeyError, InputError):
            stored = _load(path)
            here = {id(sums): sums.to(compute.device) for sums in stored.values()}
            found[key] = {matrix.name: here[id(stored[matrix.name])] for matrix in matrices}
    if missing := wanted - found.keys():
        gathered = gather_raw(model, matrices, tokens, missing, compute, advance)
        for key in missing:
            found[key] = {name: sums[key].contiguous() for name, sums in gathered.items()}
            if key in paths and _fits(key, found[key]):
                with suppress(SafetensorError, OSError, InputError):
                    _store(paths[key], found[key])
    raw = {
        matrix.name: {key: sums[matrix.name] for key, sums in found.items()} for matrix in matrices
    }
    return Statistics(raw, sample, matrices)


def _store(path: Path, sums: Mapping[str, Tensor]) -> None:
    """Writes one raw sum of all matrices; tensors that several share once."""
    first: dict[int, str] = {}
    owners = {name: first.setdefault(id(tensor), name) for name, tensor in sums.items()}
    kept = {name: sums[name] for name in first.values()}
    shared = {name: owner for name, owner in owners.items() if name != owner}
    aliases = json.dumps(shared, sort_keys=True) if shared else ""
    header = {CHECKSUM: _checksum(kept, aliases)} | ({ALIASES: aliases} if aliases else {})
    with atomic_path(path) as temporary:
        save_file(kept, temporary, header)


def _fits(key: str, sums: Mapping[str, Tensor]) -> bool:
    distinct = {id(tensor): tensor.nbytes for tensor in sums.values()}
    return key != GRAM or sum(distinct.values()) <= GRAM_BYTES


def _load(path: Path) -> dict[str, Tensor]:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
    aliases = metadata.get(ALIASES, "")
    if metadata.get(CHECKSUM) != _checksum(stored, aliases):
        raise InputError(f"statistics {path}: altered")
    shared: dict[str, str] = json.loads(aliases) if aliases else {}
    return stored | {name: stored[owner] for name, owner in shared.items()}


def _checksum(tensors: Mapping[str, Tensor], aliases: str) -> str:
    digest = hashlib.sha256(aliases.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def model_hash(model: nn.Module) -> str:
    """SHA-256 over the configuration and the names, types and bytes of all parameters."""
    config: Any = model.config
    described = {key: value for key, value in config.to_dict().items() if key not in PLACE}
    digest = hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode())
    for name, parameter in sorted(model.named_parameters()):
        digest.update(f"{name}:{parameter.dtype}:{tuple(parameter.shape)}".encode())
        stored = parameter.detach().cpu().contiguous()
        digest.update(stored.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def tokens_hash(tokens: Tensor) -> str:
    """SHA-256 of token ids and their shape."""
    shape = f"{tuple(tokens.shape)}".encode()
    return hashlib.sha256(shape + tokens.cpu().contiguous().numpy().tobytes()).hexdigest()


def _path(parts: list[str]) -> Path:
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
    return cache_dir() / "statistics" / f"{key}.safetensors"
