import json
import os
from contextlib import suppress
from pathlib import Path

import pytest

from prunerzero.errors import InputError, MissingExtraError
from prunerzero.files import (
    atomic_directory,
    atomic_path,
    cache_dir,
    json_text,
    read_json,
    write_json,
)


def test_cache_dir_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("PRUNERZERO_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.delenv("PRUNERZERO_CACHE")
    assert cache_dir().name == "prunerzero"


def test_atomic_path_replaces_only_on_success(tmp_path):
    target = tmp_path / "new" / "a.json"
    with atomic_path(target) as temporary:
        assert temporary.suffix == ".json"
        temporary.write_text("first")
        assert not target.exists()
    assert target.read_text() == "first"
    with suppress(RuntimeError), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "first"
    assert os.listdir(target.parent) == ["a.json"]


@pytest.mark.parametrize("where", ["file/a.json", "directory"])
def test_atomic_path_names_what_it_cannot_write(tmp_path, where):
    (tmp_path / "file").write_text("")
    (tmp_path / "directory" / "full").mkdir(parents=True)
    with pytest.raises(InputError, match="cannot be written"), atomic_path(tmp_path / where) as t:
        t.write_text("x")


def test_json_text_is_strict_json():
    text = json_text({"a": [1.5, float("nan"), (float("inf"),)], "p": Path("x"), "t": "é"})
    assert json.loads(text) == {"a": [1.5, None, [None]], "p": "x", "t": "é"}


def test_json_round_trip(tmp_path):
    document = {"a": [1, 2.5, None, "ü"], "b": {"c": 0.1}}
    write_json(tmp_path / "x.json", document)
    assert read_json(tmp_path / "x.json", "thing") == document


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1,\n  "b" 2}', "thing .*x.json, line 2, column 7: not valid JSON"),
        (b"\xff\xfe\x00", "not a text file"),
        (b'{"a": NaN}', "number too large"),
        (b"[" * 100_000, "nested too deeply"),
        (b"9" * 10_000, "number too large"),
    ],
)
def test_read_json_refuses_in_one_line(tmp_path, content, message):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_json(tmp_path / "x.json", "thing")
    assert "\n" not in str(caught.value)


def test_read_json_missing_file_or_directory(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_json(tmp_path / "none.json", "thing")
    with pytest.raises(InputError, match="is a directory"):
        read_json(tmp_path, "thing")


def test_missing_extra_names_the_command():
    error = MissingExtraError("gguf", "loading a .gguf file")
    assert str(error).endswith("pip install 'prunerzero[gguf]'")
    assert error.extra == "gguf"


def test_atomic_directory_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "new" / "out"
    with suppress(RuntimeError), atomic_directory(target) as temporary:
        (temporary / "half").write_text("x")
        raise RuntimeError
    assert os.listdir(target.parent) == []
    with atomic_directory(target) as temporary:
        (temporary / "inner").mkdir(mode=0o700)
        (temporary / "inner" / "a").write_text("x")
        (temporary / "inner" / "a").chmod(0o600)
        assert not target.exists()
    assert (target / "inner" / "a").read_text() == "x"
    assert (target / "inner" / "a").stat().st_mode & 0o777 == 0o644
    assert (target / "inner").stat().st_mode & 0o777 == 0o755
    assert os.listdir(target.parent) == ["out"]


def test_atomic_directory_fills_an_empty_one_even_behind_a_link(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    with atomic_directory(tmp_path / "link") as temporary:
        (temporary / "a").write_text("x")
    assert os.listdir(tmp_path / "empty") == ["a"]


@pytest.mark.parametrize("where", ["file", "file/out", "full"])
def test_atomic_directory_names_what_it_cannot_write(tmp_path, where):
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("x")
    with pytest.raises(InputError, match="cannot be written"), atomic_directory(tmp_path / where):
        pass
    assert sorted(os.listdir(tmp_path)) == ["file", "full"]
    assert os.listdir(tmp_path / "full") == ["mine"]
