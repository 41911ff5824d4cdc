"""What a newcomer meets: examples, hints, completion, more words when asked for."""

from __future__ import annotations

import json
import logging
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator

import pytest
import typer.main
from made_study import make_study

from prunerzero.cli import app


@pytest.fixture(scope="module")
def commands() -> dict[str, object]:
    """Every command by its path, ``study export`` among them."""
    root = typer.main.get_command(app.build())
    found: dict[str, object] = {}
    for name, command in root.commands.items():
        inner = getattr(command, "commands", None)
        found |= (
            {f"{name} {each}": one for each, one in inner.items()} if inner else {name: command}
        )
    return found


def helped(*path: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert app.main([*path, "--help"]) == 0
    return capsys.readouterr().out


def test_every_command_shows_examples_that_parse(commands, capsys) -> None:
    groups = {path.split()[0] for path in commands}
    shown = 0
    for group in sorted(groups):
        text = helped(group, capsys=capsys)
        examples = [line.strip() for line in text.partition("Examples:")[2].splitlines() if line]
        assert examples, group
        for example in examples:
            program, *words = shlex.split(example)
            assert program == "prunerzero"
            command = typer.main.get_command(app.build())
            while words and hasattr(command, "commands"):
                name = words[0] if words[0] in command.commands else command.default
                words = words[1:] if words[0] in command.commands else words
                command = command.commands[name]
            if not hasattr(command, "commands"):
                command.make_context("prunerzero", list(words))  # raises for what is no option
            shown += 1
    assert shown > 20


def test_every_command_takes_json_and_verbose(commands, capsys) -> None:
    for path in commands:
        text = helped(*path.split(), capsys=capsys)
        assert "--json" in text, path
        assert "--verbose" in text, path


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["serch"], "did you mean 'search'?"),
        (["metrics", "--josn"], "did you mean '--json'?"),
        (["search", "m", "--preset", "papr"], "did you mean 'paper'?"),
        (["study", "sho", "s.db"], "did you mean 'show'?"),
        (["assets", "fetch", "wikipeda"], "did you mean 'wikipedia'?"),
        (["evaluate", "smol llm2"], "did you mean 'smollm2'?"),
        (["prune", "x", "--metric", "wnda", "--pattern", "50%", "--output", "o"], "'wanda'?"),
        (["prune", "x", "--metric", "W*srqt(X)", "--pattern", "50%", "--output", "o"], "'sqrt'?"),
    ],
)
def test_did_you_mean(arguments, hint, capsys) -> None:
    assert app.main(arguments) == 2
    err = capsys.readouterr().err
    assert hint in err
    assert err.count("\n") == 1


def complete(words: str) -> list[str]:
    environment = os.environ | {
        "_PRUNERZERO_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    code = "from prunerzero.cli.app import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_the_shell_completes_commands_and_metrics() -> None:
    assert complete("prunerzero se") == ["search"]
    assert complete("prunerzero prune smollm2 --metric wanda-p") == ["wanda-plus-plus"]
    assert complete("prunerzero search smollm2 --preset pa") == ["paper"]


@pytest.fixture
def quiet_again() -> Iterator[None]:
    logger = logging.getLogger("prunerzero")
    yield
    logger.handlers.clear()
    logger.setLevel(logging.NOTSET)


@pytest.mark.usefixtures("quiet_again")
def test_verbose_says_where_an_error_comes_from(capsys, monkeypatch) -> None:
    monkeypatch.delenv("TRANSFORMERS_VERBOSITY", raising=False)
    arguments = ["study", "none.db"]
    assert app.main(arguments) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert app.main([*arguments, "--verbose"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" in err
    assert "none.db: does not exist" in err.splitlines()[-1]
    os.environ.pop("TRANSFORMERS_VERBOSITY")


def test_export_as_one_document(tmp_path, capsys) -> None:
    path = make_study(tmp_path / "s.db", 5)
    assert app.main(["study", "export", str(path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [row["id"] for row in document["candidates"]] == [1, 2, 3, 4, 5]
    output = tmp_path / "rows.csv"
    arguments = ["study", "export", str(path), "--format", "csv", "--output", str(output), "--json"]
    assert app.main(arguments) == 0
    assert json.loads(capsys.readouterr().out) == {"output": str(output), "candidates": 5}
    assert len(output.read_text().splitlines()) == 6
