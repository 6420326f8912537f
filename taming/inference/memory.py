"""How much memory a picture needs, estimated before it is drawn, encoded or decoded."""

from typing import Any

import torch
from torch import Tensor

from taming.config.allocation import free_memory
from taming.errors import UserError
from taming.first_stage.interface import Autoencoder
from taming.first_stage.tiling import largest_bytes
from taming.inference.animation import FRAMES
from taming.second_stage.interface import Prior
from taming.second_stage.model import SecondStage
from taming.second_stage.sampling import Sampling
from taming.second_stage.window import CACHE_LIMIT, TILE, origin

FLOAT = 4  # bytes
MAPS = 5  # of the largest size that an encoder or a decoder holds at a time
COPIES = 6  # of a picture: as read, padded, decoded, its weights, ...


def check_memory(
    model: SecondStage,
    batch: dict[str, Any],
    sampling: Sampling,
    batch_size: int,
    animate: bool = False,
    known: bool = False,
) -> None:
    """Raises UserError where a batch would need more than there is, before anything is drawn."""
    size = _size(model, batch, sampling)
    needed = _needed(model, size, sampling, batch_size, animate, known)
    free = _free_memory()
    if needed > free:
        raise UserError(
            f"size {size[0]}x{size[1]} in batches of {batch_size} needs about"
            f" {needed / 1e9:.1f} GB, but {free / 1e9:.1f} GB are free; take a smaller --size or"
            " --batch-size"
        )


def _needed(
    model: SecondStage,
    size: tuple[int, int],
    sampling: Sampling,
    batch_size: int,
    animate: bool,
    known: bool,
) -> int:
    """Bytes: keys and values, pictures, and the largest maps of the networks that read the
    condition and write the picture. Rather too many than too few.
    """
    (height, width), stride = size, model.first_stage.stride
    # 1. keys and values of every window that is open at a time
    prior, columns = model.priors[-1], -(-model.scene(size)[1] // stride)
    assert isinstance(prior, Prior)
    passes = batch_size * sampling.passes
    window = prior.cache_bytes(passes, prior.grid)
    windows = len({origin(j, columns, prior.grid[1]) for j in range(columns)})
    caches = max(window, min(windows * window, CACHE_LIMIT))
    caches += batch_size * model.level_bytes(size)
    # 2. the encoder of the condition
    tokenizer = model.conditioner.tokenizer
    reading = encoding_bytes(tokenizer, size, batch_size) if tokenizer is not None else 0
    if known:
        reading = max(reading, encoding_bytes(model.first_stage, size, batch_size))
    # 3. the decoder; transposed convolutions have inputs first
    tile = min(height, TILE * stride) * min(width, TILE * stride)
    writing = FLOAT * 6 * max(model.first_stage.last_layer.shape[:2]) * tile
    # 4. the pictures
    pictures = FLOAT * height * width * batch_size * 3 * (3 + (FRAMES if animate else 0))
    return caches + reading + writing + pictures


def encoding_bytes(model: Autoencoder, size: tuple[int, int], batch_size: int = 1) -> int:
    """That an encoder takes beside its pictures: MAPS of the largest map, of the picture or of a
    tile of it, and what is held between passes over the tiles.
    """
    largest, held = largest_bytes(model, *size)
    return batch_size * (MAPS * largest + held)


def check_reconstruction(model: Autoencoder, images: Tensor) -> None:
    """Raises UserError where pictures (B, C, H, W), or masks (B, H, W), would need more than there
    is to be encoded and decoded; nothing is computed.
    """
    height, width = images.shape[-2:]
    count, place = len(images), f"{height}x{width}"
    pixels = COPIES * model.in_channels * height * width
    needed = encoding_bytes(model, (height, width), count) + FLOAT * count * pixels
    refuse(needed, place, "cut the picture, or make it smaller")


def refuse(needed: float, what: str, cure: str) -> None:
    """Raises UserError where so many bytes are not free."""
    free = _free_memory()
    if needed > free:
        raise UserError(
            f"{what} needs about {needed / 1e9:.1f} GB, but {free / 1e9:.1f} GB are free; {cure}"
        )


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
