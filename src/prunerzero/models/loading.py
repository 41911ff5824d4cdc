"""Loading a causal language model by hub id, directory, GGUF file or demo alias."""

from __future__ import annotations

import copy
import logging
import os
import re
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from prunerzero.errors import InputError, MissingExtraError, first_line
from prunerzero.files import atomic_directory
from prunerzero.models.acceleration import PATTERN
from prunerzero.models.acceleration import accelerate as make_semi_structured
from prunerzero.models.compute import DTYPES, find_device
from prunerzero.models.finite import is_finite
from prunerzero.models.hub import reachable
from prunerzero.models.names import check_model_name, converted_directory, gguf_file
from prunerzero.models.pickled import without_pickle
from prunerzero.models.placement import place
from prunerzero.packing.checkpoint import DenseCheckpoint
from prunerzero.packing.index import is_packed
from prunerzero.packing.loading import load_packed

_NUMBER = re.compile(r"\.(\d+)\.")

logger = logging.getLogger(__name__)


def load_model(
    name: str | os.PathLike[str],
    *,
    dtype: str | None = None,
    device: str | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    accelerate: Literal["2:4"] | None = None,
) -> tuple[Any, Any]:
    """Loads a causal LM in evaluation mode, and its tokenizer.

    Args:
        name: hub id, checkpoint directory (packed ones too), ``.gguf`` file, or ``smollm2`` (the
            demo model: dequantised 4-bit weights of SmolLM2-135M-Instruct).
        dtype: type of the weights; None keeps the checkpoint's.
        device: ``cpu``, ``cuda:0``...; None takes the first GPU, else the CPU; ``auto`` spreads the
            blocks over all GPUs (`prunerzero.models.placement`).
        trust_remote_code: run code that comes with the checkpoint.
        allow_pickle: convert a directory of pickle files (``pytorch_model.bin``), reading tensors
            and nothing else of them.
        accelerate: ``2:4`` makes matrices of that pattern semi-structured sparse tensors, on a GPU
            and in half precision; what that brought is in ``model.acceleration`` and logged.

    Returns:
        ``(model, tokenizer)``; the tokenizer is None where the directory holds none.

    Raises:
        InputError: if there is no such model, it cannot be read, is quantised, is not what its
            config.json says, holds NaN or infinity, or cannot be accelerated.
    """
    name = os.fspath(name)
    if accelerate not in (None, PATTERN):
        raise InputError(f"accelerate '{accelerate}': only '{PATTERN}' is known")
    if dtype is not None and dtype not in DTYPES:
        raise InputError(f"dtype '{dtype}': not one of {', '.join(DTYPES)}")
    find_device(device)
    source = locate_model(without_pickle(name) if allow_pickle else name)
    local = Path(source).is_dir() or not reachable(source)
    options = {"local_files_only": local, "trust_remote_code": trust_remote_code}
    load = load_packed if is_packed(source) else AutoModelForCausalLM.from_pretrained
    if Path(source).is_dir() and not is_packed(source):
        DenseCheckpoint.open(Path(source)).refuse_codes()  # transformers names no damaged file
    try:
        model, loading = load(
            source,
            dtype=DTYPES[dtype] if dtype else "auto",
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # reported below, in one line
            output_loading_info=True,
            **options,
        )
    except InputError:  # a damaged packed checkpoint: the line names the file
        raise
    except (
        Exception
    ) as error:  # damaged or foreign checkpoints fail in many ways, none of them ours
        raise InputError(f"model '{name}': cannot be loaded: {first_line(error)}") from error
    if getattr(model.config, "quantization_config", None) is not None:
        raise InputError(
            f"model '{name}': is quantised: its weights cannot be pruned, give the original"
        )
    _check_names(name, model, loading)
    for key, parameter in model.named_parameters():
        if not is_finite(parameter):
            raise InputError(f"model '{name}': tensor '{key}' holds NaN or infinity")
    model = place(model.eval().requires_grad_(False), device)
    logger.info(
        "%s: %s of %.1f million weights, %s, on %s, from %s",
        *(name, type(model).__name__, sum(p.numel() for p in model.parameters()) / 1e6),
        *(model.dtype, model.device, source),
    )
    if accelerate is not None:
        model.acceleration = make_semi_structured(model)
        logger.info("%s: %s", name, model.acceleration)
    return model, load_tokenizer(source, model, options)


