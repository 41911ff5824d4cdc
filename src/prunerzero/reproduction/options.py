"""What a reproduction measures, and how much of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from prunerzero.errors import InputError
from prunerzero.evaluation.zeroshot import OFFLINE, check_tasks
from prunerzero.pruning.pattern import Pattern
from prunerzero.recipe import Recipe
from prunerzero.report.drawing import require_matplotlib
from prunerzero.reproduction.names import EXPERIMENTS, OWN, PUBLISHED, RECORD, WANDA


@dataclass(frozen=True)
class Options:
    """The sizes of a reproduction; the defaults are the paper's where it gives them.

    Attributes:
        experiments: names of `EXPERIMENTS`.
        methods: zoo names, expressions or recipe files.
        patterns: of the table of methods; the first is that of all experiments but ``sparsity``.
        sparsities: unstructured patterns of ``sparsity``.
        sample_counts: numbers of calibration windows of ``samples``.
        tasks: zero-shot tasks.
        limit: items of each task; None for all.
        seeds: how many seeds, the first of which is ``seed``: of calibration windows and searches.
            Zero-shot tasks are asked with the first only.
        seed: the first, and that of the held-out windows, which are the same for all.
        samples: calibration windows of all experiments but ``samples``.
        sequence_length: tokens in a window of any kind.
        windows: held-out windows of perplexities.
        proposals: what the paper's search proposes, initial population and duplicates included.
        population: its size.
        fitness_windows: windows of the perplexity that is its fitness.
        populations: initial populations of random trees to compare with and without
            simplification.
        calibration: text source; its splits by document give statistics, fitness and, unless
            ``text`` is given, perplexity.
        text: another text for the perplexity.
        sequential: statistics of each block from the pruned blocks before it, but for fitness.
    """

    experiments: tuple[str, ...] = EXPERIMENTS
    methods: tuple[str, ...] = ("magnitude", WANDA, "ria", "gblm", PUBLISHED, "sparsegpt")
    patterns: tuple[str, ...] = ("50%", "4:8", "2:4")
    sparsities: tuple[str, ...] = tuple(f"{percent}%" for percent in range(10, 90, 10))
    sample_counts: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    tasks: tuple[str, ...] = tuple(OFFLINE)
    limit: int | None = 200
    seeds: int = 3
    seed: int = 0
    samples: int = 16
    sequence_length: int = 512
    windows: int = 32
    proposals: int = 350
    population: int = 50
    fitness_windows: int = 4
    populations: int = 10
    calibration: str = "wikipedia"
    text: str | None = None
    sequential: bool = True

    def __post_init__(self) -> None:
        """Checks what can be checked without a model.

        Raises:
            InputError: an option is empty, unknown, twice the same or out of range.
        """
        for name in ("experiments", "methods", "patterns", "sparsities", "sample_counts"):
            entries = getattr(self, name)
            if not entries:
                raise InputError(f"{name.replace('_', ' ')}: give at least one")
            if len(set(entries)) < len(entries):
                raise InputError(f"{name.replace('_', ' ')}: one is given twice")
        for experiment in self.experiments:
            if experiment not in EXPERIMENTS:
                raise InputError(
                    f"experiment '{experiment}': there is none; known are {', '.join(EXPERIMENTS)}"
                )
        for method in self.methods:
            Recipe.from_text(method)
        for text in self.patterns:
            Pattern.parse(text)
        for text in self.sparsities:
            if Pattern.parse(text).is_nm:
                raise InputError(f"sparsity '{text}': give one such as 40%, not an N:M pattern")
        least = {
            **dict.fromkeys(("seeds", "samples", "windows", "populations", "fitness_windows"), 1),
            **{"seed": 0, "sequence_length": 2, "population": 4, "limit": 2},
        }
        for name, lowest in least.items():
            value = getattr(self, name)
            if value is not None and value < lowest:
                raise InputError(f"{name.replace('_', ' ')} {value}: give {lowest} or more")
        if min(self.sample_counts) < 1:
            raise InputError("sample counts: give numbers of 1 or more")
        if self.proposals < self.population:
            raise InputError(
                f"proposals {self.proposals}: fewer than the population of {self.population}"
            )

    @property
    def pattern(self) -> str:
        """The pattern of all experiments but ``sparsity``."""
        return self.patterns[0]

    @property
    def all_seeds(self) -> range:
        """The seeds."""
        return range(self.seed, self.seed + self.seeds)


def check(options: Options, output: str | Path) -> None:
    """Finds what is wrong before the model is loaded.

    Raises:
        InputError: the tasks or the directory cannot be used.
        MissingExtraError: something that the experiments need is not installed.
    """
    require_matplotlib()
    if "zero-shot" in options.experiments:
        check_tasks(options.tasks)
    directory = Path(output)
    if directory.exists() and not directory.is_dir():
        raise InputError(f"output {output}: is a file; name a directory")
    foreign = directory.is_dir() and {path.name for path in directory.iterdir()} - OWN
    if foreign and not (directory / RECORD).is_file():
        raise InputError(f"output {output}: directory is not empty; empty it or name a new one")
