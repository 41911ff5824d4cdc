"""A memory of small tensors that forgets what was not used for longest."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor

Parts = tuple[Tensor, ...]

OVERHEAD = 512  # bytes that an entry takes beside its tensors' elements, roughly
SLAB = 1 << 18  # bytes that small tensors share
SMALL = SLAB // 8
ALIGNED = 64  # bytes, as torch's own allocations are


class Memo:
    """Least recently used tensors under a byte limit; for use from several threads.

    Small tensors are copied into slabs. Left where they were made, each would stay in the middle
    of a place that a large temporary tensor had before and that the next one then no longer fits:
    a hundred formulas with a scalar for each matrix took 10 GB of such gaps.

    Args:
        limit: bytes.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._slab = torch.empty(0, dtype=torch.uint8)
        self._used = 0  # bytes of the slab
        self.bytes = 0
        self._entries: OrderedDict[Hashable, Parts] = OrderedDict()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[Memo], tuple[int]]:
        """A copy in another process remembers nothing yet."""
        return type(self), (self.limit,)

    def recall(self, key: Hashable, compute: Callable[[], Parts]) -> Parts:
        """What ``compute`` returned for ``key`` before, or returns now."""
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
                return self._entries[key]
        parts = compute()
        size = _size(parts)
        if size <= self.limit:
            with self._lock:
                if key not in self._entries:
                    parts = tuple(map(self._placed, parts))
                    self._entries[key] = parts
                    self.bytes += size
                while self.bytes > self.limit:
                    _, oldest = self._entries.popitem(last=False)
                    self.bytes -= _size(oldest)
        return parts

    def _placed(self, part: Tensor) -> Tensor:
        """The tensor, in a slab if it is small."""
        size = part.numel() * part.element_size()
        if not 0 < size <= SMALL or part.device.type != "cpu":
            return part
        if self._used + size > self._slab.numel():
            self._slab = torch.empty(SLAB, dtype=torch.uint8)  # the old one lasts as its tensors do
            self._used = 0
        place = self._slab[self._used : self._used + size].view(part.dtype).view(part.shape)
        self._used += -(-size // ALIGNED) * ALIGNED
        return place.copy_(part)

    def forget(self, chosen: Callable[[Any], bool] = lambda _: True) -> None:
        """Forgets the entries whose keys are chosen, by default all."""
        with self._lock:
            for key in [key for key in self._entries if chosen(key)]:
                self.bytes -= _size(self._entries.pop(key))
            if not self._entries:
                self._slab, self._used = self._slab[:0].clone(), 0


def _size(parts: Parts) -> int:
    return OVERHEAD + sum(part.numel() * part.element_size() for part in parts)
