"""Names that the command line needs before anything large is imported."""

from __future__ import annotations

# In the order in which they are measured for each seed.
EXPERIMENTS = ("methods", "zero-shot", "sparsity", "samples", "search", "simplification")

WANDA, PUBLISHED = "wanda", "pruner-zero"

# What a reproduction's directory holds.
RECORD, PAGE, TABLES, FIGURES = "record.json", "results.md", "tables", "figures"
CELLS, STUDIES, LOCK = "cells", "studies", "lock"
OWN = frozenset({RECORD, PAGE, TABLES, FIGURES, CELLS, STUDIES, LOCK})
