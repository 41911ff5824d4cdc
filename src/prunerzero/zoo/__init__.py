"""Named recipes, one JSON file each: published metrics with their sources, and found recipes."""

from functools import cache
from importlib.resources import files

from prunerzero.recipe import Recipe, unknown_name

# What every search gathers.
SEARCHED = frozenset("WGXAF")


@cache
def names() -> tuple[str, ...]:
    """The zoo's names, sorted."""
    entries = (entry.name for entry in files(__name__).iterdir())
    return tuple(sorted(name.removesuffix(".json") for name in entries if name.endswith(".json")))


@cache
def _read(name: str) -> Recipe:
    import json

    text = (files(__name__) / f"{name}.json").read_text(encoding="utf-8")
    return Recipe.from_json(json.loads(text), f"zoo entry '{name}'")


def load(name: str) -> Recipe:
    """The recipe of that name; case does not matter.

    Raises:
        InputError: There is none.
    """
    if name.strip().lower() not in names():
        raise unknown_name(name.strip())
    return _read(name.strip().lower())


def entries() -> list[Recipe]:
    """All recipes, sorted by name."""
    return [load(name) for name in names()]


def published(*, mixture: bool = False) -> list[Recipe]:
    """The scores from the literature: what a search starts from and is compared with.

    Recipes that a search found carry its provenance. To start another search from them would let
    what one search read into the next.

    Args:
        mixture: with those that ask for the router's weights, which only mixtures of experts have.

    Not among them are recipes with an update, and those that ask for more than a search gathers.
    """
    gathered = SEARCHED | ({"R"} if mixture else set())
    return [
        recipe
        for recipe in entries()
        if not recipe.provenance and recipe.update == "none" and recipe.terminals <= gathered
    ]
