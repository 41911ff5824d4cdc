"""Where and in what precision a model runs."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import nn

from prunerzero.errors import InputError

AUTO = "auto"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Compute:
    """A device and a precision for matrix products.

    Attributes:
        device: where the model's weights are.
        dtype: ``torch.float32`` for exact products, else the autocast type.
    """

    device: torch.device
    dtype: torch.dtype

    def autocast(self) -> AbstractContextManager[object]:
        """Context in which the model's forward passes run."""
        if self.dtype is torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def __str__(self) -> str:
        return f"{self.device}, {str(self.dtype).removeprefix('torch.')}"


def compute_for(model: nn.Module, dtype: str | None = None) -> Compute:
    """Precision for ``model`` where it lies: as asked, else bfloat16 where that is fast.

    Args:
        model: a model whose parameters share one device.
        dtype: ``float32``, ``bfloat16``, ``float16`` or None (choose).

    Raises:
        InputError: for an unknown ``dtype``, or float32 for weights that are less precise.
    """
    parameter = next(model.parameters())
    device = parameter.device
    if dtype is not None:
        if dtype not in DTYPES:
            raise InputError(f"dtype '{dtype}': not one of {', '.join(DTYPES)}")
        if dtype == "float32" and parameter.dtype is not torch.float32:
            # There is no autocast to float32: products of such weights run in the weights' type.
            raise InputError("dtype 'float32': load the model with dtype='float32' for that")
        return Compute(device, DTYPES[dtype])
    if parameter.dtype is not torch.float32:
        return Compute(device, parameter.dtype)
    return Compute(device, torch.bfloat16 if has_fast_bfloat16(device) else torch.float32)


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16 matrices natively (AMX, AVX512-BF16, Ampere)."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    if device.type == "cpu":
        return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())
    return False


def find_device(name: str | None) -> torch.device:
    """The device called ``name``; None and ``auto`` take the first GPU, else the CPU.

    Raises:
        InputError: if this machine has no such device.
    """
    if name is None or name == AUTO:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device '{name}': not usable here; try cpu or cuda:0") from error
    return device
