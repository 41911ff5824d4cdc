import json
import subprocess
import sys

import pytest
import typer
from damage import configure
from tiny_models import make_text, save_model

from prunerzero.cli import app
from prunerzero.errors import InputError


def run(*arguments):
    return app.main(list(arguments))


def test_help_names_the_commands_and_loads_nothing_heavy():
    code = (
        "import sys; from prunerzero.cli.app import main; code = main(['--help']);"
        "print([m for m in ('torch', 'transformers', 'pydantic', 'numpy', 'rich', 'sqlite3')"
        " if m in sys.modules]); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for name in ("metrics", "assets", "study"):
        assert f"\n  {name} " in done.stdout
    assert done.stdout.endswith("[]\n")
    assert done.stderr == ""


def test_version(capsys):
    assert run("--version") == 0
    assert capsys.readouterr().out.startswith("prunerzero 0.")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing command; see 'prunerzero --help'"),
        (["nonsense"], "No such command 'nonsense'; see 'prunerzero --help'"),
        (["metrics", "--nonsense"], "No such option: --nonsense; see 'prunerzero metrics --help'"),
        (["study"], "Missing argument 'STUDY'; see 'prunerzero study show --help'"),
        (["study", "export", "s.db", "--format", "x"], "'x' is not one of 'jsonl', 'csv'; see"),
        (["study", "none.db"], "none.db: does not exist"),
        (["study", "--json", "none.db"], "none.db: does not exist"),
        (["assets", "fetch", "nonsense"], "unknown asset 'nonsense'"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(capsys, arguments, message):
    assert run(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("prunerzero: error: ")
    assert message in err
    assert err.count("\n") == 1


@pytest.fixture
def raising(monkeypatch):
    """Makes the command line raise."""

    def install(error):
        def command():
            raise error

        broken = typer.Typer()
        broken.command()(command)
        monkeypatch.setattr(app, "build", lambda: broken)

    return install


def test_a_long_message_stays_one_line(raising, capsys):
    raising(InputError("x" * 500 + "\n[bold]y[/bold]"))
    assert run() == 2
    assert capsys.readouterr().err == "prunerzero: error: " + "x" * 500 + " [bold]y[/bold]\n"


def test_a_fault_of_ours(raising, capsys):
    raising(RuntimeError("broken inside"))
    assert run() == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "RuntimeError: broken inside" in err
    assert err.splitlines()[-1].startswith("prunerzero: this is a fault of ours")
    assert err.count("  File ") <= 6


@pytest.mark.parametrize(
    ("error", "code"), [(KeyboardInterrupt(), 130), (typer.Exit(3), 3), (typer.Exit(), 0)]
)
def test_other_exits(raising, error, code):
    raising(error)
    assert run() == code


def test_a_reader_that_leaves_is_no_fault():
    command = f"{sys.executable} -c 'from prunerzero.cli.app import main; main()' --help | true"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert done.stderr == ""


@pytest.fixture(scope="module")
def unrunnable(tmp_path_factory):
    """Its shapes fit its config.json, and its own code fails."""
    path = save_model(tmp_path_factory.mktemp("unrunnable") / "experts", "mixtral")
    configure(path, num_experts_per_tok=9)
    return path


@pytest.fixture(scope="module")
def long_text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.jsonl"
    path.write_text("\n".join(json.dumps({"text": make_text(n, 1200)}) for n in range(12)))
    return path


def check_that_it_cannot_run(path, capsys, *arguments):
    assert run(*map(str, arguments), "--sequence-length", "32") == 2
    *steps, line = capsys.readouterr().err.splitlines()
    assert f"error: model '{path}': cannot run on 32 tokens: model.layers.0.mlp.gate: " in line
    assert "compare its config.json with the original's" in line
    assert all(step.startswith(("loading ", "checking weights: ")) for step in steps)


@pytest.mark.parametrize(
    "command",
    [
        "prune MODEL --metric wanda --pattern 50% --output OUT --no-stream",
        "prune MODEL --metric wanda --pattern 50% --output OUT --no-stream --one-shot",
        "prune MODEL --metric W*A*F --pattern 2:4 --output OUT --stream",
        "compare MODEL --metrics magnitude,wanda --pattern 50% --text OTHER",
        "search MODEL --pattern 50% --study OUT --candidates 1",
        "search MODEL --pattern 50% --study OUT --candidates 1 --stream",
    ],
)
def test_a_model_that_cannot_run(
    command, unrunnable, long_text, texts, tmp_path, own_cache, capsys
):
    words = {"MODEL": unrunnable, "OUT": tmp_path / "out", "OTHER": texts / "other.txt"}
    arguments = [words.get(word, word) for word in command.split()]
    calibration = ("--calibration", long_text, "--samples", 4)
    check_that_it_cannot_run(unrunnable, capsys, *arguments, *calibration)
    assert not list(tmp_path.glob("out*"))


def test_a_model_that_cannot_run_and_is_evaluated(unrunnable, long_text, own_cache, capsys):
    check_that_it_cannot_run(unrunnable, capsys, "evaluate", unrunnable, "--text", long_text)


def test_a_pruned_model_that_cannot_run(long_text, texts, tmp_path, succeed, capsys):
    dense, pruned = save_model(tmp_path / "dense", "mixtral"), tmp_path / "pruned"
    succeed("prune", dense, "--metric", "wanda", "--pattern", "50%", "--output", pruned,
            "--calibration", long_text, "--samples", 4, "--sequence-length", 32)  # fmt: skip
    configure(pruned, num_experts_per_tok=9)
    check_that_it_cannot_run(pruned, capsys, "finetune", pruned, "--text", texts / "other.txt",
                             "--output", tmp_path / "tuned", "--budget", "1s",
                             "--no-control")  # fmt: skip
    assert not list(tmp_path.glob("tuned*"))


def test_a_configuration_that_could_not_be_written_again(tmp_path, texts, refuse):
    path = save_model(tmp_path / "model")
    configure(path, output_attentions=True)
    line = refuse("prune", path, "--metric", "wanda", "--pattern", "50%", "--no-stream", "--output",
                  tmp_path / "out", "--calibration", texts / "calibration.jsonl", "--samples", 4,
                  "--sequence-length", 32)  # fmt: skip
    assert f"model '{path}': its config.json cannot be written again: " in line
    assert "`output_attentions`" in line
