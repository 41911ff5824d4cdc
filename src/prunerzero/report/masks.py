"""Pictures of masks: needs the model that the study searched on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from prunerzero.data.sources import load_documents
from prunerzero.data.splits import Split
from prunerzero.data.windows import sample_windows
from prunerzero.errors import InputError
from prunerzero.evolution.masking import Masker
from prunerzero.evolution.settings import SearchSettings
from prunerzero.models import find_blocks, load_model
from prunerzero.models.blocks import Matrix
from prunerzero.models.compute import compute_for
from prunerzero.models.selection import Selection
from prunerzero.progress import Report, silent
from prunerzero.pruning.pattern import Pattern
from prunerzero.pruning.pruner import UnusableScores
from prunerzero.recipe import Recipe
from prunerzero.report.document import AllocationMap, MaskPicture, Masks, Overlap
from prunerzero.report.heldout import closing_winner
from prunerzero.report.rows import Rows
from prunerzero.statistics.cache import gather_statistics, model_hash
from prunerzero.study.progress import pareto_front

CROP = 48  # rows and columns of the picture
COMPARED = 8  # candidates whose masks are compared with Wanda's


def picture_masks(rows: Rows, device: str | None = None, report: Report = silent) -> Masks:
    """Loads the study's model, and prunes it by the winner and by Wanda as the search does.

    Masks are one-shot, from the statistics of the study's own calibration windows (cached).

    Args:
        rows: the study.
        device: where to run; None chooses.
        report: called with a step's name, the parts done and their number.

    Raises:
        InputError: the model cannot be had or is another one, or nothing has been evaluated.
    """
    try:
        settings = SearchSettings.model_validate(rows.settings)
    except ValidationError:
        raise InputError(f"study {rows.path}: its settings are not those of a search") from None
    compared = _compared(rows)
    wanda = Recipe.named("wanda")
    masker = _masker(settings, [wanda, *compared.values()], device, report)
    done, total = 0, (len(compared) + 1) * len(masker.matrices)
    own: dict[str, Tensor] = {}
    for matrix in masker.matrices:
        own[matrix.name] = masker.mask(wanda, matrix, masker.pattern.sparsity)
        done += 1
        report("masks", done, total)
    overlaps = []
    for identifier, recipe in compared.items():
        sparsities = masker.sparsities(recipe)
        shares: dict[str, float] = {}
        for matrix in masker.matrices:
            try:
                mask = masker.mask(recipe, matrix, sparsities[matrix.name])
            except UnusableScores:
                continue
            shares[matrix.name] = float((mask == own[matrix.name]).float().mean())
            done += 1
            report("masks", done, total)
        kinds, grid = _grid(masker.matrices, shares)
        overlaps.append(Overlap(candidate=identifier, kinds=kinds, values=grid))
    winner, recipe = next(iter(compared.items()))
    sparsities = masker.sparsities(recipe)
    kinds, grid = _grid(masker.matrices, {n: float(s) for n, s in sparsities.items()})
    matrix = masker.matrices[len(masker.matrices) // 2]
    return Masks(
        candidate=winner,
        picture=_picture(masker, matrix, recipe, own[matrix.name]),
        overlap=overlaps,
        allocation=AllocationMap(exact=True, kinds=kinds, values=grid),
    )


def _compared(rows: Rows) -> dict[int, Recipe]:
    """The winner first, then the Pareto front from its best end."""
    evaluated = [row for row in rows.candidates.values() if row.fitness is not None]
    if not evaluated:
        raise InputError(f"study {rows.path}: nothing evaluated yet, so there are no masks to show")
    best = [row.id for row in reversed(pareto_front(evaluated))]
    winner = closing_winner(rows)
    chosen = list(dict.fromkeys([best[0] if winner is None else winner, *best]))[:COMPARED]
    return {
        identifier: Recipe.from_json(
            rows.candidates[identifier].recipe, f"study {rows.path}, candidate {identifier}"
        )
        for identifier in chosen
        if identifier is not None
    }


def _masker(
    settings: SearchSettings, recipes: Sequence[Recipe], device: str | None, report: Report
) -> Masker:
    precision = settings.compute.split(", ")[1]
    exact = "float32" if precision == "float32" else None
    model, tokenizer = load_model(settings.model, device=device, dtype=exact)
    if model_hash(model) != settings.model_hash:
        raise InputError(
            f"model '{settings.model}': its weights are not those that the study searched on"
        )
    selection: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in settings.selection.items()
    }
    blocks = find_blocks(model, Selection(**selection))
    matrices = [matrix for block in blocks for matrix in block.matrices]
    windows = sample_windows(
        load_documents(settings.calibration),
        tokenizer,
        Split.CALIBRATION,
        settings.samples,
        settings.sequence_length,
        settings.seed,
    )
    statistics = gather_statistics(
        model,
        matrices,
        windows.tokens,
        frozenset().union(*(recipe.terminals for recipe in recipes)),
        compute_for(model, precision),
        lambda done: report("statistics", done, len(windows.tokens)),
    )
    return Masker(model, matrices, statistics, Pattern.parse(settings.pattern))


def _picture(masker: Masker, matrix: Matrix, recipe: Recipe, wanda: Tensor) -> MaskPicture:
    weight = masker.dense.weights[matrix.name][:CROP, :CROP].float().abs().cpu()
    mask = masker.mask(recipe, matrix, masker.sparsities(recipe)[matrix.name])
    largest = float(weight.max()) or 1.0
    return MaskPicture(
        matrix=matrix.name,
        rows=weight.shape[0],
        of_rows=matrix.shape.rows,
        columns=weight.shape[1],
        of_columns=matrix.shape.columns,
        weights=[[round(value, 4) for value in line] for line in (weight / largest).tolist()],
        winner=mask[:CROP, :CROP].int().tolist(),
        wanda=wanda[:CROP, :CROP].int().tolist(),
    )


def _grid(
    matrices: Sequence[Matrix], values: dict[str, float]
) -> tuple[list[str], list[list[float | None]]]:
    """Kinds, and for each a value a block: the mean where a block has several of a kind."""
    kinds = list(dict.fromkeys(matrix.kind for matrix in matrices))
    blocks = max(matrix.blocks for matrix in matrices)
    cells: dict[tuple[str, int], list[float]] = {}
    for matrix in matrices:
        if matrix.name in values:
            cells.setdefault((matrix.kind, matrix.block), []).append(values[matrix.name])

    def cell(kind: str, block: int) -> float | None:
        found = cells.get((kind, block))
        return sum(found) / len(found) if found else None

    return kinds, [[cell(kind, block) for block in range(blocks)] for kind in kinds]
