"""Files: the cache directory, atomic writes, JSON."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prunerzero.errors import InputError

# What the system says of a disk that is full, over quota or broken, or a file that is too large.
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}
LARGEST_JSON = 1 << 26  # bytes; an index of 100,000 tensors has 30 million
DEEPEST_JSON = 100  # levels
SPARE = 16 * 2**20  # bytes of a checkpoint beside its weights: tokenizer, records, headers


def cache_dir() -> Path:
    """Directory of downloads and cached statistics (not created here).

    Returns:
        ``$PRUNERZERO_CACHE`` when set, else the platform's user cache directory.
    """
    chosen = os.environ.get("PRUNERZERO_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("prunerzero", appauthor=False))


def free_space(path: str | Path) -> int:
    """Bytes free on the disk where ``path`` is, or would be made."""
    place = Path(os.path.realpath(path))
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def require_space(path: str | Path, weights: int, work: int = 0) -> None:
    """Makes sure that a checkpoint fits on the disk before anything is done for it.

    Args:
        path: The directory to write to, or to make.
        weights: Bytes of the checkpoint's weights.
        work: Bytes of what is there beside them until it is complete.

    Raises:
        InputError: They do not fit.
    """
    free, wanted = free_space(path), weights + work + SPARE
    if free < wanted:
        parts = [
            f"{weights / 1e9:.2f} for the checkpoint" if weights else "",
            f"{work / 1e9:.2f} for what is kept until it is complete" if work else "",
        ]
        raise InputError(
            f"disk of {path}: {free / 1e9:.2f} GB free, but {wanted / 1e9:.2f} GB are needed "
            f"({', '.join(part for part in parts if part)})"
        )


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside ``path``; renames it to ``path`` if the body succeeds.

    A reader therefore sees the old file or the complete new one, never a part. The parent
    directory is created. The temporary path keeps the suffixes of ``path`` (some writers go by
    them) and does not exist yet; when the body raises, it is removed and ``path`` is untouched.

    Args:
        path: The file to write.

    Raises:
        InputError: The file cannot be created there, or the disk is full.
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(prefix=".partial-", dir=target.parent)
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({_reason(error)})") from None
    with scratch as directory:
        temporary = Path(directory) / target.name
        try:
            yield temporary
        except OSError as error:
            if error.errno not in DISK_ERRORS:
                raise
            raise InputError(f"{target}: cannot be written ({_reason(error)})") from None
        try:
            # The data must be on disk before the name points to it, else a power cut leaves a hole.
            with open(temporary, "rb+") as stream:
                os.fsync(stream.fileno())
            os.replace(temporary, target)
        except OSError as error:
            raise InputError(f"{target}: cannot be written ({_reason(error)})") from None


def json_text(obj: Any, indent: int | None = None) -> str:
    """The JSON text of ``obj``, readable by any parser.

    Args:
        obj: Dictionaries, sequences, strings, numbers, paths. JSON has no NaN or infinity, so a
            non-finite number becomes ``null``; a path becomes its text.
        indent: Spaces a level, or None for one line.
    """
    return json.dumps(_plain(obj), indent=indent, ensure_ascii=False, allow_nan=False)


@contextmanager
def atomic_directory(path: str | Path) -> Iterator[Path]:
    """Yields a temporary directory beside ``path``; renames it to ``path`` if the body succeeds.

    Args:
        path: The directory to make; it must not exist yet, or be empty.

    Raises:
        InputError: The directory cannot be made there, or is not empty.
    """
    target = Path(os.path.realpath(path))  # a link to an empty directory is filled, not replaced
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({_reason(error)})") from None
    try:
        temporary.chmod(0o755)  # mkdtemp's own mode would shut other users out of the result
        yield temporary
        for file in temporary.rglob("*"):  # some writers' own modes would too
            file.chmod(0o755 if file.is_dir() else 0o644)
        # POSIX renames over an empty directory and over nothing else.
        os.replace(temporary, target)
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({_reason(error)})") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_json(path: str | Path, obj: Any) -> None:
    """Writes ``obj`` as indented UTF-8 JSON, atomically (see `json_text`).

    Raises:
        InputError: The file cannot be created there.
    """
    text = json_text(obj, indent=2) + "\n"
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: str | Path, what: str, limit: int = LARGEST_JSON) -> Any:
    """Reads a JSON file of bounded size and depth.

    Args:
        path: The file to read.
        what: What the file should be ("recipe", "metric tree"), for the message.
        limit: Bytes that it may have.

    Returns:
        The parsed document: `DEEPEST_JSON` levels at most, all numbers finite, all text Unicode.

    Raises:
        InputError: The file is missing, unreadable, too large, or not such JSON.
    """
    path = Path(path)
    try:
        content = b""
        with path.open("rb") as stream:  # a device has no size to ask for, and no end
            while len(content) <= limit and (piece := stream.read(1 << 20)):
                content += piece
        if len(content) > limit:
            raise InputError(f"{what} {path}: larger than {limit} bytes, so not a {what}")
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{what} {path}: not a text file") from None
    except OSError as error:
        raise InputError(f"{what} {path}: cannot be read ({_reason(error)})") from None
    try:
        document = json.loads(text, parse_constant=_refuse_constant)
        _check_plain(document)
        return document
    except json.JSONDecodeError as error:
        raise InputError(
            f"{what} {path}, line {error.lineno}, column {error.colno}: "
            f"not valid JSON ({error.msg})"
        ) from None
    except (RecursionError, ValueError):
        # ValueError: NaN, infinity, or an integer of more digits than Python converts.
        raise InputError(
            f"{what} {path}: JSON nested too deeply, a number too large, or text that is no Unicode"
        ) from None


def _check_plain(document: Any) -> None:
    """Refuses what would trip whoever works on the document: depth, infinities, half characters."""
    level = [document]
    for _ in range(DEEPEST_JSON):
        following = []
        for value in level:
            if isinstance(value, dict):
                following += [*value, *value.values()]
            elif isinstance(value, list):
                following += value
            elif isinstance(value, float) and not math.isfinite(value):
                raise ValueError("a number too large")
            elif isinstance(value, str) and not value.isascii():
                value.encode("utf-8")  # UnicodeEncodeError is a ValueError
        level = following
        if not level:
            return
    raise ValueError("nested too deeply")


def _plain(obj: Any) -> Any:
    if isinstance(obj, float):
        return obj if math.isfinite(obj) else None
    if isinstance(obj, Mapping):
        return {key: _plain(value) for key, value in obj.items()}
    if isinstance(obj, (list, tuple)):
        return [_plain(value) for value in obj]
    return str(obj) if isinstance(obj, Path) else obj


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
