"""Loading a causal language model by hub id, directory, GGUF file or demo alias."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from prunerzero.data.assets import asset_path
from prunerzero.errors import InputError, MissingExtraError
from prunerzero.files import atomic_directory, cache_dir
from prunerzero.models.compute import DTYPES, find_device

# Demo aliases: name -> asset that holds the GGUF file.
ALIASES = {"smollm2": "smollm2"}


def load_model(
    name: str | os.PathLike[str],
    *,
    dtype: str | None = None,
    device: str | None = None,
    trust_remote_code: bool = False,
) -> tuple[Any, Any]:
    """Loads a causal LM in evaluation mode, and its tokenizer.

    Args:
        name: hub id, checkpoint directory, ``.gguf`` file, or ``smollm2`` (the demo model:
            dequantised 4-bit weights of SmolLM2-135M-Instruct).
        dtype: type of the weights; None keeps the checkpoint's.
        device: ``cpu``, ``cuda:0``...; None takes the first GPU, else the CPU.
        trust_remote_code: run code that comes with the checkpoint.

    Returns:
        ``(model, tokenizer)``; the tokenizer is None where the directory holds none.

    Raises:
        InputError: if there is no such model, or it cannot be read.
    """
    if dtype is not None and dtype not in DTYPES:
        raise InputError(f"dtype '{dtype}': not one of {', '.join(DTYPES)}")
    target = find_device(device)
    source = locate_model(str(name))
    # Loading bars of the library would hide our own progress lines.
    transformers_logging.disable_progress_bar()
    try:
        model = AutoModelForCausalLM.from_pretrained(
            source,
            dtype=DTYPES[dtype] if dtype else "auto",
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise InputError(f"model '{name}': cannot be loaded: {_first_line(error)}") from error
    return model.eval().requires_grad_(False).to(target), _load_tokenizer(source, trust_remote_code)


def locate_model(name: str) -> str:
    """The directory or hub id behind a model's name; GGUF files are converted once, and cached.

    Raises:
        InputError: if the name is a path with no model in it.
    """
    if name in ALIASES:
        return str(_converted(asset_path(ALIASES[name])))
    check_model_name(name)
    path = Path(name)
    if path.suffix == ".gguf":
        return str(_converted(path))
    return name


def check_model_name(name: str) -> None:
    """Finds a wrong model name or path before anything heavy is imported or loaded."""
    path = Path(name)
    if name in ALIASES:
        asset_path(ALIASES[name])
    elif path.is_dir():
        if not (path / "config.json").is_file():
            raise InputError(f"model '{name}': the directory holds no config.json")
    elif path.suffix == ".gguf" or path.exists() or name.startswith((".", "/", "~")):
        if not path.is_file():
            raise InputError(f"model '{name}': no such file or directory")
        if path.suffix != ".gguf":
            raise InputError(f"model '{name}': a file, but not a .gguf file or a model directory")
    elif name.count("/") > 1 or not name.strip():
        raise InputError(f"model '{name}': neither a directory nor a hub id (owner/name)")


def _load_tokenizer(source: str, trust_remote_code: bool) -> Any:
    try:
        return AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError):
        # Weights without a tokenizer are fine for calls that bring token ids of their own.
        return None


def _converted(gguf: Path) -> Path:
    """Directory with the dequantised weights of a GGUF file, made on first use."""
    stat = gguf.stat()
    identity = f"{gguf.resolve()}:{stat.st_size}:{stat.st_mtime_ns}"
    digest = hashlib.sha256(identity.encode()).hexdigest()[:12]
    directory = cache_dir() / "models" / f"{gguf.stem}-{digest}"
    if not (directory / "config.json").is_file():
        _convert(gguf, directory)
    return directory


def _convert(gguf: Path, directory: Path) -> None:
    # save_pretrained refuses a model that was loaded from GGUF, so its state moves to a fresh one.
    try:
        import accelerate  # noqa: F401  transformers needs both to read GGUF
        import gguf as _gguf  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("gguf", f"model '{gguf.name}' is a GGUF file") from error
    place = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    try:
        loaded = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(**place)
        config = AutoConfig.from_pretrained(**place)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise InputError(f"model '{gguf}': not a readable GGUF file: {_first_line(error)}") from error
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    fresh: nn.Module = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    fresh.load_state_dict(loaded.state_dict())
    directory.parent.mkdir(parents=True, exist_ok=True)
    with atomic_directory(directory) as temporary:
        fresh.save_pretrained(temporary)  # type: ignore[operator]
        tokenizer.save_pretrained(temporary)


def context_limit(model: Any) -> int | None:
    """Longest sequence the model was made for, where its configuration says so."""
    limit = getattr(model.config, "max_position_embeddings", None)
    return int(limit) if limit else None


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__


def remove_directory(path: Path) -> None:
    """Removes a directory tree that we made ourselves."""
    shutil.rmtree(path, ignore_errors=True)
