"""This process's place among those that ``torchrun`` started."""

import os

from crossflow.errors import CrossFlowError

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


def rank_and_world() -> tuple[int, int]:
    """This process's number and how many there are; (0, 1) outside of ``torchrun``.

    CrossFlowError where one of VARIABLES is no whole number, or a number is not below its count.
    """
    given = {name: os.environ[name] for name in VARIABLES if name in os.environ}
    for name, value in given.items():
        if not (value.isascii() and value.isdecimal() and len(value) < 10):
            raise CrossFlowError(f"{name} is {value!a}, and must be a whole number; unset it outside of torchrun.")
    rank, world, local, nearby = (int(given.get(name, number)) for name, number in zip(VARIABLES, "0101", strict=True))
    if rank >= world or ("LOCAL_WORLD_SIZE" in given and local >= nearby):
        raise CrossFlowError(f"RANK {rank} is not below WORLD_SIZE {world}; unset both outside of torchrun.")
    return rank, world
