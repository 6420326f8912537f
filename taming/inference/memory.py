"""How much memory a sample needs, estimated before it is drawn."""

from pathlib import Path

import torch
from torch import Tensor

from taming.errors import UserError
from taming.inference.animation import FRAMES
from taming.second_stage.model import SecondStage
from taming.second_stage.sampling import Sampling
from taming.second_stage.window import CACHE_LIMIT, TILE, cache_bytes, origin


def check_memory(
    model: SecondStage, batch: dict, settings: Sampling, batch_size: int, animate: bool = False
) -> None:
    """Raises UserError where a batch would need more than there is, before anything is drawn: keys
    and values, pictures, and the largest maps of the networks that read the condition whole and
    write the picture in tiles. An estimate, rather too large than too small.
    """
    (height, width), stride = _size(model, batch, settings), model.first_stage.stride
    grid = (-(-height // stride), -(-width // stride))
    passes = batch_size * (2 if settings.guidance != 1 else 1)
    prior = model.priors[-1]
    columns = len({origin(j, grid[1], prior.grid[1]) for j in range(grid[1])})
    one = cache_bytes(prior, passes, prior.grid)
    reader = getattr(model.conditioner, "first_stage", None)
    told = (
        4
        * (reader.in_channels + 4 * reader.encoder.conv_in.out_channels)
        * height
        * width
        * batch_size
        if hasattr(getattr(reader, "encoder", None), "conv_in")
        else 0
    )
    tile = min(height, TILE * stride) * min(width, TILE * stride)
    # Transposed convolutions have inputs first
    channels = max(model.first_stage.last_layer.shape[:2])
    shown = 4 * height * width * batch_size * 3 * (3 + (FRAMES if animate else 0))
    needed, free = (
        max(one, min(columns * one, CACHE_LIMIT)) + told + 4 * 6 * channels * tile + shown,
        _free_memory(),
    )
    if needed > free:
        raise UserError(
            f"size {height}x{width} in batches of {batch_size} needs about {needed / 1e9:.1f} GB,"
            f" but {free / 1e9:.1f} GB are free; take a smaller --size or --batch-size"
        )


def _free_memory() -> float:
    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(
            int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")
        )
    except (OSError, StopIteration):
        return float("inf")  # systems that do not say


def _size(model: SecondStage, batch: dict, settings: Sampling) -> tuple[int, int]:
    shown = batch.get(getattr(model.conditioner, "key", None))
    return settings.size or (
        tuple(shown.shape[-2:])
        if isinstance(shown, Tensor) and shown.ndim >= 3
        else model.trained_size
    )
