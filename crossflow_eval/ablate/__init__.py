"""Ablations: the paper's tables, their rows trained anew with several seeds, measured alike, and compared.

``ablation`` reads what a table is, ``plan`` lists trainings and measurements, each once, ``jobs`` makes commands of
them that anyone can run, ``local`` and ``slurm`` run these, ``measure`` is one of them, ``verdict`` compares, and
``write`` makes the files. Every step leaves files that the next reads, so a killed ablation goes on where it was and
repeats nothing. Nothing is ever chosen by a number of the test suite.
"""
