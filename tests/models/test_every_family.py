"""`docs/models.md` is true."""

import re
from pathlib import Path

import pytest
import torch
from shrunk_models import VOCABULARY, shrunk_model
from tiny_models import ALL_CONFIGS, UNCALLED

from prunerzero import Metric, Pattern, prune
from prunerzero.errors import InputError
from prunerzero.models.blocks import prunable_matrices
from prunerzero.streaming import prune_streamed

PAGE = (Path(__file__).parents[2] / "docs" / "models.md").read_text()


def section(title):
    return PAGE.split(f"## {title}\n")[1].split("\n## ")[0]


def listed(title):
    return re.findall(r"`([\w-]+)`", section(title).strip().split("\n\n")[-1])


WORKS = listed("Families that work")
UNUSED = listed("Families with layers that are never called")
REFUSED = dict(
    re.findall(r"^\| `([\w-]+)` \| (.+?) \|", section("Families that are refused"), re.M)
)
IN_MEMORY = re.findall(r"`(\w+)`", PAGE.split("says so):")[1].split("\n\n")[0])
TOKENS = torch.randint(1, VOCABULARY, (3, 16), generator=torch.Generator().manual_seed(0))
HALF = Pattern.parse("50%")


def test_families_of_the_other_tests_are_listed():
    assert set(ALL_CONFIGS) <= set(WORKS)
    assert set(UNCALLED) <= set(UNUSED)
    assert not set(WORKS) & set(UNUSED)


@pytest.mark.slow
@pytest.mark.parametrize("family", WORKS)
def test_works(family):
    model = shrunk_model(family)
    result = prune(model, None, Metric.parse("W * A"), HALF, calibration=TOKENS)
    assert result.sparsity == pytest.approx(0.5, abs=0.01)  # odd widths
    experts = {matrix.name for matrix in prunable_matrices(model) if matrix.siblings}
    # Gemma 3n scales some inputs by parameters that begin at zero.
    zeroed = {name for name in result.unreached if "per_layer" in name}
    assert set(result.unreached) <= experts | zeroed
    again = shrunk_model(family)  # some matrices (indexers) have activations but no gradient
    assert prune(again, None, Metric.parse("W * A * F"), HALF, calibration=TOKENS).sparsity > 0.49


@pytest.mark.slow
@pytest.mark.parametrize("family", UNUSED)
def test_works_and_reports_layers_that_are_never_called(family):
    result = prune(shrunk_model(family), None, Metric.parse("W * A"), HALF, calibration=TOKENS)
    assert result.unreached


@pytest.mark.parametrize("family", REFUSED)
def test_is_refused_for_the_reason_given(family):
    model = shrunk_model(family)
    with pytest.raises(InputError, match=REFUSED[family]):
        prune(model, None, Metric.parse("W * A"), HALF, calibration=TOKENS)


@pytest.mark.parametrize("family", IN_MEMORY)
def test_is_pruned_in_memory_only(family, tmp_path):
    shrunk_model(family).save_pretrained(tmp_path / "source")
    with pytest.raises(InputError, match=r"cannot be streamed; prune in memory"):
        prune_streamed(tmp_path / "source", tmp_path / "out", Metric.parse("W * A"), HALF,
                       device="cpu", calibration=TOKENS)  # fmt: skip
    assert not (tmp_path / "out").exists()
