"""Text sources, documents, splits, token windows, and the demo assets."""
