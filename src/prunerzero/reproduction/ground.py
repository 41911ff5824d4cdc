"""The model and the windows that all experiments share."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from functools import cache, cached_property
from typing import Any

from prunerzero.analysis.bench import LoadedModel
from prunerzero.data.sources import evaluation_documents, load_documents
from prunerzero.data.splits import Split, hashes_of
from prunerzero.data.windows import Windows, WindowSampler, check_length
from prunerzero.evaluation.comparison import Comparison
from prunerzero.evaluation.evaluate import evaluation_windows
from prunerzero.evaluation.perplexity import TextLoss, measure_loss
from prunerzero.evolution.masking import Masker, under
from prunerzero.models.loading import context_limit
from prunerzero.models.snapshot import DenseWeights
from prunerzero.progress import Report
from prunerzero.pruning.checkpoint import refuse_seen
from prunerzero.pruning.pattern import Pattern
from prunerzero.pruning.pruner import check_plan
from prunerzero.recipe import Recipe
from prunerzero.reproduction.options import Options
from prunerzero.statistics.cache import gather_statistics


class Ground:
    """One dense model, and the texts' windows.

    Calibration, fitness and perplexity read documents of different splits of the calibration
    source, whether that is named or the user's own.

    Args:
        model: the model; it is dense again after each measurement.
        options: which windows.
        report: called with a step's name, the parts done and their number.

    Raises:
        InputError: a text cannot be had or split, or is too short; a method cannot be applied; or
            the perplexity's text holds documents of the calibration's.
    """

    def __init__(self, model: LoadedModel, options: Options, report: Report) -> None:
        self.model = model
        self.options = options
        self.report = report
        self._masker: tuple[int, frozenset[str], Masker] | None = None
        check_length(options.sequence_length, context_limit(model.network))
        self._documents = load_documents(options.calibration)
        self.seen = hashes_of(self._documents, Split.CALIBRATION, Split.SELECTION)
        if options.text is not None:
            refuse_seen(options.text, self.seen)
        for pattern in map(Pattern.parse, (*options.patterns, *options.sparsities)):
            for method in options.methods:
                check_plan(model.blocks, under(Recipe.from_text(method), pattern), pattern)
        # A text that is too short is found now, not after an hour.
        most = max(options.samples, *options.sample_counts * ("samples" in options.experiments), 1)
        for seed in options.all_seeds:
            self.calibration(most, seed)
        self.selection(options.seed)
        _ = self.heldout

    @cached_property
    def matrices(self) -> list[Any]:
        """All prunable matrices."""
        return [matrix for block in self.model.blocks for matrix in block.matrices]

    @cached_property
    def dense(self) -> DenseWeights:
        """Taken before anything is pruned."""
        return DenseWeights(self.matrices)

    @cached_property
    def heldout(self) -> Windows:
        """What perplexity is measured on, the same for all seeds."""
        options, text = self.options, self.options.text
        if text is None:
            return self._draw(Split.HELDOUT, options.windows, options.seed)
        length, tokenizer = options.sequence_length, self.model.tokenizer
        return evaluation_windows(text, tokenizer, options.windows, length, options.seed, self.seen)

    def calibration(self, samples: int, seed: int) -> Windows:
        """Windows of statistics; of one seed, fewer samples are the first of more."""
        return self._draw(Split.CALIBRATION, samples, seed)

    def selection(self, seed: int) -> Windows:
        """Windows of the paper's fitness."""
        return self._draw(Split.SELECTION, self.options.fitness_windows, seed)

    def _draw(self, split: Split, count: int, seed: int) -> Windows:
        return self._sampler(split, seed).draw(0, count)

    @cache  # noqa: B019  one ground a process
    def _sampler(self, split: Split, seed: int) -> WindowSampler:
        length, tokenizer = self.options.sequence_length, self.model.tokenizer
        return WindowSampler(self._documents, tokenizer, split, length, seed)

    def conditions(self) -> dict[str, Any]:
        """What determines every measurement beside its own settings."""
        return {
            "model": self.model.name,
            "model_hash": self.model.hash,
            "selection": asdict(self.model.selection),
            "compute": str(self.model.compute),
            "texts": self.text_hashes(),
        }

    def text_hashes(self) -> dict[str, str]:
        """A hash of each text's documents, by its name."""
        texts = {self.options.calibration: self._documents}
        if self.options.text is not None:
            texts[self.options.text] = evaluation_documents(self.options.text)
        return {
            name: hashlib.sha256("".join(one.hash for one in documents).encode()).hexdigest()[:16]
            for name, documents in texts.items()
        }

    def comparison(self, samples: int, seed: int) -> Comparison:
        """What prunes by recipes, all on the same calibration windows."""
        model = self.model
        return Comparison(
            model.network,
            model.blocks,
            self.calibration(samples, seed).tokens,
            model.compute,
            sequential=self.options.sequential,
            report=self.report,
            dense=self.dense,
        )

    def masker(self, seed: int, terminals: frozenset[str]) -> Masker:
        """What prunes one-shot, as fitness does; the last one is kept until `release`."""
        if self._masker is None or self._masker[:2] != (seed, terminals):
            self._masker = (seed, terminals, self._new_masker(seed, terminals))
        return self._masker[2]

    def release(self) -> None:
        """Gives back the memory of statistics."""
        self._masker = None

    def _new_masker(self, seed: int, terminals: frozenset[str]) -> Masker:
        model = self.model
        statistics = gather_statistics(
            model.network,
            self.matrices,
            self.calibration(self.options.samples, seed).tokens,
            terminals,
            model.compute,
            lambda done: self.report("statistics", done, self.options.samples),
        )
        pattern = Pattern.parse(self.options.pattern)
        return Masker(model.network, self.matrices, statistics, pattern, self.dense)

    def loss(self, windows: Windows) -> TextLoss:
        """Loss of the model as it is now."""
        return measure_loss(self.model.network, windows, self.model.compute)
