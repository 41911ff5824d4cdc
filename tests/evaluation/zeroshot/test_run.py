import json

import pytest
import torch
from tiny_models import make_model, make_tokenizer

from prunerzero import Metric, Pattern, prune, zero_shot
from prunerzero.errors import InputError
from prunerzero.evaluation.zeroshot.offline import OFFLINE


def by_hand(model, tokenizer, row, context):
    """Log-likelihood of each choice, one forward pass each, and whether it is the greedy one."""
    found, greedy = [], []
    for choice in row["choices"]:
        before = tokenizer(context)["input_ids"]
        after = tokenizer(f" {choice}")["input_ids"]
        with torch.no_grad():
            logits = model(torch.tensor([before + after])).logits[0, len(before) - 1 : -1]
        picked = logits.log_softmax(-1)[range(len(after)), after]
        found.append(picked.sum().item())
        greedy.append(logits.argmax(-1).tolist() == after)
    return torch.tensor(found), greedy


def context_of(row):
    return row.get("context") or f"Question: {row['question']}\nAnswer:"


@pytest.mark.parametrize("name", ["socialiqa", "last_word", "sentence_order"])
def test_both_accuracies_are_those_of_a_plain_loop(model, tokenizer, offline_tasks, assets, name):
    rows = OFFLINE[name].rows()[:12]
    result = zero_shot(
        model, tokenizer, {name: offline_tasks[name]}, limit=12, batch_size=5, dtype="float32"
    ).tasks[name]
    acc, acc_norm, exact = [], [], []
    for row in rows:
        lls, greedy = by_hand(model, tokenizer, row, context_of(row))
        lengths = torch.tensor([len(choice) for choice in row["choices"]])
        acc.append(int(lls.argmax() == row["answer"]))
        acc_norm.append(int((lls / lengths).argmax() == row["answer"]))
        exact.append(int(greedy[row["answer"]]))
    assert result.scores["acc"].right == tuple(acc)
    assert result.scores["acc_norm"].right == tuple(acc_norm)
    assert result.items == 12 < result.available == len(OFFLINE[name].rows())
    if name == "last_word":
        assert result.scores["exact_match"].right == tuple(exact)
        assert result.scores["exact_match"].chance is None
    if name == "socialiqa":
        assert acc != acc_norm  # else the test could not tell them apart
    assert result.scores["acc"].chance == pytest.approx(1 / len(rows[0]["choices"]))
    assert result.truncated == 0


def test_a_model_that_knows_the_answers_is_right(tokenizer, offline_tasks, assets, monkeypatch):
    """A model whose logits favour the letters of the right choices, whatever the context."""
    rows = OFFLINE["quartz"].rows()[:6]
    right = {context_of(row): f" {row['choices'][row['answer']]}".encode() for row in rows}
    model = make_model(max_position_embeddings=2048)
    forward = model.forward

    def knowing(input_ids, **options):
        output = forward(input_ids, **options)
        for window, logits in zip(input_ids, output.logits, strict=True):
            text = tokenizer.decode(window.tolist())
            for context, answer in right.items():
                if text.startswith(context):
                    begin = len(context.encode()) - 1
                    for place, byte in enumerate(answer[: len(logits) - begin]):
                        token = tokenizer(chr(byte))["input_ids"][0]
                        logits[begin + place, token] += 1000
        return output

    monkeypatch.setattr(model, "forward", knowing)
    found = zero_shot(model, tokenizer, {"quartz": offline_tasks["quartz"]}, limit=6)
    assert found.tasks["quartz"].scores["acc"].right == (1,) * 6
    assert found.tasks["quartz"].scores["acc_norm"].right == (1,) * 6


def test_the_pruned_model_in_memory_is_what_is_asked(tokenizer, offline_tasks):
    tasks = {"quartz": offline_tasks["quartz"]}
    model = make_model(max_position_embeddings=2048)
    steps = []
    dense = zero_shot(model, tokenizer, tasks, limit=30, report=lambda *step: steps.append(step))
    again = zero_shot(model, tokenizer, tasks, limit=30)
    assert again == dense
    shorter = zero_shot(model, tokenizer, tasks, limit=10).tasks["quartz"].scores["acc"]
    assert shorter.right == dense.tasks["quartz"].scores["acc"].right[:10]
    assert steps[-1] == ("quartz", 60, 60)
    prune(model, None, Metric.parse("W"), Pattern.parse("80%"))
    pruned = zero_shot(model, tokenizer, tasks, limit=30)
    assert pruned.tasks["quartz"].items_hash == dense.tasks["quartz"].items_hash
    assert pruned.tasks["quartz"].scores != dense.tasks["quartz"].scores
    change = pruned.minus(dense)["quartz"]["acc"]
    means = [one.tasks["quartz"].scores["acc"].mean for one in (pruned, dense)]
    assert change.change == pytest.approx(means[0] - means[1])
    assert pruned.settings["limit"] == 30


def test_the_tokenizer_is_left_alone(model, offline_tasks):
    tokenizer = make_tokenizer()
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(0)
    zero_shot(model, tokenizer, {"quartz": offline_tasks["quartz"]}, limit=2)
    assert tokenizer.pad_token is None


def test_choices_that_are_contexts_have_one_accuracy(model, tokenizer, own_cache, tmp_path):
    """As in WinoGrande: the ending is scored after each of two beginnings."""
    from lm_eval.tasks import TaskManager

    rows = [
        {"begin": [f"Beginning {n}, short", f"Beginning {n}, of another length"], "answer": n % 2,
         "end": "is likely."}
        for n in range(6)
    ]  # fmt: skip
    data, file = tmp_path / "rows.jsonl", tmp_path / "schema.yaml"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    file.write_text(json.dumps({
        "task": "schema", "dataset_path": "json", "test_split": "test",
        "output_type": "multiple_choice", "doc_to_text": "answer", "doc_to_choice": "begin",
        "doc_to_target": "end", "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
        "dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(own_cache)},
    }))  # fmt: skip
    tasks = TaskManager(include_defaults=False).load([str(file)])["tasks"]
    result = zero_shot(model, tokenizer, tasks).tasks["schema"]
    right = []
    for row in rows:
        lls = [
            by_hand(model, tokenizer, {"choices": [row["end"]]}, begin)[0] for begin in row["begin"]
        ]
        right.append(int(torch.cat(lls).argmax() == row["answer"]))
    assert result.scores["acc"].right == result.scores["acc_norm"].right == tuple(right)
    assert result.scores["acc"].chance == 0.5


def test_what_does_not_fit_is_said(tokenizer, offline_tasks):
    tasks = {"sentence_order": offline_tasks["sentence_order"]}
    with pytest.raises(InputError, match=r"task 'sentence_order': a choice of .* limit of 64"):
        zero_shot(make_model(), tokenizer, tasks, limit=4)
    long = {"mmlu_items": offline_tasks["mmlu_items"]}
    result = zero_shot(make_model(max_position_embeddings=600), tokenizer, long, limit=8)
    assert 0 < result.tasks["mmlu_items"].truncated < 32


def test_refuses(model, tokenizer):
    with pytest.raises(InputError, match="limit 1: at least 2"):
        zero_shot(model, tokenizer, ["quartz"], limit=1)
    with pytest.raises(InputError, match="has none that can be read"):
        zero_shot(model, None, ["quartz"])
    with pytest.raises(InputError, match="begins or ends a text"):
        zero_shot(model, make_tokenizer(), ["quartz"])
