"""The model card of a pruned checkpoint: what was done to it, and what that is good for."""

from __future__ import annotations

import re
import shlex
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from prunerzero.recipe import Recipe

CARD = "README.md"

KEPT = {
    "none": "as they were",
    "sparsegpt": "updated by SparseGPT",
    "sparsegpt-adaptive": "chosen and updated along the way by SparseGPT",
    "dsnot": "as they were; the mask refined by DSnoT",
}


def model_card(record: Mapping[str, Any]) -> str:
    """Markdown for people who find the checkpoint, from the content of ``pruning.json``."""
    settings = record["settings"]
    recipe = Recipe.from_json(settings["recipe"])
    rows = [
        ("base model", f"`{record['model']}`"),
        ("pattern", settings["pattern"]),
        ("zeros in the pruned matrices", f"{record['sparsity']:.2%}"),
        ("pruned matrices' share of the blocks' weights", f"{record['coverage']:.1%}"),
        ("weights ranked", f"per {recipe.group}"),
        ("allocation", recipe.allocation.name),
        ("kept weights", KEPT[recipe.update]),
        ("statistics", "sequential" if settings["sequential"] else "one-shot"),
        ("calibration", _calibration(settings["calibration"])),
        ("seed", settings["seed"]),
        ("computed in", settings["compute"]),
        ("versions", ", ".join(f"{k} {v}" for k, v in record["versions"].items())),
    ]
    if permutation := settings.get("permutation"):
        rows.append(("input channels reordered", f"of {len(permutation['matrices'])} matrices"))
    tunings = record.get("finetuning", [])
    rows += [("fine-tuned", _finetuning(tuning)) for tuning in tunings]
    unreached = len(record["unreached"])
    if unreached:
        rows.append(("matrices that no calibration token met", unreached))
    return "\n".join(
        [
            "---",
            "library_name: transformers",
            "pipeline_tag: text-generation",
            *_base(record["model"]),
            "tags: [pruned, sparse, prunerzero]",
            "---",
            "",
            f"# {_short(record['model'])}, pruned to {settings['pattern']}",
            "",
            f"Pruned {'and then fine-tuned' if tunings else 'without retraining'} by "
            "[prunerzero](https://pypi.org/project/prunerzero/). "
            "Pruned weights are stored as zeros in dense tensors, which every engine loads: "
            "**this checkpoint is no smaller and no faster by itself.** "
            "`prunerzero export` packs it into a smaller file.",
            "",
            *_table(("", ""), rows),
            "",
            *_table(
                ("matrices", "formula"),
                [(kind or "all", f"`{metric}`") for kind, metric in recipe.formulas.items()],
            ),
            "",
            *_table(("kind of matrix", "zeros"), _by_kind(record["matrices"])),
            "",
            "No quality was measured when it was pruned. Perplexity on held-out text: "
            "`prunerzero evaluate .` (documents it was calibrated on are refused). "
            "`pruning.json` holds the recipe, the sparsity of every matrix and the hashes of the "
            "calibration documents. To repeat it, with that recipe in `recipe.json`:",
            "",
            "```",
            _command(record),
            "```",
            "",
        ]
    )


def _base(model: str) -> list[str]:
    """The card's link to the dense model, which only a hub id can be."""
    return [f"base_model: {model}"] if re.fullmatch(r"[\w.-]+/[\w.-]+", model) else []


def _calibration(calibration: Mapping[str, Any] | None) -> str:
    if calibration is None:
        return "none: the formula needs no data"
    shown = "{windows} windows of {sequence_length} tokens of {source}"
    return shown.format_map(calibration)


def _finetuning(tuning: Mapping[str, Any]) -> str:
    settings = tuning["settings"]
    return (
        f"masked LoRA of rank {settings['rank']}, {tuning['steps']} steps of {settings['batch']} "
        f"windows of {settings['sequence_length']} tokens of {settings['text']}; perplexity on "
        f"held-out {settings['heldout']} {tuning['perplexity_before']:.2f} before, "
        f"{tuning['perplexity_after']:.2f} after"
    )


def _by_kind(matrices: list[Mapping[str, Any]]) -> list[tuple[str, str]]:
    zeros: dict[str, float] = defaultdict(float)
    weights: dict[str, int] = defaultdict(int)
    for matrix in matrices:
        # An expert's name ends with its number.
        kind = next(part for part in reversed(matrix["name"].split(".")) if not part.isdigit())
        size = matrix["rows"] * matrix["columns"]
        weights[kind] += size
        zeros[kind] += matrix["sparsity"] * size
    return [(kind, f"{zeros[kind] / weights[kind]:.2%}") for kind in weights]


def _command(record: Mapping[str, Any]) -> str:
    settings = record["settings"]
    words = ["prunerzero", "prune", record["model"], "--recipe", "recipe.json"]
    words += ["--pattern", settings["pattern"], "--seed", str(settings["seed"])]
    calibration = settings["calibration"]
    if calibration is not None:
        words += ["--calibration", calibration["source"]]
        words += ["--samples", str(calibration["windows"])]
        words += ["--sequence-length", str(calibration["sequence_length"])]
    if settings.get("permutation"):
        words.append("--permute")
    if not settings["sequential"]:
        words.append("--one-shot")
    return shlex.join([*words, "--output", "DIR"])


def _table(columns: tuple[str, str], rows: list[tuple[str, Any]]) -> list[str]:
    lines = [columns, ("---", "---"), *rows]
    return [f"| {left} | {right} |" for left, right in lines]


def _short(model: str) -> str:
    return model.rstrip("/").split("/")[-1]
