import subprocess
import sys
import types

import pytest

from prunerzero.data import sources
from prunerzero.data.documents import Document, TextSource
from prunerzero.data.hub import _articles
from prunerzero.data.sources import (
    SOURCES,
    evaluation_documents,
    is_named,
    load_documents,
    text_name,
)
from prunerzero.data.splits import Split, split_documents
from prunerzero.errors import InputError


@pytest.mark.parametrize(
    ("name", "count", "characters"),
    [
        ("wikipedia", 94, 2_750_000),
        ("news", 293, 350_000),
        ("openwebtext", 1000, 660_000),
        ("wikipedia-passages", 1000, 600_000),
        ("web", 100, 177_000),
    ],
)
def test_bundled_sources(name, count, characters):
    documents = load_documents(name)
    assert len(documents) == len({d.hash for d in documents}) == count
    assert sum(len(d.text) for d in documents) == pytest.approx(characters, rel=0.02)
    assert {d.source for d in documents} == {name}
    assert text_name(name) == name


def test_wikipedia_is_prose():
    text = "\n".join(d.text for d in load_documents("wikipedia"))
    for markup in ("{{", "}}", "{|", "<ref", "[[File:", "|thumb", "''", "#REDIRECT"):
        assert markup not in text
    assert "Anarchism is a political philosophy that advocates self-governed societies" in text


def test_wikipedia_is_stripped_once(empty_cache, monkeypatch):
    monkeypatch.setattr("prunerzero.data.bundled.asset_path", lambda name: empty_cache / name)
    calls = []
    monkeypatch.setattr(
        "prunerzero.data.wikipedia.articles", lambda dump: calls.append(dump) or [("A", "text")]
    )
    assert load_documents("wikipedia") == load_documents("wikipedia")
    assert len(calls) == 1


def test_a_named_source_is_evaluated_on_its_heldout_documents():
    heldout = evaluation_documents("openwebtext")
    assert heldout == split_documents(load_documents("openwebtext"))[Split.HELDOUT]
    assert {d.split for d in heldout} == {Split.HELDOUT}


def test_several_sources_together_keep_each_ones_splits():
    both = split_documents(load_documents("web+news"))
    alone = [split_documents(load_documents(name)) for name in ("web", "news")]
    for split in Split:
        assert both[split] == [*alone[0][split], *alone[1][split]]
    assert evaluation_documents("web+news") == both[Split.HELDOUT]
    assert text_name("web+news") == "web+news"
    assert is_named("web+news")
    assert not is_named("web+nws")
    with pytest.raises(InputError, match=r"text 'web\+nws': no such file"):
        load_documents("web+nws")


@pytest.mark.parametrize("source", ["wikipdia", "", "no/such/file.txt"])
def test_unknown_sources_get_help(source):
    with pytest.raises(
        InputError, match=f"text '{source}': no such file, and no .* the sources are"
    ):
        load_documents(source)


def test_close_names_are_suggested():
    with pytest.raises(InputError, match=r"did you mean 'openwebtext'\?"):
        evaluation_documents("openwebtex")


def test_missing_assets_name_the_command(empty_cache):
    for name in ("wikipedia", "news", "openwebtext", "wikipedia-passages", "web"):
        with pytest.raises(InputError, match=f"'{name}' is not here .*prunerzero assets fetch"):
            load_documents(name)


def test_a_source_is_added_by_registration(monkeypatch):
    monkeypatch.setattr(sources, "SOURCES", dict(SOURCES))
    texts = ["one", "two", "one"]
    sources.register(
        TextSource("mine", "my texts", lambda: [Document(text, "mine", text) for text in texts])
    )
    assert [d.text for d in load_documents("mine")] == ["one", "two"]


def fake_datasets(monkeypatch, load):
    module = types.ModuleType("datasets")
    module.load_dataset = load
    monkeypatch.setitem(sys.modules, "datasets", module)


def test_wikitext_keeps_its_own_splits(monkeypatch):
    def article(name):
        return ["", f" = {name} = \n", "", f" Text of {name} . \n", "", " = = Part = = \n", ""]

    rows = {
        "train": [row for n in range(6) for row in article(f"train {n}")],
        "validation": article("valid"),
        "test": [*article("test 1"), " More . \n", "", *article("test 2")],
    }

    def load(path, name):
        assert (path, name) == ("Salesforce/wikitext", "wikitext-2-raw-v1")
        return {split: {"text": column} for split, column in rows.items()}

    fake_datasets(monkeypatch, load)
    splits = split_documents(load_documents("wikitext2"))
    assert [d.name for d in splits[Split.HELDOUT]] == ["test, article 1", "test, article 2"]
    assert [d.name for d in splits[Split.VALIDATION]] == ["validation, article 1"]
    assert len(splits[Split.CALIBRATION]) + len(splits[Split.SELECTION]) == 6
    # What the pruning papers evaluate.
    heldout = evaluation_documents("wikitext2")
    assert "\n\n".join(d.text for d in heldout) == "\n\n".join(rows["test"])


def test_articles_begin_at_titles_only():
    rows = ["", " = A = \n", "", " x = y \n", " = = S = = \n", " = B = \n", " z \n"]
    assert [text.count("\n\n") for text in _articles(rows)] == [4, 1]


def test_c4_asks_for_its_files_without_a_config(monkeypatch):
    pages = {
        "en/c4-train.00000-of-01024.json.gz": ("train[:10000]", ["one", "two", "held", "one"]),
        "en/c4-validation.00000-of-00008.json.gz": ("validation[:1100]", ["held", "out", "held"]),
    }

    def load(path, *, data_files, split):
        assert path == "allenai/c4"
        [(native, file)] = data_files.items()
        assert split.startswith(f"{native}[")
        wanted, texts = pages[file]
        assert split == wanted
        return {"text": texts}

    fake_datasets(monkeypatch, load)
    # A page of the validation shard is held out, also where the training shard has it.
    assert [(d.text, d.split) for d in load_documents("c4")] == [
        ("held", Split.HELDOUT),
        ("out", Split.HELDOUT),
        ("one", None),
        ("two", None),
    ]
    # What is measured is the papers' text: twice where the shard has it twice.
    assert [d.text for d in evaluation_documents("c4")] == ["held", "out", "held"]


def test_no_internet_is_one_line(monkeypatch):
    def load(*args, **options):
        raise ConnectionError(
            "Couldn't reach 'allenai/c4' on the Hub (LocalEntryNotFoundError).\n..."
        )

    fake_datasets(monkeypatch, load)
    with pytest.raises(
        InputError, match=r"text source 'c4': cannot be had .*Couldn't reach"
    ) as caught:
        load_documents("c4")
    assert "\n" not in str(caught.value)


def test_missing_datasets_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"'wikitext2' needs .*prunerzero\[datasets\]"):
        load_documents("wikitext2")


def test_torch_is_not_imported():
    code = (
        "import sys; from prunerzero.data import assets, sources, splits; "
        "sources.load_documents('news'); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
