import io
import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunerzero.cli.common import Progress, emit, prepare_output, print_table, split_list
from prunerzero.errors import InputError


@pytest.mark.parametrize(
    ("text", "entries"),
    [
        ("wanda", ["wanda"]),
        ("magnitude, wanda", ["magnitude", "wanda"]),
        ("f(W,X),wanda", ["f(W,X)", "wanda"]),
        ("f(g(W,X),(G)),h(A, F)", ["f(g(W,X),(G))", "h(A, F)"]),
        ("W),wanda", ["W)", "wanda"]),  # The metric's parser says what is wrong with it.
    ],
)
def test_split_list(text, entries):
    assert split_list(text) == entries


@given(st.lists(st.recursive(
    st.sampled_from(["W", "A"]), lambda inner: st.builds("f({},{})".format, inner, inner)
), min_size=1))  # fmt: skip
def test_split_list_undoes_joining(entries):
    assert split_list(",".join(entries)) == entries


@pytest.mark.parametrize("text", ["", "wanda,", "a,,b", " "])
def test_split_list_refuses_empty_entries(text):
    with pytest.raises(InputError, match="is empty"):
        split_list(text)


def test_prepare_output_leaves_no_trace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert prepare_output("a/b") == tmp_path / "a" / "b"
    assert os.listdir(tmp_path) == []
    (tmp_path / "empty").mkdir()
    assert prepare_output("empty") == tmp_path / "empty"
    assert os.listdir(tmp_path) == ["empty"]
    assert os.listdir(tmp_path / "empty") == []


def test_prepare_output_refuses(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match="not empty"):
        prepare_output(tmp_path / "full")
    with pytest.raises(InputError, match="is a file"):
        prepare_output(tmp_path / "full" / "x")
    with pytest.raises(InputError, match="cannot be written"):
        prepare_output(tmp_path / "full" / "x" / "deeper")
    with pytest.raises(InputError, match="is a file"):
        prepare_output(tmp_path / "dangling")


def test_emit_prints_one_strict_document(capsys):
    emit({"a": float("inf"), "b": [1, 2.5]})
    out, err = capsys.readouterr()
    assert json.loads(out) == {"a": None, "b": [1, 2.5]}
    assert err == ""


def test_print_table_neither_wraps_nor_reads_markup(capsys):
    long = "abs(W * W) * mms(G) " * 20
    print_table(("name", "value"), [("[red]x[/red]", long.strip()), ("y", None)])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[1].split(maxsplit=1) == ["[red]x[/red]", long.strip()]


def test_progress_is_one_plain_line_a_step_when_not_on_a_terminal(capsys):
    with Progress() as progress:
        for done in range(1, 101):
            progress("pruning", done, 100)
        progress("evaluation", 1, 1)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == ["pruning: 100/100, 0 s", "evaluation: 1/1, 0 s"]


def test_progress_of_a_long_step_is_a_line_every_half_minute(capsys, monkeypatch):
    times = iter([0.0, 29.0, 31.0, 60.0, 62.0])
    monkeypatch.setattr("time.monotonic", lambda: next(times))
    with Progress() as progress:
        for done in range(4):
            progress("pruning", done, 4)
        progress("pruning", 4, 4)
    assert capsys.readouterr().err.splitlines() == [
        "pruning: 2/4, 31 s, 31 s left",
        "pruning: 4/4, 62 s",
    ]


def test_a_step_that_comes_again_has_a_new_clock(capsys, monkeypatch):
    times = iter([0.0, 50.0, 500.0, 531.0, 540.0])
    monkeypatch.setattr("time.monotonic", lambda: next(times))
    with Progress() as progress:
        for done in (1, 2, 1, 1.5, 2):
            progress("pruning", done, 2)
    assert capsys.readouterr().err.splitlines() == [
        "pruning: 2/2, 50 s",
        "pruning: 1.5/2, 31 s, 10 s left",
        "pruning: 2/2, 40 s",
    ]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_bar_that_comes_again_begins_anew(monkeypatch):
    monkeypatch.setattr("sys.stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    with Progress() as progress:
        for done in (1, 2, 1):
            progress("pruning", done, 2)
        (bar,) = progress._bars.tasks
        assert (bar.completed, bar.finished) == (1, False)


def test_progress_draws_bars_on_a_terminal(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with Progress() as progress:
        progress("pruning [1]", 3, 4)
    assert "pruning [1]" in terminal.getvalue()
    assert "75%" in terminal.getvalue()
