import json

import pytest
from tiny_models import make_model, make_text, make_tokenizer

from prunerzero import Metric, Pattern, prune
from prunerzero.data.documents import Document, TextSource
from prunerzero.data.sources import SOURCES, load_documents
from prunerzero.data.splits import Split, documents_of
from prunerzero.errors import InputError
from prunerzero.evaluation.deep import evaluate_deep
from prunerzero.evaluation.evaluate import evaluate
from prunerzero.files import json_text

pytestmark = pytest.mark.usefixtures("own_cache")
SIZE = {"windows": 3, "sequence_length": 32, "dtype": "float32"}


@pytest.fixture
def toy(monkeypatch):
    for name, base in (("toy", 0), ("other", 100)):
        documents = [Document(make_text(base + n, 300), name, f"{name} {n}") for n in range(20)]
        source = TextSource(name, "for tests", lambda documents=documents: documents)
        monkeypatch.setitem(SOURCES, name, source)


def pruned(family="llama", pattern="50%"):
    model = make_model(family)
    prune(model, None, Metric.parse("W"), Pattern.parse(pattern), calibration="toy")
    return model


def deep(model, dense, texts=("toy", "other"), counted="toy", **options):
    return evaluate_deep(model, dense, make_tokenizer(), texts, counted=counted, **SIZE | options)


def test_everything_is_there(toy):
    steps = []
    model, dense = pruned(), make_model()
    found = deep(model, dense, report=lambda *step: steps.append(step))
    expected = evaluate(model, make_tokenizer(), ["toy", "other"], against=dense, **SIZE)
    for name in ("toy", "other"):
        assert found.evaluation.perplexity[name] == pytest.approx(expected.perplexity[name])
        change, wanted = found.evaluation.change[name], expected.change[name]
        assert change.change == pytest.approx(wanted.change, rel=1e-3)
        assert found.texts[name].kl.mean > 0
    both = [found.texts[name].kl.mean for name in ("toy", "other")]
    assert found.overall.kl.mean == pytest.approx(sum(both) / 2)
    assert len(found.frequency) == 4
    assert sum(band.tokens for band in found.frequency) == 2 * 3 * 31
    assert [error.block for error in found.blocks] == [f"model.layers.{n}" for n in range(3)]
    assert [each.source for each in found.continuations] == ["toy", "other", "toy", "other"]
    assert {step[0] for step in steps} == {"toy", "other", "blocks", "writing"}
    document = json.loads(json_text(found.to_json()))
    assert document["deep"].keys() == {
        "overall", "texts", "frequency", "blocks", "blocks_left_out", "continuations",
    }  # fmt: skip
    assert document["settings"]["frequencies"] == "toy"


def test_more_pruning_shows_everywhere(toy):
    dense = make_model()
    mild, hard = (deep(pruned(pattern=share), dense, ("toy",)) for share in ("20%", "80%"))
    assert mild.overall.kl.high < hard.overall.kl.low
    assert mild.overall.agreement.low > hard.overall.agreement.high
    for less, more in zip(mild.blocks, hard.blocks, strict=True):
        assert less.local < more.local
        assert less.cumulative < more.cumulative


def test_models_without_a_chain_of_blocks_lack_only_the_blocks(toy, monkeypatch):
    def refuse(*_):
        raise InputError("no chain of blocks")

    monkeypatch.setattr("prunerzero.evaluation.deep.block_errors", refuse)
    found = deep(pruned(), make_model(), ("toy",))
    assert (found.blocks, found.blocks_left_out) == (None, "no chain of blocks")
    assert found.to_json()["deep"]["blocks"] is None
    assert found.overall.kl.mean > 0


def test_refuses(toy):
    model = pruned()
    with pytest.raises(InputError, match="256 tokens cannot be measured against one of 300"):
        deep(model, make_model(vocab_size=300))
    with pytest.raises(InputError, match="'nonsense': no such file"):
        deep(model, make_model(), counted="nonsense")
    [document, *_] = documents_of(load_documents("toy"), Split.HELDOUT)
    with pytest.raises(InputError, match="calibrated or selected on 1 of its documents"):
        deep(model, make_model(), seen={document.hash})
    with pytest.raises(InputError, match="above the model's limit"):
        deep(model, make_model(), sequence_length=128)
