"""A batch of jobs -> pictures: what sampling a folder and repeating a PNG share."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from taming.first_stage.interface import Codes
from taming.inference.conditions import batch_of
from taming.inference.entries import join
from taming.inference.job import Job
from taming.second_stage.model import SecondStage
from taming.second_stage.rejection import class_score, rejection_sample
from taming.second_stage.sampling import Sampling

Known = tuple[Tensor, Tensor]
"""A picture (1, 3, H, W) and which of its pixels stay, bool (1, H, W)."""


def joined(model: SecondStage, jobs: Sequence[Job], sampling: Sampling) -> dict[str, Any]:
    """The batch of several jobs, on the model's device."""
    if model.conditioner.key is None:
        return {"count": len(jobs)}
    batches = [batch_of(model, job.condition, sampling) for job in jobs]
    return join(batches, next(model.parameters()).device)


def draw_batch(
    model: SecondStage,
    jobs: Sequence[Job],
    batch: dict[str, Any],
    sampling: Sampling,
    known: Known | None = None,
    on_row: Callable[[Codes, int], None] | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> Tensor:
    """One picture for each job, (B, 3, H, W) in [-1, 1].

    Args:
        batch: the conditions, see `joined`.
        on_row, on_step: see SecondStage.sample.
    """
    if known is not None:
        device = next(model.parameters()).device
        image, stays = (part.expand(len(jobs), *part.shape[1:]).to(device) for part in known)
        known = image, stays
    numbers = [job.number for job in jobs]
    if sampling.accept < 1 and sampling.classifier:
        score = class_score(sampling.classifier, batch["class"])
        return rejection_sample(model, batch, score, sampling, first=numbers, known=known)
    return model.sample(
        batch, sampling=sampling, known=known, first=numbers, on_row=on_row, on_step=on_step
    )
