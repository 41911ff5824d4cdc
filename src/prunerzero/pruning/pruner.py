"""The one block-by-block loop: statistics, scores, masks, zeros; every recipe is a plug in it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from fractions import Fraction
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from prunerzero.data.windows import Windows
from prunerzero.errors import InputError
from prunerzero.errors import UnusableScores as UnusableScores
from prunerzero.metric import Metric
from prunerzero.models.blocks import (
    EVERYTHING,
    Block,
    Selection,
    coverage,
    find_blocks,
)
from prunerzero.models.compute import Compute, compute_for
from prunerzero.models.matrices import Matrix, is_mixture
from prunerzero.notebook import Tabular, properties
from prunerzero.permutation.pattern import check_permutable
from prunerzero.permutation.permute import permute
from prunerzero.progress import Report, silent
from prunerzero.pruning.calibration import calibration_windows, describe
from prunerzero.pruning.matrix import prune_matrix
from prunerzero.pruning.memory import peak_rss_bytes
from prunerzero.pruning.pattern import Pattern
from prunerzero.pruning.planning import needs_data, planned, settled
from prunerzero.pruning.shared import SharedData
from prunerzero.recipe import Recipe
from prunerzero.statistics.cache import DenseStatistics as DenseStatistics
from prunerzero.statistics.cache import Statistics
from prunerzero.statistics.collectors import Sample, forward, raw_sums, terminals_of
from prunerzero.statistics.gathering import ActivationSums, RawStatistics


@dataclass(frozen=True)
class MatrixResult:
    """What pruning did to one matrix."""

    name: str
    rows: int
    columns: int
    sparsity: float


@dataclass(frozen=True)
class PruneResult(Tabular):
    """What a pruning run did.

    Attributes:
        sparsity: share of zeros in all prunable matrices.
        matrices: the same for each matrix.
        seconds: time of statistics and pruning.
        peak_rss_bytes: largest resident memory of the process so far.
        coverage: share of the blocks' weights that is in these matrices.
        unreached: matrices that no calibration token met. Experts among them were scored by the
            pooled statistics of their block's other experts, layers that the model does not call
            as if all their inputs were alike.
        settings: everything needed to repeat the run, JSON-serialisable.
    """

    sparsity: float
    matrices: tuple[MatrixResult, ...]
    seconds: float
    peak_rss_bytes: int
    coverage: float
    unreached: tuple[str, ...]
    settings: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The result as a JSON-serialisable dictionary."""
        return asdict(self)

    def _rows(self) -> list[dict[str, Any]]:
        return [asdict(matrix) for matrix in self.matrices]

    def _repr_html_(self) -> str:
        return properties(
            "Pruned",
            {
                "pattern": self.settings["pattern"],
                "zeros": f"{self.sparsity:.2%} of {len(self.matrices)} matrices",
                "prunable": f"{self.coverage:.1%} of the blocks' weights",
                "seconds": round(self.seconds, 1),
                "peak memory": f"{self.peak_rss_bytes / 2**20:.0f} MiB",
            },
        )


def prune(
    model: nn.Module,
    tokenizer: Any,
    recipe: Recipe | Metric,
    pattern: Pattern,
    *,
    calibration: str | Tensor | Windows = "wikipedia",
    samples: int = 16,
    sequence_length: int = 512,
    sequential: bool = True,
    seed: int = 0,
    dtype: str | None = None,
    selection: Selection = EVERYTHING,
    permuted: bool = False,
    report: Report = silent,
) -> PruneResult:
    """Prunes a causal LM in place.

    What can be checked is checked before the first weight changes. Scores that are not finite come
    to light only at their matrix: then the blocks before it are pruned already, and the model
    should be loaded again.

    Args:
        model: a Hugging Face causal LM; it is put in evaluation mode.
        tokenizer: its tokenizer; None if ``calibration`` holds token ids.
        recipe: a recipe, or a bare metric (ranked per row, uniform allocation).
        pattern: what may be zero.
        calibration: a text source by name or path, token ids ``[windows, length]``, or windows of
            a calibration split.
        samples: number of calibration windows drawn from a text source.
        sequence_length: tokens in each of them.
        sequential: take each block's activation statistics from the pruned blocks before it;
            otherwise all statistics come from the dense model (one-shot). Gradients always do.
        seed: seed of the draw of calibration windows.
        dtype: precision of the passes; None takes bfloat16 where the hardware has it.
        selection: which blocks and matrices are pruned; by default all that inspection finds.
        permuted: for N:M patterns, reorder input channels first, where another matrix's outputs can
            follow (`prunerzero.permutation`).
        report: called with a step's name, the parts done and their number.

    Returns:
        Per-matrix sparsity, time, memory and settings.

    Raises:
        InputError: for a metric that cannot rank weights, an N:M pattern that does not divide a
            matrix, unusable calibration, scores that are not finite, or a permutation that cannot
            be applied.
    """
    if permuted:
        check_permutable(pattern)
    if isinstance(recipe, Metric):
        recipe.check_rankable()
        recipe = Recipe(metric=recipe)
    model.eval()
    began = time.perf_counter()
    blocks = find_blocks(model, selection)
    check_plan(blocks, recipe, pattern)
    compute = compute_for(model, dtype)
    tokens, described, shared, permutation = None, None, None, None
    if needs_data(recipe, pattern):
        windows = calibration_windows(
            model, tokenizer, calibration, samples, sequence_length, seed, report
        )
        tokens, described = windows.tokens, describe(windows)
    if permuted:  # before anything is gathered, for that lies in the model's order
        permutation = permute(model, blocks, recipe, pattern, tokens, compute, report)
    if tokens is not None:
        shared = SharedData(model, blocks, tokens, compute)
    recipe = planned(recipe, pattern, blocks, shared)
    sparsities = plan_sparsities(blocks, recipe, pattern)
    unreached = prune_blocks(
        model,
        blocks,
        recipe,
        pattern,
        sparsities,
        tokens,
        sequential,
        compute,
        report,
        shared=shared,
    )
    results = matrix_results(blocks)
    settings = run_settings(recipe, pattern, sequential, seed, selection, compute, described)
    if permutation is not None:
        settings["permutation"] = permutation.to_json()
    return PruneResult(
        sparsity=overall_sparsity(results),
        matrices=results,
        seconds=time.perf_counter() - began,
        peak_rss_bytes=peak_rss_bytes(),
        coverage=coverage(blocks),
        unreached=unreached,
        settings=settings,
    )


