import pytest
from pydantic import ValidationError

from prunerzero.errors import InputError
from prunerzero.evolution.settings import Budget, SearchSettings, check_preset
from prunerzero.pruning.pattern import Pattern


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("10m", 600), ("2h", 7200), ("1.5m", 90), (" 5 s ", 5)]
)
def test_times(text, seconds):
    assert Budget.parse(text) == Budget(seconds, None)


@pytest.mark.parametrize(
    "text", ["5x", "0m", "0.0s", "-5m", "m", "", "10", "1e3s", "5 m 3 s", "9999999s"]
)
def test_bad_times(text):
    with pytest.raises(InputError, match="give a time such as 90s, 10m or 2h"):
        Budget.parse(text)


@pytest.mark.parametrize("candidates", [0, -1])
def test_bad_numbers_of_candidates(candidates):
    with pytest.raises(InputError, match="at least 1"):
        Budget.parse(None, candidates)


def test_the_first_limit_reached_ends_the_search():
    both = Budget.parse("10s", 5)
    assert not both.spent(9.9, 4, 0)
    assert both.spent(10.0, 0, 0)
    assert both.spent(0.0, 5, 0)
    assert not Budget.parse(None, 5).spent(1e9, 4, 0)
    assert not Budget.parse("1s").spent(0.5, 10**9, 0)
    assert Budget(proposals=7).spent(0.0, 0, 7)
    assert not Budget(proposals=7).spent(1e9, 6, 6)
    assert str(both) == "10 s or 5 candidates"


def test_settings_are_plain_json_and_know_no_other_names():
    settings = SearchSettings(model="m", model_hash="h", pattern="50%")
    assert SearchSettings.model_validate_json(settings.model_dump_json()) == settings
    with pytest.raises(ValidationError):
        SearchSettings(model="m", model_hash="h", pattern="50%", budget="5m")


HALF, TWO_OF_FOUR = Pattern.parse("50%"), Pattern.parse("2:4")


@pytest.mark.parametrize(
    ("preset", "pattern", "genome", "guesses", "message"),
    [
        ("paper", HALF, "recipe", True, "preset 'paper': has starting points of its own"),
        ("random", HALF, "recipe", True, "preset 'random': .* takes no guess"),
        ("evopress", HALF, "recipe", True, "preset 'evopress': .* takes no guess"),
        ("paper", HALF, "formula", False, "preset 'paper': searches formulas anyway"),
        ("evopress", HALF, "formula", False, "preset 'evopress': searches allocations alone"),
        ("evopress", TWO_OF_FOUR, "recipe", False, "2:4 leaves no allocation to search"),
    ],
)
def test_presets_that_do_not_fit_the_rest(preset, pattern, genome, guesses, message):
    with pytest.raises(InputError, match=message) as caught:
        check_preset(preset, [pattern], genome, guesses)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("preset", ["paper", "evopress"])
def test_presets_whose_formulas_are_given_take_no_vocabulary(preset):
    with pytest.raises(InputError, match=f"preset '{preset}': .* takes no vocabulary"):
        check_preset(preset, [HALF], "recipe", False, vocabulary=["R"])


@pytest.mark.parametrize(
    ("preset", "pattern", "genome", "guesses"),
    [
        ("default", HALF, "recipe", True),
        ("default", TWO_OF_FOUR, "formula", True),
        ("paper", TWO_OF_FOUR, "recipe", False),
        ("random", HALF, "formula", False),
        ("random", TWO_OF_FOUR, "recipe", False),
        ("evopress", HALF, "recipe", False),
    ],
)
def test_presets_that_do(preset, pattern, genome, guesses):
    check_preset(preset, [pattern], genome, guesses)
