"""Opening a packed checkpoint as a transformers model, decoding each tensor when it is wanted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
)
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from prunerzero.errors import InputError
from prunerzero.packing.reader import PackedCheckpoint

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class LazyTensor:
    """What transformers takes for a slice of a safetensors file: read by ``[...]``, not before.

    Attributes:
        dtype: of the elements.
    """

    def __init__(self, checkpoint: PackedCheckpoint, name: str) -> None:
        """Reads nothing.

        Args:
            checkpoint: the packed checkpoint.
            name: the tensor's.

        Raises:
            InputError: PyTorch has no such type.
        """
        self._checkpoint = checkpoint
        self._name = name
        dtype = checkpoint.entries[name].dtype
        if dtype not in DTYPES:
            raise InputError(f"{checkpoint.directory}: tensor '{name}' is {dtype}; unpack it")
        self.dtype = DTYPES[dtype]

    def __getitem__(self, index: Any) -> torch.Tensor:
        bits = self._checkpoint.read(self._name)
        flat = torch.from_numpy(bits.reshape(-1).view(np.uint8)).view(self.dtype)
        return flat.reshape(bits.shape)[index]

    def is_floating_point(self) -> bool:
        """Whether the elements are floating point numbers."""
        return self.dtype.is_floating_point


def load_packed(directory: str, *, trust_remote_code: bool = False, **options: Any) -> Any:
    """``from_pretrained`` for a packed directory: gives what its dense checkpoint would give.

    Names are converted (experts fused, weights tied) by transformers, which is given the tensors of
    the dense checkpoint by their names.

    Args:
        directory: what `prunerzero.packing.pack.pack` wrote.
        trust_remote_code: run code that came with the checkpoint.
        options: of ``from_pretrained``; ``output_loading_info=True`` is needed.

    Returns:
        ``(model, loading information)``.

    Raises:
        InputError: the directory is damaged.
        Exception: whatever transformers raises.
    """
    checkpoint = PackedCheckpoint.open(Path(directory))
    config = AutoConfig.from_pretrained(
        directory, trust_remote_code=trust_remote_code, local_files_only=True
    )
    model_class = _model_class(config, directory, trust_remote_code)
    text_config = getattr(config, "sub_configs", {}).get("text_config")
    if text_config is not None and getattr(model_class, "config_class", None) == text_config:
        config = config.get_text_config()  # the language half of a checkpoint that also sees
    model, loading = model_class.from_pretrained(
        None,
        config=config,
        state_dict={name: LazyTensor(checkpoint, name) for name in checkpoint.entries},
        generation_config=_generation_config(directory),
        trust_remote_code=trust_remote_code,
        **options,
    )
    model.name_or_path = model.config.name_or_path = directory
    return model, loading


def _model_class(config: Any, directory: str, trust_remote_code: bool) -> Any:
    """What ``AutoModelForCausalLM`` would choose; itself it refuses to work without a path."""
    name = AutoModelForCausalLM.__name__
    remote = (getattr(config, "auto_map", None) or {}).get(name)
    if remote and trust_remote_code:
        return get_class_from_dynamic_module(remote, directory, local_files_only=True)
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ValueError(f"{type(config).__name__} configures no model of {name}")
    return MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]


def _generation_config(directory: str) -> Any:
    """Transformers reads it off a path only, and the model has none."""
    try:
        return GenerationConfig.from_pretrained(directory, local_files_only=True)
    except OSError:  # no generation_config.json: older checkpoints have it in config.json
        return GenerationConfig.from_pretrained(
            directory,
            config_file_name="config.json",
            _from_model_config=True,
            local_files_only=True,
        )
