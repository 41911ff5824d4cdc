"""Figures: first as data, then as pictures."""
