import subprocess
import sys

import pytest
import typer

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
