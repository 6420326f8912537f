"""What a prior may learn beside the next code: regressions of embeddings, clusters of codes, orders
at random, and to prefer its own condition. All of it is left behind when training ends.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taming.config.experiment import Objective
from taming.errors import UserError
from taming.first_stage.interface import FirstStage
from taming.second_stage.gpt import GPT
from taming.second_stage.interface import Condition, Prior

SHALLOW, DEEP = 0.25, 0.75  # of the depth, where hidden states are regressed
ROUNDS = 20  # of k-means


class Objectives(nn.Module):
    """The loss of one prior, and what only its training needs.

    Args:
        objective: weights and schedules.
        prior: what learns.
        first_stage: of its codes.
        seed: of the clusters.
    """

    embeddings: Tensor
    clusters: Tensor

    def __init__(self, objective: Objective, prior: Prior, first_stage: FirstStage, seed: int):
        super().__init__()
        self.objective = objective
        _check(objective, prior)
        needs_embeddings = objective.regression or objective.cluster_weight
        embeddings = embeddings_of(first_stage) if needs_embeddings else torch.empty(0, 0)
        self.register_buffer("embeddings", embeddings, persistent=False)
        groups = objective.clusters if objective.cluster_weight else 0
        clusters = nearest_means(embeddings, groups, seed) if groups else torch.empty(0).long()
        self.register_buffer("clusters", clusters, persistent=groups > 0)
        if objective.regression:
            assert isinstance(prior, GPT)
            self.shallow = nn.Linear(prior.width, embeddings.shape[1])
            self.deep = nn.Linear(prior.width, embeddings.shape[1])
        if objective.alignment:
            self.reference = copy.deepcopy(prior).requires_grad_(False).eval()

    def forward(
        self, prior: Prior, noisy: Tensor, codes: Tensor, condition: Condition, progress: float
    ) -> Tensor:
        """The loss (), in nats per code where all weights are 0.

        Args:
            noisy: codes as they are read, (B, h, w).
            codes: to be predicted.
            progress: share of the training that is done.
        """
        objective = self.objective
        if objective.alignment:
            return self.alignment(prior, codes, condition)
        order = self.order(codes, progress)
        if order is None and not objective.regression and not objective.cluster_weight:
            return prior.loss(noisy, codes, condition)
        assert isinstance(prior, GPT)
        depths = [round(share * prior.layers) - 1 for share in (SHALLOW, DEEP)]
        logits, states = prior.logits_and_states(noisy, condition, order, depths)
        loss = F.cross_entropy(logits.flatten(0, 2).float(), codes.flatten())
        if objective.cluster_weight:
            loss = loss + objective.cluster_weight * cluster_loss(logits, codes, self.clusters)
        if objective.regression:
            loss = loss + objective.regression * self.regress(prior, states, codes, order)
        return loss

    def order(self, codes: Tensor, progress: float) -> Tensor | None:
        """A random order of the places, with a probability that falls linearly from random_order to
        random_order_end (Yu et al. 2024, arXiv 2411.00776); else None, the prior's own.
        """
        start, end = self.objective.random_order, self.objective.random_order_end
        share = start + (end - start) * progress
        if not share or torch.rand(()) >= share:
            return None
        return torch.randperm(codes[0].numel(), device=codes.device)

    def regress(
        self, prior: GPT, states: list[Tensor], codes: Tensor, order: Tensor | None
    ) -> Tensor:
        """One less the cosine between a linear map of hidden states and embeddings of codes:
        shallow, of the code that was read last; deep, of the one that comes next (He et al. 2025,
        arXiv 2510.04450).
        """
        order = prior.order(prior.grid) if order is None else order
        target = self.embeddings[codes.flatten(1)]
        target = target if order is None else target[:, order]
        shallow, deep = self.shallow(states[0].float()), self.deep(states[1].float())
        current = 1 - F.cosine_similarity(shallow[:, 1:], target[:, :-1], dim=-1)
        following = 1 - F.cosine_similarity(deep, target, dim=-1)
        return current.mean() + following.mean()

    def alignment(self, prior: Prior, codes: Tensor, condition: Condition) -> Tensor:
        """Contrastive alignment with the condition (Chen et al. 2024, arXiv 2410.09347): against
        the prior at the start of this run, codes become likelier under their own condition, and
        less likely under the next picture's, so that a sample needs no guidance.
        """
        wrong = tuple(part.rolled() for part in condition)
        beta, count = self.objective.alignment, codes[0].numel()
        gains = []
        for conditioned in (condition, wrong):
            with torch.no_grad():
                before = -losses_of(self.reference, codes, conditioned)
            gains.append(beta * count * (-losses_of(prior, codes, conditioned) - before))
        return -(F.logsigmoid(gains[0]) + F.logsigmoid(-gains[1])).mean()


def losses_of(prior: Prior, codes: Tensor, condition: Condition) -> Tensor:
    """Of each picture (B,), in nats per code."""
    logits = prior(codes, condition).flatten(1, 2).float()
    return F.cross_entropy(logits.mT, codes.flatten(1), reduction="none").mean(dim=1)


def cluster_loss(logits: Tensor, codes: Tensor, clusters: Tensor) -> Tensor:
    """Cross-entropy of the cluster of each code: the probabilities of its codes count together (Hu
    et al. 2025, arXiv 2501.00880).

    Args:
        logits: (B, h, w, K).
        codes: (B, h, w).
        clusters: (K,), the cluster of each code.
    """
    log_p = logits.float().log_softmax(dim=-1)
    outside = clusters[codes][..., None] != clusters
    return -log_p.masked_fill(outside, -torch.inf).logsumexp(dim=-1).mean()


@torch.no_grad()
def embeddings_of(first_stage: FirstStage) -> Tensor:
    """(K, D) what each code stands for."""
    if len(first_stage.num_codes) != 1:
        raise UserError(
            "objective: regression and clusters are of one level of codes, and this first stage has"
            f" {len(first_stage.num_codes)}; leave them out"
        )
    return first_stage.quantizer.codebook().detach().clone()


def nearest_means(vectors: Tensor, count: int, seed: int) -> Tensor:
    """(K,) which of `count` means each vector (K, D) is nearest to, by k-means."""
    generator = torch.Generator().manual_seed(seed)
    means = vectors[torch.randperm(len(vectors), generator=generator)[:count].to(vectors.device)]
    for _ in range(ROUNDS):
        nearest = torch.cdist(vectors, means).argmin(dim=1)
        sums = torch.zeros_like(means).index_add_(0, nearest, vectors)
        counts = torch.bincount(nearest, minlength=len(means))[:, None]
        means = torch.where(counts > 0, sums / counts.clamp(min=1), means)
    return torch.cdist(vectors, means).argmin(dim=1)


def _check(objective: Objective, prior: Prior) -> None:
    """Raises UserError for what this prior can't learn."""
    name = type(prior).__name__
    hidden = {
        "objective.regression": objective.regression,
        "objective.cluster_weight": objective.cluster_weight,
        "objective.random_order": objective.random_order,
    }
    for key, value in hidden.items():
        if value and not isinstance(prior, GPT):
            raise UserError(f"{key}: {value} is for a GPT, not a {name}; leave it out")
    if objective.random_order and isinstance(prior, GPT):
        if not prior.is_added or prior.order(prior.grid) is not None:
            raise UserError(
                "objective.random_order needs a GPT that knows where the next code lies: set"
                " condition: added, and leave order out"
            )
    if objective.alignment and not prior.knows_null:
        raise UserError(f"objective.alignment: a {name} without a null condition can't be guided")
