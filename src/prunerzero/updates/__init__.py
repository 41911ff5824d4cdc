"""What happens to the weights that pruning keeps: new values, or other weights instead."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prunerzero.lazy import attributes_on_demand

if TYPE_CHECKING:
    from prunerzero.updates.columnwise import sparsegpt, updated
    from prunerzero.updates.swapping import dsnot

__all__ = ["dsnot", "sparsegpt", "updated"]

# The modules have other names than the functions: an imported module would take a name's place.
__getattr__ = attributes_on_demand(
    __name__, {"dsnot": "swapping", "sparsegpt": "columnwise", "updated": "columnwise"}
)
