"""What happens to the weights that pruning keeps: new values, or other weights instead."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prunerzero.lazy import attributes_on_demand

if TYPE_CHECKING:
    from prunerzero.updates.dsnot import dsnot
    from prunerzero.updates.sparsegpt import sparsegpt, updated

__all__ = ["dsnot", "sparsegpt", "updated"]

__getattr__ = attributes_on_demand(
    __name__, {"dsnot": "dsnot", "sparsegpt": "sparsegpt", "updated": "sparsegpt"}
)
