"""Which process reports: of several that train together, rank 0 alone."""

import os

# Set by torchrun (and Fabric, for the processes it starts) and by Slurm.
RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")


def is_rank_zero() -> bool:
    """Whether this process writes, logs and reports: it is alone, or rank 0 of several."""
    return all(os.environ.get(name, "0") == "0" for name in RANKS)
