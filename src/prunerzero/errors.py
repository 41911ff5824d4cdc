"""The exceptions that users of the package meet."""

from __future__ import annotations

LONGEST = 4000  # characters of a message


class PrunerZeroError(Exception):
    """Base class of every exception that prunerzero raises on purpose.

    Its message is one line of bounded length without control characters, whatever the names in it
    come from: it goes to a terminal.
    """

    def __init__(self, message: object = "") -> None:
        """Makes one line of the message."""
        super().__init__(_one_line(str(message)))


class InputError(PrunerZeroError, ValueError):
    """Bad input: one line that says what is wrong, where, and what would be right.

    The command line prints the line and exits with code 2.
    """


class UnusableScores(InputError):
    """A metric gives scores that cannot rank weights: not finite, or all the same."""


class TooSlow(PrunerZeroError, RuntimeError):
    """Work was given up, as it took longer than it was allowed to (`prunerzero.timelimit`)."""


class PrunerZeroWarning(UserWarning):
    """Something works otherwise than asked for; the command line prints the line and goes on."""


class StorageError(PrunerZeroError):
    """The disk is full or fails, in the middle of a run.

    No `InputError`, as the run's input is not at fault: a search must not take it for the fault of
    the candidate at hand. The command line prints the line and exits with code 2.
    """


class MissingExtraError(InputError):
    """Something needs an optional dependency that is not installed.

    Attributes:
        extra: Name of the extra of ``pip install 'prunerzero[extra]'``.
    """

    def __init__(self, extra: str, purpose: str) -> None:
        """Names the extra.

        Args:
            extra: The extra that brings the missing package.
            purpose: What needs it, the subject of the sentence ("loading a .gguf file").
        """
        self.extra = extra
        self.purpose = purpose
        super().__init__(
            f"{purpose} needs an optional dependency: pip install 'prunerzero[{extra}]'"
        )

    def __reduce__(self) -> tuple[type[MissingExtraError], tuple[str, str]]:
        """Pickles by the constructor's arguments, so that it crosses process boundaries."""
        return type(self), (self.extra, self.purpose)


def is_interrupt(error: BaseException | None) -> bool:
    """Whether an error comes from an interrupt: pydantic, for one, wraps whatever it meets."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def first_line(error: BaseException) -> str:
    """What an error of a library says, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    # One that only announces what the next one says is joined with it.
    announced = lines[0].endswith(":") and len(lines) > 1
    return (" ".join(lines[:2]) if announced else lines[0])[:300]


def _one_line(text: str) -> str:
    if not text.isprintable():
        text = "".join(map(_printable, text))
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def _printable(char: str) -> str:
    if char.isprintable():
        return char
    return " " if char.isspace() else repr(char)[1:-1]
