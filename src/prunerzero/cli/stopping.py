"""Stopping a command: Ctrl-C and ``kill`` alike, within a few seconds, and how to go on."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

INTERRUPTED = 130  # exit code
GRACE = 4.0  # seconds in which a command gives back what it holds


@contextmanager
def stoppable(program: str, arguments: Sequence[str]) -> Iterator[None]:
    """Makes SIGINT and SIGTERM raise `KeyboardInterrupt`, once.

    Everything on disk is replaced whole or written in transactions, so a command can stop anywhere:
    the exception gives it the time to close and clean up. What still runs after `GRACE` seconds
    (one long call of a library) or at a second signal is ended as SIGKILL would, and loses nothing
    more.

    Args:
        program: Its name.
        arguments: Its arguments, for the line that says how to go on.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return

    def end() -> None:
        tell(program, arguments)
        os._exit(INTERRUPTED)

    last = threading.Timer(GRACE, end)
    last.daemon = True

    def stop(_number: int, _frame: FrameType | None) -> None:
        if last.ident is not None:  # the second signal
            end()
        last.start()
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except Exception as error:
        if last.ident is not None:  # a library made something else of the interrupt
            raise KeyboardInterrupt from error
        raise
    finally:
        last.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)


def tell(program: str, arguments: Sequence[str]) -> None:
    """Says how to go on."""
    command = shlex.join([program, *arguments])
    print(
        f"{program}: interrupted, nothing is half-written; go on with: {command}",
        file=sys.stderr,
        flush=True,
    )
