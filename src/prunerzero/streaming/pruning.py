"""Pruning a checkpoint on disk into another one, with one block in memory at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from prunerzero import __version__
from prunerzero.errors import InputError
from prunerzero.metric import Metric
from prunerzero.models.blocks import EVERYTHING, Block, Selection, coverage
from prunerzero.models.compute import Compute
from prunerzero.packing.checkpoint import DenseCheckpoint, copy_others
from prunerzero.progress import Report, silent
from prunerzero.pruning.calibration import calibration_windows, describe
from prunerzero.pruning.checkpoint import seen_documents, write_record
from prunerzero.pruning.memory import peak_rss_bytes
from prunerzero.pruning.pattern import Pattern
from prunerzero.pruning.pruner import (
    MatrixResult,
    PruneResult,
    UnusableScores,
    matrix_results,
    overall_sparsity,
    plan_sparsities,
    run_loop,
    run_settings,
    sums_by_pass,
)
from prunerzero.pruning.shared import replay_batch
from prunerzero.recipe import Recipe
from prunerzero.statistics.collectors import raw_sums
from prunerzero.streaming.capture import Frame
from prunerzero.streaming.chain import StreamedReplay
from prunerzero.streaming.dense import DensePass
from prunerzero.streaming.disk import Demand
from prunerzero.streaming.journal import Journal, work_directory
from prunerzero.streaming.layout import kind_of
from prunerzero.streaming.opening import open_model
from prunerzero.streaming.source import (
    check_finite,
    fingerprint,
)
from prunerzero.streaming.store import WeightStore
from prunerzero.streaming.target import Target

FILES = "checkpoint"


def prune_streamed(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    recipe: Recipe | Metric,
    pattern: Pattern,
    *,
    calibration: str | Tensor = "wikipedia",
    samples: int = 16,
    sequence_length: int = 512,
    sequential: bool = True,
    seed: int = 0,
    dtype: str | None = None,
    device: str | None = None,
    selection: Selection = EVERYTHING,
    report: Report = silent,
) -> PruneResult:
    """Prunes a checkpoint into a new directory, with one block's weights in memory at a time.

    The output has the source's weight files by name, header and order, with zeros in them. Until
    it is complete, what is done lies in ``OUTPUT.partial``; the same call goes on from there.

    Args:
        source: hub id, checkpoint directory, ``.gguf`` file or alias.
        output: directory to make; new or empty.
        recipe: a recipe, or a bare metric (ranked per row, uniform allocation).
        pattern: what may be zero.
        calibration: a text source by name or path, or token ids ``[windows, length]``.
        samples: number of calibration windows drawn from a text source.
        sequence_length: tokens in each of them.
        sequential: take each block's activation statistics from the pruned blocks before it;
            otherwise all statistics come from the dense model (one-shot). Gradients always do.
        seed: seed of the draw of calibration windows.
        dtype: precision of the passes; None takes bfloat16 where the hardware has it. float32 loads
            the weights in it; the output keeps the source's type all the same.
        device: ``cpu``, ``cuda:0``...; None takes the first GPU, else the CPU.
        selection: which blocks and matrices are pruned; by default all that inspection finds.
        report: called with a step's name, the parts done and their number.

    Returns:
        Per-matrix sparsity, time, memory and settings.

    Raises:
        InputError: for what `prunerzero.prune` refuses, for a checkpoint that is quantised, an
            adapter, damaged, or not what its config.json says, for weights that are not finite,
            too little disk space, or an unfinished run of other settings.
    """
    if isinstance(recipe, Metric):
        recipe.check_rankable()
        recipe = Recipe(metric=recipe)
    name, target = os.fspath(source), Path(os.path.realpath(output))
    seen_documents(name)  # read again for the record: one that is damaged is found now
    opened = open_model(name, dtype, device, selection)
    directory, checkpoint, blocks = opened.directory, opened.checkpoint, opened.blocks
    sparsities = plan_sparsities(blocks, recipe, pattern)
    needed = raw_sums(recipe.terminals)
    tokens, described = None, None
    if needed:
        windows = calibration_windows(
            opened.model, opened.tokenizer(), calibration, samples, sequence_length, seed
        )
        tokens, described = windows.tokens, describe(windows)
    settings = run_settings(recipe, pattern, sequential, seed, selection, opened.compute, described)
    with Journal(work_directory(target)) as journal, _reasons(journal):
        _check_output(target, journal)
        run = _Run(
            opened.frame,
            blocks,
            opened.store,
            Target(journal.folder / FILES, directory, checkpoint),
            journal,
            recipe,
            pattern,
            sparsities,
            tokens,
            sequential,
            opened.compute,
            report,
        )
        if not journal.open(_identity(settings, directory, checkpoint)):
            demand = Demand.of(
                checkpoint, blocks, opened.model.config, opened.dtype, tokens, *run.sums
            )
            demand.check(journal.folder)
            check_finite(checkpoint, report)
            run.begin()
        if not run.is_pruned:
            run.prune()
        result = _result(journal, blocks, settings)
        _finish(journal, directory, target, result, name)
    return result


@dataclass(frozen=True)
class _Run:
    """A run whose settings are known to fit the model."""

    frame: Frame
    blocks: Sequence[Block]
    store: WeightStore
    files: Target
    journal: Journal
    recipe: Recipe
    pattern: Pattern
    sparsities: dict[str, Fraction]
    tokens: Tensor | None
    sequential: bool
    compute: Compute
    report: Report

    @property
    def sums(self) -> tuple[frozenset[str], frozenset[str]]:
        """The raw sums of the dense model, and those gathered anew at every block."""
        return sums_by_pass(self.recipe, self.sequential)

    @property
    def is_pruned(self) -> bool:
        """Whether all blocks are finished."""
        return bool(self.journal.done.get("pruned", 0) == len(self.blocks))

    def begin(self) -> None:
        """Checks what needs weights, and makes the output's files without the blocks' tensors."""
        for block in {kind_of(block): block for block in reversed(self.blocks)}.values():
            with self.store.loaded(block):
                self.store.check_reversible(block)
        if self.tokens is not None:
            self.frame.probe(self.tokens)
        self.files.prepare({info for tensors in self.store.layout.inside for info in tensors})
        self.journal.commit()

    def prune(self) -> None:
        """Prunes the blocks that are not finished yet."""
        done = self.journal.done
        once, replayed = self.sums
        dense, chain = None, None
        if self.tokens is not None:
            self.frame.probe(self.tokens)
        if self.tokens is not None and once:
            dense = DensePass(
                self.frame,
                self.blocks,
                self.store,
                self.tokens,
                once,
                self.compute,
                self.journal,
                self.report,
            )
            dense.gather()
        if self.tokens is not None and replayed:
            chain = self._chain(list(self.tokens.split(replay_batch(self.tokens))))
        unreached = dict.fromkeys(done.get("unreached", dense.unreached if dense else []))
        run_loop(
            self.blocks[done.get("pruned", 0) :],
            self.recipe,
            self.pattern,
            self.sparsities,
            self.tokens,
            dense,
            chain,
            unreached,
            hold=lambda block: self._held(block, chain, unreached),
            report=self.report,
        )

    def _chain(self, batches: list[Tensor]) -> StreamedReplay:
        """Hidden states before the first block that is not finished yet."""
        position = self.journal.done.get("pruned", 0)
        calls = self.frame.capture(batches)
        chain = StreamedReplay(self.journal.folder, "hidden", batches, calls, self.compute)
        if position:
            chain.resume(position)
        else:
            chain.begin(self.frame.embedded(batches))
        return chain

    @contextmanager
    def _held(
        self, block: Block, chain: StreamedReplay | None, unreached: dict[str, None]
    ) -> Iterator[None]:
        """Loads a block for the loop; once it is pruned, writes it and records that."""
        with self.store.loaded(block):
            yield
            self.files.write(self.store.stored(block))
            results = [asdict(result) for result in matrix_results([block])]
        # The next block's input is on disk by now; this block's is needed until that is recorded.
        self.journal.commit(
            pruned=block.index + 1,
            matrices=[*self.journal.done.get("matrices", []), *results],
            unreached=list(unreached),
        )
        if chain is not None:
            chain.forget(block.index)


@contextmanager
def _reasons(journal: Journal) -> Iterator[None]:
    """Turns the system's errors into a line, and keeps nothing that could not be gone on with."""
    try:
        yield
    except UnusableScores:
        journal.discard()
        raise
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError(
            f"{error.filename or journal.folder}: {reason}; what is done is kept in "
            f"{journal.folder}, and the same command goes on from there"
        ) from None


