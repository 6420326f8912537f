"""The one sampling loop."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from taming.errors import UserError
from taming.second_stage.interface import Condition, Conditioner, Decoder, Part, Prior
from taming.second_stage.window import WindowDecoder


def filter_logits(
    logits: Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
) -> Tensor:
    """Logits (..., K) over the temperature, with -inf where a code may not be drawn.

    top_k: the k most probable stay, with all that tie with the last of them; k above K is K. top_p:
    of these, the smallest set of most probable codes with probability at least p (Holtzman et al.
    2020, arXiv 1904.09751). min_p: those at least min_p times as probable as the most probable
    (Nguyen et al. 2024, arXiv 2407.01082). The most probable code always stays.
    """
    check_filters(temperature, top_k, top_p, min_p)
    logits = logits / temperature
    if top_k is not None and top_k < logits.shape[-1]:
        smallest = logits.topk(top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < smallest, -torch.inf)
    if top_p is not None and top_p < 1:
        ordered, order = logits.sort(dim=-1, descending=True)
        probabilities = ordered.softmax(dim=-1)
        # Mass before this code already suffices
        outside = probabilities.cumsum(dim=-1) - probabilities >= top_p
        logits = logits.masked_fill(outside.scatter(-1, order, outside), -torch.inf)
    if min_p:
        probabilities = logits.softmax(dim=-1)
        logits = logits.masked_fill(
            probabilities < min_p * probabilities.amax(dim=-1, keepdim=True), -torch.inf
        )
    return logits


def check_filters(
    temperature: float, top_k: int | None, top_p: float | None, min_p: float | None
) -> None:
    if not temperature > 0 or not math.isfinite(temperature):
        raise UserError(f"temperature {temperature} should be above 0, or 0 for greedy sampling")
    if top_k is not None and top_k < 1:
        raise UserError(f"top_k {top_k} should be at least 1")
    if top_p is not None and not 0 < top_p <= 1:
        raise UserError(f"top_p {top_p} should be in (0, 1]")
    if min_p is not None and not 0 <= min_p <= 1:
        raise UserError(f"min_p {min_p} should be in [0, 1]")


@torch.no_grad()
def sample(
    prior: Prior,
    condition: Condition,
    grid: tuple[int, int],
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    guidance: float = 1.0,
    known: tuple[Tensor, Tensor] | None = None,
    generators: Sequence[torch.Generator] | None = None,
    crop: Callable | None = None,
    hop: int = 1,
    on_row: Callable[[Tensor, int], None] | None = None,
) -> Tensor:
    """Codes (B, h, w) drawn from the prior in the order that it reads them; on grids larger than it
    was trained on, through a window (see window.py).

    temperature 0 is greedy. guidance: logits = null + guidance (conditioned - null) (Ho and
    Salimans 2022, arXiv 2207.12598); 1 does not compute the null pass. known: codes (B, h, w) and a
    bool mask (B, h, w) of positions to keep. A prior sees what was read before: given codes after
    the one being drawn are kept, but do not influence it. generators: one per picture, so that a
    picture does not depend on what it is batched with. crop: of the conditioner, what a window is
    told. hop: of windows. on_row: called with the codes so far (B, h, w), 0 where none is drawn
    yet, and the number of codes drawn, in rows.
    """
    if temperature:
        check_filters(temperature, top_k, top_p, min_p)
    if not math.isfinite(guidance):
        raise UserError(f"guidance {guidance} should be a finite number; 1 is none")
    count, device = len(condition[0].tokens), condition[0].tokens.device
    steps = grid[0] * grid[1]
    generators = generators or [torch.Generator().manual_seed(i) for i in range(count)]
    uniform = torch.stack(
        [torch.rand(steps, generator=g, dtype=torch.float64) for g in generators]
    ).to(device)
    guided = guidance != 1.0
    told = tuple(_doubled(part) for part in condition) if guided else condition
    codes = torch.zeros(count, steps, dtype=torch.int64, device=device)
    with prior.decoding():
        decoder, order = reader(prior, told, grid, crop or Conditioner().crop, hop)
        for i, place in enumerate(order):
            if known is not None and bool(known[1].flatten(1)[:, place].all()):
                # Nothing to draw: it is read together with what comes next
                code = known[0].flatten(1)[:, place]
            else:
                logits = decoder.logits().float()
                if guided:
                    with_condition, without = logits.chunk(2)
                    logits = without + guidance * (with_condition - without)
                code = draw(logits, uniform[:, place], temperature, top_k, top_p, min_p)
                if known is not None:
                    code = torch.where(
                        known[1].flatten(1)[:, place], known[0].flatten(1)[:, place], code
                    )
            codes[:, place] = code
            if i + 1 < steps:
                decoder.extend((torch.cat([code, code]) if guided else code)[:, None])
            if on_row is not None and (i + 1) % grid[1] == 0:
                on_row(codes.view(count, *grid), (i + 1) // grid[1])
    return codes.view(count, *grid)


def reader(
    prior: Prior, condition: Condition, grid: tuple[int, int], crop: Callable, hop: int = 1
) -> tuple[Decoder | WindowDecoder, Sequence[int]]:
    """What gives the logits of one code after another, through windows where the grid is larger
    than the prior's; and the codes' places in that order.
    """
    if grid[0] > prior.grid[0] or grid[1] > prior.grid[1]:
        return WindowDecoder(prior, condition, grid, crop, hop=hop), range(grid[0] * grid[1])
    order = prior.order(grid)
    return prior.decoder(condition, grid), (
        range(grid[0] * grid[1]) if order is None else order.tolist()
    )


def draw(
    logits: Tensor,
    uniform: Tensor,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    min_p: float | None = None,
) -> Tensor:
    """One code (B,) from logits (B, K) by inverting the cumulative distribution at `uniform` (B,)
    in [0, 1).
    """
    if temperature == 0:
        return logits.argmax(dim=-1)
    probabilities = filter_logits(logits, temperature, top_k, top_p, min_p).double().softmax(dim=-1)
    cumulative = probabilities.cumsum(dim=-1)
    code = torch.searchsorted(cumulative, uniform[:, None] * cumulative[:, -1:], right=True)[:, 0]
    return code.clamp(max=logits.shape[-1] - 1)


def _doubled(part: Part) -> Part:
    return replace(part, tokens=torch.cat([part.tokens, part.null().tokens]))


@dataclass
class Sampling:
    """What a sample depends on, beside checkpoint, condition and number."""

    size: tuple[int, int] | None = None
    seed: int = 0
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    guidance: float = 1.0
    hop: int = 1  # of the windows of large pictures
    accept: float = 1.0  # rejection sampling: the share of pictures kept
    classifier: str | None = None

    def drawing(self) -> dict:
        """The keywords of SecondStage.sample."""
        return {
            name: getattr(self, name)
            for name in ("seed", "temperature", "top_k", "top_p", "min_p", "guidance", "hop")
        }
