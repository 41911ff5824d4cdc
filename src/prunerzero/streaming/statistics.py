"""Statistics of a model that does not fit in memory: on disk, mapped, gradients in bfloat16."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from prunerzero.errors import InputError
from prunerzero.files import cache_dir, require_space
from prunerzero.metric import Metric
from prunerzero.models.blocks import Matrix
from prunerzero.progress import Report, silent
from prunerzero.pruning.pattern import Pattern
from prunerzero.statistics.cache import tokens_hash
from prunerzero.statistics.collectors import GRADIENT, TOKEN_SUMS, Sample, finish, raw_sums
from prunerzero.streaming.dense import DensePass
from prunerzero.streaming.disk import Demand
from prunerzero.streaming.journal import Journal
from prunerzero.streaming.opening import Opened
from prunerzero.streaming.source import fingerprint
from prunerzero.streaming.states import write_tensors

# Squared gradients are stored in bfloat16 where the masks of this formula, which depends on them as
# much as any published one, agree on so much of the weights with those of float32.
PROBE = Metric.parse("W * F")
PROBE_PATTERN = Pattern.parse("50%")
LEAST_AGREEMENT = 0.998

SUMS = "statistics"


class StoredStatistics:
    """Terminals of every prunable matrix, from files of one block each that are mapped.

    Attributes:
        unreached: names of matrices that no token met.
        rounding: how far masks from bfloat16 sums agree with those from float32: ``agreement`` and
            ``worst`` (share of weights, of all matrices and of the worst) and ``kept`` (matrices
            whose sums stay float32 because of it); None without gradients.
    """

    def __init__(
        self,
        folder: Path,
        sample: Sample,
        unreached: list[str],
        rounding: dict[str, Any] | None,
        device: torch.device,
    ) -> None:
        """Opens nothing yet.

        Args:
            folder: where the files are.
            sample: how much text the sums run over.
            unreached: see the attribute.
            rounding: likewise.
            device: where the terminals are wanted.
        """
        self.unreached = unreached
        self.rounding = rounding
        self._folder = folder
        self._sample = sample
        self._device = device
        self._open = lru_cache(maxsize=1)(self._opened)

    def of(self, matrix: Matrix, terminals: frozenset[str]) -> dict[str, Tensor]:
        """The data terminals of one matrix: ``[1, in]`` activations, ``[out, in]`` gradients."""
        file = self._open(matrix.block)
        raw = {
            kind: file.get_tensor(f"{kind}/{matrix.name}").to(self._device).float()
            for kind in raw_sums(terminals)
        }
        return finish(terminals, raw, self._sample)

    def _opened(self, block: int) -> Any:
        return safe_open(self._folder / f"{SUMS}-{block}.safetensors", framework="pt")


def check_room(opened: Opened, tokens: Tensor, terminals: frozenset[str]) -> None:
    """Makes sure that `gather_stored` finds the disk space that it takes; arguments as there.

    Raises:
        InputError: it does not.
    """
    folder, _ = _place(opened, tokens, terminals)
    if not Journal(folder).exists():
        require_space(folder, 0, _demand(opened, tokens, raw_sums(terminals)))


def gather_stored(
    opened: Opened, tokens: Tensor, terminals: frozenset[str], report: Report = silent
) -> StoredStatistics:
    """Statistics of the dense model on calibration windows, from the cache where it has them.

    They are gathered one block at a time; a killed run is gone on with.

    Args:
        opened: the model.
        tokens: calibration token ids ``[windows, length]``.
        terminals: names of the terminals wanted.
        report: called with a step's name, the parts done and their number.

    Raises:
        InputError: too little disk space, or another process is gathering the same.
    """
    folder, settings = _place(opened, tokens, terminals)
    wanted = raw_sums(terminals)
    sample = Sample(tokens.shape[0], tokens.numel())
    with Journal(folder) as journal:
        if not journal.open(settings):
            require_space(folder, 0, _demand(opened, tokens, wanted))
            opened.frame.probe(tokens)
            journal.commit()
        if not journal.done.get("stored"):
            opened.frame.probe(tokens)
            dense = DensePass(
                opened.frame,
                opened.blocks,
                opened.store,
                tokens,
                wanted,
                opened.compute,
                journal,
                report,
            )
            dense.gather()
            rounding = _store(opened, folder, dense, wanted, sample)
            journal.commit(stored=True, unreached=dense.unreached, rounding=rounding)
            dense.discard()
        done = journal.done
    return StoredStatistics(
        folder, sample, done["unreached"], done.get("rounding"), opened.compute.device
    )


def _place(
    opened: Opened, tokens: Tensor, terminals: frozenset[str]
) -> tuple[Path, dict[str, Any]]:
    """Where such statistics are kept, and everything that decides about them."""
    wanted = raw_sums(terminals)
    if own := sorted(wanted & TOKEN_SUMS.keys()):
        raise InputError(
            f"sum '{own[0]}': is your own, and statistics kept on disk could not tell whether its "
            "function has changed; search without stream"
        )
    settings = {
        "model": fingerprint(opened.directory, opened.checkpoint),
        "matrices": [matrix.name for block in opened.blocks for matrix in block.matrices],
        "tokens": tokens_hash(tokens),
        "compute": str(opened.compute),
        "sums": sorted(wanted),
    }
    key = hashlib.sha256(repr(settings).encode()).hexdigest()[:32]
    return cache_dir() / "statistics" / f"{key}.streamed", settings


def _demand(opened: Opened, tokens: Tensor, wanted: frozenset[str]) -> int:
    demand = Demand.of(
        opened.checkpoint,
        opened.blocks,
        opened.model.config,
        opened.dtype,
        tokens,
        wanted,
        frozenset(),
    )
    if GRADIENT not in wanted:
        return demand.work
    weights = sum(m.weight.numel() for block in opened.blocks for m in block.matrices)
    return demand.work + weights * torch.bfloat16.itemsize


def _store(
    opened: Opened, folder: Path, dense: DensePass, wanted: frozenset[str], sample: Sample
) -> dict[str, Any] | None:
    """Writes each block's sums into one file, the gradients' rounded where that does no harm."""
    agreeing = total = 0
    worst = 1.0
    kept: list[str] = []
    for block in opened.blocks:
        found: dict[str, Tensor] = {}
        with opened.store.loaded(block):
            for matrix in block.matrices:
                raw = dense.raw_of(matrix)
                if GRADIENT in wanted:
                    rounded = raw[GRADIENT].bfloat16()
                    same = _agreeing(matrix, raw[GRADIENT], rounded, sample)
                    agreeing, total = agreeing + same, total + rounded.numel()
                    worst = min(worst, same / rounded.numel())
                    if same >= LEAST_AGREEMENT * rounded.numel():
                        raw[GRADIENT] = rounded
                    else:
                        kept.append(matrix.name)
                found |= {f"{kind}/{matrix.name}": sums for kind, sums in raw.items()}
        write_tensors(folder / f"{SUMS}-{block.index}.safetensors", found)
    if GRADIENT not in wanted:
        return None
    return {"agreement": agreeing / total, "worst": worst, "kept": kept}


def _agreeing(matrix: Matrix, exact: Tensor, rounded: Tensor, sample: Sample) -> int:
    masks = []
    for sums in (exact, rounded.float()):
        terminals = finish(PROBE.terminals, {GRADIENT: sums}, sample)
        masks.append(PROBE_PATTERN.mask(PROBE.score(W=matrix.weight, **terminals)))
    return int((masks[0] == masks[1]).sum())
