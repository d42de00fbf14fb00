"""From a stored clip to the tensors that a network sees: which frames, which crop, in batches."""
