"""What `prune`, `evaluate`, `compare` and `search` are given: checked before torch is imported."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prunerzero.cli.common import note, prepare_output
from prunerzero.cli.help import is_verbose
from prunerzero.errors import PrunerZeroWarning
from prunerzero.models.names import ALIASES, converted_directory, gguf_file

if TYPE_CHECKING:
    from prunerzero.pruning.pattern import Pattern
    from prunerzero.recipe import Recipe

Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="Hub id, directory, .gguf file, or smollm2.")
]
EvaluationWindows = Annotated[
    int,
    typer.Option(
        "--windows",
        min=1,
        help="Windows drawn from a named text; wikitext2, ptb, c4 and files are read whole.",
    ),
]


def check_calibration(source: str) -> None:
    """Finds a calibration text that cannot be used.

    Raises:
        InputError: The source is unknown, cannot be had, or has no calibration documents.
    """
    from prunerzero.data.sources import is_named, load_documents
    from prunerzero.data.splits import Split, documents_of
    from prunerzero.data.written import without_self

    readable = without_self(source)  # the rest is known once the model is loaded
    if readable is not None:
        split = Split.CALIBRATION if is_named(source) else None
        documents_of(load_documents(readable), split)


def load_quietly(name: str, device: str | None, dtype: str | None) -> tuple[Any, Any]:
    """Loads a model and its tokenizer, with nothing on the console but a line of ours.

    Args:
        name: The model as the user named it.
        device: Where it runs; None chooses.
        dtype: The format of the computation. There is no autocast to float32, so weights are
            loaded in it when it is asked for; other formats leave the checkpoint's alone.

    Raises:
        InputError: There is no such model, or it cannot be read.
    """
    announce(name)
    from prunerzero.models.loading import load_model

    return load_model(name, device=device, dtype="float32" if dtype == "float32" else None)


def loadable(name: str, allow_pickle: bool) -> str:
    """The model to load: the one named, or the conversion of its pickle files if that is allowed.

    Raises:
        InputError: These are damaged, or hold more than tensors.
    """
    if not allow_pickle:
        return name
    from prunerzero.models.pickled import without_pickle

    return without_pickle(name)


def announce(name: str) -> None:
    """Says that a model is being loaded, and keeps the libraries' own output off the console."""
    gguf = gguf_file(name)
    once = gguf is not None and not converted_directory(gguf).exists()
    note(f"loading {name}{', converting its GGUF file once: half a minute' if once else ''}")
    verbose = is_verbose()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
        warnings.simplefilter("default", PrunerZeroWarning)
        warnings.showwarning = lambda message, *_, **__: note(f"prunerzero: warning: {message}")
    from transformers.utils import logging

    if not verbose:
        logging.set_verbosity_error()
    if name not in ALIASES and not os.path.lexists(name):
        from prunerzero.models.hub import first_use

        if (line := first_use(name)) is not None:
            note(line)
            return  # and let the hub's own bars show how far the download is
    if not sys.stderr.isatty():  # on a terminal it shows how far loading is
        logging.disable_progress_bar()


def prepare_pruning(model: str, output: str, stream: bool | None) -> tuple[Path, bool]:
    """Makes sure that a pruned model can be written, and decides whether to stream.

    Args:
        model: The model as the user named it.
        output: The directory to make.
        stream: What the user wants; None streams where memory is short, and says so.

    Returns:
        The absolute path of the directory, and whether to stream.

    Raises:
        InputError: It is a file, not empty, or not writable.
    """
    from prunerzero.streaming.decision import reason_to_stream
    from prunerzero.streaming.journal import Journal, work_directory

    target = Path(os.path.abspath(Path(output).expanduser()))
    going_on = Journal(work_directory(target)).exists()
    if not going_on or stream is False:
        prepare_output(target)  # a streamed run that was killed at its very end has filled it
    if stream is None and (reason := reason_to_stream(model, target)):
        note(reason)
        stream = True
    return target, bool(stream)


def shown_group(recipe: Recipe, pattern: Pattern) -> str:
    """The comparison group for tables; N:M patterns rank the weights of each M alone."""
    return "-" if pattern.is_nm else recipe.group


def described(calibration: dict[str, Any] | None) -> str:
    """The calibration of a run (`prunerzero.pruning.calibration.describe`) in a few words."""
    if calibration is None:
        return "nothing: the metric needs no data"
    return "{windows} windows of {sequence_length} tokens of {source}".format_map(calibration)
