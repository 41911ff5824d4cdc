"""What the user wants pruned, where inspection of the model shall not decide alone."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

MIN_COVERAGE = 0.9


@dataclass(frozen=True)
class Selection:
    """What to prune of a model.

    Attributes:
        blocks: dotted name of the list of blocks; empty to find it.
        include: patterns (``*.mlp.*``) of the matrices' names; those that match none stay dense.
            Empty for all.
        exclude: patterns of matrices that stay dense.
        min_coverage: the share of the blocks' weights that must be found prunable (before
            ``include`` and ``exclude``), or the model is refused.
    """

    blocks: str = ""
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    min_coverage: float = MIN_COVERAGE

    def takes(self, name: str) -> bool:
        """Whether a matrix of that name is pruned."""
        wanted = not self.include or any(fnmatchcase(name, p) for p in self.include)
        return wanted and not any(fnmatchcase(name, p) for p in self.exclude)


EVERYTHING = Selection()
