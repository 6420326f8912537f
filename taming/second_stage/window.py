"""Pictures larger than the prior was trained on: each code is drawn inside a window of the trained
size that slides over the grid (Esser et al. 2021, arXiv 2012.09841, section 3.3); and their
decoding in bounded memory.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from taming.errors import UserError
from taming.first_stage.interface import FirstStage
from taming.second_stage.interface import Condition, Decoder, Prior, Window

TILE, MARGIN = 64, 8  # codes
CACHE_LIMIT = 2 << 30  # bytes of keys and values of windows that will be met again


def origin(position: int, size: int, window: int, step: int = 1) -> int:
    """Where the window for `position` begins along one axis of `size` codes: as near as can be so
    that the position lies in its middle.

    This is the published rule for step 1. step: begin at its multiples only, where a coarser raster
    of the condition has a token for so many codes.
    """
    if size <= window:
        return 0
    half = window // 2
    if position <= half:
        return 0
    if size - position < half:
        return size - window
    start = (position - half) // step * step
    # A window hardly larger than the step: better too far than not seen
    if position - start >= window:
        start += step
    return min(start, size - window)


class WindowDecoder:
    """Reads and gives codes of a large grid in raster order, through windows of the prior's grid.

    Windows stay, keys and values included, as long as their row of origin lasts; so where the
    origin stands still (towards the four edges), only what is new is read. Codes after the one
    being drawn are never computed.

    Args:
        prior: reads in raster order.
        condition: of the large grid.
        grid: its rows and columns.
        crop: of a condition, what a window sees of it (see Conditioner.crop).
        limit: bytes, by default CACHE_LIMIT; beyond them only the window at hand stays.
        hop: origins are multiples of so many codes only, so that a window serves hop x hop codes,
            which then lie up to hop - 1 codes off its middle; 1 is the published rule.

    Raises:
        UserError: for a prior of another order, and a hop beyond the window.
    """

    def __init__(
        self,
        prior: Prior,
        condition: Condition,
        grid: tuple[int, int],
        crop: Callable[[Condition, Window, tuple[int, int]], Condition],
        limit: int | None = None,
        hop: int = 1,
    ):
        if prior.order(prior.grid) is not None:
            raise UserError(
                f"a prior that reads codes in its own order draws {prior.grid[0]}x{prior.grid[1]}"
                f" of them only, not {grid[0]}x{grid[1]}"
            )
        if not 1 <= hop <= min(prior.grid):
            raise UserError(f"hop {hop} should be from 1 to {min(prior.grid)}, the window's side")
        self.prior, self.condition, self.grid, self.crop = prior, condition, grid, crop
        self.window = (min(grid[0], prior.grid[0]), min(grid[1], prior.grid[1]))
        rows, columns = alignment(condition, grid)
        self.step = (math.lcm(rows, hop), math.lcm(columns, hop))
        tokens = condition[0].tokens
        self.codes = torch.zeros((len(tokens), *grid), dtype=torch.int64, device=tokens.device)
        self.position = 0
        self.row = 0  # where the windows in `decoders` begin
        self.decoders: dict[int, Decoder] = {}  # by the column where they begin
        origins = {origin(j, grid[1], self.window[1], self.step[1]) for j in range(grid[1])}
        needed = len(origins) * prior.cache_bytes(len(tokens), self.window)
        self.keep_all = needed <= (CACHE_LIMIT if limit is None else limit)

    def logits(self) -> Tensor:
        """(B, K) of the next code."""
        # 1. where its window begins
        i, j = divmod(self.position, self.grid[1])
        top = origin(i, self.grid[0], self.window[0], self.step[0])
        left = origin(j, self.grid[1], self.window[1], self.step[1])
        # 2. that window's decoder; those of earlier rows are not met again
        if top != self.row or (not self.keep_all and left not in self.decoders):
            self.row, self.decoders = top, {}
        if left not in self.decoders:
            condition = self.crop(self.condition, (top, left, *self.window), self.grid)
            self.decoders[left] = self.prior.decoder(condition, self.window)
        decoder = self.decoders[left]
        # 3. the codes inside it that it has not read yet
        start, end = decoder.position, (i - top) * self.window[1] + j - left
        if end > start:
            inside = self.codes[:, top : i + 1, left : left + self.window[1]].flatten(1)
            decoder.extend(inside[:, start:end])
        return decoder.logits()

    def extend(self, codes: Tensor) -> None:
        """codes (B, n): the next n codes are these."""
        self.codes.flatten(1)[:, self.position : self.position + codes.shape[1]] = codes
        self.position += codes.shape[1]


def alignment(condition: Condition, grid: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of codes under one token of the coarsest raster in the condition."""
    rasters = [part.grid for part in condition if part.grid]
    rows = math.lcm(*(max(1, grid[0] // raster[0]) for raster in rasters))
    columns = math.lcm(*(max(1, grid[1] // raster[1]) for raster in rasters))
    return rows, columns


@torch.no_grad()
def decode_tiled(
    first_stage: FirstStage, codes: tuple[Tensor, ...], tile: int = TILE, margin: int = MARGIN
) -> Tensor:
    """The picture (B, C, H, W) of a large grid, decoded in tiles of `tile` codes, each seen with
    `margin` codes around it and blended over the margins.

    Memory is that of one tile and the picture. Not exact: group normalisation and attention see the
    tile instead of the whole; grids of at most `tile` a side are decoded whole, and so are
    hierarchies, whose levels have grids of different sizes. How far it is off: docs/sampling.md.
    """
    grid = codes[-1]
    height, width = grid.shape[1:]
    if max(height, width) <= tile or any(level.shape != grid.shape for level in codes):
        return first_stage.decode(codes)
    if len(grid) > 1:
        return torch.cat(
            [
                decode_tiled(first_stage, tuple(level[i : i + 1] for level in codes), tile, margin)
                for i in range(len(grid))
            ]
        )
    # Each tile is added with weights that fall over its margins, and the sum divided by theirs
    stride = first_stage.stride
    total = weights = torch.empty(0)
    for top in _starts(height, tile, margin):
        for left in _starts(width, tile, margin):
            rows, columns = slice(top, top + tile), slice(left, left + tile)
            picture = first_stage.decode(
                tuple(level[:, rows, columns].contiguous() for level in codes)
            )
            if not total.numel():
                shape = (height * stride, width * stride)
                total = picture.new_zeros(1, picture.shape[1], *shape)
                weights = picture.new_zeros(shape)
            tall, wide = (side // stride for side in picture.shape[-2:])
            vertical = _ramp(tall, top > 0, top + tile < height, margin, stride)
            horizontal = _ramp(wide, left > 0, left + tile < width, margin, stride)
            weight = (vertical[:, None] * horizontal).to(picture)
            place = (
                slice(top * stride, (top + tall) * stride),
                slice(left * stride, (left + wide) * stride),
            )
            total[(..., *place)] += picture * weight
            weights[place] += weight
    return total.div_(weights)


def _starts(size: int, tile: int, margin: int) -> list[int]:
    if size <= tile:
        return [0]
    hop = tile - 2 * margin
    return sorted({min(start, size - tile) for start in range(0, size - 2 * margin, hop)})


def _ramp(length: int, before: bool, after: bool, margin: int, stride: int) -> Tensor:
    """Weights along one side of a tile: 1 inside, falling to almost 0 over the margin where another
    tile goes on.
    """
    slope = (torch.arange(2 * margin * stride) + 0.5) / (2 * margin * stride)
    weight = torch.ones(length * stride)
    if before:
        weight[: len(slope)] *= slope
    if after:
        weight[-len(slope) :] *= slope.flip(0)
    return weight
