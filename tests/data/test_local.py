import json
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunerzero.data import local
from prunerzero.data.local import MIN_DOCUMENT_CHARACTERS, _paragraph_groups, read_documents
from prunerzero.data.sources import evaluation_documents, load_documents, text_name
from prunerzero.errors import InputError

paragraph = st.text(st.sampled_from("ab \n"), max_size=20).map(lambda text: text * 150)


@given(st.lists(paragraph, min_size=1, max_size=12), st.sampled_from(["\n", "\n\n", "\n\n\n"]))
def test_groups_hold_the_whole_text_in_pieces_of_useful_length(paragraphs, separator):
    text = "x" + separator.join(paragraphs)
    groups = _paragraph_groups(text)
    joint = "\n\n" if "\n\n" in text.strip() else "\n"
    assert joint.join(groups).rstrip() == text.rstrip()
    # Separators count in the text, not towards the minimum.
    assert all(len(group) >= MIN_DOCUMENT_CHARACTERS for group in groups[1:])


def test_a_single_file_can_be_split(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text("\n\n".join(f"{number} " + "word " * 100 for number in range(40)))
    documents = load_documents(path)
    assert len(documents) == 10  # of four paragraphs each
    assert documents[0].source == str(path)


def test_a_file_is_evaluated_whole_and_names_its_parts(tmp_path):
    path = tmp_path / "book.txt"
    text = "\n\n\n".join(f"{number} " + "word " * 100 for number in range(40)) + "\n"
    path.write_bytes(text.replace("\n", "\r\n").encode("utf-8-sig"))
    [whole] = evaluation_documents(str(path))
    assert whole.text == text
    assert set(whole.hashes) == {document.hash for document in load_documents(path)}
    assert text_name(str(path)) == "book.txt"


def test_lines_are_paragraphs_where_there_are_no_blank_lines(tmp_path):
    path = tmp_path / "lines.md"
    path.write_text("".join(f"{number} " + "word " * 300 + "\n" for number in range(10)))
    assert len(read_documents(path)) == 5


def test_json_lines(tmp_path):
    path = tmp_path / "texts.jsonl"
    texts = ["one\u2028line", "two", "two", "three\n\nfour"]
    lines = [json.dumps({"text": text, "other": 1}, ensure_ascii=False) for text in texts]
    path.write_text("\n".join(lines) + "\n\n", encoding="utf-8")
    assert [d.text for d in load_documents(path)] == ["one\u2028line", "two", "three\n\nfour"]
    assert [d.name for d in load_documents(path)] == ["line 1", "line 2", "line 4"]


def test_directory(tmp_path):
    for name in ("b.txt", "a.txt", "c.md"):
        (tmp_path / name).write_text(f"text of {name}")
    assert [(d.name, d.text) for d in load_documents(tmp_path)] == [
        ("a.txt", "text of a.txt"),
        ("b.txt", "text of b.txt"),
    ]
    assert text_name(tmp_path) == tmp_path.name


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", b"", "the file is empty"),
        ("blank.txt", b" \n\n\t", "the file is empty"),
        ("nul.txt", b"text\0text", "not a UTF-8 text file .a NUL byte at offset 4"),
        ("latin.txt", "na\xefve".encode("latin-1"), "byte 0xef at offset 2"),
        ("empty.jsonl", b"", "the file is empty"),
        ("other.jsonl", b'{"text": "a"}\n{"content": "b"}\n', "line 2: no field 'text'"),
        ("list.jsonl", b'["text"]', "line 1: no field 'text'"),
        ("number.jsonl", b'{"text": 3}', "line 1: no field 'text'"),
        ("broken.jsonl", b'{"text": "a"}\n\n{"text', "line 3: not valid JSON"),
        ("deep.jsonl", b"[" * 100_000, "line 1: not valid JSON"),
    ],
)
def test_bad_files_are_named_in_one_line(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    for load in (load_documents, evaluation_documents):
        with pytest.raises(InputError, match=message) as caught:
            load(str(path))
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no such device")
def test_a_file_without_an_end(monkeypatch):
    with pytest.raises(InputError, match="a NUL byte at offset 0"):
        load_documents("/dev/zero")
    monkeypatch.setattr(local, "LARGEST_TEXT", 3 << 20)
    read, write = os.pipe()
    writer = threading.Thread(target=os.write, args=(write, b"text" * (1 << 20)), daemon=True)
    writer.start()
    with pytest.raises(InputError, match="larger than 3 MiB; give a part of it"):
        load_documents(f"/dev/fd/{read}")
    os.close(read)


def test_directory_without_texts(tmp_path):
    (tmp_path / "notes.md").write_text("text")
    with pytest.raises(InputError, match=r"has no \.txt files"):
        load_documents(tmp_path)
    (tmp_path / "bad.txt").write_text("")
    with pytest.raises(InputError, match=r"bad\.txt: the file is empty"):
        load_documents(tmp_path)
