"""`prunerzero analyze`: what a study teaches, from its file and from measurements of its own."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

from prunerzero.analysis import principles as principle
from prunerzero.analysis.bench import Bench, LoadedModel, Reading, Setting
from prunerzero.analysis.claims import (
    CLAIMS,
    ClaimData,
    RandomComparison,
    Scored,
    judge_claims,
)
from prunerzero.analysis.enrichment import Enrichment, enrichment
from prunerzero.analysis.experiments import (
    WANDA,
    Likeness,
    Member,
    ablation,
    diverse_set,
    edited_pairs,
    factorial,
    likeness,
    measured_rows,
    proxy_agreements,
    sensitivity,
    transfer,
)
from prunerzero.analysis.features import features
from prunerzero.analysis.inference import require_scipy
from prunerzero.analysis.readings import Readings, analysis_path
from prunerzero.analysis.records import (
    AblatedNode,
    Factorial,
    FamilyBest,
    MeasuredRecipe,
    Principle,
    ProxyAgreement,
    SensitivityReading,
    Transfer,
    as_json,
)
from prunerzero.analysis.sample import Distinct, StudyContent, read_study, require_random, spread
from prunerzero.data.sources import load_documents
from prunerzero.data.splits import Split, hashes_of
from prunerzero.errors import InputError
from prunerzero.models.selection import Selection
from prunerzero.progress import Report, silent
from prunerzero.recipe import Recipe


@dataclass(frozen=True)
class Options:
    """How much an analysis measures.

    Attributes:
        candidates: distinct candidates to measure, spread over the range of fitness.
        windows: validation windows of the perplexity.
        samples: calibration windows; None for the study's.
        sequence_length: tokens in every window; None for the study's.
        sequential: prune block by block instead of one-shot.
        pairs: untuned candidates that are measured with and without what the paper's claims are
            about.
        ablations: edits of the best recipe to measure.
        sensitivity_samples: numbers of calibration windows to try.
        sensitivity_lengths: lengths of calibration windows to try.
        patterns: other patterns to measure the sample under.
        texts: other texts.
        models: other models.
        random: the study of a random search; None for no comparison.
        seed: seed of windows and resampling; None for the study's.
        device: where to run; None chooses.
        dtype: precision; None for the study's.
    """

    candidates: int = 20
    windows: int = 8
    samples: int | None = None
    sequence_length: int | None = None
    sequential: bool = False
    pairs: int = 12
    ablations: int = 12
    sensitivity_samples: tuple[int, ...] = ()
    sensitivity_lengths: tuple[int, ...] = ()
    patterns: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    random: Path | None = None
    seed: int | None = None
    device: str | None = None
    dtype: str | None = None


@dataclass(frozen=True)
class Analysis:
    """What a study teaches.

    Attributes:
        study: its file.
        setting: what recipes were measured under.
        distinct: distinct candidates of the study.
        file: where readings and results are kept.
        measured: the sample, the lowest perplexity first.
        correlations: cheap readings against the perplexity.
        likeness: masks and scores of the sample, compared.
        diverse: the best recipe of each mask family.
        enrichment: what the best candidates have more often than the others.
        ablation: edits of the best recipe.
        factorial: formula against allocation; None where one of the two was not searched.
        sensitivity: perplexity by calibration.
        transfer: the order of recipes elsewhere.
        principles: what follows.
    """

    study: Path
    setting: Setting
    distinct: int
    file: Path
    measured: list[MeasuredRecipe]
    correlations: list[ProxyAgreement]
    likeness: Likeness
    diverse: list[FamilyBest]
    enrichment: list[Enrichment]
    ablation: list[AblatedNode]
    factorial: Factorial | None
    sensitivity: list[SensitivityReading] = field(default_factory=list)
    transfer: list[Transfer] = field(default_factory=list)
    principles: list[Principle] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The analysis as `prunerzero analyze --json` prints it."""
        document: dict[str, Any] = as_json(self)
        return document


def analyze(study: str | Path, options: Options | None = None, report: Report = silent) -> Analysis:
    """Analyses a study, which stays as it is.

    Measurements go to ``STUDY.analysis.json`` beside it as they are taken; a second call measures
    only what is not there yet.

    Args:
        study: the study's file.
        options: how much to measure.
        report: called with a step's name, the parts done and their number.

    Raises:
        InputError: for a study that cannot be analysed, or unusable options.
        MissingExtraError: without scipy.
    """
    options = options or Options()
    require_scipy()
    content = read_study(study)
    if content.settings.pattern in options.patterns:
        raise InputError(
            f"pattern '{content.settings.pattern}': is the study's own; name another to transfer to"
        )
    random = None
    if options.random is not None:
        other = read_study(options.random)
        require_random(other, content)
        random = other.candidates
    return _Analyst(content, options, report).analyse(random)


