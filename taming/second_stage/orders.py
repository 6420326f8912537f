"""Orders in which a prior may read a grid of codes (Esser et al. 2021, arXiv 2012.09841, appendix
F, where row by row came out best).

An order is a list of raster positions: step i of the sequence is the code at position order[i].
"""

from typing import Literal

import numpy as np

from taming.errors import UserError, did_you_mean

Grid = tuple[int, int]
OrderName = Literal[
    "raster", "alternate", "z_curve", "subsample", "spiral_out", "spiral_in", "shuffled"
]


def order(name: str, grid: Grid) -> list[int]:
    """The raster positions (of h w) in the order they are read. Raises UserError for an unknown
    name, or a grid that the order can't run through.
    """
    if name not in ORDERS:
        raise UserError(f"order '{name}' is unknown{did_you_mean(name, ORDERS)}")
    return ORDERS[name](grid)


def raster(grid: Grid) -> list[int]:
    return list(range(grid[0] * grid[1]))


def alternate(grid: Grid) -> list[int]:
    """Every other row from right to left."""
    rows = [list(range(r * grid[1], (r + 1) * grid[1])) for r in range(grid[0])]
    return [i for r, row in enumerate(rows) for i in (row if r % 2 == 0 else row[::-1])]


def z_curve(grid: Grid) -> list[int]:
    """By the number whose bits are those of row and column in turn, the column's lowest."""

    def interleaved(position: int) -> int:
        row, column = divmod(position, grid[1])
        return sum(((row >> b & 1) << 2 * b + 1) | ((column >> b & 1) << 2 * b) for b in range(16))

    return sorted(range(grid[0] * grid[1]), key=interleaved)


def subsample(grid: Grid) -> list[int]:
    """Coarse to fine: all codes with even row and column, each such quarter again split in the same
    way, then those with odd column, ...
    """
    _square(grid, "subsample")
    if grid[0] & (grid[0] - 1):
        raise UserError(
            f"order subsample needs a grid whose side is a power of two, not {grid[0]}x{grid[1]}"
        )
    parts = [[list(range(r * grid[1], (r + 1) * grid[1])) for r in range(grid[0])]]
    while len(parts[0]) > 1:
        parts = [
            [row[j::2] for row in part[i::2]] for part in parts for i in (0, 1) for j in (0, 1)
        ]
    return [part[0][0] for part in parts]


def spiral_out(grid: Grid) -> list[int]:
    """From the middle: up, right, down, left, by one more after every other turn."""
    _square(grid, "spiral")
    if grid[0] % 2:
        raise UserError(f"order spiral needs a grid of even side, not {grid[0]}x{grid[1]}")
    side = grid[0]
    row, column = side // 2, side // 2 - 1
    positions, turn = [row * side + column], 0
    while len(positions) < side * side:
        down, right = ((-1, 0), (0, 1), (1, 0), (0, -1))[turn % 4]
        for _ in range(min(turn // 2 + 1, side * side - len(positions))):
            row, column = row + down, column + right
            positions.append(row * side + column)
        turn += 1
    return positions


def spiral_in(grid: Grid) -> list[int]:
    return spiral_out(grid)[::-1]


def shuffled(grid: Grid) -> list[int]:
    """One fixed random order."""
    return np.random.RandomState(1).permutation(grid[0] * grid[1]).tolist()


ORDERS = {
    "raster": raster,
    "alternate": alternate,
    "z_curve": z_curve,
    "subsample": subsample,
    "spiral_out": spiral_out,
    "spiral_in": spiral_in,
    "shuffled": shuffled,
}


def _square(grid: Grid, name: str) -> None:
    if grid[0] != grid[1]:
        raise UserError(f"order {name} needs a square grid, not {grid[0]}x{grid[1]}")
