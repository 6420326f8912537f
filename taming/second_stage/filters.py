"""From logits to one code: guidance, filters, and the draw."""

import math

import torch
from torch import Tensor

from taming.config.sampling import Sampling
from taming.errors import UserError
from taming.first_stage.interface import precise
from taming.second_stage.interface import Condition


def filter_logits(
    logits: Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
) -> Tensor:
    """Logits (..., K) over the temperature, with -inf where a code may not be drawn. The most
    probable code always stays.

    Args:
        temperature: above 0.
        top_k: the k most probable stay, with all that tie with the last of them; k above K is K.
        top_p: of these, the smallest set of most probable codes with probability at least p
            (Holtzman et al. 2020, arXiv 1904.09751).
        min_p: those at least min_p times as probable as the most probable (Nguyen et al. 2024,
            arXiv 2407.01082).

    Raises:
        UserError: for a value out of its range.
    """
    sampling = Sampling.of(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    if sampling.temperature == 0:
        raise UserError("temperature 0 is greedy: it takes the most probable code, filters nothing")
    return _filtered(logits, sampling)


def _filtered(logits: Tensor, sampling: Sampling) -> Tensor:
    logits = logits / sampling.temperature
    if sampling.top_k is not None and sampling.top_k < logits.shape[-1]:
        smallest = logits.topk(sampling.top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < smallest, -torch.inf)
    if sampling.top_p is not None and sampling.top_p < 1:
        ordered, order = logits.sort(dim=-1, descending=True)
        probabilities = ordered.softmax(dim=-1)
        # The probability before this code already suffices
        outside = probabilities.cumsum(dim=-1) - probabilities >= sampling.top_p
        logits = logits.masked_fill(outside.scatter(-1, order, outside), -torch.inf)
    if sampling.min_p:
        probabilities = logits.softmax(dim=-1)
        lowest = sampling.min_p * probabilities.amax(dim=-1, keepdim=True)
        logits = logits.masked_fill(probabilities < lowest, -torch.inf)
    return logits


def draw(logits: Tensor, uniform: Tensor, sampling: Sampling) -> Tensor:
    """One code (B,) from logits (B, K) by inverting the cumulative distribution at `uniform` (B,)
    in [0, 1).
    """
    if sampling.temperature == 0:
        return logits.argmax(dim=-1)
    probabilities = _filtered(logits, sampling).to(precise(logits.device)).softmax(dim=-1)
    cumulative = probabilities.cumsum(dim=-1)
    code = torch.searchsorted(cumulative, uniform[:, None] * cumulative[:, -1:], right=True)[:, 0]
    return code.clamp(max=logits.shape[-1] - 1)


def guiding(condition: Condition, sampling: Sampling) -> Condition:
    """What guidance compares, joined along the batch: the condition itself and nothing more where
    there is none; behind it the null condition; between them, where the second of two conditions
    has a strength of its own, the first alone.
    """
    if not sampling.guides:
        return condition
    parts = []
    for part in condition:
        alone = (part.null() if part.group else part,)
        parts.append(part.join(*alone * (sampling.guidance_second is not None), part.null()))
    return tuple(parts)


def schedule(sampling: Sampling, progress: float) -> float:
    """Share of the guidance at a moment of the drawing: its strength then is 1 + share (S - 1).

    Args:
        sampling: constant; linear, t (as Chang et al. 2023, arXiv 2301.00704); cosine, (1 -
            cos(pi t^p)) / 2 (Yu et al. 2024, arXiv 2411.00776); outside an interval there is none
            (Kynkaanniemi et al. 2024, arXiv 2404.07724).
        progress: t, the share of the steps that are done, in [0, 1].
    """
    if not sampling.guidance_from <= progress <= sampling.guidance_to:
        return 0.0
    if sampling.guidance_schedule == "linear":
        return progress
    if sampling.guidance_schedule == "cosine":
        return (1 - math.cos(math.pi * progress**sampling.guidance_power)) / 2
    return 1.0


def combined(
    logits: Tensor, sampling: Sampling, progress: float = 1.0, strengths: Tensor | None = None
) -> Tensor:
    """Logits of all that `guiding` joined -> those to draw from. With two strengths: null +
    guidance (first - null) + guidance_second (both - first) (Brooks et al. 2023, arXiv 2211.09800,
    equation 3, with the roles of the two as they come).

    Args:
        progress: see `schedule`.
        strengths: of each of the codes (B,), where they differ, instead of sampling.guidance.
    """
    if not sampling.guides:
        return logits
    strength = sampling.guidance if strengths is None else strengths[:, None].to(logits)
    guidance = 1 + (strength - 1) * schedule(sampling, progress)
    if sampling.guidance_second is None:
        conditioned, null = logits.chunk(2)
        return guided(conditioned, null, guidance)
    both, first, null = logits.chunk(3)
    return guided(first, null, guidance) + sampling.guidance_second * (both - first)


def guided(logits: Tensor, null: Tensor, strength: float | Tensor) -> Tensor:
    """Away from what the null condition gives (Ho and Salimans 2022, arXiv 2207.12598)."""
    return null + strength * (logits - null)
