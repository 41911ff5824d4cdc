"""Where a loaded model lies: on one device, or its blocks spread over all GPUs."""

from __future__ import annotations

from typing import Any

import torch

from prunerzero.errors import InputError, MissingExtraError
from prunerzero.models.compute import AUTO, find_device


def place(model: Any, device: str | None) -> Any:
    """Moves a model to where it shall run.

    Args:
        model: a causal LM in the CPU's memory.
        device: ``cpu``, ``cuda:0``...; None takes the first GPU, else the CPU; ``auto`` spreads the
            blocks over all GPUs where there are several, each block whole on one of them.

    Raises:
        InputError: there is no such device, or the GPUs together cannot hold the model.
    """
    if device != AUTO or torch.cuda.device_count() < 2:
        return model.to(find_device(device))
    return _spread(model)


def _spread(model: Any) -> Any:
    try:
        from accelerate import dispatch_model, infer_auto_device_map
        from accelerate.utils import get_balanced_memory
    except ImportError as error:
        raise MissingExtraError("gpus", f"device '{AUTO}': several GPUs") from error
    whole = list(model._no_split_modules or ())
    options = {"no_split_module_classes": whole, "dtype": model.dtype}
    memory = get_balanced_memory(model, **options)
    places = infer_auto_device_map(model, max_memory=memory, **options)
    if not all(isinstance(place, int) for place in places.values()):
        raise InputError(
            f"device '{AUTO}': the model does not fit on {torch.cuda.device_count()} GPUs; prune "
            "with --stream, or on --device cpu"
        )
    # Its hooks move what a block is given to where the block is, in a whole pass and in replay.
    return dispatch_model(model, places)
