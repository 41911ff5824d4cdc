import pytest
from tiny_models import make_model, make_text, make_tokenizer, make_tokens

from prunerzero.data.documents import Document, Split, TextSource
from prunerzero.data.sources import SOURCES
from prunerzero.data.splits import split_documents
from prunerzero.errors import InputError
from prunerzero.pruning.calibration import calibration_windows, describe


@pytest.fixture
def named(monkeypatch):
    """A registered source of twenty documents."""
    documents = [Document(make_text(n, 300), "toy", f"toy {n}") for n in range(20)]
    monkeypatch.setitem(SOURCES, "toy", TextSource("toy", "for tests", lambda: documents))
    return documents


def test_a_named_source_gives_its_calibration_documents_only(named):
    windows = calibration_windows(make_model(), make_tokenizer(), "toy", 6, 32, 0)
    allowed = {d.hash for d in split_documents(named)[Split.CALIBRATION]}
    assert windows.split is Split.CALIBRATION
    assert set(windows.documents) <= allowed
    assert describe(windows) == {
        "source": "toy",
        "split": "calibration",
        "windows": 6,
        "sequence_length": 32,
        "tokens_hash": windows.hash,
        "documents": list(windows.documents),
    }


def test_a_file_is_used_whole(tmp_path):
    (tmp_path / "t.txt").write_text(make_text(0, 500))
    windows = calibration_windows(make_model(), make_tokenizer(), tmp_path / "t.txt", 15, 32, 0)
    assert windows.split is None
    assert len(windows) == 15


def test_token_ids_are_taken_as_they_are():
    tokens = make_tokens()
    windows = calibration_windows(make_model(), None, tokens, 999, 999, 0)
    assert windows.tokens is tokens
    assert describe(windows)["documents"] == []


@pytest.mark.parametrize(
    ("source", "samples", "length", "message"),
    [
        ("toy", 1000, 32, "1000 windows of 32 tokens were asked for"),
        ("toy", 2, 65, "above the model's limit of 64 tokens"),
        ("toy", 2, 1, "too short"),
        ("nonsense", 2, 32, "nonsense"),
    ],
)
def test_refuses(named, source, samples, length, message):
    with pytest.raises(InputError, match=message):
        calibration_windows(make_model(), make_tokenizer(), source, samples, length, 0)
