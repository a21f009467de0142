"""Which of several processes writes and reports: rank 0."""

import os

RANK_VARIABLES = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")


def is_rank_zero() -> bool:
    """Whether this process is rank 0 of those that train together, or the only one.

    torchrun, Slurm and Lightning Fabric set these variables in every process that they start.
    """
    return all(os.environ.get(name, "0") == "0" for name in RANK_VARIABLES)
