"""What the commands share: options, output, progress, and checks of arguments."""

from __future__ import annotations

import io
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import typer

from prunerzero.cli.help import Group as CommandGroup
from prunerzero.errors import InputError
from prunerzero.files import json_text
from prunerzero.suggestions import did_you_mean
from prunerzero.updates.names import Update as UpdateName

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

# Options that mean the same in every command; a command gives the default.
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of everything random.")]
Calibration = Annotated[
    str,
    typer.Option("--calibration", metavar="SOURCE", help="Text for the statistics: name or file."),
]
Samples = Annotated[int, typer.Option("--samples", min=1, help="Number of calibration windows.")]
SequenceLength = Annotated[
    int, typer.Option("--sequence-length", min=2, help="Tokens a calibration window.")
]
Group = Annotated[
    Literal["row", "matrix", "model"] | None,
    typer.Option("--group", help="Weights ranked against one another; default: the recipe's own."),
]
Update = Annotated[
    UpdateName | None,
    typer.Option("--update", help="What happens to kept weights; default: the recipe's own."),
]
Sequential = Annotated[
    bool,
    typer.Option(
        "--sequential/--one-shot",
        help="Statistics of each block from the pruned blocks before it, or all from the dense.",
    ),
]
Device = Annotated[
    str | None,
    typer.Option("--device", help="cpu, cuda, cuda:1, ..., auto for all GPUs; default: the best."),
]
Dtype = Annotated[
    Literal["float32", "bfloat16", "float16"] | None,
    typer.Option("--dtype", help="Number format of the computation; default: the hardware's."),
]
Blocks = Annotated[
    str,
    typer.Option("--blocks", metavar="NAME", help="List of blocks, if not found by itself."),
]
Include = Annotated[
    list[str],
    typer.Option("--include", metavar="PATTERN", help="Prune only such matrices: '*.mlp.*'."),
]
Exclude = Annotated[
    list[str],
    typer.Option("--exclude", metavar="PATTERN", help="Leave such matrices dense: '*.o_proj'."),
]
MinCoverage = Annotated[
    float,
    typer.Option(
        "--min-coverage",
        min=0.0,
        max=1.0,
        help="Share of the blocks' weights that must be found prunable.",
    ),
]
AllowPickle = Annotated[
    bool,
    typer.Option(
        "--allow-pickle",
        help="Convert a checkpoint of pickle files (pytorch_model.bin), reading tensors only.",
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on stdout, all else on stderr.")
]


def zoo_names(incomplete: str) -> list[str]:
    """The zoo's names that begin so, for a shell's completion."""
    from prunerzero import zoo

    return [name for name in zoo.names() if name.startswith(incomplete)]


def emit(document: Any) -> None:
    """Prints the JSON document of ``--json`` on stdout; non-finite numbers become null."""
    print(json_text(document, indent=2), flush=True)


def note(line: str) -> None:
    """Tells the user something on stderr, in one line."""
    print(line, file=sys.stderr, flush=True)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], title: str = "") -> None:
    """Prints a table on stdout: numbers flush right, cells never cut when stdout is no terminal."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(
        title=title or None,
        title_justify="left",
        box=None,
        pad_edge=False,
        show_header=any(columns),
    )
    for index, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[index], (int, float)) for row in rows)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*("" if cell is None else escape(str(cell)) for cell in row))
    if sys.stdout.isatty():
        Console(highlight=False).print(table)
        return
    # A pipe has no width; folding for 80 columns would break what is read by programs.
    console = Console(width=10_000, file=io.StringIO())
    with console.capture() as capture:
        console.print(table)
    print("\n".join(line.rstrip() for line in capture.get().splitlines()))


class Progress:
    """Progress of long steps on stderr: bars with an ETA on a terminal, else one line a step.

    Called as ``progress("pruning", 3, 30)``: the step's name, how much is done, of how much. A
    step that has ended may come again, with a clock of its own. A context manager; library
    functions take it as a plain callback.
    """

    _interval = 30.0  # Seconds between the plain lines of a long step, and before the first.

    def __init__(self) -> None:
        """Starts with no step."""
        self._bars: RichProgress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._started: dict[str, float] = {}
        self._printed: dict[str, float] = {}

    def __enter__(self) -> Self:
        return self

    def _draws(self) -> bool:
        """Whether there are bars; they begin with the first step, after what libraries draw."""
        if self._bars is None and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
            from rich.progress import Progress as RichProgress

            self._bars = RichProgress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f}%"),
                TimeElapsedColumn(),
                TextColumn("ETA"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._bars.start()
        return self._bars is not None

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def __call__(self, step: str, done: float, total: float) -> None:
        """Reports that ``done`` of ``total`` units of ``step`` are done."""
        if not self._draws():
            self._print(step, done, total)
            return
        assert self._bars is not None
        task = self._tasks.get(step)
        if task is None:
            task = self._tasks[step] = self._bars.add_task(step, total=total)
        elif self._bars.tasks[self._bars.task_ids.index(task)].finished:
            self._bars.reset(task)
        self._bars.update(task, completed=done, total=total)

    def _print(self, step: str, done: float, total: float) -> None:
        now = time.monotonic()
        started = self._started.setdefault(step, now)
        finished = done >= total
        if not finished and now - self._printed.get(step, started) < self._interval:
            return
        self._printed[step] = now
        if finished:
            del self._started[step], self._printed[step]
        line = f"{step}: {done:g}/{total:g}, {now - started:.0f} s"
        if 0 < done < total:
            line += f", {(now - started) * (total - done) / done:.0f} s left"
        note(line)


class DefaultGroup(CommandGroup):
    """A command with subcommands of which one, ``default``, need not be named.

    ``prunerzero study S.db`` is ``prunerzero study show S.db``.
    """

    default: str

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Puts the default's name in front when no subcommand is named."""
        if not args or (args[0] not in self.commands and args[0] != "--help"):
            near = args and did_you_mean(args[0], self.commands)
            if not (near and len(args) > 1 and not os.path.lexists(args[0])):
                args = [self.default, *args]
        return super().parse_args(ctx, args)


def split_list(text: str) -> list[str]:
    """Splits ``a,b`` at the commas outside parentheses, as in ``--metrics wanda,ratio(W,X)``.

    Returns:
        The entries, without surrounding blanks.

    Raises:
        InputError: An entry is empty.
    """
    entries, depth = [""], 0
    for character in text:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == "," and depth <= 0:
            entries.append("")
        else:
            entries[-1] += character
    entries = [entry.strip() for entry in entries]
    if "" in entries:
        raise InputError(f"list '{text}': entry {entries.index('') + 1} is empty")
    return entries


def prepare_output(path: str | Path) -> Path:
    """Makes sure that a result can go into the directory ``path``, and leaves no trace.

    Returns:
        The absolute path; the directory is new or empty, and can be written.

    Raises:
        InputError: It is a file, not empty, or not writable.
    """
    target = Path(os.path.abspath(Path(path).expanduser()))
    made: list[Path] = []
    try:
        if target.is_dir():
            if any(target.iterdir()):
                raise InputError(f"output {target}: directory is not empty; empty it or name a new")
        elif os.path.lexists(target):
            raise InputError(f"output {target}: is a file; name a directory")
        made = [place for place in (target, *target.parents) if not os.path.exists(place)]
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=target):
            pass
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError(f"output {target}: cannot be written ({reason})") from None
    finally:
        for directory in made:
            with suppress(OSError):
                directory.rmdir()
    return target
