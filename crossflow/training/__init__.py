"""Training: the loop, the state of a run, the optimiser, sharding and previews; ``data`` has the training pairs."""
