"""Published perplexities beside one's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prunerzero.cli.common import note, print_table

if TYPE_CHECKING:
    from prunerzero.evaluation.published import PublishedValue


def names_and_pattern(model: str, loaded: Any) -> tuple[tuple[str, ...], str]:
    """The names that a model goes by, its dense original's too, and its pattern.

    Args:
        model: its name as the user gave it.
        loaded: the model itself.
    """
    from prunerzero.evaluation.published import DENSE
    from prunerzero.pruning.checkpoint import pruned_from

    names = {model, str(getattr(loaded.config, "_name_or_path", ""))}
    origin = pruned_from(model)
    if origin is None:
        return tuple(sorted(names)), DENSE
    source, settings = origin
    return tuple(sorted(names | {source})), str(settings.get("pattern", ""))


def published_beside(
    names: tuple[str, ...], text: str, context: int, pattern: str | None = None
) -> list[PublishedValue]:
    """What was published for a model on a text; says so where only other contexts were."""
    from prunerzero.evaluation.published import published_contexts, published_values

    found = published_values(names, text, context, pattern)
    contexts = published_contexts(names, text)
    if contexts and context not in contexts:
        lengths = " and ".join(map(str, contexts))
        note(
            f"perplexities of this model on {text} were published for a context of {lengths} "
            f"tokens, not {context}: --sequence-length {contexts[0]} gives a comparable one"
        )
    return found


def print_published(text: str, perplexity: float, found: list[PublishedValue]) -> None:
    """Prints one's own value and the published ones below it."""
    if not found:
        return
    print()
    print_table(
        ("method", "perplexity", "source"),
        [
            ("here", f"{perplexity:.3f}", ""),
            *((each.method, f"{each.value:.2f}", cited(each)) for each in found),
        ],
        title=f"{text}, context {found[0].context}, {found[0].pattern}: published",
    )


def cited(value: PublishedValue) -> str:
    """The source of a value; where it was read, too, if that is not its authors' own page."""
    return value.source if value.checked else f"{value.source} (unchecked: {value.read_in})"
