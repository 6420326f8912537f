"""What training has in common in both stages: counted batches, accumulation, clipping, schedule,
averaged weights, validation, and a state that resumes exactly.

A batch is what one optimizer step sees; with accumulation it consists of several micro-batches.
Everything random in a micro-batch is drawn from (seed, batch, micro-batch, process), so nothing
about random states needs saving. Optimization is manual because the adversarial stage needs it, and
Lightning then leaves clipping and accumulation to us.
"""

import copy
import math

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch import Tensor, nn

from taming.config.experiment import Experiment, Optimizer, to_plain
from taming.errors import UserError


class Training(pl.LightningModule):
    """Subclasses say what a micro-batch does (`micro_batch`) and what validation measures
    (`validation_sums`, `figures`).
    """

    stage: str
    monitor: str  # the figure that "best" means, lower is better

    def __init__(self, experiment: Experiment, model: nn.Module):
        super().__init__()
        self.automatic_optimization = False
        self.experiment, self.model = experiment, model
        self.batches = 0  # done so far
        self.micro = 0  # micro-batches of the batch under way
        self.latest: dict[str, float] = {}  # last logged terms
        self.best = math.inf
        self.validated: dict[str, float] = {}  # last figures of validation
        self.averaged = (
            copy.deepcopy(self.trained()).requires_grad_(False) if experiment.trainer.ema else None
        )

    # What subclasses fill in

    def trained(self) -> nn.Module:
        """The part of the model that learns."""
        return self.model

    def micro_batch(self, batch: dict, last: bool) -> dict[str, Tensor]:
        """Forward, backward (divided by the accumulation), and, if `last`, the optimizer steps.
        Returns the terms to log.
        """
        raise NotImplementedError(f"{type(self).__name__} does not train")

    def validation_sums(self, batch: dict) -> dict[str, Tensor]:
        """What a validation batch adds to the sums that `figures` reads."""
        raise NotImplementedError(f"{type(self).__name__} does not validate")

    def figures(self, sums: dict[str, Tensor]) -> dict[str, float]:
        raise NotImplementedError(f"{type(self).__name__} has no figures")

    # The loop

    def training_step(self, batch: dict, _: int) -> None:
        torch.manual_seed(_mix(self.experiment.seed, self.batches, self.micro, self.global_rank))
        steps = self.experiment.trainer.accumulate_grad_batches
        last = self.micro == steps - 1
        if self.micro == 0:
            self._set_rates()
        terms = self.micro_batch(batch, last)
        self._refuse_nonfinite(terms)
        self.micro = 0 if last else self.micro + 1
        if last:
            self.batches += 1
            self._average()
            if self.batches % self.experiment.trainer.log_every == 0 or self.batches == 1:
                self.latest = {k: float(v) for k, v in terms.items()}
                self.write(
                    {f"train/{k}": v for k, v in self.latest.items()}
                    | {"train/learning_rate": self._rate(self.batches - 1)}
                )

    def step(self, optimizer, parameters, counts: bool) -> None:
        """Clip, step, clear. Only one optimizer of a batch `counts`: trainer.global_step counts
        every step of a wrapped optimizer, and max_steps means batches.
        """
        norm = nn.utils.clip_grad_norm_(
            parameters, self.experiment.trainer.gradient_clip_val or math.inf
        )
        self._refuse_nonfinite({"the gradient": norm})
        (optimizer if counts else optimizer.optimizer).step()
        optimizer.zero_grad(set_to_none=True)

    def write(self, metrics: dict[str, float]) -> None:
        for logger in self.loggers:
            logger.log_metrics(metrics, self.batches)

    @torch.no_grad()
    def validate(self, loader) -> dict[str, float]:
        """The figures of the validation set (or of its first `validation_batches`); the batches are
        shared out over the processes.
        """
        modes = [(m, m.training) for m in self.modules()]
        self.eval()
        sums: dict[str, Tensor] = {}
        for number, batch in enumerate(loader):
            if (
                self.experiment.trainer.validation_batches is not None
                and number >= self.experiment.trainer.validation_batches
            ):
                break
            self.trainer.datamodule.broken.note(batch.get("skipped", []))
            mine = number % self.trainer.world_size == self.global_rank
            if mine or number == 0:  # every process adds something, be it zero
                for key, value in self.validation_sums(self.to_device(batch)).items():
                    sums[key] = sums.get(key, 0) + value * mine
        for module, mode in modes:
            module.training = mode
        if self.trainer.world_size > 1:
            for key in sorted(sums):
                dist.all_reduce(sums[key])
        self.validated = self.figures(sums)
        self.write({f"validation/{k}": v for k, v in self.validated.items()})
        return self.validated

    def to_device(self, batch: dict) -> dict:
        return {k: self._moved(v) for k, v in batch.items()}

    def evaluated(self) -> nn.Module:
        """The model as it would be loaded: with averaged weights where they are kept."""
        return self.model if self.averaged is None else self.averaged

    # State

    def state(self) -> dict:
        """Everything that resuming needs, in plain types and tensors."""
        optimizers = self.optimizers(use_pl_optimizer=False)
        optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
        prefix = next(
            (name for name, module in self.model.named_modules() if module is self.trained()), ""
        )
        averaged = (
            {}
            if self.averaged is None
            else {
                f"averaged.{prefix + '.' if prefix else ''}{k}": v
                for k, v in self.averaged.state_dict().items()
            }
        )
        ours = {
            "version": 1,
            "stage": self.stage,
            "config": self.config(),
            "batches": self.batches,
            "figures": self.validated,
            "best": self.best,
            "averaged": averaged,
        }
        state = {k: v for k, v in self.state_dict().items() if not k.startswith("averaged.")}
        return {
            "taming": ours,
            "state_dict": state,
            "optimizers": [o.state_dict() for o in optimizers],
        }

    def resume(self, state: dict) -> None:
        """Takes up a `state`; the optimizers' part waits until they exist (see `on_train_start`)."""
        ours = state["taming"]
        self.batches, self.best, self.validated = ours["batches"], ours["best"], ours["figures"]
        prefix = next(
            (name for name, module in self.model.named_modules() if module is self.trained()), ""
        )
        averaged = {
            k.removeprefix(f"averaged.{prefix + '.' if prefix else ''}"): v
            for k, v in ours["averaged"].items()
        }
        try:
            self.load_state_dict(
                {**state["state_dict"], **{f"averaged.{k}": v for k, v in averaged.items()}}
            )
        except RuntimeError as error:
            told = " ".join(str(error).split())[:160]
            raise UserError(
                f"the run had another model, loss or trainer.ema ({told}); go on with its own, or"
                " start one with --from"
            ) from None
        self._optimizer_states = state["optimizers"]

    def on_train_start(self) -> None:
        states = self.__dict__.pop("_optimizer_states", None)
        if states:
            optimizers = self.optimizers(use_pl_optimizer=False)
            for optimizer, state in zip(
                optimizers if isinstance(optimizers, list) else [optimizers], states
            ):
                optimizer.load_state_dict(state)

    def config(self) -> dict:
        """What the checkpoint says about itself."""
        return to_plain(self.experiment)

    # Details

    def _set_rates(self) -> None:
        optimizers = self.optimizers(use_pl_optimizer=False)
        for optimizer in optimizers if isinstance(optimizers, list) else [optimizers]:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * schedule(
                    self.experiment.optimizer, self.batches, self.experiment.trainer.max_steps
                )

    def _rate(self, batch: int) -> float:
        return self.experiment.optimizer.learning_rate * schedule(
            self.experiment.optimizer, batch, self.experiment.trainer.max_steps
        )

    @torch.no_grad()
    def _average(self) -> None:
        """averaged <- decay averaged + (1 - decay) weights, with a shorter memory in the first
        batches; buffers are copied.
        """
        if self.averaged is None:
            return
        decay = min(self.experiment.trainer.ema, (1 + self.batches) / (10 + self.batches))
        for mean, now in zip(self.averaged.parameters(), self.trained().parameters()):
            mean.lerp_(now, 1 - decay)
        for mean, now in zip(self.averaged.buffers(), self.trained().buffers()):
            mean.copy_(now)

    def _refuse_nonfinite(self, terms: dict[str, Tensor]) -> None:
        bad = [name for name, value in terms.items() if not math.isfinite(float(value))]
        if bad:
            raise UserError(
                f"{bad[0]} became {float(terms[bad[0]])} at batch {self.batches + 1}; "
                f"lower optimizer.learning_rate (now {self.experiment.optimizer.learning_rate}) "
                f"or trainer.gradient_clip_val, and go on from {self.last_good()}"
            )

    def last_good(self) -> str:
        return getattr(self, "last_checkpoint", None) or "the start: there is no checkpoint yet"

    def _moved(self, value):
        if isinstance(value, Tensor):
            value = value.to(self.device)
            return (
                value.to(memory_format=torch.channels_last)
                if self.experiment.trainer.channels_last
                and value.ndim == 4
                and value.is_floating_point()
                else value
            )
        return [self._moved(v) for v in value] if isinstance(value, list | tuple) else value


def schedule(optimizer: Optimizer, batch: int, max_steps: int) -> float:
    """Factor on the learning rate of the batch with this number (from 0): linear warm-up, then half
    a cosine down to `final`.
    """
    if batch < optimizer.warmup:
        return (batch + 1) / optimizer.warmup
    end = optimizer.decay_steps or max_steps
    progress = min(1.0, (batch - optimizer.warmup) / max(1, end - optimizer.warmup))
    return optimizer.final + (1 - optimizer.final) * (1 + math.cos(math.pi * progress)) / 2


def adam(groups: list[dict], optimizer: Optimizer, rate: float) -> torch.optim.Optimizer:
    """AdamW, fused; each group remembers the rate that the schedule scales."""
    groups = [{"weight_decay": optimizer.weight_decay, **g, "peak": rate} for g in groups]
    return torch.optim.AdamW(groups, lr=rate, betas=tuple(optimizer.betas), fused=True)


def _mix(*numbers: int) -> int:
    """One 63-bit seed of several numbers (FNV-1a over them)."""
    mixed = 0xCBF29CE484222325
    for number in numbers:
        mixed = ((mixed ^ (number & 0xFFFFFFFFFFFFFFFF)) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return mixed >> 1
