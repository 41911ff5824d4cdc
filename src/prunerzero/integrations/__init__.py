"""prunerzero inside other tools: one file each, imported by name."""
