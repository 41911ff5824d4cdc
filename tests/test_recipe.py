import json
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from prunerzero.errors import InputError
from prunerzero.metric import Metric
from prunerzero.pruning.allocation import CurvesAllocation
from prunerzero.pruning.pattern import Pattern
from prunerzero.recipe import Recipe
from prunerzero.updates.names import STATISTICS

HALF = Pattern.parse("50%")
TWO_OF_FOUR = Pattern.parse("2:4")
CURVES = CurvesAllocation(curves={"q_proj": (0.0, 0.1)})


def recipe(metric: object = "W * A", **fields: object) -> Recipe:
    return Recipe.from_json({"metric": metric, **fields})


FULL = {
    "name": "found",
    "metric": {"attention": "W * A", "mlp": "W * F + W", "q_proj": "W * W"},
    "group": "matrix",
    "allocation": {"name": "curves", "curves": {"q_proj": [0.1], "up_proj": [-0.05, 0.0, 0.2]}},
    "source": "a study",
    "note": "two formulas",
    "provenance": {"seed": 1, "texts": ["wikipedia"]},
}


def test_goes_to_disk_and_back(tmp_path: Path) -> None:
    original = Recipe.from_json(FULL)
    original.save(tmp_path / "recipe.json")
    assert Recipe.load(tmp_path / "recipe.json") == original
    document = json.loads((tmp_path / "recipe.json").read_text())
    assert document["metric"] == {kind: str(Metric.parse(t)) for kind, t in FULL["metric"].items()}
    assert document["update"] == "none"


def test_bare_metric_has_defaults() -> None:
    bare = Recipe(metric=Metric.parse("W"))
    assert bare.to_json() == {
        "metric": "W",
        "group": "row",
        "allocation": {"name": "uniform"},
        "update": "none",
    }


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({}, "metric: Field required"),
        ({"metric": "W *"}, "metric"),
        ({"metric": {}}, "at least one formula"),
        ({"metric": {"mlp": "W * Q"}}, "metric"),
        ({"metric": 3}, "text of an expression"),
        ({"metric": "rowmean(W)"}, "cannot rank"),
        ({"metric": "W", "grop": "row"}, "unknown key 'grop'; known are name, metric, group"),
        ({"metric": "W", "group": "column"}, "group: "),
        ({"metric": "W", "update": "magic"}, "update: "),
        ({"metric": "W", "allocation": {"name": "curves", "curvs": {}}}, "allocation.curves"),
        ({"metric": "W", "allocation": {"name": "uniform", "linar": 1}}, "linar"),
        ({"metric": "W", "allocation": {"name": "curves", "curves": {"mlp": ["steep"]}}}, "mlp"),
        ({"metric": "W", "allocation": {"name": "magic"}}, "allocation"),
        ({"metric": "W", "note": "x" * 5000}, "note: "),
        ([], "must be an object"),
        ("W", "must be an object"),
    ],
)
def test_bad_documents_are_refused_in_one_line(document: object, says: str) -> None:
    with pytest.raises(InputError) as caught:
        Recipe.from_json(document)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        recipe().group = "matrix"


def test_formula_of_the_kind_comes_before_that_of_the_family() -> None:
    found = Recipe.from_json(FULL)
    assert found.metric_for("q_proj", "attention") == Metric.parse("W * W")
    assert found.metric_for("k_proj", "attention") == Metric.parse("W * A")
    assert found.metric_for("fc_in", "mlp") == Metric.parse("W * F + W")
    assert recipe("W").metric_for("anything", "mlp") == Metric.parse("W")
    with pytest.raises(InputError, match="no formula for 'k_proj' nor its family 'attention'"):
        recipe({"mlp": "W"}).metric_for("k_proj", "attention")


def test_terminals_and_expression_of_all_formulas() -> None:
    found = recipe({"attention": "W * A", "mlp": "W * F"})
    assert found.terminals == {"W", "A", "F"}
    assert found.expression == "attention: W * A; mlp: W * F"
    assert recipe("W * A").expression == "W * A"


def test_an_update_brings_its_statistics_and_its_own_key() -> None:
    plain = recipe("W * A")
    updated = plain.with_update("sparsegpt")
    assert updated.terminals == {"W", "A", "H"}
    assert updated.new_values
    assert not plain.with_update("dsnot").new_values
    assert Recipe.from_json(updated.to_json()) == updated
    keys = {plain.with_update(name).key(HALF) for name in STATISTICS}
    assert len(keys) == len(STATISTICS) == 4
    with pytest.raises(InputError, match="update: "):
        plain.with_update("magic")


