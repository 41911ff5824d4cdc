"""What a search is for: one or several targets, each a model under a pattern on a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prunerzero.data.windows import check_length
from prunerzero.errors import InputError
from prunerzero.evolution.arena import Arena
from prunerzero.evolution.closing import Closer
from prunerzero.evolution.masking import Masker, Maskers, under
from prunerzero.evolution.rungs import RungPlan
from prunerzero.evolution.settings import SearchSettings
from prunerzero.evolution.texts import Texts
from prunerzero.evolution.workbench import StreamedModel, WholeModel, Workbench
from prunerzero.models.matrices import is_mixture
from prunerzero.models.selection import Selection
from prunerzero.progress import Report
from prunerzero.pruning.pattern import Pattern
from prunerzero.pruning.pruner import DenseStatistics, plan_sparsities
from prunerzero.recipe import Recipe
from prunerzero.study import Study


@dataclass
class Ground:
    """A model and a text, which statistics belong to.

    Attributes:
        model: the model's name as the user gave it.
        bench: the model.
        texts: windows of the text.
        statistics: of the dense model on calibration windows, once gathered.
    """

    model: str
    bench: Workbench
    texts: Texts
    statistics: DenseStatistics | None = None

    def check(self, terminals: frozenset[str], report: Report) -> None:
        """Finds what would end the search before its first candidate (`Workbench.check`)."""
        self.bench.check(self.texts.calibration.tokens, terminals, report)

    def gather(self, terminals: frozenset[str], report: Report) -> DenseStatistics:
        """Gathers statistics and keeps them."""
        self.statistics = self.bench.gather(self.texts.calibration.tokens, terminals, report)
        return self.statistics


@dataclass(frozen=True)
class Target:
    """A model under a pattern on a text.

    Attributes:
        name: what tells it from the search's other targets: those of model, pattern and text that
            they differ in; empty for a single one.
        ground: the model and the text.
        masker: prunes the model.
    """

    name: str
    ground: Ground
    masker: Masker

    @property
    def pattern(self) -> Pattern:
        """What may be zero."""
        return self.masker.pattern

    def arena(self, settings: SearchSettings, plan: RungPlan) -> Arena:
        """What candidates are read on."""
        uniform = self.pattern.is_nm or settings.genome == "formula"
        bench, selection = self.ground.bench, self.ground.texts.selection
        return bench.arena(
            self.masker, selection, plan, settings.fitness, self.name, uniform=uniform
        )


class Targets:
    """The targets of a search: every pattern on every text for every model.

    Args:
        grounds: the models and texts.
        patterns: what may be zero.
        terminals: statistics to begin with.
        report: called with a step's name, the parts done and their number.
    """

    def __init__(
        self,
        grounds: Sequence[Ground],
        patterns: Sequence[Pattern],
        terminals: frozenset[str],
        report: Report,
    ) -> None:
        self.grounds = list(grounds)
        self._report = report
        models = {ground.model for ground in grounds}
        sources = {ground.texts.source for ground in grounds}
        self.all: list[Target] = []
        for ground in grounds:
            tokens = ground.texts.calibration.tokens
            first = ground.bench.masker(tokens, ground.gather(terminals, report), patterns[0])
            for pattern in patterns:
                differing = [
                    *([ground.model] if len(models) > 1 else []),
                    *([str(pattern)] if len(patterns) > 1 else []),
                    *([ground.texts.source] if len(sources) > 1 else []),
                ]
                masker = first if pattern is patterns[0] else first.sibling(pattern)
                self.all.append(Target(", ".join(differing), ground, masker))
        self.maskers = Maskers([target.masker for target in self.all])

    def gather(self, terminals: frozenset[str]) -> None:
        """Gathers more statistics for all maskers; the models must be dense."""
        for ground in self.grounds:
            statistics = ground.gather(terminals, self._report)
            for target in self.all:
                if target.ground is ground:
                    target.masker.use(statistics)

    def closers(self, study: Study) -> list[Closer]:
        """What takes the closing measurements, one for each target."""
        comparisons = {}
        for ground in self.grounds:
            assert ground.statistics is not None
            tokens = ground.texts.calibration.tokens
            comparisons[id(ground)] = ground.bench.comparison(
                tokens, ground.statistics, self._report
            )
        return [
            Closer(
                study,
                comparisons[id(target.ground)],
                target.pattern,
                target.ground.texts.validation,
                target.ground.texts.heldout,
                target.name,
            )
            for target in self.all
        ]


def open_models(
    models: Sequence[str],
    dtype: str | None,
    device: str | None,
    selection: Selection,
    stream: bool,
    sequence_length: int,
) -> list[Workbench]:
    """Loads models that one search can be for; arguments as for `prunerzero.search`.

    Raises:
        InputError: one cannot be searched on its own, or has other kinds of matrices than the rest.
    """
    benches: list[Workbench] = []
    for model in models:
        bench = (StreamedModel if stream else WholeModel)(model, dtype, device, selection)
        if bench.tokenizer is None:
            raise InputError(f"model '{model}': has no tokenizer that can be read")
        check_length(sequence_length, bench.context)
        benches.append(bench)
        expected, found = (_kinds(one) for one in (benches[0], bench))
        if expected != found:
            raise InputError(
                f"models '{models[0]}' and '{model}': have different kinds of matrices "
                f"({', '.join(sorted(expected))} and {', '.join(sorted(found))}), "
                "so no recipe is for both"
            )
    return benches


def check_recipes(
    benches: Sequence[Workbench], patterns: Sequence[Pattern], recipes: Sequence[Recipe]
) -> None:
    """Checks that recipes can be applied everywhere; N:M alone refuses an allocation.

    Raises:
        InputError: one cannot.
    """
    free = any(not pattern.is_nm for pattern in patterns)
    for bench in benches:
        for pattern in patterns:
            for recipe in recipes:
                plan_sparsities(bench.blocks, under(recipe, pattern) if free else recipe, pattern)


def are_mixtures(benches: Sequence[Workbench]) -> bool:
    """Whether all models are mixtures of experts."""
    return all(is_mixture(bench.matrices) for bench in benches)


def _kinds(bench: Workbench) -> dict[str, str]:
    return {matrix.kind: matrix.family for matrix in bench.matrices}