def run_settings(
    recipe: Recipe,
    pattern: Pattern,
    sequential: bool,
    seed: int,
    selection: Selection,
    compute: Compute,
    described: dict[str, Any] | None,
) -> dict[str, Any]:
    """The settings of a run for its record; ``described`` says what it was calibrated on."""
    return {
        "recipe": recipe.to_json(),
        "pattern": str(pattern),
        "sequential": sequential,
        "seed": seed,
        "selection": asdict(selection),
        "compute": str(compute),
        "calibration": described,
    }


def prune_blocks(
    model: nn.Module,
    blocks: list[Block],
    recipe: Recipe,
    pattern: Pattern,
    sparsities: dict[str, Fraction],
    tokens: Tensor | None,
    sequential: bool,
    compute: Compute,
    report: Report = silent,
    *,
    shared: SharedData | None = None,
) -> tuple[str, ...]:
    """The loop behind `prune`, for callers that have blocks, tokens and sparsities already.

    Args:
        model: the dense causal LM.
        blocks: its blocks.
        recipe: what to prune by.
        pattern: what may be zero.
        sparsities: each matrix's share of it, as `plan_sparsities` returns them.
        tokens: calibration token ids ``[windows, length]``; None where no data are needed.
        sequential: as for `prune`.
        compute: device and precision.
        report: told of the steps.
        shared: what other recipes have gathered from the same model and tokens.

    Returns:
        Names of matrices that no calibration token met.
    """
    once, replayed = sums_by_pass(recipe, sequential)
    dense, replay = None, None
    if once or replayed:
        assert tokens is not None
        shared = shared or SharedData(model, blocks, tokens, compute)
        if once:
            count = len(tokens)
            terminals = terminals_of(recipe.terminals, once)
            dense = shared.dense(terminals, lambda done: report("statistics", done, count))
        if replayed:
            replay = shared.replay()
    unreached = dict.fromkeys(dense.unreached if dense else ())
    run_loop(blocks, recipe, pattern, sparsities, tokens, dense, replay, unreached, report=report)
    return tuple(unreached)


def sums_by_pass(recipe: Recipe, sequential: bool) -> tuple[frozenset[str], frozenset[str]]:
    """The raw sums gathered once from the dense model, and those gathered anew at every block.

    Only activations depend on the blocks before; without them both modes are the same.
    """
    needed = raw_sums(recipe.terminals)
    replayed = forward(needed) if sequential else frozenset[str]()
    return needed - replayed, replayed


class Chain(Protocol):
    """Hidden states on their way through the blocks (`prunerzero.models.replay.Replay`)."""

    def run(self, block: Block) -> Iterable[Tensor]:
        """The outputs of a block for the current hidden states, a batch each."""

    def show(self, block: Block) -> None:
        """Runs a block on them for what hooks see of its matrices' inputs, and no further."""

    def advance(self, outputs: Iterable[Tensor]) -> None:
        """Makes ``outputs`` of a block the input of the next one."""


