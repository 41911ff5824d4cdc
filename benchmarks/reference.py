"""A candidate evaluated in the public code's manner: what our cheap fitness is measured against.

Block by block: the calibration windows one at a time to sum activations, scores, a full sort, the
masks, and the windows one at a time again for the next block's inputs. Then perplexity.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import quiet  # noqa: F401  before torch
import torch
from torch import Tensor, nn

from prunerzero import Pattern, Recipe, load_model
from prunerzero.data.sources import load_documents
from prunerzero.data.splits import Split
from prunerzero.data.windows import Windows, WindowSampler, sample_windows
from prunerzero.evaluation.perplexity import measure_loss
from prunerzero.evolution.judging import Arena, IncumbentJudge, RungPlan
from prunerzero.evolution.masking import Masker
from prunerzero.models import Compute, compute_for, find_blocks
from prunerzero.models.blocks import Block, Matrix
from prunerzero.models.replay import Replay
from prunerzero.models.snapshot import DenseWeights
from prunerzero.pruning.pruner import UnusableScores
from prunerzero.statistics.cache import Statistics, gather_statistics
from prunerzero.statistics.collectors import ACTIVATION, TOKENS, Sample, finish

MODEL, TEXT, LENGTH = "smollm2", "wikipedia", 512
REFERENCE_WINDOWS, EVALUATION_WINDOWS, STATISTICS_WINDOWS = 64, 40, 16
TERMINALS = frozenset("WGXAF")
EXPRESSIONS = Path(__file__).parent / "data" / "expressions.txt"


@dataclass
class Setting:
    """The demo model with everything that both ways of evaluating need."""

    model: nn.Module
    blocks: list[Block]
    matrices: list[Matrix]
    compute: Compute
    statistics: Statistics
    dense: DenseWeights
    calibration: Windows
    evaluation: Windows
    selection: WindowSampler

    @classmethod
    def load(cls) -> Setting:
        """Loads the model and the texts, and gathers the dense model's statistics."""
        model, tokenizer = load_model(MODEL)
        compute = compute_for(model, None)
        blocks = find_blocks(model)
        matrices = [matrix for block in blocks for matrix in block.matrices]
        documents = load_documents(TEXT)

        def draw(split: Split, count: int) -> Windows:
            return sample_windows(documents, tokenizer, split, count, LENGTH, 0)

        few = draw(Split.CALIBRATION, STATISTICS_WINDOWS)
        return cls(
            model=model,
            blocks=blocks,
            matrices=matrices,
            compute=compute,
            statistics=gather_statistics(model, matrices, few.tokens, TERMINALS, compute),
            dense=DenseWeights(matrices, compute),
            calibration=draw(Split.CALIBRATION, REFERENCE_WINDOWS),
            evaluation=draw(Split.VALIDATION, EVALUATION_WINDOWS),
            selection=WindowSampler(documents, tokenizer, Split.SELECTION, RungPlan.length, 0),
        )

    def masker(self, pattern: Pattern) -> Masker:
        """The search's masker; the model is dense."""
        return Masker(self.model, self.matrices, self.statistics, pattern, self.dense)

    def judge(self, masker: Masker) -> IncumbentJudge:
        """The search's fitness ladder."""
        return IncumbentJudge([Arena(masker, self.selection, self.compute, RungPlan())])


def read_expressions() -> list[str]:
    """The fixed list: one recipe a line, a zoo name or an expression; `#` begins a comment."""
    lines = EXPRESSIONS.read_text().splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def reference_perplexity(setting: Setting, recipe: Recipe, pattern: Pattern) -> float:
    """Perplexity after pruning in the public code's manner; the model is dense again then."""
    try:
        prune_as_published(setting, recipe, pattern)
        return measure_loss(setting.model, setting.evaluation, setting.compute).perplexity
    finally:
        setting.dense.restore()


@torch.no_grad()
def prune_as_published(setting: Setting, recipe: Recipe, pattern: Pattern) -> None:
    """Sequential pruning in the public code's manner; the model stays pruned.

    Its weights are in the precision of the passes, as the public code loads them.
    """
    setting.dense.narrow()
    for matrix in setting.matrices:
        setting.dense.write_masked(matrix, torch.ones(matrix.weight.shape, dtype=torch.bool))
    tokens = setting.calibration.tokens
    sample = Sample(sequences=len(tokens), tokens=tokens.numel())
    replay = Replay(setting.model, setting.blocks, tokens, 1, setting.compute)
    for block in setting.blocks:
        sums: dict[str, Tensor] = {}
        handles = [
            matrix.module.register_forward_pre_hook(_adder(sums, matrix))
            for matrix in block.matrices
        ]
        replay.run(block)
        for handle in handles:
            handle.remove()
        for matrix in block.matrices:
            inputs = dict(setting.statistics.of(matrix, frozenset("GF")))
            raw = {ACTIVATION: sums[matrix.name], TOKENS: torch.tensor(float(sample.tokens))}
            inputs |= finish(frozenset("XA"), raw, sample)
            weight = setting.dense.weights[matrix.name]
            scores = recipe.metric_for(matrix.kind, matrix.family).score(W=weight, **inputs)
            if not scores.isfinite().all():
                raise UnusableScores(f"scores of {matrix.name} are not finite")
            setting.dense.write_masked(matrix, _kept(scores, recipe, pattern).bool())
        replay.advance(replay.run(block))


def _adder(sums: dict[str, Tensor], matrix: Matrix) -> Callable[[nn.Module, tuple[Tensor]], None]:
    """Adds up the squared norms of a layer's inputs as the public code does, layer by layer."""

    def add(_module: nn.Module, arguments: tuple[Tensor]) -> None:
        inputs = arguments[0].reshape(-1, arguments[0].shape[-1]).t().float()
        found = torch.norm(inputs, p=2, dim=1)[None] ** 2
        sums[matrix.name] = sums[matrix.name] + found if matrix.name in sums else found

    return add


def _kept(scores: Tensor, recipe: Recipe, pattern: Pattern) -> Tensor:
    if pattern.is_nm:
        kept = torch.ones_like(scores)
        assert pattern.n is not None
        assert pattern.m is not None
        for column in range(0, scores.shape[1], pattern.m):
            group = scores[:, column : column + pattern.m].float()
            lowest = torch.topk(group, pattern.m - pattern.n, dim=1, largest=False).indices
            kept.scatter_(1, column + lowest, 0.0)
        return kept
    ranked = scores.reshape(1, -1) if recipe.group == "matrix" else scores
    order = torch.sort(ranked, dim=1, stable=True).indices
    kept = torch.ones_like(ranked)
    kept.scatter_(1, order[:, : pattern.count(ranked.shape[1])], 0.0)
    return kept.view_as(scores)
