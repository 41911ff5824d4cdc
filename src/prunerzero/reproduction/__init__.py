"""The paper's experiments on any model: `prunerzero reproduce` (docs/reproduction.md)."""
