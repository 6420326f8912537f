"""Training a prior: cross-entropy of the codes given the condition, with noise on the input codes."""

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taming.config import Experiment
from taming.first_stage.pretrained import inlined
from taming.images import grid
from taming.second_stage.codes import as_condition
from taming.second_stage.interface import Condition
from taming.second_stage.model import SecondStage
from taming.training import Training, adam


class SecondStageTraining(Training):
    """parts: vocabulary and grid of each part of the condition, for batches of cached codes."""

    stage = "second"
    monitor = "nll"

    def __init__(self, experiment: Experiment, model: SecondStage, parts: list):
        super().__init__(experiment, model)
        self.parts = parts
        plain = super().config()
        self._config = {**plain, "model": inlined(plain["model"])}  # once: the first stages' files may go

    def trained(self) -> nn.Module:
        return self.model.priors

    def configure_optimizers(self):
        return adam(decay_groups(self.model.priors), self.experiment.optimizer, self.experiment.optimizer.learning_rate)

    def micro_batch(self, batch: dict, last: bool) -> dict[str, Tensor]:
        codes, condition = self.inputs(self.to_device(batch))
        seen = corrupt(codes, self.experiment.noise, self.model.prior.num_codes)
        if self.experiment.condition_dropout:
            silent = torch.rand(len(codes), device=codes.device) < self.experiment.condition_dropout
            condition = tuple(part.null(silent) for part in condition)
        logits = self.model.prior(seen, condition)
        loss = F.cross_entropy(logits.flatten(0, 2).float(), codes.flatten())
        self.manual_backward(loss / self.experiment.trainer.accumulate_grad_batches)
        if last:
            self.step(self.optimizers(), self.model.priors.parameters(), counts=True)
        return {"nll": loss.detach()}

    def inputs(self, batch: dict) -> tuple[Tensor, Condition]:
        """Codes (B, h, w) and condition: from the cache, or encoded on the fly."""
        if "codes" in batch:
            return batch["codes"][0], as_condition(batch["condition"], self.parts)
        with torch.no_grad():
            return self.model.first_stage.encode(batch[self.model.first_stage.key])[0], self.model.conditioner(batch)

    def validation_sums(self, batch: dict) -> dict[str, Tensor]:
        codes, condition = self.inputs(batch)
        prior = self.evaluated().prior
        return {
            "nll": -prior.log_prob(codes, condition).double().sum(),
            "count": torch.tensor(float(codes.numel()), dtype=torch.float64, device=codes.device),
            "codes": torch.bincount(codes.flatten(), minlength=prior.num_codes).double(),
        }

    def figures(self, sums: dict[str, Tensor]) -> dict[str, float]:
        """nll, bits: per code; unigram: entropy in nats of the validation codes' frequencies, what a prior that sees nothing could reach."""
        nll = float(sums["nll"] / sums["count"])
        unigram = float(torch.special.entr(sums["codes"] / sums["codes"].sum()).sum())
        return {"nll": nll, "bits": nll / math.log(2), "unigram": unigram, "unigram_bits": unigram / math.log(2)}

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
        return grid(columns)


def corrupt(codes: Tensor, share: float, num_codes: int) -> Tensor:
    """Each code is replaced, with probability `share`, by one drawn evenly from the codebook (1 - share is the paper's pkeep)."""
    if not share:
        return codes
    replaced = torch.rand(codes.shape, device=codes.device) < share
    return torch.where(replaced, torch.randint_like(codes, num_codes), codes)


def decay_groups(module: nn.Module) -> list[dict]:
    """Weight decay for the matrices of linear layers only; none for biases, norms, embeddings and positions."""
    decayed = {id(layer.weight) for layer in module.modules() if isinstance(layer, nn.Linear)}
    parameters = list(module.parameters())
    return [{"params": [p for p in parameters if id(p) in decayed]}, {"params": [p for p in parameters if id(p) not in decayed], "weight_decay": 0.0}]