def _check_names(name: str, model: nn.Module, loading: dict[str, Any]) -> None:
    """Refuses a checkpoint that config.json lies about; transformers makes up what is missing."""
    if wrong := sorted(loading["mismatched_keys"]):
        key, found, wanted = wrong[0]
        raise InputError(
            f"model '{name}': tensor '{key}': is {list(found)} in the weight files, but "
            f"config.json makes it {list(wanted)}"
        )
    if gone := sorted(loading["missing_keys"]):
        raise InputError(
            f"model '{name}': {len(gone)} tensors of the configuration are not in the weight "
            f"files, first {gone[0]}"
        )
    known = model.state_dict()
    empty = {
        path
        for path, part in model.named_modules()
        if isinstance(part, nn.ModuleList) and not len(part)
    }
    for key in sorted(loading["unexpected_keys"]):
        # Those of further blocks; of others the model may well make nothing.
        block = _NUMBER.search(key)
        first = _NUMBER.sub(".0.", key)
        if block and (first in known or key[: block.start()] in empty):
            blocks = sum(_NUMBER.sub(".0.", other) == first for other in known)
            raise InputError(
                f"model '{name}': tensor '{key}': belongs to block {block[1]}, but config.json "
                f"says that the model has {blocks}, numbered from 0"
            )


def locate_model(name: str) -> str:
    """The directory or hub id behind a model's name; GGUF files are converted once, and cached.

    Raises:
        InputError: if the name is a path with no model in it.
    """
    check_model_name(name)
    gguf = gguf_file(name)
    if gguf is None:
        return name
    directory = converted_directory(gguf)
    if not _is_checkpoint(directory):
        _convert(gguf, directory)
    return str(directory)


def context_limit(model: Any) -> int | None:
    """Longest sequence the model was made for, where its configuration says so."""
    limit = getattr(model.config, "max_position_embeddings", None)
    return int(limit) if limit and limit > 0 else None  # XLNet says -1


def load_tokenizer(source: str, model: Any, options: dict[str, Any]) -> Any:
    """The checkpoint's tokenizer, or None where it has none.

    Args:
        source: directory or hub id.
        model: the causal LM, with or without its weights.
        options: of ``from_pretrained``.

    Raises:
        InputError: it gives tokens that the model does not have.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
    except Exception:  # as many ways as above
        # Weights without a tokenizer are fine for calls that bring token ids of their own.
        return None
    known = len(model.get_input_embeddings().weight)
    # Tokens added for padding, say, may lie beyond: no text holds them.
    base = tokenizer.get_vocab().keys() - tokenizer.get_added_vocab().keys()
    last = max(tokenizer.convert_tokens_to_ids(list(base)), default=0)
    if last >= known:
        raise InputError(
            f"model '{source}': its tokenizer gives token ids up to {last}, but the model knows "
            f"{known} tokens; the tokenizer is another model's"
        )
    return tokenizer


def _convert(gguf: Path, directory: Path) -> None:
    # save_pretrained refuses a model that was loaded from GGUF, so its state moves to a fresh one.
    try:
        import accelerate  # noqa: F401  transformers needs both to read GGUF
        import gguf as _gguf  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("gguf", f"model '{gguf.name}' is a GGUF file: it") from error
    place = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    try:
        loaded = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(**place)
    except Exception as error:  # damaged files fail in many ways, none of them ours
        raise InputError(
            f"model '{gguf}': not a readable GGUF file: {first_line(error)}"
        ) from error
    # Reading the configuration off the file again would parse its vocabulary once more: seconds.
    config = copy.deepcopy(loaded.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    fresh: nn.Module = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    fresh.load_state_dict(loaded.state_dict())
    try:
        with atomic_directory(directory) as temporary:
            fresh.save_pretrained(temporary)  # type: ignore[operator]
            tokenizer.save_pretrained(temporary)
    except InputError:
        # Another process may have finished the same conversion first; its result is as good.
        if not _is_checkpoint(directory):
            raise


def _is_checkpoint(directory: Path) -> bool:
    return (directory / "config.json").is_file()
