"""Statistics of weights, activations and gradients: the terminals of the metric language."""
