"""Runs: their folder, making and scoring outputs, starting them from options, comparing two."""
