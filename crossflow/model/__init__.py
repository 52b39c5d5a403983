"""A model: its config, CrossFlow and the baseline, its checkpoint, the files that the authors released."""
