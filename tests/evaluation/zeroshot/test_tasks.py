import importlib.util
import json
import logging
from pathlib import Path

import pytest

from prunerzero.data.documents import Document
from prunerzero.errors import InputError, MissingExtraError
from prunerzero.evaluation.zeroshot import ONLINE, check_tasks, tasks
from prunerzero.evaluation.zeroshot.offline import OFFLINE
from prunerzero.evaluation.zeroshot.tasks import load_tasks

PASSAGE_TASKS = ("sentence_order", "last_word")
ROWS = [
    {"passage": f"Passage {number}.", "choices": ["no", "yes"], "answer": number % 2}
    for number in range(3)
]


def hash_of(text):
    return Document(text, "", "").hash


@pytest.fixture
def foreign(tmp_path, monkeypatch, own_cache):
    """Makes a task one of lm-eval's own, with data in a file."""

    def make(name="foreign", rows=ROWS, **config):
        data, file = tmp_path / f"{name}.jsonl", tmp_path / f"{name}.yaml"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        task = {
            "task": name,
            "dataset_path": "json",
            "validation_split": "validation",
            "output_type": "multiple_choice",
            "doc_to_text": "{{passage}}",
            "doc_to_choice": "choices",
            "doc_to_target": "answer",
            "metric_list": [{"metric": "acc"}],
            "num_fewshot": 2,
            "dataset_kwargs": {
                "data_files": {"validation": str(data)},
                "cache_dir": str(own_cache),
            },
        }
        file.write_text(json.dumps(task | config))
        monkeypatch.setattr(tasks, "_lm_eval_tasks", lambda: {name: str(file)})
        return name

    return make


def test_no_task_has_an_output_that_depends_on_examples_or_one_accuracy_only(foreign):
    task = load_tasks([foreign()])["foreign"]
    assert task.config.num_fewshot == 0
    assert [one["metric"] for one in task.config.metric_list] == ["acc", "acc_norm"]


def test_overlap_is_refused(assets):
    asked = [{row["passage"] for row in OFFLINE[name].rows()} for name in PASSAGE_TASKS]
    passage = min(asked[0] & asked[1])
    for name in PASSAGE_TASKS:
        with pytest.raises(InputError, match=f"task '{name}': .*on the text of 1 of its items"):
            check_tasks(["quartz", name], {hash_of(passage)})
    check_tasks(["quartz", "socialiqa"], {hash_of(passage)})
    check_tasks(["last_word"], {hash_of("another text")})


def test_overlap_with_an_online_task_is_refused(foreign):
    name = foreign()
    with pytest.raises(InputError, match="calibrated or selected on the text of 2 of its items"):
        load_tasks([name], {hash_of("Passage 0."), hash_of("Passage 2.")})
    assert list(load_tasks([name], {hash_of("no")})) == [name]


def test_only_multiple_choice(foreign):
    name = foreign(output_type="generate_until", doc_to_target="{{passage}}", doc_to_choice=None)
    with pytest.raises(InputError, match="is not multiple choice, so it has no acc and acc_norm"):
        load_tasks([name])


def test_online_data_that_cannot_be_had(monkeypatch, own_cache):
    import lm_eval

    folder = Path(lm_eval.__file__).parent / "tasks" / "super_glue" / "boolq"
    monkeypatch.setattr(tasks, "_lm_eval_tasks", lambda: {"boolq": str(folder / "default.yaml")})
    with pytest.raises(InputError) as caught:
        load_tasks(["boolq"])
    line = str(caught.value)
    assert line.startswith("task 'boolq': its data cannot be loaded (")
    assert "sentence_order" in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "none named"),
        (["quartz", "quartz"], "named twice"),
        (["sentence_ordr"], "no task of lm-eval's.*did you mean 'sentence_order'"),
    ],
)
def test_wrong_names(names, message, assets, foreign):
    foreign()
    with pytest.raises(InputError, match=message):
        load_tasks(names)


def test_without_the_extra(monkeypatch, assets):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "lm_eval" else find(name)
    )
    with pytest.raises(MissingExtraError, match=r"pip install 'prunerzero\[zeroshot\]'"):
        check_tasks(["quartz"])


def test_the_libraries_settings_are_left_as_they_were():
    import datasets
    from lm_eval.api import task

    before = task.tqdm, logging.getLogger("lm_eval").level, datasets.are_progress_bars_disabled()
    with tasks.quiet():
        assert datasets.are_progress_bars_disabled()
    assert before == (
        task.tqdm,
        logging.getLogger("lm_eval").level,
        datasets.are_progress_bars_disabled(),
    )


@pytest.mark.slow
def test_lm_eval_knows_the_online_tasks_and_not_ours():
    known = tasks._lm_eval_tasks()
    assert set(ONLINE) <= known.keys()
    assert not known.keys() & OFFLINE.keys()
