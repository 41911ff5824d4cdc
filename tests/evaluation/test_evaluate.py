import pytest
from tiny_models import make_model, make_text, make_tokenizer

from prunerzero.data.documents import Document, Split, TextSource
from prunerzero.data.sources import SOURCES
from prunerzero.data.splits import split_documents
from prunerzero.data.windows import Windows, encode
from prunerzero.errors import InputError
from prunerzero.evaluation.evaluate import evaluate, evaluation_windows
from prunerzero.evaluation.perplexity import measure_loss
from prunerzero.models import compute_for


@pytest.fixture
def toy(monkeypatch):
    documents = [Document(make_text(n, 300), "toy", f"toy {n}") for n in range(20)]
    monkeypatch.setitem(SOURCES, "toy", TextSource("toy", "for tests", lambda: documents))
    return documents


def test_a_file_is_evaluated_whole(tmp_path):
    path = tmp_path / "a text.txt"
    path.write_text(make_text(0, 1000))
    model, tokenizer = make_model(), make_tokenizer()
    found = evaluate(model, tokenizer, [str(path)], windows=2, sequence_length=32, dtype="float32")
    tokens = encode(tokenizer, path.read_text())
    windows = Windows(tokens[: len(tokens) // 32 * 32].view(-1, 32))
    expected = measure_loss(model, windows, compute_for(model, "float32"))
    assert found.perplexity == {"a text.txt": pytest.approx(expected.perplexity, rel=1e-6)}
    assert found.settings["texts"]["a text.txt"]["windows"] == len(tokens) // 32 > 2
    assert found.to_json()["perplexity"] == found.perplexity


def test_a_named_source_gives_windows_of_its_held_out_documents(toy):
    windows = evaluation_windows("toy", make_tokenizer(), 3, 32, seed=0)
    assert windows.split is Split.HELDOUT
    assert len(windows) == 3
    assert set(windows.documents) <= {d.hash for d in split_documents(toy)[Split.HELDOUT]}


def test_several_texts_and_their_progress(tmp_path, toy):
    (tmp_path / "t.txt").write_text(make_text(0, 500))
    seen = []
    found = evaluate(
        make_model(), make_tokenizer(), ["toy", tmp_path / "t.txt"], windows=3, sequence_length=32,
        report=lambda *step: seen.append(step),
    )  # fmt: skip
    assert found.perplexity.keys() == {"toy", "t.txt"}
    assert seen == [("toy", 3, 3), ("t.txt", 15, 15)]
    assert found.settings["sequence_length"] == 32


def test_refuses(tmp_path, toy):
    model, tokenizer = make_model(), make_tokenizer()
    with pytest.raises(InputError, match="needs a tokenizer"):
        evaluate(model, None, ["toy"])
    with pytest.raises(InputError, match="above the model's limit of 64"):
        evaluate(model, tokenizer, ["toy"])
    with pytest.raises(InputError, match="called toy is there already"):
        evaluate(model, tokenizer, ["toy", "toy"], windows=2, sequence_length=32)
    heldout = split_documents(toy)[Split.HELDOUT]
    with pytest.raises(InputError, match="calibrated or selected on 1 of its documents"):
        evaluate(model, tokenizer, ["toy"], windows=2, sequence_length=32, seen={heldout[0].hash})
