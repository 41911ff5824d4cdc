"""The windows that a search reads of one text with one model's tokenizer."""

from __future__ import annotations

from typing import Any

from prunerzero.data.sources import load_documents
from prunerzero.data.splits import Split, documents_of
from prunerzero.data.windows import Windows, WindowSampler, sample_windows
from prunerzero.evolution.rungs import RungPlan
from prunerzero.evolution.settings import SearchSettings
from prunerzero.pruning.calibration import describe

# Two finalists' difference varies by 3 to 8 % from window to window (two formulas, SmolLM2-135M):
# eight windows tell recipes 2 % apart by chance only.
VALIDATION_WINDOWS = 24
HELDOUT_WINDOWS = 24
PAPER_WINDOWS = 4


class Texts:
    """The windows of all four splits.

    Args:
        source: the text.
        tokenizer: the model's.
        settings: of the search.
        plan: sizes of the rungs.

    Raises:
        InputError: the text cannot be had or split, or is too short.
    """

    def __init__(
        self, source: str, tokenizer: Any, settings: SearchSettings, plan: RungPlan
    ) -> None:
        documents = load_documents(source)

        def draw(split: Split, count: int) -> Windows:
            length = settings.sequence_length
            return sample_windows(documents, tokenizer, split, count, length, settings.seed)

        self.source = source
        self.calibration = draw(Split.CALIBRATION, settings.samples)
        self.validation = draw(Split.VALIDATION, VALIDATION_WINDOWS)
        # The held-out windows are the same for every seed, so that searches can be compared.
        self.heldout = sample_windows(
            documents, tokenizer, Split.HELDOUT, HELDOUT_WINDOWS, settings.sequence_length, 0
        )
        self.selection = WindowSampler(
            documents, tokenizer, Split.SELECTION, plan.length, settings.seed
        )
        self.selection.draw(0, plan.page)  # a text that is too short is found here
        self.paper_selection = draw(Split.SELECTION, PAPER_WINDOWS)
        self.selected_on = [document.hash for document in documents_of(documents, Split.SELECTION)]

    def used(self) -> list[dict[str, Any]]:
        """What was read before the held-out windows, for the winner's provenance."""
        return [
            describe(self.calibration),
            describe(self.validation),
            {"split": str(Split.SELECTION), "documents": self.selected_on},
        ]
