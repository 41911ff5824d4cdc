"""Fine-tuning of pruned models that keeps their zeros."""
