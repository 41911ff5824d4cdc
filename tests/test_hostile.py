"""Input of strangers is used or refused in one line; nothing else happens, and nothing hangs."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import fuzzing
import pytest
from hypothesis import HealthCheck, given, settings

from prunerzero.errors import InputError
from prunerzero.files import DEEPEST_JSON, read_json
from prunerzero.metric import Metric
from prunerzero.models.loading import load_model
from prunerzero.packing.checkpoint import DenseCheckpoint
from prunerzero.recipe import Recipe
from prunerzero.study import Study

CORPUS = Path(__file__).parent / "data" / "corpus"
FAILURES = sorted(path for path in CORPUS.rglob("*") if path.is_file())


@pytest.mark.parametrize("kind", fuzzing.INPUTS)
@pytest.mark.parametrize(
    "examples", [pytest.param(60), pytest.param(10_000, marks=pytest.mark.slow)]
)
def test_any_input_is_used_or_refused(kind, examples):
    accepted = 0

    @settings(max_examples=examples, suppress_health_check=list(HealthCheck), database=None)
    @given(fuzzing.INPUTS[kind])
    def check(content):
        nonlocal accepted
        with tempfile.TemporaryDirectory() as folder:
            accepted += fuzzing.survives(kind, content, Path(folder))

    check()
    # Noise alone would only test the first check; weights without data are never accepted.
    assert accepted or kind in ("packed", "header") or examples < 10_000


@pytest.mark.parametrize("path", FAILURES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_failed_once(path, tmp_path):
    """`tests/data/corpus/KIND/NAME`: inputs that once gave a traceback or a hang."""
    assert not fuzzing.survives(path.parent.name, path.read_bytes(), tmp_path)


def test_the_corpus_is_there():
    assert {path.parent.name for path in FAILURES} <= set(fuzzing.READERS)
    assert len(FAILURES) >= 5


@pytest.mark.parametrize("leaf", ["W", "mms(W)", "W * A"])
def test_the_largest_formulas_take_no_time(leaf, tmp_path):
    """Balanced and as large as is allowed: what a recursion without memory would never finish."""
    metric = Metric.parse(leaf)
    for operator in ("mul", "ratio", "sub", "div") * 4:
        text = f"{operator}({metric}, {metric})"
        try:
            metric = Metric.parse(text)
        except InputError:
            break
    assert metric.size > 300
    fuzzing.use_metric(metric)
    deep = Metric.parse("sqrt(" * 60 + leaf + ")" * 60)
    fuzzing.use_metric(deep)


class TestJson:
    def refused(self, content, tmp_path, message):
        path = tmp_path / "x.json"
        path.write_bytes(content)
        with pytest.raises(InputError, match=message):
            read_json(path, "thing", 10_000)

    def test_limits(self, tmp_path):
        self.refused(b" " * 10_001, tmp_path, "larger than 10000 bytes, so not a thing")
        depth = DEEPEST_JSON + 1
        self.refused(b"[" * depth + b"]" * depth, tmp_path, "nested too deeply")
        self.refused(b"[" * 9000, tmp_path, "nested too deeply|not valid JSON")
        for number in (b"1e999", b"NaN", b"-Infinity", b"9" * 5000):
            self.refused(b'{"a": [' + number + b"]}", tmp_path, "number too large")
        self.refused(b'{"\\ud800": 1}', tmp_path, "no Unicode")
        (tmp_path / "x.json").write_bytes(b"[" * 50 + b"]" * 50)
        assert read_json(tmp_path / "x.json", "thing")

    @pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no such device")
    def test_a_device_without_an_end(self):
        with pytest.raises(InputError, match="larger than"):
            Recipe.load("/dev/zero")

    @pytest.mark.parametrize("name", ["x" * 300 + ".json", "/x" * 5000 + ".json", "a/" * 3000])
    def test_impossible_paths(self, name):
        with pytest.raises(InputError):
            Recipe.from_text(name)
        with pytest.raises(InputError):
            Recipe.load(name)
        with pytest.raises(InputError):
            load_model(name)
        for read in (Study.open, lambda path: Study.create(path, {})):
            with pytest.raises(InputError):
                read(name)


@pytest.mark.parametrize("place", ["../{}", "{root}/{}", "sub/{}", "..", ""])
def test_an_index_cannot_point_out_of_its_directory(tmp_path, place):
    from tiny_models import make_model

    directory = tmp_path / "model"
    make_model().save_pretrained(directory, max_shard_size="30KB")
    index = directory / "model.safetensors.index.json"
    document = json.loads(index.read_text())
    name, file = next(iter(document["weight_map"].items()))
    (tmp_path / file).write_bytes((directory / file).read_bytes())
    document["weight_map"][name] = place.format(file, root=tmp_path)
    index.write_text(json.dumps(document))
    before = sorted(os.listdir(tmp_path))
    for read in (DenseCheckpoint.open, lambda path: load_model(path, device="cpu")):
        with pytest.raises(InputError, match=r"is no file name|safetensors file"):
            read(directory)
    assert sorted(os.listdir(tmp_path)) == before
