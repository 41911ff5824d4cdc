"""The search driven by hand, from a notebook: ask for a recipe, measure it, tell the value."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from prunerzero.data.sources import load_documents
from prunerzero.data.splits import Split
from prunerzero.data.windows import WindowSampler, sample_windows
from prunerzero.errors import InputError
from prunerzero.evaluation.divergence import DenseReference
from prunerzero.evolution.arena import Arena
from prunerzero.evolution.default import DefaultStrategy
from prunerzero.evolution.grammar import DEFAULT, Grammar
from prunerzero.evolution.guidance import measure_guidance
from prunerzero.evolution.loop import MOST_DUPLICATES, Deadline, RecordedGuide
from prunerzero.evolution.masking import Masker
from prunerzero.evolution.population import Individual
from prunerzero.evolution.rungs import RungPlan
from prunerzero.evolution.runner import TERMINALS
from prunerzero.evolution.strategies import Outcome, Proposal, Strategy
from prunerzero.evolution.targets import are_mixtures, check_recipes, open_models
from prunerzero.models.selection import EVERYTHING, Selection
from prunerzero.progress import silent
from prunerzero.pruning.pattern import Pattern
from prunerzero.pruning.pruner import UnusableScores
from prunerzero.recipe import Recipe
from prunerzero.study import Candidate, Study
from prunerzero.study.records import Measurement, Status


@dataclass(frozen=True)
class Trial:
    """A recipe to measure.

    Attributes:
        recipe: the recipe.
        origin: how it came about: ``zoo``, ``guess``, ``descent``, ``crossover``, ...
        parents: the candidates that it descends from.
        key: equal for recipes that prune alike.
    """

    recipe: Recipe
    origin: str
    parents: tuple[int, ...]
    key: str

    def _repr_html_(self) -> str:
        return self.recipe._repr_html_()


class AskTell:
    """A search that you drive; the study that it writes is like any other, but for its windows.

    ``session.ask()`` gives a recipe that is not known to prune like an earlier one;
    ``session.measure(trial)`` is its divergence from the dense model on selection text, and
    ``session.pruned(trial)`` the pruned model, for a measure of your own; ``session.tell(trial,
    value)`` writes it down and lets the strategy learn. A context manager that closes the study.

    Args:
        model: hub id, directory, GGUF file or demo alias.
        pattern: what may be zero.
        study: the study's file, which must not exist.
        guesses: recipes of your own, tried early and bred from.
        vocabulary: terminals and operators that random trees draw beside the usual ones.
        calibration: text source; statistics and `measure` read different documents of it.
        samples: calibration windows.
        sequence_length: tokens of one.
        windows: selection windows of `measure`.
        seed: seed of everything random.
        dtype: precision of the passes; None takes bfloat16 where the hardware has it.
        device: where to run; None takes the first GPU, else the CPU.
        selection: which blocks and matrices are pruned.
        strategy: what is tried; None for the default search's.

    Raises:
        InputError: for unusable input, or a study that exists.
    """

    def __init__(
        self,
        model: str,
        pattern: Pattern | str,
        *,
        study: str | Path,
        guesses: Sequence[Recipe] = (),
        vocabulary: Sequence[str] = (),
        calibration: str = "wikipedia",
        samples: int = 16,
        sequence_length: int = 512,
        windows: int = 8,
        seed: int = 0,
        dtype: str | None = None,
        device: str | None = None,
        selection: Selection = EVERYTHING,
        strategy: Strategy | None = None,
    ) -> None:
        self.pattern = Pattern.parse(pattern) if isinstance(pattern, str) else pattern
        grammar = DEFAULT.including(vocabulary)
        [self._bench] = open_models([model], dtype, device, selection, False, sequence_length)
        check_recipes([self._bench], [self.pattern], guesses)
        documents, tokenizer = load_documents(calibration), self._bench.tokenizer
        length = min(RungPlan.length, sequence_length)
        tokens = sample_windows(
            documents, tokenizer, Split.CALIBRATION, samples, sequence_length, seed
        ).tokens
        self._selection = sample_windows(
            documents, tokenizer, Split.SELECTION, windows, length, seed
        )
        wanted = TERMINALS.union(
            frozenset("R" if are_mixtures([self._bench]) else ""),
            grammar.terminals,
            *(guess.terminals for guess in guesses),
        )
        statistics = self._bench.gather(tokens, wanted, silent)
        self._masker = self._bench.masker(tokens, statistics, self.pattern)
        settings = {
            "what": "ask and tell",
            "model": model,
            "pattern": str(self.pattern),
            "calibration": calibration,
            "samples": samples,
            "sequence_length": sequence_length,
            "seed": seed,
            "vocabulary": list(vocabulary),
        }
        self.study = Study.create(study, settings)
        sampler = WindowSampler(documents, tokenizer, Split.SELECTION, length)
        self._strategy = strategy or self._default(sampler, length, seed, guesses, grammar)
        self._known: dict[str, Individual | None] = {}
        self._wishes: deque[Recipe] = deque()
        self._out: Trial | None = None
        self._reading: Measurement | None = None  # of the trial that is out, by `measure`
        self._first: float | None = None
        self._best = math.inf
        self._asked = 0

    def _default(
        self,
        sampler: WindowSampler,
        length: int,
        seed: int,
        guesses: Sequence[Recipe],
        grammar: Grammar,
    ) -> Strategy:
        arena = Arena(self._masker, sampler, self._bench.compute, RungPlan(length=length))
        guide = RecordedGuide(self.study, [arena], measure_guidance, Deadline())
        matrices = self._bench.matrices
        return DefaultStrategy(
            seed,
            guesses,
            [matrix.shape for matrix in matrices],
            {matrix.kind: matrix.family for matrix in matrices},
            guide,
            self.pattern,
            mixture=are_mixtures([self._bench]),
            grammar=grammar,
        )

    def enqueue(self, recipe: Recipe) -> None:
        """Makes a recipe of yours the next that `ask` gives."""
        self._wishes.append(recipe)

    def ask(self) -> Trial:
        """The next recipe to measure.

        Raises:
            InputError: the last one was not told, or the strategy proposes nothing new any more.
        """
        if self._out is not None:
            raise InputError("ask: the last trial was not told yet; call tell(trial, value)")
        for _ in range(MOST_DUPLICATES):
            proposal = self._proposal()
            self._asked += 1
            key = self._masker.key(proposal.recipe)
            if key not in self._known:
                self._out = Trial(proposal.recipe, proposal.origin, proposal.parents, key)
                self._reading = None
                return self._out
            known = self._known[key]
            if known is not None and proposal.origin != "yours":
                self._strategy.tell(known, Outcome.KNOWN)
        raise InputError("ask: the strategy proposes nothing new any more")

    def _proposal(self) -> Proposal:
        if self._wishes:
            return Proposal(self._wishes.popleft(), "yours")
        self._masker.restore()
        return self._strategy.ask()

    @contextmanager
    def pruned(self, trial: Trial) -> Iterator[Any]:
        """The model as the trial prunes it, one-shot; dense again afterwards.

        Raises:
            UnusableScores: the recipe's scores cannot rank weights; `tell` takes None then.
        """
        self._masker.apply(trial.recipe)
        try:
            yield self._masker.model
        finally:
            self._masker.restore()

    @cached_property
    def _dense(self) -> DenseReference:
        self._masker.restore()
        return DenseReference(self._masker.model, self._selection.tokens, self._bench.compute)

    def measure(self, trial: Trial) -> float | None:
        """Mean KL divergence from the dense model on selection text, nats a token.

        Returns:
            None where the recipe's scores cannot rank weights.
        """
        dense = self._dense
        try:
            with self.pruned(trial) as model:
                reading = dense.measure(model)
        except UnusableScores:
            return None
        if trial is self._out:
            windows = self._selection
            self._reading = Measurement(
                purpose="fitness",
                windows=windows.hash,
                tokens=len(windows) * (windows.length - 1),
                loss=reading.mean_loss,
                kl=reading.mean_kl,
            )
        return reading.mean_kl

    def tell(self, trial: Trial, value: float | None) -> Candidate:
        """Writes down what the last trial came to, and lets the strategy learn.

        Args:
            trial: what `ask` gave.
            value: above 0, lower is better: a divergence, a perplexity; the same measure for all.
                None, or a number that is not finite, for a recipe that does not work.

        Returns:
            The study's new row; its fitness is the logarithm of the value over the first one.

        Raises:
            InputError: it is not the trial that is out, or the value is not above 0.
        """
        if trial is not self._out:
            raise InputError("tell: give the trial that ask has given last, once")
        failed = value is None or not math.isfinite(value)
        if not failed and value is not None and value <= 0:
            raise InputError(f"tell: the value is {value:g}, must be above 0 (lower is better)")
        fitness = None
        measurements = []
        if not failed and value is not None:
            self._first = value if self._first is None else self._first
            fitness = math.log(value / self._first)
            told = Measurement(purpose="fitness", windows="told", tokens=0, loss=None)
            if self._reading is not None and self._reading.kl == value:
                told = self._reading
            measurements = [replace(told, data={"value": value})]
        status: Status = "failed" if failed else "evaluated"
        recipe = trial.recipe
        row = Candidate(
            step=self._asked,
            key=trial.key,
            status=status,
            recipe=recipe.to_json(),
            expression=recipe.expression,
            size=sum(metric.size for metric in recipe.formulas.values()),
            origin=trial.origin,
            parents=trial.parents,
            fitness=fitness,
            reason="told that it does not work" if failed else None,
        )
        row = self.study.candidate(self.study.add_candidate(row, measurements))
        self._out = None
        self._settle(row, trial)
        return row

    def _settle(self, row: Candidate, trial: Trial) -> None:
        if row.fitness is None or row.id is None:
            self._known[trial.key] = None
            return
        individual = Individual(row.id, trial.recipe, row.fitness, row.size)
        self._known[trial.key] = individual
        better, self._best = row.fitness < self._best, min(row.fitness, self._best)
        if trial.origin != "yours":
            self._strategy.tell(individual, Outcome.INCUMBENT if better else Outcome.MEASURED)

    @property
    def masker(self) -> Masker:
        """What prunes the model, for those who want the masks themselves."""
        return self._masker

    def close(self) -> None:
        """Makes the model dense and closes the study."""
        self._masker.restore()
        self.study.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
