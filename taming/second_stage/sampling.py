"""The one sampling loop; what a sample depends on is in config/sampling.py."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from taming.config.sampling import Sampling
from taming.errors import UserError
from taming.first_stage.interface import evaluating, precise
from taming.second_stage.filters import combined, draw, filter_logits, guiding
from taming.second_stage.gpt import GPT
from taming.second_stage.interface import Condition, Conditioner, Decoder, Part, Prior, describe
from taming.second_stage.masked import MaskedPrior
from taming.second_stage.parallel import sample_parallel
from taming.second_stage.window import WindowDecoder

__all__ = ["Sampling", "draw", "filter_logits", "reader", "sample"]


@torch.no_grad()
def sample(
    prior: Prior,
    condition: Condition,
    grid: tuple[int, int],
    sampling: Sampling | None = None,
    *,
    known: tuple[Tensor, Tensor] | None = None,
    generators: Sequence[torch.Generator] | None = None,
    crop: Callable | None = None,
    on_row: Callable[[Tensor, int], None] | None = None,
    on_step: Callable[[int, int], None] | None = None,
    order: Tensor | None = None,
    strengths: Tensor | None = None,
    **changes: Any,
) -> Tensor:
    """Codes (B, h, w) drawn from the prior in the order that it reads them; on grids larger than it
    was trained on, through a window (see window.py).

    A prior sees what was read before: known codes after the one being drawn stay, but do not
    influence it, unless `order` has them first, or many codes are drawn at once.

    Args:
        sampling: temperature (0 is greedy), filters, hop, and guidance: logits = null + guidance
            (conditioned - null) (Ho and Salimans 2022, arXiv 2207.12598); 1 does not compute the
            null pass; two strengths for two conditions, see filters.py. Size, seed and accept are
            the caller's.
        known: codes (B, h, w) and a bool mask (B, h, w) of positions that stay.
        generators: one per picture, so that a picture does not depend on what it is batched with.
        crop: the conditioner's, for what a window sees of the condition.
        on_row: called with the codes so far (B, h, w), 0 where none is drawn yet, and the number of
            codes drawn, in rows.
        on_step: called before each step with the number of steps done and of all steps; what it
            raises ends the drawing.
        order: the places (h w,) in the order in which codes are drawn, for a GPT trained in random
            orders, on grids up to the trained one.
        strengths: of guidance at each code (B, h, w), where they differ.
        changes: fields of Sampling, changed.
    """
    sampling = Sampling.of(sampling, **changes)
    count, device = _count(condition), condition[0].tokens.device
    steps = grid[0] * grid[1]
    if known is not None:
        known = _check_known(known, (count, *grid), prior)
    if isinstance(prior, MaskedPrior):
        generators = _check_generators(generators, count)
        crop = crop or Conditioner().crop
        with evaluating(prior), prior.decoding(sampling.fast):
            return sample_parallel(
                prior,
                condition,
                grid,
                sampling,
                known,
                generators,
                crop,
                on_row,
                on_step,
                strengths,
            )
    # 1. the random numbers: each picture has its own, as many as codes
    generators = _check_generators(generators, count)
    uniform = torch.stack(
        [torch.rand(steps, generator=g, dtype=torch.float64) for g in generators]
    ).to(device, precise(device))
    # 2. with guidance, every picture is read again with the null condition
    compared = guiding(condition, sampling)
    codes = torch.zeros(count, steps, dtype=torch.int64, device=device)
    # 3. the loop: code after code in the prior's order
    with evaluating(prior), prior.decoding(sampling.fast):
        if order is None:
            crop = crop or Conditioner().crop
            decoder, places = reader(prior, compared, grid, crop, sampling.hop)
        else:
            decoder, places = _reader_in_order(prior, compared, grid, order)
        for i, place in enumerate(places):
            if on_step is not None:
                on_step(i, steps)
            if known is not None and bool(known[1].flatten(1)[:, place].all()):
                # Nothing to draw: it is read together with what comes next
                code = known[0].flatten(1)[:, place]
            else:
                logits = combined(
                    decoder.logits().float(),
                    sampling,
                    i / steps,
                    None if strengths is None else strengths.flatten(1)[:, place],
                )
                code = draw(logits, uniform[:, place], sampling)
                if known is not None:
                    code = torch.where(
                        known[1].flatten(1)[:, place], known[0].flatten(1)[:, place], code
                    )
            codes[:, place] = code
            if i + 1 < steps:
                decoder.extend(code.repeat(sampling.passes)[:, None])
            if on_row is not None and (i + 1) % grid[1] == 0:
                on_row(codes.view(count, *grid), (i + 1) // grid[1])
    return codes.view(count, *grid)


def _check_generators(
    generators: Sequence[torch.Generator] | None, count: int
) -> Sequence[torch.Generator]:
    """One for each picture; fresh ones where there are none."""
    generators = generators or [torch.Generator().manual_seed(i) for i in range(count)]
    if len(generators) != count:
        raise UserError(f"generators: {len(generators)} for {count} pictures; give one for each")
    return generators


def _reader_in_order(
    prior: Prior, condition: Condition, grid: tuple[int, int], order: Tensor
) -> tuple[Decoder, Sequence[int]]:
    if not isinstance(prior, GPT) or not prior.is_added or prior.permutation is not None:
        raise UserError(
            f"a {type(prior).__name__} that does not know where the next code lies draws in its own"
            " order only; leave order out"
        )
    if sorted(order.tolist()) != list(range(grid[0] * grid[1])):
        raise UserError(f"order should name each of {grid[0] * grid[1]} places once")
    return prior.decoder(condition, grid, order), order.tolist()


def reader(
    prior: Prior, condition: Condition, grid: tuple[int, int], crop: Callable, hop: int = 1
) -> tuple[Decoder, Sequence[int]]:
    """What gives the logits of one code after another, through windows where the grid is larger
    than the prior's; and the codes' places in that order.
    """
    if grid[0] > prior.grid[0] or grid[1] > prior.grid[1]:
        return WindowDecoder(prior, condition, grid, crop, hop=hop), range(grid[0] * grid[1])
    order = prior.order(grid)
    return prior.decoder(condition, grid), (
        range(grid[0] * grid[1]) if order is None else order.tolist()
    )


def _count(condition: Condition) -> int:
    """How many pictures a condition is of. Raises UserError where its parts don't agree."""
    if not isinstance(condition, tuple) or not all(isinstance(part, Part) for part in condition):
        raise UserError(f"a condition should be a tuple of Part, not {describe(condition)}")
    counts = sorted({len(part.tokens) for part in condition})
    if len(counts) != 1:
        raise UserError(
            f"the parts of the condition are of {counts or 'no'} pictures; make them equal"
        )
    if not counts[0]:
        raise UserError("the condition is of no pictures; give at least one")
    return counts[0]


def _check_known(
    known: tuple[Tensor, Tensor], shape: tuple[int, ...], prior: Prior
) -> tuple[Tensor, Tensor]:
    codes, mask = known
    for name, tensor in (("codes", codes), ("mask", mask)):
        if not isinstance(tensor, Tensor) or tuple(tensor.shape) != shape:
            raise UserError(f"the known {name} should have shape {shape}, not {describe(tensor)}")
    if mask.dtype != torch.bool:
        raise UserError(f"the known mask should be bool, not {describe(mask)}")
    staying = codes[mask]
    if staying.is_floating_point() or bool(((staying < 0) | (staying >= prior.num_codes)).any()):
        raise UserError(f"known codes should be whole numbers from 0 to {prior.num_codes - 1}")
    return codes.long(), mask
