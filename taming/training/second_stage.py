"""Training a prior: cross-entropy of the codes given the condition, with noise on the codes that it
reads.
"""

import copy
import math
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from taming.config.experiment import Experiment
from taming.errors import UserError
from taming.first_stage.interface import Codes, precise
from taming.formats.pretrained import inlined
from taming.images import montage
from taming.second_stage.block import Block
from taming.second_stage.interface import Condition, Prior
from taming.second_stage.model import SecondStage
from taming.training.codes import PartShape, condition_of
from taming.training.module import Training, adam, muon
from taming.training.objective import Objectives

Model = TypeVar("Model", bound=SecondStage)


class SecondStageTraining(Training):
    """Levels share no weights: each prior is trained as if by itself.

    Args:
        parts: vocabulary and grid of each part of the condition, for batches of cached codes.
    """

    stage = "second"
    monitor = "nll"
    model: SecondStage

    def __init__(self, experiment: Experiment, model: SecondStage, parts: Sequence[PartShape]):
        super().__init__(experiment, model)
        self.parts = parts
        self.objectives = nn.ModuleList(
            Objectives(experiment.objective, prior, model.first_stage, experiment.seed)
            for prior in self.learners()
        )
        plain = super().config()
        # Once: the first stages' files may go
        self._config = {**plain, "model": inlined(plain["model"])}

    def trained(self) -> nn.Module:
        return self.model.priors

    def learners(self) -> list[Prior]:
        """The priors that are trained."""
        return self.model.levels

    def learning(self) -> nn.Module:
        """What the optimizers move: the trained part, and what only training needs."""
        return nn.ModuleList([self.trained(), *self.objectives])

    def configure_optimizers(self):
        optimizer, groups = self.experiment.optimizer, decay_groups(self.learning())
        if optimizer.algorithm == "adamw":
            return adam(groups, optimizer, optimizer.learning_rate)
        matrices = block_matrices(self.trained())
        if not matrices:
            raise UserError(
                "optimizer.algorithm: muon moves the matrices of Transformer blocks, and this prior"
                " has none; take adamw"
            )
        moved = set(map(id, matrices))
        for group in groups:
            group["params"] = [p for p in group["params"] if id(p) not in moved]
        return [
            adam(groups, optimizer, optimizer.learning_rate),
            muon(matrices, optimizer, optimizer.learning_rate),
        ]

    def micro_batch(self, batch: dict, last: bool) -> dict[str, Tensor]:
        # 1. codes and condition, some conditions dropped for guidance
        codes, condition = self.inputs(self.to_device(batch))
        dropout = self.experiment.condition_dropout
        if dropout:
            condition = drop_conditions(condition, self.model.conditioner.groups, dropout)
        # 2. each level from the coarser ones, which are right, and its own codes with noise
        losses = []
        for level, (prior, target) in enumerate(zip(self.model.levels, codes)):
            noisy = corrupt(target, self.noise(), prior.num_codes)
            conditioned = self.model.with_coarser(condition, codes[:level])
            objective = self.objectives[level]
            losses.append(objective(prior, noisy, target, conditioned, self.progress()))
        # 3. one step for all levels
        parts = self.experiment.trainer.accumulate_grad_batches
        self.manual_backward(sum(losses[1:], losses[0]) / parts)
        if last:
            self.step_all()
        counts = [target.numel() for target in codes]
        totals = [loss.detach() * count for loss, count in zip(losses, counts)]
        terms = {"nll": sum(totals[1:], totals[0]) / sum(counts)}
        if len(losses) > 1:
            terms |= {f"nll_{level}": loss.detach() for level, loss in enumerate(losses)}
        return terms

    def progress(self) -> float:
        """Share of the training that is done."""
        return min(1.0, self.batches / self.experiment.trainer.max_steps)

    def noise(self) -> float:
        """Share of noise on the codes of this batch."""
        start, end = self.experiment.noise, self.experiment.objective.noise_end
        return start if end is None else start + (end - start) * self.progress()

    def step_all(self) -> None:
        """One step of each optimizer, of which the first counts."""
        optimizers = self.optimizers()
        optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
        for number, optimizer in enumerate(optimizers):
            # Clipped together, once
            parameters = self.learning().parameters() if number == 0 else ()
            self.step(optimizer, parameters, counts=number == 0)

    def inputs(self, batch: dict) -> tuple[Codes, Condition]:
        """Codes (B, h, w) of each level and condition: from the cache, or encoded on the fly."""
        if "codes" in batch:
            return tuple(batch["codes"]), condition_of(self.model, batch, self.parts)
        with torch.no_grad():
            codes = self.model.first_stage.encode(batch[self.model.first_stage.key])
            return codes, self.model.conditioner(batch)

    def validation_sums(self, batch: dict) -> dict[str, Tensor]:
        codes, condition = self.inputs(batch)
        model, sums = self.evaluated(), {}
        for level, (prior, target) in enumerate(zip(model.levels, codes)):
            log_prob = prior.log_prob(target, model.with_coarser(condition, codes[:level]))
            counts = torch.bincount(target.flatten(), minlength=prior.num_codes)
            sums[f"nll/{level}"] = -log_prob.to(precise(log_prob.device)).sum()
            sums[f"codes/{level}"] = counts.to(precise(counts.device))
        return sums

    def figures(self, sums: dict[str, Tensor]) -> dict[str, float]:
        """nll, bits: per code, over all levels; unigram: entropy in nats of the validation codes'
        frequencies, what a prior that sees nothing could reach. Where there are several levels,
        also of each.
        """
        levels = range(len(self.model.priors))
        totals = [float(sums[f"nll/{level}"]) for level in levels]
        counts = [float(sums[f"codes/{level}"].sum()) for level in levels]
        entropies = []
        for level in levels:
            frequencies = sums[f"codes/{level}"] / counts[level]
            entropies.append(float(torch.special.entr(frequencies).sum()))
        nll = sum(totals) / sum(counts)
        unigram = sum(h * n for h, n in zip(entropies, counts)) / sum(counts)
        figures = {
            "nll": nll,
            "bits": nll / math.log(2),
            "unigram": unigram,
            "unigram_bits": unigram / math.log(2),
        }
        if len(totals) > 1:
            for level in levels:
                figures[f"nll_{level}"] = totals[level] / counts[level]
                figures[f"unigram_{level}"] = entropies[level]
        return figures

    def config(self) -> dict:
        return self._config

    def evaluated(self) -> SecondStage:
        return self.with_averaged(self.model, "priors")

    def with_averaged(self, model: Model, part: str) -> Model:
        """The model, its part with averaged weights where there are some."""
        if self.averaged is None:
            return model
        copied = copy.copy(model)
        copied._modules = {**model._modules, part: self.averaged}
        return copied

    def draw(self, batch: dict) -> Tensor:
        """Condition, reconstruction, and two samples."""
        model = self.evaluated()
        key = model.first_stage.key
        condition = model.conditioner.picture(batch)
        columns = [] if condition is None else [condition]
        if key in batch:
            columns.append(model.decode(model.first_stage.encode(batch[key])))
        elif "codes" in batch:
            columns.append(model.decode(tuple(batch["codes"])))
            batch = {**batch, "count": len(batch["codes"][0])}
        columns += [model.sample(batch, seed=seed) for seed in (0, 1)]
        return montage(columns)