def run_loop(
    blocks: Sequence[Block],
    recipe: Recipe,
    pattern: Pattern,
    sparsities: dict[str, Fraction],
    tokens: Tensor | None,
    dense: DenseStatistics | None,
    replay: Chain | None,
    unreached: dict[str, None],
    *,
    hold: Callable[[Block], AbstractContextManager[object]] = nullcontext,
    report: Report = silent,
) -> None:
    """The loop itself: wherever weights, statistics and hidden states are kept.

    Args:
        blocks: the blocks to prune, up to the model's last.
        recipe: the recipe.
        pattern: the run's pattern.
        sparsities: each matrix's share of it.
        tokens: calibration token ids ``[windows, length]``; None where no data are needed.
        dense: statistics of the dense model, where the recipe needs them.
        replay: hidden states before the first of the blocks, where the recipe needs statistics of
            the pruned blocks before each.
        unreached: given the names of matrices that no calibration token met.
        hold: a context in which a block's weights are there to be run and changed.
        report: told of the blocks done.
    """
    _, replayed = sums_by_pass(recipe, sequential=replay is not None)
    for block in blocks:
        with hold(block):
            measured = None
            terminals: dict[str, Tensor] = {}
            if replay and tokens is not None:
                sample = Sample(tokens.shape[0], tokens.numel())
                sums = _replayed_sums(replay, block, replayed)
                measured = Statistics(sums, sample, block.matrices)
                unreached.update(dict.fromkeys(measured.unreached))
            for matrix in block.matrices:
                terminals = dense.of(matrix, recipe.terminals) if dense else {}
                if measured:
                    mine = terminals_of(recipe.terminals, replayed)
                    terminals = terminals | measured.of(matrix, mine)
                prune_matrix(recipe, matrix, terminals, pattern, sparsities[matrix.name])
            # The next block's Gram matrices shall not find this one's still there.
            measured, terminals = None, {}
            if replay and block is not blocks[-1]:
                replay.advance(replay.run(block))
        report("pruning", block.index + 1, blocks[-1].index + 1)


def _replayed_sums(replay: Chain, block: Block, wanted: frozenset[str]) -> RawStatistics:
    sums = ActivationSums(block.matrices, wanted)
    try:
        replay.show(block)
    finally:
        sums.close()
    return sums.sums()


def plan_sparsities(blocks: list[Block], recipe: Recipe, pattern: Pattern) -> dict[str, Fraction]:
    """Checks a recipe against a model and returns each matrix's sparsity by name.

    Raises:
        InputError: for a metric that cannot rank weights, a kind without a formula, a group
            larger than a matrix, or a matrix width that an N:M pattern does not divide.
    """
    if recipe.group == "model" and not pattern.is_nm:
        raise InputError(
            "group 'model': ranks the whole dense model's weights, which only pruning in memory "
            "can (--no-stream), and no search; give row or matrix"
        )
    matrices = [matrix for block in blocks for matrix in block.matrices]
    for metric in recipe.formulas.values():
        metric.check_rankable()
    if "R" in recipe.terminals and not is_mixture(matrices):
        raise InputError(
            f"metric '{recipe.name or recipe.expression}': terminal R is the router's weights, "
            "and this model has no router"
        )
    for matrix in matrices:
        recipe.metric_for(matrix.kind, matrix.family)
    _check_widths(matrices, pattern)
    return recipe.allocation.sparsities([matrix.shape for matrix in matrices], pattern)


def _check_widths(matrices: list[Matrix], pattern: Pattern) -> None:
    odd = [m for m in matrices if pattern.m is not None and m.shape.columns % pattern.m]
    if not odd:
        return
    try:
        pattern.check_width(odd[0].shape.columns, odd[0].name)
    except InputError as error:
        globs = dict.fromkeys(f"*.{m.kind}" + ".*" * (m.expert is not None) for m in odd)
        rest = [m for m in matrices if not any(fnmatchcase(m.name, glob) for glob in globs)]
        if not rest:
            raise
        options = " ".join(f"--exclude '{glob}'" for glob in globs)
        raise InputError(f"{error}; to leave such matrices dense: {options}") from None


def check_plan(blocks: list[Block], recipe: Recipe, pattern: Pattern) -> None:
    """`plan_sparsities` before statistics are there, from which a recipe may take its allocation.

    Raises:
        InputError: as `plan_sparsities`.
    """
    plan_sparsities(blocks, settled(recipe, pattern), pattern)


def matrix_results(blocks: list[Block]) -> tuple[MatrixResult, ...]:
    """Share of zeros in every prunable matrix, as the model is now."""
    results = []
    for block in blocks:
        for matrix in block.matrices:
            weight = matrix.weight
            zeros = weight.numel() - int(torch.count_nonzero(weight))
            rows, columns = weight.shape
            results.append(MatrixResult(matrix.name, rows, columns, zeros / weight.numel()))
    return tuple(results)


def overall_sparsity(results: tuple[MatrixResult, ...]) -> float:
    """Share of zeros in all prunable matrices together."""
    weights = [result.rows * result.columns for result in results]
    zeros = sum(r.sparsity * n for r, n in zip(results, weights, strict=True))
    return zeros / sum(weights)
