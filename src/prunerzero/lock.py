"""One process at a time, by a lock that the operating system drops with its holder."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

from prunerzero.errors import InputError

if sys.platform != "win32":
    import fcntl

_held: set[int] = set()


class ProcessLock:
    """An exclusive lock on a file.

    The kernel releases it when the process ends in any way, so a killed run never delays the next;
    the file that it leaves then is harmless.
    """

    def __init__(self, path: Path, subject: str, busy: str) -> None:
        """Takes the lock.

        Args:
            path: The file, made if need be.
            subject: What it guards, for messages.
            busy: The message's rest where another process holds it, with ``{holder}`` for that.

        Raises:
            InputError: Another process holds it, or the file cannot be made.
        """
        self._path = path
        try:
            self._descriptor = _acquire(path)
        except BlockingIOError:
            holder = _read(path) or "unknown"
            raise InputError(f"{subject}: {busy.format(holder=holder)}") from None
        except OSError as error:
            raise InputError(f"{subject}: cannot be locked ({error.strerror})") from None
        _held.add(self._descriptor)
        with suppress(OSError):  # on a full disk nobody learns who holds it
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Gives the lock back; a second call does nothing."""
        if self._descriptor in _held:
            _held.remove(self._descriptor)
            with suppress(OSError):
                self._path.unlink()
            os.close(self._descriptor)


def is_held(path: Path) -> bool:
    """Whether a living process of this machine holds the lock.

    Looks only: trying to take the lock would get in the way of who wants it. So after a kill it
    may be wrong where the process's number has been given to another.
    """
    holder = _read(path)
    if not holder.isdecimal():
        return False
    try:
        os.kill(int(holder), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _acquire(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if sys.platform != "win32":
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The holder before us may have removed the file after we opened it; then another
            # process may lock a new one of the same name.
            if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()[:32]
    except OSError:
        return ""


def _forget_in_child() -> None:
    # A forked worker shares the lock and would keep it after its parent was killed.
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
