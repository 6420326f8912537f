"""Training of both stages and of the segmenter: the only room that knows pytorch_lightning."""

import os

from taming.errors import UserError

RANKS = (
    "WORLD_SIZE",
    "RANK",
    "LOCAL_RANK",
    "NODE_RANK",
    "GROUP_RANK",
    "MASTER_PORT",
    "SLURM_PROCID",
    "SLURM_LOCALID",
    "SLURM_NTASKS",
    "JSM_NAMESPACE_RANK",
)


def _refuse_words_for_ranks() -> None:
    """Lightning reads these as numbers while it is imported, so the check comes before."""
    for name in RANKS:
        value = os.environ.get(name)
        if value is not None and not value.strip().isdigit():
            raise UserError(
                f"the environment variable {name} is '{value}', but should be a number; correct"
                f" it, or run `unset {name}`"
            )


_refuse_words_for_ranks()
