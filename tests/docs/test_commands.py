"""Every command that README and docs show is run, or marked as needing what CI does not have."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import typer
from documented import PAGES, ROOT, Command, commands
from tiny_models import make_model, make_text, make_tokenizer

from prunerzero.cli.app import build, main

ALL = commands()
OURS = [command for command in ALL if command.words[0] == "prunerzero"]
# Small sizes for each command: what it is given, and what is added where a page does not say.
SIZES = {
    "search": {"--candidates": "3", "--samples": "2", "--sequence-length": "64"},
    "prune": {"--samples": "2", "--sequence-length": "64"},
    "compare": {"--samples": "2", "--sequence-length": "64", "--windows": "2"},
    "evaluate": {"--sequence-length": "64", "--windows": "2"},
    "finetune": {"--steps": "2", "--sequence-length": "64"},
    "analyze": {
        "--candidates": "4", "--pairs": "0", "--ablations": "0", "--windows": "2",
        "--samples": "2", "--sequence-length": "64",
    },
}  # fmt: skip
INSTEAD = {
    "search": {"--budget": ("--candidates", "3")},
    "prune": {"--budget": ("--budget", "20s")},
    "finetune": {"--budget": ("--steps", "2")},
    "evaluate": {"--limit": ("--limit", "2")},
}


def _options(*path: str) -> set[str]:
    """The options of a command, from the application itself."""
    found = typer.main.get_command(build())
    for name in path:
        found = found.commands.get(name, found) if hasattr(found, "commands") else found
    return {option for each in found.params for option in (*each.opts, *each.secondary_opts)}


def test_the_pages_are_read() -> None:
    assert len(OURS) > 40
    assert {"README.md", "docs/index.md", "docs/guides/prune.md"} <= {c.page for c in OURS}


@pytest.mark.parametrize("command", OURS, ids=str)
def test_its_options_exist(command: Command) -> None:
    given = {
        word.strip("[]").partition("=")[0]
        for word in command.words
        if word.strip("[]").startswith("--")
    }
    assert given - {"--help", "--version"} <= _options(*command.words[1:3])


def test_others_are_run_by_ci_or_marked() -> None:
    ci = (ROOT / ".ci/run").read_text()
    loose = []
    for command in ALL:
        program, *rest = command.words
        if program == "prunerzero" or command.marked:
            continue
        run = shell = " ".join(command.words).replace(".venv/bin/", "")
        if program == "make":
            run = " ".join(command.words[:2])
        elif program.startswith("python"):
            run = " ".join(rest[:2])
        if run not in ci.replace(".venv/bin/", ""):
            loose.append(f"{command.page}:{command.line}: {shell}")
    assert not loose, "neither run by .ci/run nor marked: " + "; ".join(loose)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the pages take for granted: a model, a study, what it found."""
    folder = tmp_path_factory.mktemp("workplace")
    make_model(max_position_embeddings=4096).save_pretrained(folder / "smollm2")
    tokenizer = make_tokenizer()
    tokenizer.model_max_length = 4096
    tokenizer.eos_token = "Ā"  # byte 0: the zero-shot tasks want a token that ends a text
    tokenizer.save_pretrained(folder / "smollm2")
    for number in range(40):
        (folder / "my.txt").open("a").write(make_text(number, 2500) + "\n\n")
    return folder


@pytest.fixture
def in_place(workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "place"
    shutil.copytree(workplace, place)
    monkeypatch.chdir(place)
    return place


def small(words: tuple[str, ...]) -> list[str]:
    """The command on the tiny model and little text."""
    name, given = words[1], list(words[1:])
    given = ["./smollm2" if word == "smollm2" else word for word in given]
    for option, (other, value) in INSTEAD.get(name, {}).items():
        if option in given:
            at = given.index(option)
            given[at : at + 2] = [other, value]
    for option, value in SIZES.get(name, {}).items():
        if option in given:
            given[given.index(option) + 1] = value
        else:
            given += [option, value]
    return given


@pytest.mark.slow
@pytest.mark.parametrize("page", [str(page.relative_to(ROOT)) for page in PAGES])
def test_every_command_of_a_page_runs(
    page: str, in_place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = [c for c in OURS if c.page == page and not c.marked and not c.usage]
    # A dashboard serves until it is stopped: tests/report starts it.
    shown = [c for c in shown if c.words[1] != "dashboard"]
    if not shown:
        pytest.skip("no commands of ours")
    _prepare(shown)
    for command in shown:
        code = main(small(command.words))
        captured = capsys.readouterr()
        assert code == 0, f"{command}\n{captured.err}"


def _prepare(shown: list[Command]) -> None:
    """What the page's commands read and none of them writes before."""
    words = [word for command in shown for word in command.words]
    texts = " ".join(words)
    if re.search(r"\bs\.db|s\.best\.json|found\.json|demo/|\bout\b", texts):
        main(small(("prunerzero", "search", "smollm2", "--pattern", "50%", "--study", "s.db")))
        Path("demo").mkdir()
        for name in ("study.db", "study.best.json"):
            shutil.copy(name.replace("study", "s"), Path("demo") / name)
        recipe = json.loads(Path("s.best.json").read_text())
        Path("found.json").write_text(json.dumps(recipe))
    for name in ("out", "wanda50", "small", "packed"):
        # Written by the page itself, it must not be there before.
        if name in words and f"--output {name}" not in texts:
            assert (
                main(small(("prunerzero", "prune", "smollm2", "--metric", "wanda", "--pattern",
                            "50%", "--output", name))) == 0
            )  # fmt: skip
