"""Rejection sampling: draw more than is wanted, keep what a judge scores best (Razavi et al. 2019,
arXiv 1906.00446; Esser et al. 2021, table 4).
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from taming.errors import UserError
from taming.second_stage.model import SecondStage
from taming.second_stage.sampling import Sampling

Score = Callable[[Tensor, int], Tensor]
"""(candidates (m, 3, H, W) in [-1, 1] for picture i of the batch, i) -> (m,), higher is better."""

IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@torch.no_grad()
def rejection_sample(
    model: SecondStage,
    batch: dict,
    score: Score,
    sampling: Sampling | None = None,
    *,
    first: int | list[int] = 0,
    known: tuple[Tensor, Tensor] | None = None,
    **changes: Any,
) -> Tensor:
    """Pictures (B, C, H, W), each the best of 1 / accept candidates by `score`.

    Candidate c of the picture with number i draws from (seed, i + c 2^32), so candidate 0 is the
    picture that would be drawn without a judge.

    Args:
        sampling: as of SecondStage.sample; its `accept` says how many candidates.
        first, known: as of SecondStage.sample.
        changes: fields of Sampling, changed.
    """
    sampling = Sampling.of(sampling, **changes).seeded()
    each = replace(sampling, accept=1.0, classifier=None)
    best = scores = None
    for c in range(math.ceil(1 / sampling.accept)):
        shift = c << 32
        numbers = [i + shift for i in first] if isinstance(first, list) else first + shift
        candidates = model.sample(batch, sampling=each, first=numbers, known=known)
        scored = torch.cat([score(candidates[i : i + 1], i) for i in range(len(candidates))])
        if best is None or scores is None:
            best, scores = candidates, scored
        else:
            better = scored > scores
            best = torch.where(better[:, None, None, None], candidates, best)
            scores = torch.where(better, scored, scores)
    assert best is not None
    return best


def class_score(classifier: nn.Module | str, classes: Tensor) -> Score:
    """How probable a classifier finds the class that was asked for. classifier: a module from
    pictures (m, 3, H, W) in [-1, 1] to logits, or the name of a torchvision model, which gets its
    own weights, 224 x 224 pixels and normalisation.
    """
    network = _torchvision(classifier) if isinstance(classifier, str) else classifier
    return lambda pictures, i: network(pictures).log_softmax(dim=-1)[:, int(classes[i])]


def mask_score(segmenter: nn.Module, masks: Tensor) -> Score:
    """The share of pixels at which a segmenter, from pictures (m, 3, H, W) to logits (m, labels, H,
    W), finds the label of masks (B, H, W).
    """
    return lambda pictures, i: (
        (segmenter(pictures).argmax(dim=1) == masks[i]).float().mean(dim=(1, 2))
    )


def _torchvision(name: str) -> nn.Module:
    from torchvision import models

    if name not in models.list_models(models):
        raise UserError(
            f"classifier '{name}' is no torchvision model; resnet50, for example, is one"
        )
    try:
        network = models.get_model(name, weights="DEFAULT").eval()
    except OSError as error:
        cure = "put them into torch's cache, or judge in Python with a module of your own"
        raise UserError(f"the weights of '{name}' can't be fetched ({error}); {cure}") from None
    mean, deviation = (
        torch.tensor(v).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_DEVIATION)
    )

    class Prepared(nn.Module):
        def forward(self, pictures: Tensor) -> Tensor:
            network.to(pictures.device)
            resized = nn.functional.interpolate(
                pictures, (224, 224), mode="bilinear", antialias=True
            )
            return network(((resized + 1) / 2 - mean.to(pictures)) / deviation.to(pictures))

    return Prepared()
