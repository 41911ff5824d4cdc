"""Token ids into a model, and what is said when its own code cannot work on them.

A checkpoint's shapes may fit its config.json, and a forward pass fail all the same: more experts a
token than there are, rotary tensors of another width, a tokenizer of another model. That is bad
input, not a fault of ours. Ours is what our own hooks and stand-ins raise inside such a pass; the
traceback tells the two apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from prunerzero.errors import InputError, PrunerZeroError, first_line
from prunerzero.models.compute import Compute

PROBED_TOKENS = 32
OURS, LIBRARIES = "prunerzero", ("transformers", "transformers_modules")
# What PyTorch's allocators say; no configuration is to blame.
OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")


def run_base(model: nn.Module, ids: Tensor, compute: Compute) -> None:
    """Runs all of a model but its head, whose logits nobody would read, for what hooks see.

    Args:
        model: a causal LM.
        ids: token ids ``[windows, length]``.
        compute: device and precision.

    Raises:
        InputError: the model's own code fails on them.
    """
    base: Any = model.base_model
    with compute.autocast(), models_own_failures(model, ids):
        base(ids.to(compute.device), use_cache=False)


def run_whole(model: nn.Module, ids: Tensor, **options: Any) -> Tensor:
    """The logits ``[windows, length, vocabulary]`` for token ids; autocast is the caller's.

    Args:
        model: a causal LM.
        ids: token ids ``[windows, length]``.
        options: passed on.

    Raises:
        InputError: the model's own code fails on them.
    """
    with models_own_failures(model, ids):
        logits: Tensor = model(ids, use_cache=False, **options).logits
    return logits


@torch.no_grad()
def check_runs(model: nn.Module, tokens: Tensor, compute: Compute) -> None:
    """Runs a model on a few tokens, before anything is begun for it.

    Args:
        model: a causal LM.
        tokens: token ids ``[windows, length]``.
        compute: device and precision.

    Raises:
        InputError: its own code fails on them, or gives NaN.
    """
    with compute.autocast():
        logits = run_whole(model, tokens[:1, :PROBED_TOKENS].to(compute.device))
    refuse_nan(model, "", logits)


def refuse_nan(model: nn.Module, part: str, output: Tensor) -> None:
    """Refuses a model whose weights are finite and whose outputs are no numbers.

    Args:
        model: the causal LM.
        part: name of the part that the output is of; empty for the whole.
        output: what it gives.

    Raises:
        InputError: naming both.
    """
    if bool(output.isnan().any()):
        raise InputError(
            f"model '{_name(model)}': {f'{part}: ' if part else ''}gives NaN on text, though its "
            "weights are finite; compare its config.json with the original's"
        )


@contextmanager
def models_own_failures(model: nn.Module, ids: Tensor) -> Iterator[None]:
    """Explains, in one line, a model that fails on token ids.

    Args:
        model: the causal LM that the body runs.
        ids: what it is given.

    Raises:
        InputError: naming the model, the part of it that failed, and why.
    """
    try:
        yield
    except (PrunerZeroError, torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # whatever their code raises where settings do not fit together
        reason = first_line(error)
        if any(words in reason.lower() for words in OUT_OF_MEMORY):
            raise
        frames = _frames_of_the_model(error.__traceback__)
        if not frames:
            raise
        raise InputError(_explained(model, ids, frames, reason)) from error


def _frames_of_the_model(trace: TracebackType | None) -> list[FrameType]:
    """The frames from the pass to where the model's own code failed; none if ours did."""
    frames = []
    while trace is not None:
        frames.append(trace.tb_frame)
        trace = trace.tb_next
    inside = frames[2:]  # without the guard's own, and that of its body
    for frame in reversed(inside):
        package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if package in LIBRARIES:
            break
        # Our watch over products passes every call of torch on, the model's wrong ones too.
        if package == OURS and frame.f_code.co_name != "__torch_function__":
            return []
    return inside


def _explained(model: nn.Module, ids: Tensor, frames: list[FrameType], reason: str) -> str:
    name, known = _name(model), _vocabulary(model)
    if known is not None and ids.device.type == "cpu" and ids.numel():
        wrong = next((i for i in (int(ids.max()), int(ids.min())) if not 0 <= i < known), None)
        if wrong is not None:
            return (
                f"model '{name}': is given token id {wrong}, but knows {known} tokens; "
                "give the tokenizer that belongs to it"
            )
    paths = {id(module): path for path, module in model.named_modules() if path}
    running = (paths.get(id(frame.f_locals.get("self"))) for frame in reversed(frames))
    part = next((f"{path}: " for path in running if path), "")
    return (
        f"model '{name}': cannot run on {ids.shape[-1]} tokens: {part}{reason}; "
        "compare its config.json with the original's, or try a smaller sequence length"
    )


def _name(model: nn.Module) -> str:
    return str(getattr(model, "name_or_path", "")) or type(model).__name__


def _vocabulary(model: Any) -> int | None:
    try:
        return len(model.get_input_embeddings().weight)
    except (AttributeError, NotImplementedError, TypeError):
        return None
