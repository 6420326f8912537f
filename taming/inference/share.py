"""Which part of the work is this process's, on which device, and with how many threads."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from taming.errors import UserError


@dataclass(frozen=True)
class Share:
    """Process `rank` of `world`."""

    rank: int
    world: int
    device: torch.device


def share_of_process(shard: str | None = None) -> Share:
    """Read from RANK, WORLD_SIZE and LOCAL_RANK, as torchrun sets them; without them there is one
    process.

    Args:
        shard: "i/n": of n such commands this is number i (from 0), each with as many processes;
            "slurm": i and n from SLURM's job array; "auto": likewise where there is one.

    Raises:
        UserError: they are no numbers, or contradict one another.
    """
    number, count = shard_of(shard)
    world, rank, local = (
        _number(name, default)
        for name, default in (("WORLD_SIZE", 1), ("RANK", 0), ("LOCAL_RANK", 0))
    )
    if not rank < world:
        raise UserError(
            f"RANK={rank} and WORLD_SIZE={world}: ranks go from 0 to {max(world - 1, 0)}; unset"
            " both, or start with torchrun"
        )
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpus and local >= gpus:
        raise UserError(
            f"LOCAL_RANK={local}, but there are {gpus} GPUs here; start fewer processes"
        )
    device = torch.device(f"cuda:{local}" if gpus else "cpu")
    return Share(number * world + rank, count * world, device)


def shard_of(text: str | None) -> tuple[int, int]:
    """(number, count) of "i/n", of the job array of SLURM for "slurm", (0, 1) of None.

    Raises:
        UserError: it is neither, or i is not from 0 to n - 1.
    """
    if text is None or (text == "auto" and not os.environ.get("SLURM_ARRAY_TASK_ID")):
        return 0, 1
    if text in ("slurm", "auto"):
        first, task = _number("SLURM_ARRAY_TASK_MIN", 0), _number("SLURM_ARRAY_TASK_ID", -1)
        count = _number("SLURM_ARRAY_TASK_COUNT", 1)
        text = f"{task - first}/{count}"
        if task < 0:
            raise UserError("--shard slurm: this is no job array; submit it with sbatch --array")
    number, slash, total = text.partition("/")
    is_number = all(
        part.isascii() and part.isdigit() and len(part) < 10 for part in (number, total)
    )
    if not slash or not is_number or not int(number) < int(total):
        raise UserError(
            f"--shard {text}: give i/n, with i from 0 to n - 1; for example 0/4, 1/4, 2/4 and 3/4"
            " on four machines"
        )
    return int(number), int(total)


@contextmanager
def using_threads(count: int) -> Iterator[None]:
    """So many threads of torch: results are rounded alike only with as many."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    if not text:
        return default
    if not text.isascii() or not text.isdigit():
        raise UserError(f"the environment says {name}={text}, which is no number; unset it")
    return int(text)
