"""Streamed and in-memory pruning give the same checkpoint."""

import json
from fractions import Fraction

import pytest
import torch
from safetensors.torch import load_file, save_file
from shrunk_models import shrunk_model
from streaming.helpers import HALF, NM, check_same, pruned_in_memory, save, stored
from tiny_models import make_text, make_tokens, save_model
from transformers import AutoTokenizer

from prunerzero import Metric, Pattern, Recipe, load_model, prune
from prunerzero.models.blocks import prunable_matrices
from prunerzero.models.selection import Selection
from prunerzero.pruning.allocation import CurvesAllocation
from prunerzero.pruning.checkpoint import save_checkpoint
from prunerzero.streaming import prune_streamed

pytestmark = pytest.mark.usefixtures("own_cache")
CURVES = CurvesAllocation(curves={"q_proj": (0.3, 0.1, 0.3), "down_proj": (-0.2,)})
# What differs between families: names and prefixes, layer types, Conv1D, projections around the
# blocks, experts fused when they are loaded.
FAMILIES = ("llama", "gpt2", "opt", "gemma2", "qwen3", "falcon", "bloom", "mixtral", "gpt_oss")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_equals_pruning_in_memory(family, dtype, tmp_path):
    source = save(tmp_path / "source", family, dtype=dtype)
    options = {"calibration": make_tokens(110, 40)}  # 51 windows a batch: three, one shorter
    model, expected = pruned_in_memory(source, "W * A", HALF, **options)
    found = prune_streamed(source, tmp_path / "out", Metric.parse("W * A"), HALF, device="cpu",
                           **options)  # fmt: skip
    check_same(model, tmp_path / "out")
    assert found.matrices == expected.matrices
    assert found.settings == expected.settings
    assert found.coverage == expected.coverage
    assert set(found.unreached) == set(expected.unreached)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source"]


def test_hidden_states_longer_than_the_windows(tmp_path):
    """CPM-Ant puts a prompt of its own in front of each."""
    shrunk_model("cpmant").save_pretrained(tmp_path / "source")
    options = {"calibration": make_tokens(3), "dtype": "float32"}
    model, _ = pruned_in_memory(tmp_path / "source", "W * A * F", HALF, **options)
    prune_streamed(tmp_path / "source", tmp_path / "out", Metric.parse("W * A * F"), HALF,
                   device="cpu", **options)  # fmt: skip
    check_same(model, tmp_path / "out")


@pytest.mark.parametrize("sequential", [True, False])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("pattern", [HALF, NM], ids=str)
@pytest.mark.parametrize("formula", ["W", "W * A", "W * A * F"])
def test_equals_it_for_every_kind_of_statistic(formula, pattern, tied, sequential, tmp_path):
    source = save(tmp_path / "source", tie_word_embeddings=tied)
    model, _ = pruned_in_memory(source, formula, pattern, sequential=sequential)
    prune_streamed(source, tmp_path / "out", Metric.parse(formula), pattern, device="cpu",
                   calibration=make_tokens(), sequential=sequential)  # fmt: skip
    check_same(model, tmp_path / "out")


def test_equals_it_where_experts_meet_no_token(tmp_path):
    source = save(tmp_path / "source", "mixtral", num_local_experts=16)
    options = {"calibration": make_tokens(1, 3), "sequential": False}
    model, expected = pruned_in_memory(source, "W * A", HALF, **options)
    found = prune_streamed(source, tmp_path / "out", Metric.parse("W * A"), HALF, device="cpu",
                           **options)  # fmt: skip
    check_same(model, tmp_path / "out")
    assert expected.unreached
    assert set(found.unreached) == set(expected.unreached)


@pytest.mark.parametrize("sequential", [True, False])
@pytest.mark.parametrize(
    ("formula", "update"),
    [("W * A", "sparsegpt"), ("W**2 / Hfree", "sparsegpt-adaptive"), ("W * Gmean", "dsnot")],
)
def test_equals_it_for_every_update(formula, update, sequential, tmp_path):
    source = save(tmp_path / "source", "qwen3_moe" if update == "sparsegpt" else "llama")
    recipe = Recipe(metric=Metric.parse(formula), update=update)
    model, expected = pruned_in_memory(source, recipe, NM, sequential=sequential)
    found = prune_streamed(source, tmp_path / "out", recipe, NM, device="cpu",
                           calibration=make_tokens(), sequential=sequential)  # fmt: skip
    assert found.settings == expected.settings
    assert found.sparsity == 0.5
    again, dense = (load_model(path, device="cpu")[0] for path in (tmp_path / "out", source))
    for mine, other, before in zip(
        *map(prunable_matrices, (again, model, dense)), strict=True
    ):  # fmt: skip
        # An expert's sums can differ in the last bits, and the update passes that on.
        assert torch.equal(mine.weight == 0, other.weight == 0)
        torch.testing.assert_close(mine.weight, other.weight, rtol=1e-3, atol=1e-4)
        changed = mine.weight[mine.weight != 0] != before.weight[mine.weight != 0]
        assert changed.any() == recipe.new_values


@pytest.mark.parametrize("group", ["row", "matrix"])
def test_equals_it_under_a_searched_allocation(group, tmp_path):
    source = save(tmp_path / "source", shard="30KB")
    formulas = {"attention": Metric.parse("W * A"), "mlp": Metric.parse("W * A * F")}
    recipe = Recipe(metric=formulas, allocation=CURVES, group=group)
    model, expected = pruned_in_memory(source, recipe, HALF)
    found = prune_streamed(source, tmp_path / "out", recipe, HALF, device="cpu",
                           calibration=make_tokens())  # fmt: skip
    check_same(model, tmp_path / "out")
    assert found.sparsity == expected.sparsity