class _Analyst:
    """Takes the measurements of one analysis."""

    def __init__(self, content: StudyContent, options: Options, report: Report) -> None:
        self.content = content
        self.options = options
        self.report = report
        settings = content.settings
        self.seed = settings.seed if options.seed is None else options.seed
        length = options.sequence_length or settings.sequence_length
        self.setting = Setting(
            pattern=settings.pattern,
            text=settings.calibration,
            samples=options.samples or settings.samples,
            sequence_length=length,
            windows=options.windows,
            window_length=length,
            sequential=options.sequential,
            seed=self.seed,
        )
        self.seen = hashes_of(
            load_documents(settings.calibration), Split.CALIBRATION, Split.SELECTION
        )
        self.readings = Readings(analysis_path(content.path))
        self.model = self.load(settings.model)
        if self.model.hash != settings.model_hash:
            raise InputError(
                f"study {content.path}: was made with another '{settings.model}' than what has "
                "that name now: its weights differ, or the --dtype that they are loaded in"
            )

    def load(self, name: str) -> LoadedModel:
        options, settings = self.options, self.content.settings
        dtype = options.dtype or settings.compute.rpartition(", ")[2]
        selection = settings.selection
        chosen = Selection(**{key: _tupled(value) for key, value in selection.items()})
        return LoadedModel.load(name, chosen, options.device, dtype)

    def bench(self, model: LoadedModel, **changes: Any) -> Bench:
        setting = replace(self.setting, **changes)
        return Bench(model, setting, self.readings, self.report, self.seen)

    def analyse(self, random: list[Distinct] | None) -> Analysis:
        content, options = self.content, self.options
        bench = self.bench(self.model)
        elsewhere = [  # found wrong now, not after everything else has been measured
            *(("pattern", name, self.bench(self.model, pattern=name)) for name in options.patterns),
            *(("text", name, self.bench(self.model, text=name)) for name in options.texts),
        ]
        members, readings = self._measured_sample(bench)
        compared = likeness(bench, members, readings, self.seed)
        families = compared.families.labels
        untuned = [candidate.recipe for candidate in spread(content.untuned, options.pairs)]
        best = content.best
        claims = ClaimData(
            content.pattern,
            [Scored(candidate.recipe, candidate.fitness) for candidate in content.candidates],
            edited_pairs(bench, untuned),
            None if random is None else self._contest(bench, random),
        )
        edits = ablation(bench, best.recipe, options.ablations)
        crossed = factorial(bench, f"candidate {best.id}", best.recipe)
        calibrations = self._sensitivity(bench)
        bench.release()
        correlations = proxy_agreements(self.setting.pattern, members, readings, self.seed)
        moved = []
        for what, name, other in elsewhere:
            row, agreements = transfer(what, name, other, members, readings, self.seed)
            moved.append(row)
            correlations += agreements
        for name in options.models:
            other = self.bench(self.load(name))
            moved.append(transfer("model", name, other, members, readings, self.seed)[0])
        enriched = enrichment(
            [features(candidate.recipe, content.pattern) for candidate in content.candidates],
            [candidate.fitness for candidate in content.candidates],
        )
        analysis = Analysis(
            study=content.path,
            setting=self.setting,
            distinct=len(content.candidates),
            file=self.readings.path,
            measured=measured_rows(members, readings, families),
            correlations=correlations,
            likeness=compared,
            diverse=diverse_set(members, readings, families),
            enrichment=enriched,
            ablation=edits,
            factorial=crossed,
            sensitivity=calibrations,
            transfer=moved,
            principles=[
                *judge_claims([claim(claims) for claim in CLAIMS]),
                *principle.from_proxies(correlations),
                *principle.from_masks(compared.mantel, compared.better_half),
                *principle.from_enrichment(enriched),
                *principle.from_ablation(edits),
                *principle.from_factorial(crossed),
                *principle.from_sensitivity(calibrations),
                *principle.from_transfer(moved),
            ],
        )
        self.readings.keep_result(analysis.to_json())
        return analysis

    def _sensitivity(self, bench: Bench) -> list[SensitivityReading]:
        """The best recipe and Wanda, by calibration."""
        options, setting, best = self.options, self.setting, self.content.best
        shapes = [
            *((samples, setting.sequence_length) for samples in options.sensitivity_samples),
            *((setting.samples, length) for length in options.sensitivity_lengths),
        ]
        if not shapes:
            return []
        recipes = {f"candidate {best.id}": best.recipe, WANDA: Recipe.named(WANDA)}
        return sensitivity(
            bench,
            lambda samples, length: self.bench(self.model, samples=samples, sequence_length=length),
            shapes,
            recipes,
        )

    def _measured_sample(self, bench: Bench) -> tuple[list[Member], list[Reading]]:
        """The sample and Wanda, without recipes that could not be measured."""
        content = self.content
        wanda = Recipe.named(WANDA)
        key = wanda.key(content.pattern)
        members = []
        for one in spread(content.candidates, self.options.candidates):
            name = WANDA if one.recipe.key(content.pattern) == key else f"candidate {one.id}"
            members.append(Member(name, one.recipe, one.fitness, one.rungs))
        if all(member.name != WANDA for member in members):
            own = next(
                (o for o in content.candidates if o.recipe.key(content.pattern) == key), None
            )
            fitness, rungs = (own.fitness, own.rungs) if own else (None, ())
            members.append(Member(WANDA, wanda, fitness, rungs))
        readings = bench.measure_all(
            "candidates", [member.recipe for member in members], proxies=True
        )
        bench.release_proxies()
        both = [(m, r) for m, r in zip(members, readings, strict=True) if r is not None]
        if len(both) < 2 or all(member.name != WANDA for member, _ in both):
            raise InputError(f"study {content.path}: too few of its recipes can be measured")
        return [member for member, _ in both], [reading for _, reading in both]

    def _contest(self, bench: Bench, random: list[Distinct]) -> RandomComparison | None:
        """The best of the first equally many distinct candidates of either search, measured."""
        count = min(len(random), len(self.content.candidates))
        finalists = [
            min(candidates[:count], key=attrgetter("fitness")).recipe
            for candidates in (self.content.candidates, random)
        ]
        evolved, chance = bench.measure_all("evolution against chance", finalists)
        if evolved is None or chance is None:
            return None
        return RandomComparison(count, evolved.loss.losses, chance.loss.losses)


def _tupled(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
