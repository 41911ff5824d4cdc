"""A small model and texts for the commands, and a way to call them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_models import make_text, save_model

from prunerzero.cli.app import main


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint of a small random Llama that reads 64 tokens."""
    return str(save_model(tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with two usable texts and several that are not."""
    folder = tmp_path_factory.mktemp("texts")
    (folder / "calibration.jsonl").write_text(
        "\n".join(json.dumps({"text": make_text(seed, 400)}) for seed in range(8))
    )
    (folder / "other.txt").write_text(make_text(99, 700))
    (folder / "empty.txt").write_text("")
    (folder / "binary.txt").write_bytes(bytes(range(256)))
    (folder / "short.txt").write_text("too short")
    return folder


@pytest.fixture
def succeed(capsys: pytest.CaptureFixture[str], own_cache: Path) -> Callable[..., Any]:
    """Runs a command that must succeed; returns its JSON document, or its text without --json."""

    def run(*arguments: object) -> Any:
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert code == 0, err
        return json.loads(out) if "--json" in arguments else out

    return run


@pytest.fixture
def refuse(capsys: pytest.CaptureFixture[str], own_cache: Path) -> Callable[..., str]:
    """Runs a command that must end with exit code 2; returns its one line of error."""

    def run(*arguments: object) -> str:
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert code == 2, err
        assert out == ""
        lines = [line for line in err.splitlines() if not line.startswith("loading ")]
        assert len(lines) == 1, err
        assert lines[0].startswith("prunerzero: error: ")
        return lines[0]

    return run
