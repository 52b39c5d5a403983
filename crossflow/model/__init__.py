"""A whole model: its config, CrossFlow and the baseline, checkpoints, and the files that the authors released."""
