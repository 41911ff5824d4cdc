"""Measuring recipes for an analysis: one model, one pattern, one text, resumable."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from prunerzero.analysis.proxies import Proxies, ProxyReading
from prunerzero.analysis.readings import Readings
from prunerzero.data.documents import Document
from prunerzero.data.sources import load_documents
from prunerzero.data.splits import Split
from prunerzero.data.windows import Windows, check_length, sample_windows
from prunerzero.errors import InputError
from prunerzero.evaluation.comparison import Comparison
from prunerzero.evaluation.perplexity import TextLoss, measure_loss
from prunerzero.evolution.masking import Masker
from prunerzero.models import Compute, compute_for, find_blocks, load_model
from prunerzero.models.blocks import Block
from prunerzero.models.loading import context_limit
from prunerzero.models.selection import Selection
from prunerzero.progress import Report, silent
from prunerzero.pruning.allocation import UniformAllocation
from prunerzero.pruning.pattern import Pattern
from prunerzero.pruning.pruner import UnusableScores
from prunerzero.recipe import Recipe
from prunerzero.statistics.cache import gather_statistics, model_hash

ALWAYS = frozenset("WX")  # Wanda is what scores are compared with


@dataclass(frozen=True)
class Setting:
    """What recipes are measured under.

    Attributes:
        pattern: what may be zero.
        text: text source; its calibration documents give the statistics, its validation documents
            the perplexity.
        samples: calibration windows.
        sequence_length: tokens in a calibration window.
        windows: windows of the perplexity.
        window_length: tokens in each.
        sequential: statistics of each block from the pruned blocks before it.
        seed: which windows are drawn.
    """

    pattern: str
    text: str
    samples: int
    sequence_length: int
    windows: int
    window_length: int
    sequential: bool = False
    seed: int = 0


@dataclass(frozen=True)
class LoadedModel:
    """A dense model with what every setting needs of it."""

    name: str
    network: nn.Module
    tokenizer: Any
    compute: Compute
    blocks: list[Block]
    selection: Selection
    hash: str

    @classmethod
    def load(
        cls, name: str, selection: Selection, device: str | None = None, dtype: str | None = None
    ) -> LoadedModel:
        """Loads a model by its name.

        Raises:
            InputError: it cannot be had, or has no tokenizer.
        """
        # There is no autocast to float32, so weights are loaded in it when it is asked for.
        exact = "float32" if dtype == "float32" else None
        network, tokenizer = load_model(name, device=device, dtype=exact)
        if tokenizer is None:
            raise InputError(f"model '{name}': an analysis on text needs its tokenizer")
        compute, blocks = compute_for(network, dtype), find_blocks(network, selection)
        return cls(name, network, tokenizer, compute, blocks, selection, model_hash(network))


@dataclass(frozen=True)
class Reading:
    """What was measured of one recipe.

    Attributes:
        loss: loss of every window after pruning.
        proxies: the cheap stand-ins, where they were asked for.
    """

    loss: TextLoss
    proxies: ProxyReading | None = None

    @property
    def log_perplexity(self) -> float:
        """Mean loss, nats a token."""
        return self.loss.mean


class Bench:
    """Measures recipes under one setting; what the readings hold already is not measured again.

    Args:
        model: the dense model; it is dense again after each measurement.
        setting: pattern, text and windows.
        readings: where readings are kept.
        report: called with a step's name, the parts done and their number.
        seen: hashes of documents that recipes were calibrated or selected on, which must not be
            among those of the perplexity.

    Raises:
        InputError: for a text that is too short, a width that the pattern does not divide, or
            documents that were seen.
    """

    def __init__(
        self,
        model: LoadedModel,
        setting: Setting,
        readings: Readings,
        report: Report = silent,
        seen: frozenset[str] = frozenset(),
    ) -> None:
        self.model = model
        self.setting = setting
        self.pattern = Pattern.parse(setting.pattern)
        self._report = report
        self._matrices = [matrix for block in model.blocks for matrix in block.matrices]
        for matrix in self._matrices:
            self.pattern.check_width(matrix.shape.columns, matrix.name)
        documents = load_documents(setting.text)
        length = setting.sequence_length
        self.calibration = self._draw(documents, Split.CALIBRATION, setting.samples, length)
        self.windows = self._draw(
            documents, Split.VALIDATION, setting.windows, setting.window_length
        )
        self.windows.require(Split.VALIDATION)
        if overlap := seen.intersection(self.windows.documents):
            raise InputError(
                f"text '{setting.text}': {len(overlap)} of its validation documents served the "
                "search, so recipes cannot be judged on it; name another text"
            )
        self._readings = readings.under(
            {
                "model": model.name,
                "model_hash": model.hash,
                "selection": asdict(model.selection),
                "compute": str(model.compute),
                **asdict(setting),
                "calibration_hash": self.calibration.hash,
                "windows_hash": self.windows.hash,
            }
        )
        self._masker: Masker | None = None
        self._terminals: frozenset[str] = frozenset()
        self._proxies: Proxies | None = None
        self._comparison: Comparison | None = None

    def _draw(self, documents: list[Document], split: Split, count: int, length: int) -> Windows:
        check_length(length, context_limit(self.model.network))
        tokenizer, seed = self.model.tokenizer, self.setting.seed
        return sample_windows(documents, tokenizer, split, count, length, seed)

    def fitting(self, recipe: Recipe) -> Recipe | None:
        """The recipe as it can be applied here; None if it lacks a formula for a kind of matrix.

        An N:M pattern fixes every matrix's sparsity, so the allocation becomes uniform.
        """
        try:
            for matrix in self._matrices:
                recipe.metric_for(matrix.kind, matrix.family)
        except InputError:
            return None
        if self.pattern.is_nm:
            return recipe.model_copy(update={"allocation": UniformAllocation()})
        return recipe

    def measure_all(
        self, step: str, recipes: Sequence[Recipe], *, proxies: bool = False
    ) -> list[Reading | None]:
        """Measures recipes in their order.

        Args:
            step: what progress calls it.
            recipes: what to prune by.
            proxies: measure the cheap stand-ins too.

        Returns:
            None for a recipe whose scores or predictions are not finite.
        """
        missing = [recipe for recipe in recipes if not self._is_known(recipe, proxies)]
        if missing:
            self._prepare(frozenset().union(*(recipe.terminals for recipe in missing)))
        for done, recipe in enumerate(missing, 1):
            if not self._is_known(recipe, proxies):  # the same recipe may be there twice
                self._measure(recipe, proxies)
            self._report(step, done, len(missing))
        return [self._recalled(recipe, proxies) for recipe in recipes]

    def masker(self, recipes: Sequence[Recipe]) -> Masker:
        """A masker with the statistics that these recipes need."""
        self._prepare(frozenset().union(*(recipe.terminals for recipe in recipes)))
        assert self._masker is not None
        return self._masker

    def _is_known(self, recipe: Recipe, proxies: bool) -> bool:
        known = self._readings[recipe.key(self.pattern)]
        return "failed" in known or ("losses" in known and (not proxies or "proxies" in known))

    def _recalled(self, recipe: Recipe, proxies: bool) -> Reading | None:
        known = self._readings[recipe.key(self.pattern)]
        if "failed" in known:
            return None
        loss = TextLoss(tuple(known["losses"]), known["tokens"])
        return Reading(loss, ProxyReading(**known["proxies"]) if proxies else None)

    def _measure(self, recipe: Recipe, proxies: bool) -> None:
        masker, model = self._masker, self.model
        assert masker is not None
        if proxies and self._proxies is None:
            tokens = self.calibration.tokens
            self._proxies = Proxies(masker, model.blocks, tokens, model.compute)
        began = time.perf_counter()
        reading: dict[str, Any] = {}
        try:
            if self._proxies is not None and proxies:
                masker.apply(recipe)
                reading["proxies"] = self._proxies.measure(recipe)._asdict()
            loss = self._loss(masker, recipe, applied=proxies)
            if not math.isfinite(loss.mean):
                raise UnusableScores("the pruned model's predictions are not finite")
            reading |= {"losses": loss.losses, "tokens": loss.tokens}
        except UnusableScores as error:
            reading = {"failed": str(error)}
        finally:
            masker.restore()
        reading["seconds"] = time.perf_counter() - began
        self._readings.add(recipe.key(self.pattern), recipe.expression, reading)

    def _loss(self, masker: Masker, recipe: Recipe, *, applied: bool) -> TextLoss:
        model = self.model
        if not self.setting.sequential:
            if not applied:
                masker.apply(recipe)
            return measure_loss(model.network, self.windows, model.compute)
        masker.restore()
        self._comparison = self._comparison or Comparison(
            model.network, model.blocks, self.calibration.tokens, model.compute, sequential=True
        )
        return self._comparison.measure("analysis", recipe, self.pattern, self.windows).loss

    def _prepare(self, terminals: frozenset[str]) -> None:
        """Makes sure that the masker has statistics for these terminals."""
        wanted = terminals | ALWAYS
        if self._masker is not None and wanted <= self._terminals:
            return
        self._terminals |= wanted
        statistics = gather_statistics(
            self.model.network,
            self._matrices,
            self.calibration.tokens,
            self._terminals,
            self.model.compute,
            lambda done: self._report("statistics", done, len(self.calibration)),
        )
        if self._masker is None:
            self._masker = Masker(self.model.network, self._matrices, statistics, self.pattern)
        else:
            self._masker.use(statistics)

    def release_proxies(self) -> None:
        """Gives back the memory of the dense model's inputs, when no more proxies are wanted."""
        self._proxies = None

    def release(self) -> None:
        """Gives back the memory of statistics and dense weights; they are gathered anew if used."""
        self._masker = self._proxies = self._comparison = None
        self._terminals = frozenset()
