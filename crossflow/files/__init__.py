"""Files and the machine: strict readers and atomic writers, hashes, locks, devices, and tables of configs by kind.

Both packages use it. Nothing here depends on a model.
"""