def drop_conditions(condition: Condition, groups: Sequence[int], share: float) -> Condition:
    """The null condition for a random `share` of the pictures; of two conditions also each alone,
    for as many (Brooks et al. 2023, arXiv 2211.09800, section 3.2.1), so that guidance may have two
    strengths.

    Args:
        groups: for each part which condition it is of.
    """
    tokens = condition[0].tokens
    dropped = {-1: torch.rand(len(tokens), device=tokens.device) < share}
    for group in sorted(set(groups)) if len(set(groups)) > 1 else ():
        dropped[group] = torch.rand(len(tokens), device=tokens.device) < share
    return tuple(
        part.null(dropped[-1] | dropped[group] if group in dropped else dropped[-1])
        for part, group in zip(condition, groups)
    )


def corrupt(codes: Tensor, share: float, num_codes: int) -> Tensor:
    """Each code is replaced, with probability `share`, by a uniformly random one (1 - share is the
    paper's pkeep).
    """
    if not share:
        return codes
    replaced = torch.rand(codes.shape, device=codes.device) < share
    return torch.where(replaced, torch.randint_like(codes, num_codes), codes)


def decay_groups(module: nn.Module) -> list[dict]:
    """Weight decay for the matrices of linear layers only; none for biases, norms, embeddings and
    positions.
    """
    decayed = {id(layer.weight) for layer in module.modules() if isinstance(layer, nn.Linear)}
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in parameters if id(p) in decayed]},
        {"params": [p for p in parameters if id(p) not in decayed], "weight_decay": 0.0},
    ]


def block_matrices(module: nn.Module) -> list[Tensor]:
    """The matrices of the linear layers inside Transformer blocks: what Muon moves."""
    blocks = [block for block in module.modules() if isinstance(block, Block)]
    return [
        layer.weight
        for block in blocks
        for layer in block.modules()
        if isinstance(layer, nn.Linear)
    ]
