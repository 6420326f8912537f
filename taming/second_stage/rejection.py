"""Rejection sampling: draw more than is wanted, keep what a judge scores best (Razavi et al. 2019,
arXiv 1906.00446; Esser et al. 2021, table 4).
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from taming.errors import UserError
from taming.second_stage.model import SecondStage

Score = Callable[[Tensor, int], Tensor]
"""(candidates (m, 3, H, W) in [-1, 1] for picture i of the batch, i) -> (m,), higher is better."""

IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@torch.no_grad()
def rejection_sample(
    model: SecondStage, batch: dict, score: Score, accept: float, first: int | list[int] = 0, **how
) -> Tensor:
    """Pictures (B, C, H, W), each the best of 1 / accept candidates by `score`.

    Candidate c of the picture with number i draws from (seed, i + c 2^32), so candidate 0 is the
    picture that would be drawn without a judge. how: the keywords of SecondStage.sample.
    """
    if not 0 < accept <= 1:
        raise UserError(f"accept {accept} is a share, above 0 and at most 1")
    shift = lambda c: (
        [i + (c << 32) for i in first] if isinstance(first, list) else first + (c << 32)
    )  # noqa: E731
    best = scores = None
    for c in range(math.ceil(1 / accept)):
        drawn = model.sample(batch, first=shift(c), **how)
        judged_now = torch.cat([score(drawn[i : i + 1], i) for i in range(len(drawn))])
        if best is None:
            best, scores = drawn, judged_now
        else:
            better = judged_now > scores
            best = torch.where(better[:, None, None, None], drawn, best)
            scores = torch.where(better, judged_now, scores)
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