def test_only_the_selected_matrices_change(tmp_path):
    source = save(tmp_path / "source")
    selection = Selection(include=("*.layers.[12].*",), exclude=("*.o_proj",))
    options = {"calibration": make_tokens(), "selection": selection}
    model, _ = pruned_in_memory(source, "W * A * F", HALF, **options)
    prune_streamed(source, tmp_path / "out", Metric.parse("W * A * F"), HALF, device="cpu",
                   **options)  # fmt: skip
    check_same(model, tmp_path / "out")


@pytest.mark.parametrize("shard", ["5GB", "30KB"])
def test_files_keep_names_types_and_everything_outside_the_matrices(shard, tmp_path):
    source = save(tmp_path / "source", shard=shard)
    prune_streamed(source, tmp_path / "out", Metric.parse("W"), HALF, device="cpu")
    before, after = stored(source), stored(tmp_path / "out")
    model, _ = load_model(source, device="cpu")
    pruned = {f"{matrix.name}.weight" for matrix in prunable_matrices(model)}
    assert list(before) == list(after)
    for name, (file, dtype, content) in before.items():
        assert after[name][:2] == (file, dtype)
        assert (after[name][2] == content) == (name not in pruned)
    for path in source.iterdir():
        assert (tmp_path / "out" / path.name).exists()
        if path.suffix == ".json":
            assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()


def test_kept_weights_keep_their_bits_when_passes_run_in_another_type(tmp_path):
    source = save(tmp_path / "source", dtype=torch.bfloat16)
    prune_streamed(source, tmp_path / "out", Metric.parse("W * A"), HALF, device="cpu",
                   calibration=make_tokens(), dtype="float32")  # fmt: skip
    dense, _ = load_model(source, device="cpu")
    pruned, _ = load_model(tmp_path / "out", device="cpu")
    for old, new in zip(prunable_matrices(dense), prunable_matrices(pruned), strict=True):
        assert new.weight.dtype == torch.bfloat16
        kept = new.weight != 0
        assert kept.float().mean() == 0.5
        assert torch.equal(old.weight[kept], new.weight[kept])


@pytest.mark.parametrize("update", ["none", "sparsegpt"])
@pytest.mark.parametrize("shard", ["5GB", "30KB"])
@pytest.mark.parametrize("dtype", ["float32", None])
def test_files_are_typed_as_the_sources_in_memory_too(dtype, shard, update, tmp_path):
    """Half of the source is bfloat16, in which config.json says that it is, half float32."""
    source = save(tmp_path / "source", dtype=torch.bfloat16, shard=shard)
    for path in source.glob("*.safetensors"):
        tensors = load_file(path)
        for name in sorted(tensors)[::2]:
            exact = tensors[name].float()
            tensors[name] = exact * 1.001 if dtype else exact
        save_file(tensors, path, {"format": "pt"})
    recipe = Recipe(metric=Metric.parse("W * A"), update=update)
    options = {"calibration": make_tokens(), "dtype": dtype}
    model, _ = load_model(source, device="cpu", dtype=dtype)
    result = prune(model, None, recipe, HALF, **options)
    save_checkpoint(model, None, result, tmp_path / "memory", str(source))
    prune_streamed(source, tmp_path / "streamed", recipe, HALF, device="cpu", **options)
    assert stored(tmp_path / "memory") == stored(tmp_path / "streamed")
    configs = [json.loads((d / "config.json").read_text()) for d in (source, tmp_path / "memory")]
    assert [config["dtype"] for config in configs] == ["bfloat16", "bfloat16"]


def test_wider_weights_than_the_configuration_says_keep_their_bits(tmp_path):
    source = save(tmp_path / "source")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}))
    prune_streamed(source, tmp_path / "out", Metric.parse("W"), HALF, device="cpu")
    before, after = stored(source), stored(tmp_path / "out")
    for name, (_, dtype, content) in after.items():
        assert dtype == "F32"
        old = torch.frombuffer(bytearray(before[name][2]), dtype=torch.float32)
        new = torch.frombuffer(bytearray(content), dtype=torch.float32)
        assert torch.equal(new[new != 0], old[new != 0])


def test_text_is_read_with_the_checkpoints_tokenizer_and_recorded(tmp_path):
    source = save_model(tmp_path / "source")
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(make_text(seed) for seed in range(8)))
    seen = []
    result = prune_streamed(str(source), tmp_path / "out", Recipe.named("wanda"), NM, device="cpu",
                            calibration=str(text), samples=3, sequence_length=32,
                            report=lambda *step: seen.append(step))  # fmt: skip
    record = json.loads((tmp_path / "out/pruning.json").read_text())
    assert record["sparsity"] == result.sparsity == 0.5
    assert record["model"] == str(source)
    assert record["settings"]["calibration"]["windows"] == 3
    assert record["settings"]["calibration"]["documents"]
    assert AutoTokenizer.from_pretrained(tmp_path / "out")("a")["input_ids"]
    assert [step for step in seen if step[0] == "pruning"] == [("pruning", n, 3) for n in (1, 2, 3)]


def test_a_quarter(tmp_path):
    pattern = Pattern.unstructured(Fraction(1, 4))
    source = save(tmp_path / "source")
    result = prune_streamed(source, tmp_path / "out", Metric.parse("W"), pattern, device="cpu")
    assert result.sparsity == 0.25
    assert result.peak_rss_bytes > 2**20
    assert result.seconds > 0
