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


def share_of_process() -> Share:
    """Read from RANK, WORLD_SIZE and LOCAL_RANK; without them there is one process.

    Raises:
        UserError: they are no numbers, or contradict one another.
    """
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
    return Share(rank, world, torch.device(f"cuda:{local}" if gpus else "cpu"))


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
    text = os.environ.get(name, "") or str(default)
    if not text.isascii() or not text.isdigit():
        raise UserError(f"the environment says {name}={text}, which is no number; unset it")
    return int(text)
