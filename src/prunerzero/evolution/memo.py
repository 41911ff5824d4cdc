"""A memory of small tensors that forgets what was not used for longest."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

from torch import Tensor

Parts = tuple[Tensor, ...]

OVERHEAD = 512  # bytes that an entry takes beside its tensors' elements, roughly


class Memo:
    """Least recently used tensors under a byte limit; for use from several threads.

    Args:
        limit: bytes.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
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
                    self._entries[key] = parts
                    self.bytes += size
                while self.bytes > self.limit:
                    _, oldest = self._entries.popitem(last=False)
                    self.bytes -= _size(oldest)
        return parts

    def forget(self, chosen: Callable[[Any], bool] = lambda _: True) -> None:
        """Forgets the entries whose keys are chosen, by default all."""
        with self._lock:
            for key in [key for key in self._entries if chosen(key)]:
                self.bytes -= _size(self._entries.pop(key))


def _size(parts: Parts) -> int:
    return OVERHEAD + sum(part.numel() * part.element_size() for part in parts)
