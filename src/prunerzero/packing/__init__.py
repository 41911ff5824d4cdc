"""Smaller files for pruned checkpoints: exact, a tensor at a time, each with a checksum.

The format is described in ``docs/packed.md``.
"""
