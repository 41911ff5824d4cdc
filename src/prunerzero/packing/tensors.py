"""Between the bits in weight files and PyTorch's tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from prunerzero.errors import InputError
from prunerzero.models.snapshot import INTEGERS
from prunerzero.packing.encoding import Bits
from prunerzero.packing.loading import DTYPES
from prunerzero.packing.weightfile import TensorInfo


def as_tensor(bits: Bits, info: TensorInfo) -> Tensor:
    """A tensor that shares memory with the bits read for it.

    Raises:
        InputError: PyTorch has no such type.
    """
    if info.dtype not in DTYPES:
        raise InputError(f"tensor '{info.name}' is {info.dtype}, which PyTorch does not have")
    flat = torch.from_numpy(np.ascontiguousarray(bits).reshape(-1).view(np.uint8))
    return flat.view(DTYPES[info.dtype]).reshape(info.shape)


def as_bits(tensor: Tensor) -> Bits:
    """The bits of a tensor as unsigned integers of its shape and element width."""
    stored = tensor.detach().cpu().contiguous()
    raw: Any = stored.reshape(-1).view(torch.uint8).numpy()
    bits: Bits = raw.view(f"u{stored.itemsize}").reshape(tuple(stored.shape))
    return bits


def typed_as(tensor: Tensor, source: Tensor) -> Tensor:
    """A changed tensor in the type that its source is stored in.

    Where it holds what loading has made of the source, the source's own bits are taken.

    Args:
        tensor: of whatever type the model was loaded in.
        source: what was loaded, as it is stored; of the same shape.
    """
    if tensor.dtype == source.dtype:
        return tensor
    tensor = tensor.cpu().contiguous()
    integer = INTEGERS[tensor.itemsize]
    same = source.to(tensor.dtype).view(integer) == tensor.view(integer)
    return torch.where(same, source, tensor.to(source.dtype))
