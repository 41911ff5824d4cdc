import json
from importlib import resources

import pytest

from prunerzero.data.sources import evaluation_documents, load_documents
from prunerzero.data.splits import Split, split_documents
from prunerzero.errors import InputError
from prunerzero.evaluation.zeroshot.offline import OFFLINE, write_task

CHOICES = {"sentence_order": 2, "last_word": 4, "socialiqa": 3, "quartz": 2, "mmlu_items": 4}


@pytest.mark.parametrize(
    ("name", "count"), [("socialiqa", 2224), ("quartz", 3860), ("mmlu_items", 1000)]
)
def test_every_question_of_an_asset_is_read(assets, name, count):
    rows = OFFLINE[name].rows()
    assert len(rows) == count
    assert all(len(row["choices"]) == CHOICES[name] for row in rows)
    assert {row["answer"] for row in rows} == set(range(CHOICES[name]))
    assert not any(choice.endswith("\n") for row in rows for choice in row["choices"])
    assert rows == OFFLINE[name].rows()


@pytest.mark.parametrize("name", ["sentence_order", "last_word"])
def test_passages_are_held_out(assets, name):
    rows = OFFLINE[name].rows()
    assert len(rows) > 250
    for source in ("openwebtext", "wikipedia-passages"):
        splits = split_documents(load_documents(source))
        used = {d.text for split in Split if split is not Split.HELDOUT for d in splits[split]}
        assert not used & {row["passage"] for row in rows}
        assert {d.text for d in evaluation_documents(source)} & {row["passage"] for row in rows}


def test_every_task_has_its_yaml_and_lm_eval_reads_it(offline_tasks):
    folder = resources.files("prunerzero.evaluation.zeroshot").joinpath("yaml")
    assert {file.name for file in folder.iterdir()} == {f"{name}.yaml" for name in OFFLINE}
    assert offline_tasks.keys() == OFFLINE.keys() == CHOICES.keys()
    for name, task in offline_tasks.items():
        assert task.config.task == name
        assert task.config.dataset_path == "json"
        assert task.OUTPUT_TYPE == "multiple_choice"
        assert {"acc", "acc_norm"} <= {metric["metric"] for metric in task.config.metric_list}
        first = task.eval_docs[0]
        assert len(task.doc_to_choice(first)) == CHOICES[name]
        assert task.doc_to_target(first) == first["answer"]


def test_prompts(offline_tasks):
    for name in ("socialiqa", "quartz", "mmlu_items"):
        doc = offline_tasks[name].eval_docs[0]
        assert offline_tasks[name].doc_to_text(doc) == f"Question: {doc['question']}\nAnswer:"
    for name in ("sentence_order", "last_word"):
        doc = offline_tasks[name].eval_docs[0]
        assert offline_tasks[name].doc_to_text(doc) == doc["context"]


def test_a_task_is_written_once(own_cache):
    rows = [{"question": "à?", "choices": ["a", "b"], "answer": 0}]
    directory = write_task("quartz", rows)
    files = {file: file.stat().st_mtime_ns for file in directory.iterdir()}
    assert len(files) == 2
    write_task("quartz", rows)
    assert {file: file.stat().st_mtime_ns for file in directory.iterdir()} == files
    data = next(file for file in files if file.suffix == ".jsonl")
    assert [json.loads(line) for line in data.read_text().splitlines()] == rows
    write_task("quartz", rows * 2)
    assert len(list(directory.iterdir())) == 3


def test_without_assets(own_cache):
    with pytest.raises(InputError, match="prunerzero assets fetch"):
        OFFLINE["socialiqa"].rows()
