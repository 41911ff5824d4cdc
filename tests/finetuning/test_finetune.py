import json
import shutil

import pytest
import torch
from killing import Killed
from safetensors.torch import load_file
from tiny_models import make_text, make_tokenizer, save_model
from transformers import AutoModelForCausalLM

from prunerzero.errors import InputError
from prunerzero.finetuning import training
from prunerzero.finetuning.finetune import Plan, Settings, finetune
from prunerzero.finetuning.schedule import Length
from prunerzero.models.blocks import prunable_matrices
from prunerzero.models.loading import load_model
from prunerzero.pruning.checkpoint import read_record, save_checkpoint, seen_documents
from prunerzero.pruning.pattern import Pattern
from prunerzero.pruning.pruner import prune
from prunerzero.recipe import Recipe

SETTINGS = Settings(rank=4, alpha=4.0, learning_rate=0.01, batch=4, sequence_length=16, windows=4)
pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A dense model, the same pruned, and two texts that share no document."""
    folder = tmp_path_factory.mktemp("finetuning")
    for name, seeds in {"train": range(8), "other": range(20, 23)}.items():
        rows = [json.dumps({"text": make_text(seed, 400)}) for seed in seeds]
        (folder / f"{name}.jsonl").write_text("\n".join(rows))
    save_model(folder / "dense")
    model, _ = load_model(folder / "dense")
    result = prune(
        model,
        make_tokenizer(),
        Recipe.named("wanda"),
        Pattern.parse("50%"),
        calibration=str(folder / "train.jsonl"),
        samples=4,
        sequence_length=16,
    )
    save_checkpoint(model, make_tokenizer(), result, folder / "pruned", str(folder / "dense"))
    return folder


def plan(folder, **options):
    return Plan.make(str(folder / "pruned"), heldout=str(folder / "other.jsonl"), **options)


def test_a_pruned_model_learns_beside_its_dense_one(folder, tmp_path):
    seen = []
    result = finetune(plan(folder), tmp_path / "out", Length(steps=20), SETTINGS,
                      report=lambda *step: seen.append(step))  # fmt: skip
    assert result.pruned.after.perplexity < 0.9 * result.pruned.before.perplexity
    assert len(result.pruned.course.rates) == len(result.dense.course.rates) == 20
    assert result.pruned.course.rates == result.dense.course.rates
    assert result.dense.before.perplexity != result.pruned.before.perplexity
    lost = result.pruned.before.perplexity - result.dense.before.perplexity
    still = result.pruned.after.perplexity - result.dense.after.perplexity
    assert result.recovery == pytest.approx(1 - still / lost) or lost <= 0
    assert ("pruned, fine-tuning", 20, 20) in seen
    assert ("dense, fine-tuning", 20, 20) in seen

    before, after = (AutoModelForCausalLM.from_pretrained(d)
                     for d in (folder / "pruned", tmp_path / "out"))  # fmt: skip
    for old, new in zip(prunable_matrices(before), prunable_matrices(after), strict=True):
        assert torch.equal(old.weight == 0, new.weight == 0)
        assert not torch.equal(old.weight, new.weight)
    assert torch.equal(before.lm_head.weight, after.lm_head.weight)
    assert result.sparsity == read_record(str(folder / "pruned"))["sparsity"]
    assert not (tmp_path / "out.partial").exists()


def test_the_record_says_what_was_done_and_what_was_read(folder, tmp_path):
    finetune(plan(folder, control=False), tmp_path / "out", Length(steps=2), SETTINGS)
    record = read_record(str(tmp_path / "out"))
    (done,) = record["finetuning"]
    assert done["steps"] == 2
    assert done["dense"] is None
    assert done["settings"]["rank"] == 4
    assert done["documents"]
    assert seen_documents(str(tmp_path / "out")) >= set(done["documents"])
    assert "2 steps" in (tmp_path / "out/README.md").read_text()
    again = Plan.make(str(tmp_path / "out"), heldout=str(folder / "other.jsonl"), control=False)
    finetune(again, tmp_path / "again", Length(steps=1), SETTINGS)
    assert len(read_record(str(tmp_path / "again"))["finetuning"]) == 2


@pytest.mark.parametrize("when", [("pruned, fine-tuning", 3), ("dense, fine-tuning", 2)])
def test_a_killed_run_goes_on_to_the_same_result(folder, tmp_path, monkeypatch, when):
    whole = finetune(plan(folder), tmp_path / "whole", Length(steps=5), SETTINGS)
    monkeypatch.setattr(training, "SAVE_EVERY", 0.0)

    def kill(step, done, total):
        if (step, done) == when:
            raise Killed

    with pytest.raises(Killed):
        finetune(plan(folder), tmp_path / "out", Length(steps=5), SETTINGS, report=kill)
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match=r"other settings \(rank\)"):
        finetune(plan(folder), tmp_path / "out", Length(steps=5), Settings(**{**vars(SETTINGS),
                 "rank": 2}))  # fmt: skip
    steps = []
    result = finetune(plan(folder), tmp_path / "out", Length(steps=5), SETTINGS,
                      report=lambda step, done, _: steps.append((step, done)))  # fmt: skip
    assert (when[0], 1) not in steps  # done before
    assert result.pruned.after == whole.pruned.after
    assert result.dense.after == whole.dense.after
    assert result.dense.course.losses == whole.dense.course.losses
    one, other = (load_file(tmp_path / d / "model.safetensors") for d in ("whole", "out"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_time_limits_a_run(folder, tmp_path):
    result = finetune(plan(folder, control=False), tmp_path / "out", Length(seconds=1e-6), SETTINGS)
    assert len(result.pruned.course.rates) == 1
    assert result.recovery is None


def test_bad_input(folder, tmp_path):
    with pytest.raises(InputError, match=r"holds no pruning\.json"):
        Plan.make(str(folder / "dense"))
    with pytest.raises(InputError, match="trained on whole"):
        Plan.make(str(folder / "pruned"))
    same = Plan.make(str(folder / "pruned"), heldout=str(folder / "train.jsonl"))
    with pytest.raises(InputError, match="calibrated or selected"):
        finetune(same, tmp_path / "out", Length(steps=1), SETTINGS)
    long = Settings(rank=4, batch=1000, sequence_length=16)
    with pytest.raises(InputError, match="1000 windows"):
        finetune(plan(folder), tmp_path / "out", Length(steps=1), long)
    assert not (tmp_path / "out.partial").exists()
    shutil.copytree(folder / "pruned", tmp_path / "moved")
    with pytest.raises(InputError, match="--against"):
        Plan.make(str(tmp_path / "moved"), heldout=str(folder / "other.jsonl"), against="./gone")
