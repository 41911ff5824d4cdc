"""The papers' texts, read by `datasets` from directories laid out as their repositories are."""

import gzip
import json

import pytest

from prunerzero.data.sources import benchmark_of, evaluation_documents, load_documents
from prunerzero.data.splits import Split, split_documents
from prunerzero.data.windows import encode
from prunerzero.evaluation.evaluate import evaluation_windows

datasets = pytest.importorskip("datasets")

SPLITS = ("train", "validation", "test")
WIKITEXT_CARD = """---
configs:
- config_name: wikitext-2-raw-v1
  data_files:
  - split: test
    path: wikitext-2-raw-v1/test-*
  - split: train
    path: wikitext-2-raw-v1/train-*
  - split: validation
    path: wikitext-2-raw-v1/validation-*
---
"""


def article(name):
    return [
        "",
        f" = {name} = \n",
        "",
        f" Text of {name} . \n",
        "",
        " = = Part = = \n",
        " More . \n",
    ]


WIKITEXT = {split: [row for n in range(8) for row in article(f"{split} {n}")] for split in SPLITS}
PTB = {split: [f"sentence {n} of the {split} part" for n in range(170)] for split in SPLITS}
C4 = {
    "en/c4-train.00000-of-01024.json.gz": [f"Training page {n}." for n in range(40)],
    # More than the papers read, and one page twice.
    "en/c4-validation.00000-of-00008.json.gz": [f"Page {n % 1000}." for n in range(1200)],
}


@pytest.fixture
def clones(tmp_path, monkeypatch):
    """A working directory with copies of the three repositories."""

    def write(path, column, rows):
        path.parent.mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_dict({column: rows}).to_parquet(path)

    for split in SPLITS:
        place = tmp_path / "Salesforce/wikitext/wikitext-2-raw-v1"
        write(place / f"{split}-00000-of-00001.parquet", "text", WIKITEXT[split])
        place = tmp_path / "ptb-text-only/ptb_text_only/penn_treebank"
        write(place / split / "0000.parquet", "sentence", PTB[split])
    (tmp_path / "Salesforce/wikitext/README.md").write_text(WIKITEXT_CARD)
    for name, pages in C4.items():
        path = tmp_path / "allenai/c4" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with gzip.open(path, "wt") as lines:
            lines.writelines(json.dumps({"text": page, "url": "u"}) + "\n" for page in pages)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def papers_windows(tokenizer, text, length, most=None):
    """As the papers' codes: special tokens by default, then whole windows one after another."""
    ids = tokenizer(text, verbose=False)["input_ids"]
    count = min(len(ids) // length, most or len(ids))
    return [ids[n * length : (n + 1) * length] for n in range(count)]


@pytest.mark.parametrize(
    ("name", "text", "most"),
    [
        ("wikitext2", "\n\n".join(WIKITEXT["test"]), None),
        ("ptb", " ".join(PTB["test"]), None),
        ("c4", " ".join(C4["en/c4-validation.00000-of-00008.json.gz"][:1100]), 256),
    ],
)
def test_windows_are_those_of_the_papers(clones, tokenizer, name, text, most):
    windows = evaluation_windows(name, tokenizer, windows=1, sequence_length=16, seed=0)
    expected = papers_windows(tokenizer, text, 16, most)
    assert windows.tokens.tolist() == expected
    assert len(expected) == (most or len(expected)) > 10
    assert windows.tokens[0, 0] == tokenizer.bos_token_id
    assert windows.split is Split.HELDOUT


def test_c4_is_cut_after_256_windows(clones, tokenizer):
    [short, long] = [evaluation_windows("c4", tokenizer, 1, length, seed=0) for length in (16, 64)]
    assert len(short) == 256
    # 1,100 pages of this length do not fill 256 windows of 64 tokens.
    text = " ".join(document.text for document in evaluation_documents("c4"))
    assert len(long) == (len(encode(tokenizer, text)) + 1) // 64 < 256
    assert benchmark_of("c4").most_windows == 256


@pytest.mark.parametrize("name", ["wikitext2", "ptb", "c4"])
def test_the_measured_documents_serve_nothing_else(clones, name):
    splits = split_documents(load_documents(name))
    measured = {document.hash for document in evaluation_documents(name)}
    assert measured == {document.hash for document in splits[Split.HELDOUT]}
    for split in (Split.CALIBRATION, Split.SELECTION, Split.VALIDATION):
        assert splits[split]
        assert measured.isdisjoint(document.hash for document in splits[split])


def test_parts_of_other_names_are_no_benchmarks():
    assert benchmark_of("wikipedia") is None
    assert benchmark_of("wikitext2+c4") is None
    assert benchmark_of("./wikitext2") is None
