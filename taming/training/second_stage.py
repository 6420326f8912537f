"""Training a prior: cross-entropy of the codes given the condition, with noise on the input codes."""

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taming.config.experiment import Experiment
from taming.first_stage.interface import Codes
from taming.formats.pretrained import inlined
from taming.images import montage
from taming.second_stage.interface import Condition
from taming.second_stage.model import SecondStage
from taming.training.codes import as_condition
from taming.training.module import Training, adam


class SecondStageTraining(Training):
    """parts: vocabulary and grid of each part of the condition, for batches of cached codes."""

    stage = "second"
    monitor = "nll"

    def __init__(self, experiment: Experiment, model: SecondStage, parts: list):
        super().__init__(experiment, model)
        self.parts = parts
        plain = super().config()
        # Once: the first stages' files may go
        self._config = {**plain, "model": inlined(plain["model"])}

    def trained(self) -> nn.Module:
        return self.model.priors

    def configure_optimizers(self):
        return adam(
            decay_groups(self.model.priors),
            self.experiment.optimizer,
            self.experiment.optimizer.learning_rate,
        )

    def micro_batch(self, batch: dict, last: bool) -> dict[str, Tensor]:
        codes, condition = self.inputs(self.to_device(batch))
        if self.experiment.condition_dropout:
            silent = (
                torch.rand(len(codes[0]), device=codes[0].device)
                < self.experiment.condition_dropout
            )
            condition = tuple(part.null(silent) for part in condition)
        losses = []
        for level, (prior, own) in enumerate(zip(self.model.priors, codes)):
            logits = prior(
                corrupt(own, self.experiment.noise, prior.num_codes),
                self.model.level_condition(condition, codes[:level]),
            )
            losses.append(F.cross_entropy(logits.flatten(0, 2).float(), own.flatten()))
        # Levels share no weights: as if each were trained by itself
        self.manual_backward(sum(losses) / self.experiment.trainer.accumulate_grad_batches)
        if last:
            self.step(self.optimizers(), self.model.priors.parameters(), counts=True)
        counts = [level.numel() for level in codes]
        terms = {"nll": sum(loss.detach() * n for loss, n in zip(losses, counts)) / sum(counts)}
        return (
            terms
            if len(losses) == 1
            else terms | {f"nll_{level}": loss.detach() for level, loss in enumerate(losses)}
        )

    def inputs(self, batch: dict) -> tuple[Codes, Condition]:
        """Codes (B, h, w) of each level and condition: from the cache, or encoded on the fly."""
        if "codes" in batch:
            return tuple(batch["codes"]), as_condition(batch["condition"], self.parts)
        with torch.no_grad():
            return self.model.first_stage.encode(
                batch[self.model.first_stage.key]
            ), self.model.conditioner(batch)

    def validation_sums(self, batch: dict) -> dict[str, Tensor]:
        codes, condition = self.inputs(batch)
        model, sums = self.evaluated(), {}
        for level, (prior, own) in enumerate(zip(model.priors, codes)):
            sums[f"nll/{level}"] = (
                -prior.log_prob(own, model.level_condition(condition, codes[:level])).double().sum()
            )
            sums[f"codes/{level}"] = torch.bincount(
                own.flatten(), minlength=prior.num_codes
            ).double()
        return sums

    def figures(self, sums: dict[str, Tensor]) -> dict[str, float]:
        """nll, bits: per code, over all levels; unigram: entropy in nats of the validation codes'
        frequencies, what a prior that sees nothing could reach. Where there are several levels,
        also of each.
        """
        levels = range(len(self.model.priors))
        totals = [float(sums[f"nll/{level}"]) for level in levels]
        counts = [float(sums[f"codes/{level}"].sum()) for level in levels]
        entropies = [
            float(torch.special.entr(sums[f"codes/{level}"] / counts[level]).sum())
            for level in levels
        ]
        nll = sum(totals) / sum(counts)
        unigram = sum(h * n for h, n in zip(entropies, counts)) / sum(counts)
        found = {
            "nll": nll,
            "bits": nll / math.log(2),
            "unigram": unigram,
            "unigram_bits": unigram / math.log(2),
        }
        if len(totals) > 1:
            for level in levels:
                found |= {
                    f"nll_{level}": totals[level] / counts[level],
                    f"unigram_{level}": entropies[level],
                }
        return found

    def config(self) -> dict:
        return self._config

    def evaluated(self) -> SecondStage:
        if self.averaged is None:
            return self.model
        shown = copy.copy(self.model)
        shown._modules = {**self.model._modules, "priors": self.averaged}
        return shown

    def draw(self, batch: dict) -> Tensor:
        """Condition, reconstruction, and a sample."""
        model = self.evaluated()
        key = model.first_stage.key
        condition = model.conditioner.picture(batch)
        columns = [] if condition is None else [condition]
        if key in batch:
            columns.append(model.decode(model.first_stage.encode(batch[key])))
        columns += [model.sample(batch, seed=seed) for seed in (0, 1)]
        return montage(columns)


def corrupt(codes: Tensor, share: float, num_codes: int) -> Tensor:
    """Each code is replaced, with probability `share`, by one drawn evenly from the codebook (1 -
    share is the paper's pkeep).
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
    parameters = list(module.parameters())
    return [
        {"params": [p for p in parameters if id(p) in decayed]},
        {"params": [p for p in parameters if id(p) not in decayed], "weight_decay": 0.0},
    ]
