"""Seeds that every generator takes and every reader of records reads back."""

from crossflow.errors import CrossFlowError

LARGEST = 2**63 - 1


def check_seed(seed: int) -> int:
    """The ``seed``; CrossFlowError, before any work, for one that 64 bits do not hold."""
    if not -LARGEST <= seed <= LARGEST:
        raise CrossFlowError(f"The seed has {len(f'{abs(seed):x}')} hexadecimal digits: give one of at most 63 bits.")
    return seed
