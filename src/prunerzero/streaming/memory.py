"""How much memory there is, and giving back what is no longer used."""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any


def available_memory() -> int | None:
    """Bytes that this process may still take, or None where that is unknown.

    The system's free memory, or what is left of the container's share if that is less.
    """
    found = [value for value in (_system(), _container()) if value is not None]
    return min(found) if found else None


def trim() -> None:
    """Gives freed memory back to the system.

    glibc keeps what is freed in pieces below some tens of MiB, and a block's worth of such pieces
    would stay in the resident set beside the next block's.
    """
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


def _system() -> int | None:
    with suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    with suppress(OSError, ValueError, AttributeError):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _container() -> int | None:
    with suppress(OSError, ValueError):
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
        used = Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii").strip()
        free = int(limit) - int(used)  # "max" is no number: no limit
        for line in Path("/sys/fs/cgroup/memory.stat").read_text(encoding="ascii").splitlines():
            name, _, value = line.partition(" ")
            if name in ("active_file", "inactive_file"):  # cached files make room when asked to
                free += int(value)
        return free
    return None


@cache
def _glibc() -> Any:
    if sys.platform != "linux":
        return None
    try:
        library = ctypes.CDLL("libc.so.6")
        return library if hasattr(library, "malloc_trim") else None
    except OSError:
        return None
