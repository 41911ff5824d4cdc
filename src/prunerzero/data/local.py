"""Documents from the user's own files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from prunerzero.data.documents import Document
from prunerzero.errors import InputError

MIN_DOCUMENT_CHARACTERS = 2_000
"""A single file is cut into documents of whole paragraphs with at least so many characters."""
LARGEST_TEXT = 1 << 30
"""Bytes of a file of one's own: it is held in memory, tokens and all."""


def read_documents(path: Path) -> list[Document]:
    """Reads a text file, a ``.jsonl`` file or a directory of ``.txt`` files.

    A directory gives one document a file, in the order of their names. A ``.jsonl`` file gives one
    document a line, its field ``text``. Any other file is plain text, cut at blank lines (at
    line ends if it has none) into documents of ``MIN_DOCUMENT_CHARACTERS`` or more.

    Raises:
        InputError: A file is missing, empty or not UTF-8 text; a directory holds no ``.txt`` file;
            a line of a ``.jsonl`` file has no ``text``.
    """
    if path.is_dir():
        files = sorted(path.glob("*.txt"))
        if not files:
            raise InputError(f"text {path}: the directory has no .txt files")
        return [Document(read_text(file), str(path), file.name) for file in files]
    if path.suffix == ".jsonl":
        return list(_json_lines(path))
    return [
        Document(text, str(path), f"{path.name}, part {number}")
        for number, text in enumerate(_paragraph_groups(read_text(path)), 1)
    ]


def read_whole(path: Path) -> list[Document]:
    """Reads the same files for evaluation as a whole: plain text is one document, uncut.

    Its ``parts`` name what ``read_documents`` would cut it into, so that an evaluation can be
    compared with the documents that a run was calibrated on.
    """
    documents = read_documents(path)
    if path.is_dir() or path.suffix == ".jsonl":
        return documents
    whole = Document(read_text(path), str(path), path.name)
    return [replace(whole, parts=tuple(document.hash for document in documents))]


def read_text(path: Path) -> str:
    """Reads a UTF-8 file, line ends made those of Unix.

    Raises:
        InputError: The file is missing, empty, binary, not UTF-8, or larger than `LARGEST_TEXT`.
    """
    data = bytearray()
    try:
        with path.open("rb") as stream:  # a device or a pipe may have no end
            while piece := stream.read(1 << 20):
                if (position := piece.find(b"\0")) >= 0:
                    raise InputError(
                        f"text {path}: not a UTF-8 text file "
                        f"(a NUL byte at offset {len(data) + position})"
                    )
                data += piece
                if len(data) > LARGEST_TEXT:
                    raise InputError(
                        f"text {path}: larger than {LARGEST_TEXT >> 20} MiB; give a part of it"
                    )
    except OSError as error:
        raise InputError(
            f"text {path}: cannot be read ({(error.strerror or str(error)).lower()})"
        ) from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"text {path}: not a UTF-8 text file "
            f"(byte 0x{error.object[error.start]:02x} at offset {error.start})"
        ) from None
    if not text.strip():
        raise InputError(f"text {path}: the file is empty")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _paragraph_groups(text: str) -> list[str]:
    separator = "\n\n" if "\n\n" in text.strip() else "\n"
    groups: list[str] = []
    group: list[str] = []
    length = 0
    for paragraph in text.split(separator):
        group.append(paragraph)
        length += len(paragraph)
        if length >= MIN_DOCUMENT_CHARACTERS:
            groups.append(separator.join(group))
            group, length = [], 0
    rest = separator.join(group)
    if not rest.strip():
        return groups
    # A short rest is no document of its own: it stays with the paragraphs before it.
    return [*groups[:-1], groups[-1] + separator + rest] if groups else [rest]


def _json_lines(path: Path) -> Iterator[Document]:
    # Not str.splitlines: JSON strings may hold U+2028 and its like.
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise InputError(f"text {path}, line {number}: not valid JSON") from None
        text = row.get("text") if isinstance(row, dict) else None
        if not isinstance(text, str) or not text.strip():
            raise InputError(
                f"text {path}, line {number}: no field 'text' with text; "
                'a line should read {"text": "..."}'
            )
        yield Document(text, str(path), f"line {number}")