def _check_output(target: Path, journal: Journal) -> None:
    occupied = target.is_dir() and any(target.iterdir())
    finished = journal.exists() and not (journal.folder / FILES).exists()
    if finished and not occupied:
        raise InputError(f"{journal.folder}: the files of its checkpoint are gone; delete it")
    if occupied and not finished:
        raise InputError(f"output {target}: directory is not empty; empty it or name a new")
    if target.exists() and not target.is_dir():
        raise InputError(f"output {target}: is a file; name a directory")


def _identity(
    settings: dict[str, Any], directory: Path, checkpoint: DenseCheckpoint
) -> dict[str, Any]:
    """Everything that decides about the bytes of the output."""
    versions = {"prunerzero": __version__, "torch": torch.__version__}
    return settings | {
        "model": fingerprint(directory, checkpoint),
        "versions": versions | {"transformers": transformers.__version__},
    }


def _result(journal: Journal, blocks: Sequence[Block], settings: dict[str, Any]) -> PruneResult:
    results = tuple(MatrixResult(**row) for row in journal.done["matrices"])
    return PruneResult(
        sparsity=overall_sparsity(results),
        matrices=results,
        seconds=journal.seconds,
        peak_rss_bytes=peak_rss_bytes(),
        coverage=coverage(blocks),
        unreached=tuple(journal.done["unreached"]),
        settings=settings,
    )


def _finish(journal: Journal, source: Path, target: Path, result: PruneResult, name: str) -> None:
    """Completes the output, puts it in its place, and deletes everything else."""
    files = journal.folder / FILES
    if files.exists():
        copy_others(source, files)
        write_record(files, result, name)
        for file in files.rglob("*"):
            file.chmod(0o755 if file.is_dir() else 0o644)
        os.replace(files, target)  # over an empty directory, and over nothing else
    journal.discard()
