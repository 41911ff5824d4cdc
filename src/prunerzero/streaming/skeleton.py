"""A model without weights: its modules and buffers, and parameters on the meta device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.initialization import no_init_weights

from prunerzero.errors import InputError, first_line


def read_config(directory: Path) -> Any:
    """The configuration of a checkpoint.

    Raises:
        InputError: there is none, or transformers does not know it.
    """
    try:
        return AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # damaged or foreign ones fail in many ways, none of them ours
        raise InputError(f"model '{directory}': cannot be loaded: {first_line(error)}") from error


def build_skeleton(config: Any, dtype: torch.dtype, device: torch.device) -> Any:
    """A causal LM in evaluation mode whose parameters have shapes and no memory.

    Buffers are real: most are computed when a module is made (rotary frequencies) and are in no
    checkpoint.

    Args:
        config: the model's configuration.
        dtype: type of its parameters.
        device: where the buffers go.

    Raises:
        InputError: transformers has no causal LM for this configuration.
    """
    try:
        with no_init_weights(), _parameters_on_meta():
            model = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)
        model.tie_weights()
    except Exception as error:  # as many ways as above
        name = config.name_or_path or type(config).__name__
        raise InputError(
            f"model '{name}': cannot be made from its config.json: {first_line(error)}"
        ) from error
    for module in model.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = buffer.to(device)
    return model.eval().requires_grad_(False)


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Moves each parameter to the meta device as soon as a module registers it.

    Its memory is untouched until then (nothing is initialised), so the system never gives it any.
    """
    register = nn.Module.register_parameter

    def on_meta(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        register(self, name, param)
        if param is not None:
            self._parameters[name] = nn.Parameter(param.to("meta"), requires_grad=False)

    nn.Module.register_parameter = on_meta  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]
