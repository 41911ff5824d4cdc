"""Pruning with one block in memory at a time, from a checkpoint on disk to another one.

How it works, what it needs and what it refuses is described in ``docs/streaming.md``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prunerzero.lazy import attributes_on_demand

if TYPE_CHECKING:
    from prunerzero.streaming.pruning import prune_streamed

__all__ = ["prune_streamed"]

__getattr__ = attributes_on_demand(__name__, {"prune_streamed": "pruning"})
