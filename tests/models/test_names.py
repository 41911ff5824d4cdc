import subprocess
import sys

import pytest

from prunerzero.errors import InputError
from prunerzero.models.names import check_model_name, gguf_file


def test_names_load_without_torch():
    code = "import sys, prunerzero.models.names; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("empty", "no config.json"),
        ("notes.txt", "a file, but not"),
        ("./nowhere", "no such file or directory"),
        ("nowhere.gguf", "no such file or directory"),
        ("a/b/c", "not a hub id"),
        ("two words", "not a hub id"),
        ("", "not a hub id"),
        ("smollm2", "prunerzero assets fetch"),
    ],
)
def test_wrong_names(tmp_path, monkeypatch, own_cache, name, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InputError, match=message) as caught:
        check_model_name(name)
    assert "\n" not in str(caught.value)


def test_right_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "m.gguf").write_text("")
    for name in (str(tmp_path), ".", "m.gguf", "gpt2", "HuggingFaceTB/SmolLM2-135M"):
        check_model_name(name)
    assert gguf_file("m.gguf") is not None
    assert gguf_file("gpt2") is None
