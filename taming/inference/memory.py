"""How much memory a sample needs, estimated before it is drawn."""

from typing import Any

import torch
from torch import Tensor, nn

from taming.config.allocation import free_memory
from taming.errors import UserError
from taming.inference.animation import FRAMES
from taming.second_stage.interface import Prior
from taming.second_stage.model import SecondStage
from taming.second_stage.sampling import Sampling
from taming.second_stage.window import CACHE_LIMIT, TILE, origin

FLOAT = 4  # bytes


def check_memory(
    model: SecondStage,
    batch: dict[str, Any],
    sampling: Sampling,
    batch_size: int,
    animate: bool = False,
) -> None:
    """Raises UserError where a batch would need more than there is, before anything is drawn."""
    size = _size(model, batch, sampling)
    needed, free = _needed(model, size, sampling, batch_size, animate), _free_memory()
    if needed > free:
        raise UserError(
            f"size {size[0]}x{size[1]} in batches of {batch_size} needs about"
            f" {needed / 1e9:.1f} GB, but {free / 1e9:.1f} GB are free; take a smaller --size or"
            " --batch-size"
        )


def _needed(
    model: SecondStage, size: tuple[int, int], sampling: Sampling, batch_size: int, animate: bool
) -> int:
    """Bytes: keys and values, pictures, and the largest maps of the networks that read the
    condition in one piece and write the picture in tiles. Rather too many than too few.
    """
    (height, width), stride = size, model.first_stage.stride
    # 1. keys and values of every window that is open at a time
    prior, columns = model.priors[-1], -(-width // stride)
    assert isinstance(prior, Prior)
    passes = batch_size * sampling.passes
    window = prior.cache_bytes(passes, prior.grid)
    windows = len({origin(j, columns, prior.grid[1]) for j in range(columns)})
    caches = max(window, min(windows * window, CACHE_LIMIT))
    # 2. the encoder of the condition
    tokenizer, reading = model.conditioner.tokenizer, 0
    first = getattr(getattr(tokenizer, "encoder", None), "conv_in", None)
    if tokenizer is not None and isinstance(first, nn.Conv2d):
        channels = tokenizer.in_channels + 4 * first.out_channels
        reading = FLOAT * channels * height * width * batch_size
    # 3. the decoder; transposed convolutions have inputs first
    tile = min(height, TILE * stride) * min(width, TILE * stride)
    writing = FLOAT * 6 * max(model.first_stage.last_layer.shape[:2]) * tile
    # 4. the pictures
    pictures = FLOAT * height * width * batch_size * 3 * (3 + (FRAMES if animate else 0))
    return caches + reading + writing + pictures


def _free_memory() -> float:
    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0]
    return free_memory()


def _size(model: SecondStage, batch: dict[str, Any], sampling: Sampling) -> tuple[int, int]:
    condition = batch.get(model.conditioner.key or "")
    if sampling.size:
        return sampling.size
    if isinstance(condition, Tensor) and condition.ndim >= 3:
        return condition.shape[-2], condition.shape[-1]
    return model.trained_size