class TestFromText:
    def test_zoo_name_has_its_native_group(self) -> None:
        assert Recipe.from_text("magnitude") == Recipe.named("magnitude")
        assert Recipe.from_text("pruner-zero").name == "pruner-zero"
        assert Recipe.from_text("Magnitude", group="row").group == "row"

    def test_expression(self) -> None:
        assert Recipe.from_text(" W * sqrt(X) ") == recipe("W * sqrt(X)")
        assert Recipe.from_text("W", group="matrix") == recipe("W", group="matrix")

    def test_recipe_file(self, tmp_path: Path) -> None:
        path = tmp_path / "r.json"
        path.write_text(json.dumps(FULL))
        assert Recipe.from_text(str(path)) == Recipe.from_json(FULL)

    def test_tree_file(self, tmp_path: Path) -> None:
        path = tmp_path / "tree.json"
        tree = {"data": "mul", "left": {"data": "W"}, "right": {"data": "G"}}
        path.write_text(json.dumps(tree))
        assert Recipe.from_text(str(path), group="matrix") == recipe("W * G", group="matrix")
        path.write_text(json.dumps({"data": "mul", "left": {"data": "W"}}))
        with pytest.raises(InputError, match=r"tree\.json"):
            Recipe.from_text(str(path))

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("wnada", "did you mean 'wanda'"),
            ("sparse", "gblm, gblm-l1, llm-pruner, magnitude, moe-pruner, obs, pruner-zero, ria"),
            ("pruner-one", "did you mean 'pruner-zero'"),
            ("Q", "not in the zoo"),
            ("W * ", "metric"),
            ("", "metric"),
            ("missing.json", "missing.json"),
            ("rowmean(W) * 2", "cannot rank"),
        ],
    )
    def test_anything_else_is_refused_in_one_line(self, text: str, says: str) -> None:
        with pytest.raises(InputError) as caught:
            Recipe.from_text(text)
        assert says in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_unknown_group(self) -> None:
        with pytest.raises(InputError, match="group"):
            Recipe.from_text("wanda", group="column")

    @pytest.mark.parametrize("content", [b"\xff\x00\x81", b"{", b"[1]", b" " * (2 << 20)])
    def test_file_that_is_no_recipe(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "bad.json"
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"bad\.json"):
            Recipe.load(path)


class TestKey:
    def test_equivalent_formulas_have_one_key(self) -> None:
        key = recipe("W * W * A * A").key(HALF)
        assert recipe("sqr(W * W * A * A)", name="other", note="x").key(HALF) == key
        assert recipe("W * F").key(HALF) != key

    def test_what_prunes_differently_has_another(self) -> None:
        keys = {
            recipe().key(HALF),
            recipe().key(Pattern.parse("60%")),
            recipe().key(TWO_OF_FOUR),
            recipe(group="matrix").key(HALF),
            recipe(group="model").key(HALF),
            recipe(allocation=CURVES).key(HALF),
            recipe({"attention": "W * A", "mlp": "W"}).key(HALF),
        }
        assert len(keys) == 7

    def test_n_m_ignores_group_and_allocation(self) -> None:
        other = recipe(group="matrix", allocation=CURVES)
        assert other.key(TWO_OF_FOUR) == recipe().key(TWO_OF_FOUR)

    def test_one_formula_for_both_families_is_one_formula(self) -> None:
        both = {"mlp": "W * A", "attention": "W * A"}
        assert recipe(both).key(HALF) == recipe("W * A").key(HALF)
        assert recipe({"mlp": "W * A"}).key(HALF) != recipe("W * A").key(HALF)
        swapped = {"attention": "W", "mlp": "W * A"}
        assert recipe(swapped).key(HALF) == recipe(dict(reversed(swapped.items()))).key(HALF)


def test_reading_recipes_does_not_import_torch() -> None:
    code = (
        "import sys; from prunerzero.recipe import Recipe; from prunerzero import zoo; "
        "zoo.entries(); Recipe.from_text('W * A'); from prunerzero.pruning.pattern import Pattern; "
        "Pattern.parse('2:4'); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
