"""Names of models as users give them, checked without importing torch."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from prunerzero.data.assets import asset_path
from prunerzero.errors import InputError
from prunerzero.files import cache_dir
from prunerzero.suggestions import did_you_mean

# Demo aliases: name -> asset that holds the GGUF file.
ALIASES = {"smollm2": "smollm2"}

LONGEST_ID = 200  # characters; the hub allows 96
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)


def check_model_name(name: str | os.PathLike[str]) -> None:
    """Finds a wrong model name or path before anything heavy is imported or loaded.

    Args:
        name: an alias, a checkpoint directory, a ``.gguf`` file, or a hub id.

    Raises:
        InputError: if an alias's file is not here, a path holds no model, or the name cannot be
            a hub id. Whether the hub has it is known only once it is asked.
    """
    name = os.fspath(name)
    path = Path(name)
    if name in ALIASES:
        asset_path(ALIASES[name])
    elif name.strip() and os.path.isdir(name):  # `Path` raises for names that are too long
        refuse_adapter(path)
        if not (path / "config.json").is_file():
            raise InputError(f"model '{name}': the directory holds no config.json")
    elif os.path.isfile(name):
        if path.suffix != ".gguf":
            raise InputError(f"model '{name}': a file, but not a .gguf file or a model directory")
    elif path.suffix == ".gguf" or name.startswith((".", "/", "~")):
        raise InputError(f"model '{name}': no such file or directory")
    elif not is_hub_id(name):
        raise InputError(
            f"model '{name}': not a directory, not an alias ({', '.join(ALIASES)}), "
            f"and not a hub id (owner/name){did_you_mean(name, ALIASES)}"
        )


def refuse_adapter(directory: Path) -> None:
    """Refuses a directory that holds changes to a model rather than one.

    Raises:
        InputError: it holds a LoRA adapter.
    """
    if (directory / "adapter_config.json").is_file():
        raise InputError(
            f"model '{directory}': an adapter (adapter_config.json); merge it into its base model "
            "first, and give that"
        )


def is_hub_id(name: str) -> bool:
    """Whether a name can be a hub id."""
    return len(name) <= LONGEST_ID and _HUB_ID.fullmatch(name) is not None


def gguf_file(name: str) -> Path | None:
    """The GGUF file behind a checked model name, None for other models."""
    if name in ALIASES:
        return asset_path(ALIASES[name])
    path = Path(name)
    return path if path.suffix == ".gguf" and os.path.isfile(path) else None


def converted_directory(gguf: Path) -> Path:
    """Where the dequantised checkpoint of a GGUF file is kept; made when first loaded."""
    stat = gguf.stat()
    identity = f"{gguf.resolve()}:{stat.st_size}:{stat.st_mtime_ns}"
    digest = hashlib.sha256(identity.encode()).hexdigest()[:12]
    return cache_dir() / "models" / f"{gguf.stem}-{digest}"
