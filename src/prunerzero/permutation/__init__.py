"""Reordering of input channels before N:M pruning, without changing what the model computes."""
