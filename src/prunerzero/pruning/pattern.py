"""Sparsity patterns: which weights may be zero."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Literal, get_args

from prunerzero.errors import InputError

if TYPE_CHECKING:
    import torch

Group = Literal["row", "matrix"]

FORMS = "a share such as 50% or 0.5, or N:M such as 2:4 (2 of every 4 weights kept)"
LONGEST = 64  # characters of a pattern's text
DIGITS = 18  # digits of one of its numbers
_WHOLE = rf"[0-9]{{1,{DIGITS}}}"
_NUMBER = rf"{_WHOLE}(?:\.[0-9]{{0,{DIGITS}}})?|\.{_WHOLE}"


@dataclass(frozen=True)
class Pattern:
    """What may be zero: a share of the weights, or N:M.

    Attributes:
        sparsity: The share of weights that go, strictly between 0 and 1, exact.
        n: Of N:M, how many weights are *kept* of every M consecutive input features, else None.
        m: Of N:M, the size of a group, else None.
    """

    sparsity: Fraction
    n: int | None = None
    m: int | None = None

    @classmethod
    def unstructured(cls, sparsity: Fraction) -> Pattern:
        """A share of the weights, wherever they are.

        Raises:
            InputError: The share is not strictly between 0 and 1.
        """
        if not 0 < sparsity < 1:
            raise InputError(f"sparsity {sparsity}: must lie strictly between 0 and 1")
        return cls(Fraction(sparsity))

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Reads `50%`, `0.5`, `87.5%`, `1/3` or `2:4`.

        Example:
            >>> print(Pattern.parse("0.5"), Pattern.parse("2:4").sparsity)
            50% 1/2
            >>> import torch
            >>> Pattern.parse("2:4").mask(torch.tensor([[4.0, 1.0, 3.0, 2.0]]))
            tensor([[ True, False,  True, False]])

        Raises:
            InputError: The text is none of these, or prunes nothing or everything.
        """
        pattern = text.strip()
        if len(pattern) > LONGEST:
            raise InputError(f"pattern of {len(pattern)} characters: give {FORMS}")
        if match := re.fullmatch(rf"({_WHOLE}):({_WHOLE})", pattern):
            n, m = int(match[1]), int(match[2])
            if not 0 < n < m:
                raise InputError(
                    f"pattern '{pattern}': N:M keeps N of every M weights, so 0 < N < M "
                    "must hold, as in 2:4"
                )
            return cls(Fraction(m - n, m), n, m)
        if match := re.fullmatch(rf"({_NUMBER})\s*%", pattern):
            sparsity = Fraction(match[1]) / 100
            if not 0 < sparsity < 1:
                raise InputError(
                    f"pattern '{pattern}': must lie strictly between 0% and 100%, as in 50%"
                )
        elif match := re.fullmatch(_NUMBER, pattern):
            sparsity = Fraction(pattern)
            if not 0 < sparsity < 1:
                hint = f"; for a percentage write {pattern}%" if 1 <= sparsity < 100 else ""
                raise InputError(
                    f"pattern '{pattern}': a number without % must lie strictly between 0 and 1, "
                    f"as in 0.5{hint}"
                )
        elif (match := re.fullmatch(rf"({_WHOLE})/({_WHOLE})", pattern)) and int(match[2]):
            sparsity = Fraction(int(match[1]), int(match[2]))
            if not 0 < sparsity < 1:
                raise InputError(f"pattern '{pattern}': must lie strictly between 0 and 1")
        else:
            raise InputError(f"pattern {pattern!r}: give {FORMS}")
        return cls(sparsity)

    def __str__(self) -> str:
        """Text that parses back to an equal pattern."""
        if self.is_nm:
            return f"{self.n}:{self.m}"
        return _percent(self.sparsity) or str(self.sparsity)

    @property
    def is_nm(self) -> bool:
        """Whether this is an N:M pattern."""
        return self.m is not None

    def count(self, weights: int) -> int:
        """How many of so many weights go: the floor of the exact product."""
        return int(weights * self.sparsity)

    def check_width(self, in_features: int, name: str) -> None:
        """Checks that a matrix can have this pattern.

        Args:
            in_features: The matrix's number of columns.
            name: The matrix's name, for the message.

        Raises:
            InputError: M does not divide the width.
        """
        if self.m is not None and in_features % self.m:
            raise InputError(
                f"pattern {self}: the width {in_features} of {name} is not a multiple of {self.m}"
            )

    def mask(self, scores: torch.Tensor, group: str = "row") -> torch.Tensor:
        """Selects the weights to keep.

        Pruned are the first `floor(n * sparsity)` of a stable ascending sort of each comparison
        group, so of equal scores the lower index goes first; NaN counts as the highest. N:M
        prunes the first M - N of every M consecutive scores of a row likewise.

        Args:
            scores: `[out_features, in_features]`, any real dtype, compared in float32.
            group: `row` or `matrix`; ignored for N:M.

        Returns:
            bool `[out_features, in_features]` on the scores' device, True = kept.

        Raises:
            InputError: The scores are not a matrix, the group is unknown, or M does not divide
                the width.
        """
        from prunerzero.pruning import masks

        if scores.ndim != 2 or scores.is_complex():
            raise InputError(
                f"scores of shape {list(scores.shape)} and {scores.dtype}: "
                "a mask needs a real matrix [out_features, in_features]"
            )
        scores = scores.detach().float()
        if self.n is not None and self.m is not None:
            self.check_width(scores.shape[1], "the scores")
            return masks.keep_n_of_m(scores, self.n, self.m)
        if group not in get_args(Group):
            raise InputError(f"comparison group '{group}': must be row or matrix")
        grouped = scores if group == "row" else scores.reshape(1, -1)
        return masks.keep_highest(grouped, self.count(grouped.shape[1])).reshape(scores.shape)


def _percent(share: Fraction) -> str | None:
    """`share` as an exact percentage, or None where that takes more than `DIGITS` decimals."""
    percentage = share * 100
    rest, decimals = percentage.denominator, 0
    while rest > 1 and decimals < DIGITS:
        decimals += 1
        rest = (percentage * 10**decimals).denominator
    if rest > 1:
        return None
    whole, part = divmod(int(percentage * 10**decimals), 10**decimals)
    return f"{whole}.{part:0{decimals}d}%" if decimals else f"{whole}%"
