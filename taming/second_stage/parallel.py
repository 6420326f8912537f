"""Drawing from a masked prior: many codes in each pass, and on grids larger than it was trained on
in windows whose tiling moves from pass to pass, so that no seam can form.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from taming.config.sampling import Sampling
from taming.first_stage.interface import precise
from taming.precision import autocast
from taming.second_stage.filters import combined, draw, guiding
from taming.second_stage.interface import Condition, Window
from taming.second_stage.masked import MaskedPrior, check_steps, remaining

OFFSETS = ((0.0, 0.0), (0.5, 0.5), (0.0, 0.5), (0.5, 0.0))
"""Of the tiling in each pass in turn, in windows."""
WINDOWS = 16
"""In one pass through the network; more take more memory, and longer: 1.11 times with 32."""
NOISE = 4.5
"""Of the order of confidence: Gumbel noise of this size at the first pass, none at the last (Chang
et al. 2022).
"""


@dataclass
class Canvas:
    """What is drawn so far.

    Args:
        codes: int64 (B, h, w).
        hidden: bool (B, h, w), where there is none yet.
        condition: of the whole grid.
        added: of the whole grid, (B, width, h, w) at each place of the network, where each code's
            share of the condition does not depend on the window; else None.
        crop: of a condition, what a window sees of it.
        strengths: of guidance at each code, where they differ.
        progress: the share of the passes that are done.
    """

    codes: Tensor
    hidden: Tensor
    condition: Condition
    added: list[Tensor] | None
    crop: Callable[[Condition, Window, tuple[int, int]], Condition]
    strengths: Tensor | None = None
    progress: float = 0.0

    @property
    def grid(self) -> tuple[int, int]:
        return self.codes.shape[1], self.codes.shape[2]


def sample_parallel(
    prior: MaskedPrior,
    condition: Condition,
    grid: tuple[int, int],
    sampling: Sampling,
    known: tuple[Tensor, Tensor] | None,
    generators: Sequence[torch.Generator],
    crop: Callable,
    on_row: Callable[[Tensor, int], None] | None = None,
    on_step: Callable[[int, int], None] | None = None,
    strengths: Tensor | None = None,
) -> Tensor:
    """Codes (B, h, w). Known codes are seen from the first pass on, from all sides.

    Args: as of sampling.sample, with everything there that may be left out.
    """
    # 1. the passes, and each picture's random numbers
    steps = check_steps(sampling.steps or prior.steps, grid)
    count, device = len(condition[0].tokens), condition[0].tokens.device
    codes = torch.zeros(count, *grid, dtype=torch.int64, device=device)
    hidden = torch.ones_like(codes, dtype=torch.bool)
    if known is not None:
        codes, hidden = torch.where(known[1], known[0], codes), ~known[1]
    # 2. the condition over the whole grid, with the null condition where it guides
    condition = guiding(condition, sampling)
    whole = all(part.grid == grid for part in condition)
    added = prior.added(condition, grid) if whole else None
    canvas = Canvas(codes, hidden, condition, added, crop, strengths)
    # 3. pass after pass
    passes = prior.passes(grid, steps) if prior.unmasking == "halton" else None
    for step in range(steps):
        if on_step is not None:
            on_step(step, steps)
        canvas.progress = step / steps
        uniform = _uniform(generators, grid).to(device, precise(device))
        if passes is not None:
            _draw_places(prior, canvas, canvas.hidden & (passes == step), sampling, step, uniform)
        else:
            noise = _uniform(generators, grid).to(device, precise(device))
            _draw_surest(prior, canvas, sampling, (step, steps), uniform, noise)
        if on_row is not None:
            on_row(canvas.codes, grid[0] * (step + 1) // steps)
    return canvas.codes


def _draw_places(
    prior: MaskedPrior,
    canvas: Canvas,
    places: Tensor,
    sampling: Sampling,
    step: int,
    uniform: Tensor,
) -> None:
    """Draws the codes at `places` (B, h, w), all seeing the same canvas."""
    codes = canvas.codes.clone()
    for picture, window, logits in _logits(prior, canvas, places, sampling, step):
        inside = places[_slices(picture, window)] & _middle(window, canvas.grid, prior.grid, step)
        drawn = draw(logits, uniform[_slices(picture, window)][inside], sampling)
        codes[_slices(picture, window)][inside] = drawn
    canvas.codes, canvas.hidden = codes, canvas.hidden & ~places


def _draw_surest(
    prior: MaskedPrior,
    canvas: Canvas,
    sampling: Sampling,
    progress: tuple[int, int],
    uniform: Tensor,
    noise: Tensor,
) -> None:
    """Draws all hidden codes, and leaves the surest of each window, as many as the cosine rule says
    of those that it had at first.
    """
    step, steps = progress
    codes, hidden = canvas.codes.clone(), canvas.hidden.clone()
    gumbel = -(-noise.clamp(1e-9, 1 - 1e-9).log()).log() * NOISE * (1 - (step + 1) / steps)
    for picture, window, logits in _logits(prior, canvas, canvas.hidden, sampling, step):
        slices = _slices(picture, window)
        inside = canvas.hidden[slices] & _middle(window, canvas.grid, prior.grid, step)
        if not inside.any():
            continue
        drawn = draw(logits, uniform[slices][inside], sampling)
        log_p = logits.to(precise(logits.device)).log_softmax(-1)
        sureness = log_p.gather(-1, drawn[:, None])[:, 0]
        share = remaining(10**6, steps)[step] / (remaining(10**6, steps)[step - 1] if step else 1e6)
        stay = len(drawn) - (int(len(drawn) * share) if step + 1 < steps else 0)
        surest = (sureness + gumbel[slices][inside]).topk(max(1, stay)).indices
        places = inside.nonzero()[surest].unbind(-1)
        codes[slices][places] = drawn[surest]
        hidden[slices][places] = False
    canvas.codes, canvas.hidden = codes, hidden


def _logits(
    prior: MaskedPrior, canvas: Canvas, places: Tensor, sampling: Sampling, step: int
) -> Iterator[tuple[int, Window, Tensor]]:
    """Picture, window and logits (n, K) at those of `places` that lie in the window's middle, for
    each window of the step's tiling with any; several windows go through the network at once.
    """
    waiting = []
    for window in tiling(canvas.grid, prior.grid, step):
        middle = _middle(window, canvas.grid, prior.grid, step).to(places.device)
        for picture in range(len(canvas.codes)):
            if bool((places[_slices(picture, window)] & middle).any()):
                waiting.append((picture, window, middle))
    for start in range(0, len(waiting), WINDOWS):
        part = waiting[start : start + WINDOWS]
        with autocast(sampling.precision, canvas.codes.device):
            features = _features(prior, canvas, part).to(prior.head.weight.dtype)
        features = features.unflatten(0, (-1, len(part)))  # by what guidance compares
        for i, (picture, window, middle) in enumerate(part):
            where = (places[_slices(picture, window)] & middle).flatten()
            logits = prior.head(features[:, i, where]).float().flatten(0, 1)
            strengths = canvas.strengths
            if strengths is not None:
                strengths = strengths[_slices(picture, window)].flatten()[where]
            yield picture, window, combined(logits, sampling, canvas.progress, strengths)


def _features(
    prior: MaskedPrior, canvas: Canvas, windows: list[tuple[int, Window, Tensor]]
) -> Tensor:
    """(n, h w, width) of these windows; with guidance what it compares behind them."""
    count = len(canvas.codes)
    copies = len(canvas.condition[0].tokens) // count
    codes = torch.stack([canvas.codes[_slices(p, w)] for p, w, _ in windows] * copies)
    hidden = torch.stack([canvas.hidden[_slices(p, w)] for p, w, _ in windows] * copies)
    rows = [(p + copy * count, w) for copy in range(copies) for p, w, _ in windows]
    if canvas.added is not None:
        added = [
            torch.stack([level[row][(slice(None), *_slices(0, w)[1:])] for row, w in rows])
            for level in canvas.added
        ]
        return prior.features(codes, hidden, added)
    parts = []
    for row, window in rows:
        one = tuple(_row(part, row) for part in canvas.condition)
        parts.append(
            one if _is_whole(window, canvas.grid) else canvas.crop(one, window, canvas.grid)
        )
    condition = tuple(first.join(*rest) for first, *rest in zip(*parts))
    return prior.features(codes, hidden, prior.added(condition, (codes.shape[1], codes.shape[2])))


def _row(part, row: int):
    values = None if part.values is None else part.values[row : row + 1]
    return replace(part, tokens=part.tokens[row : row + 1], values=values)


def _is_whole(window: Window, grid: tuple[int, int]) -> bool:
    return window == (0, 0, *grid)


def _slices(picture: int, window: Window) -> tuple[int, slice, slice]:
    top, left, height, width = window
    return picture, slice(top, top + height), slice(left, left + width)


def tiling(grid: tuple[int, int], window: tuple[int, int], step: int) -> list[Window]:
    """The windows of a pass: side by side from the pass's offset on, those at the edges moved
    inwards, so that they overlap their neighbours.
    """
    rows, columns = (
        starts(side, size, offset) for side, size, offset in zip(grid, window, OFFSETS[step % 4])
    )
    height, width = (min(side, size) for side, size in zip(grid, window))
    return [(top, left, height, width) for top in rows for left in columns]


def starts(side: int, size: int, offset: float) -> list[int]:
    """Where windows of this size begin along a side of a grid."""
    if side <= size:
        return [0]
    first = int(size * offset) - size if offset else 0
    return sorted({min(max(0, start), side - size) for start in range(first, side, size)})


def _middle(window: Window, grid: tuple[int, int], size: tuple[int, int], step: int) -> Tensor:
    """bool (h, w): the places that are this window's to draw; where windows overlap, a place is
    that one's in which it lies farther inside.
    """
    sides = []
    for axis in (0, 1):
        start, length = window[axis], window[axis + 2]
        begins = starts(grid[axis], size[axis], OFFSETS[step % 4][axis])
        places = torch.arange(start, start + length)
        middles = torch.tensor([begin + (length - 1) / 2 for begin in begins])
        nearest = (places[:, None] - middles).abs().argmin(dim=1)
        sides.append(nearest == begins.index(start))
    return sides[0][:, None] & sides[1]


def _uniform(generators: Sequence[torch.Generator], grid: tuple[int, int]) -> Tensor:
    """Each picture's random numbers of a pass, float64 (B, h, w)."""
    return torch.stack([torch.rand(grid, generator=g, dtype=torch.float64) for g in generators])
