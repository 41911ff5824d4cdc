"""Which weights go, how sparsity is spread over a model, and the loop that prunes it."""
