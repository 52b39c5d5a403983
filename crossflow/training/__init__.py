"""The training loop, its state, optimiser, sharding and previews."""
