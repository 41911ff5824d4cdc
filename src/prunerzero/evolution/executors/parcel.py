"""A search's objects on their way to workers: their structure, and one buffer with all tensors.

Workers of one machine read one buffer, so that statistics and dense weights are there once. What a
worker prunes (the model's parameters) it copies when it writes to them.

Structure is pickled, as everything is that goes between processes; a parcel never comes from a file
or from a stranger, only from the process that started the worker.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

ALIGNMENT = 64  # bytes


@dataclass(frozen=True)
class Place:
    """A tensor in the buffer.

    Attributes:
        dtype: its type.
        shape: its shape.
        start: its first byte.
        parameter: whether it is a parameter, which a worker writes to.
        device: the type of the device that it belongs on.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    parameter: bool
    device: str


class _Packer(pickle.Pickler):
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=5)
        self.tensors: list[Tensor] = []
        self._numbers: dict[int, int] = {}

    def persistent_id(self, value: Any) -> int | None:
        """The number of a tensor; one that is met twice (tied weights) has one number."""
        if not isinstance(value, Tensor):
            return None
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(self.tensors)
            self.tensors.append(value)
        return self._numbers[id(value)]


class _Unpacker(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, tensors: list[Tensor]) -> None:
        super().__init__(file)
        self._tensors = tensors

    def persistent_load(self, number: Any) -> Tensor:
        """The tensor of a number."""
        return self._tensors[number]


@dataclass(frozen=True)
class Parcel:
    """Objects without their tensors.

    Attributes:
        structure: the objects, pickled.
        places: where in the buffer the tensors are.
        size: bytes of the buffer.
    """

    structure: bytes
    places: tuple[Place, ...]
    size: int

    def open(self, buffer: Any, *, writable: bool) -> Any:
        """Puts objects together again.

        Args:
            buffer: what `pack` filled; tensors share its memory.
            writable: whether parameters may be written to there; else they are copied.
        """
        tensors: list[Tensor] = []
        for place in self.places:
            count = int(torch.Size(place.shape).numel())
            flat = torch.empty(0, dtype=place.dtype)
            if count:
                flat = torch.frombuffer(buffer, dtype=place.dtype, count=count, offset=place.start)
            tensor = flat.view(place.shape).to(place.device)
            if place.parameter:
                tensor = nn.Parameter(tensor if writable else tensor.clone(), requires_grad=False)
            tensors.append(tensor)
        return _Unpacker(io.BytesIO(self.structure), tensors).load()


def pack(value: Any) -> tuple[Parcel, list[Tensor]]:
    """Takes objects apart.

    Returns:
        The parcel, and the tensors that belong at its places.

    Raises:
        TypeError, AttributeError, pickle.PicklingError: something cannot travel.
    """
    file = io.BytesIO()
    packer = _Packer(file)
    packer.dump(value)
    places, end = [], 0
    for tensor in packer.tensors:
        start = -(-end // ALIGNMENT) * ALIGNMENT
        end = start + tensor.numel() * tensor.element_size()
        shape = tuple(tensor.shape)
        is_parameter = isinstance(tensor, nn.Parameter)
        places.append(Place(tensor.dtype, shape, start, is_parameter, tensor.device.type))
    return Parcel(file.getvalue(), tuple(places), end), packer.tensors


def filled(parcel: Parcel, tensors: list[Tensor]) -> Iterator[tuple[int, memoryview]]:
    """What goes into the buffer: first bytes and contents, one tensor after the other."""
    for place, tensor in zip(parcel.places, tensors, strict=True):
        if tensor.numel():
            flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            yield place.start, flat.numpy().data
