"""What all trainings have in common: counted batches, accumulation, clipping, schedule, averaged
weights, validation, and a state that resumes exactly.

A batch is what one optimizer step sees; with accumulation it consists of several micro-batches.
Everything random in a micro-batch comes from (seed, batch, micro-batch, process), so no random
state needs saving. Optimization is manual because the adversarial stage needs it, and Lightning
then leaves clipping and accumulation to us.
"""

import copy
import math
import sys
from collections.abc import Iterable, Iterator
from itertools import islice

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch import Tensor, nn

from taming.config.experiment import Experiment, Optimizer, to_plain
from taming.data.card import Card
from taming.errors import UserError, first_line
from taming.first_stage.interface import evaluating
from taming.training.datamodule import DataModule, stop_together
from taming.training.muon import Muon
from taming.training.sharded import spread_states
from taming.training.strategies import shard_weights, whole
from taming.training.tuning import has_updates, merged

OPTIONS = ("peak", "weight_decay", "betas")  # of a group of parameters


class NotFinite(UserError):
    """A loss or gradient that is no number: what is on disk is better than what is in memory."""


class Training(pl.LightningModule):
    """Subclasses define what a micro-batch does (`micro_batch`) and what validation measures
    (`validation_sums`, `figures`).
    """

    stage: str
    monitor: str  # the figure that "best" means, lower is better

    def __init__(self, experiment: Experiment, model: nn.Module):
        super().__init__()
        self.automatic_optimization = False
        self.experiment, self.model = experiment, model
        self.batches = 0  # completed
        self.images = 0  # that these batches have seen, over all processes
        self.micro = 0  # micro-batches of the current batch
        self.stepping = False  # between the first optimizer step of a batch and its end
        self.latest: dict[str, float] = {}  # terms as last logged
        self.best = math.inf
        self.without_gain = 0  # validations since the best one
        self.validated: dict[str, float] = {}  # the latest validation figures
        self.data: dict[str, dict] = {}  # which files the data sets have (checks.contents)
        self.card = Card()
        self.last_checkpoint: str | None = None
        self.averaged = (
            copy.deepcopy(self.trained()).requires_grad_(False) if experiment.trainer.ema else None
        )
        self._optimizer_states: list[dict] = []
        self._unwritable: set[str] = set()
        self._has_shares = False

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

    def draw(self, batch: dict) -> Tensor:
        """A montage (3, H, W) in [-1, 1] of what the model makes of a batch."""
        raise NotImplementedError(f"{type(self).__name__} draws nothing")

    def configure_model(self) -> None:
        """With FSDP: each process holds its share of the weights."""
        if self.is_sharded and self.device_mesh is not None and not self._has_shares:
            mesh = self.device_mesh["data_parallel"]
            for networks in (self.trained(), self.averaged):
                if networks is not None:
                    shard_weights(networks, mesh)
            self._has_shares = True

    @property
    def is_sharded(self) -> bool:
        """Whether weights are spread over the processes, so that all have to compute together."""
        return self.experiment.trainer.strategy == "fsdp"

    # The loop

    def training_step(self, batch: dict, _: int) -> None:
        trainer = self.experiment.trainer
        torch.manual_seed(_mix(self.experiment.seed, self.batches, self.micro, self.global_rank))
        last = self.micro == trainer.accumulate_grad_batches - 1
        if self.micro == 0:
            self._set_rates()
        terms = self.micro_batch(batch, last)
        self._refuse_nonfinite(terms)
        if not last:
            self.micro += 1
            return
        self.micro, self.stepping = 0, False
        self.batches += 1
        self.images += images_per_batch(self.experiment)
        self._average()
        if self.batches % trainer.log_every == 0 or self.batches == 1:
            self.latest = {name: float(value) for name, value in terms.items()}
            rate = self.experiment.optimizer.learning_rate * self._rate(self.batches - 1)
            metrics = {f"train/{name}": value for name, value in self.latest.items()}
            self.write({**metrics, "train/learning_rate": rate})

    def step(self, optimizer, parameters: Iterable[nn.Parameter], counts: bool) -> None:
        """Clips, steps, clears. Only one optimizer of a batch `counts`: trainer.global_step counts
        every step of a wrapped optimizer, and max_steps means batches.
        """
        norm = nn.utils.clip_grad_norm_(
            parameters, self.experiment.trainer.gradient_clip_val or math.inf
        )
        self._refuse_nonfinite({"the gradient": whole(norm)})
        self.stepping = True
        (optimizer if counts else optimizer.optimizer).step()
        optimizer.zero_grad(set_to_none=True)

    def write(self, metrics: dict[str, float]) -> None:
        """To every logger; a log that can't be written does not stop a run."""
        for logger in self.loggers:
            try:
                logger.log_metrics(metrics, self.batches)
            except OSError as error:
                self.warn_unwritable(type(logger).__name__, first_line(error))

    def warn_unwritable(self, name: str, reason: str) -> None:
        """One line for each thing that can't be written, the first time."""
        if name not in self._unwritable:
            print(f"{name} can't be written ({reason}); training continues", file=sys.stderr)
            self._unwritable.add(name)

    @torch.no_grad()
    def validate(self, batches: Iterable[dict]) -> dict[str, float]:
        """The figures of the validation set (or of its first `validation_batches`); the batches are
        shared out over the processes.
        """
        world, rank = self.trainer.world_size, self.global_rank
        sums: dict[str, Tensor] = {}
        with evaluating(self):
            for group in in_groups(self._usable(batches), world):
                # Every process computes at the same time, and adds something, be it zero
                batch, mine = group[min(rank, len(group) - 1)], rank < len(group)
                for key, value in self.validation_sums(self.to_device(batch)).items():
                    sums[key] = sums.get(key, 0) + value * mine
        if world > 1:
            for key in sorted(sums):
                dist.all_reduce(sums[key])
        self.validated = self.figures(sums)
        self.write({f"validation/{name}": value for name, value in self.validated.items()})
        return self.validated

    def _usable(self, batches: Iterable[dict]) -> Iterator[dict]:
        """Up to `validation_batches`; all processes stop where one of them can't read."""
        for batch in islice(batches, self.experiment.trainer.validation_batches):
            stop_together(self.trainer, self.data_module.refusal(batch))
            yield batch

    @property
    def data_module(self) -> DataModule:
        return self.trainer.datamodule

    def to_device(self, batch: dict) -> dict:
        return {key: self._moved(value) for key, value in batch.items()}

    def evaluated(self) -> nn.Module:
        """The model as it would be loaded: with averaged weights where there are some."""
        return self.model if self.averaged is None else self.averaged

    # State

    def state(self) -> dict:
        """Everything that resuming needs, in plain types and tensors."""
        averaged = {} if self.averaged is None else self.averaged.state_dict()
        metadata = {
            "version": 1,
            "stage": self.stage,
            "config": self.config(),
            "batches": self.batches,
            "images": self.images,
            "data": self.data,
            "figures": self.validated,
            "card": self.card.plain(),
            "best": self.best,
            "without_gain": self.without_gain,
            "averaged": {self._averaged_prefix() + name: t for name, t in merged(averaged).items()},
        }
        weights = self.state_dict()
        state = {
            "taming": metadata,
            "state_dict": {
                name: tensor
                for name, tensor in merged(weights).items()
                if not name.startswith("averaged.")
            },
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers()],
        }
        if has_updates(weights):
            state["updates"] = weights
        return state

    def resume(self, state: dict) -> None:
        """Takes up a `state`; the optimizers' part waits until they exist (`on_train_start`)."""
        metadata = state["taming"]
        self.batches, self.best = metadata["batches"], metadata["best"]
        self.validated = metadata["figures"]
        prefix = self._averaged_prefix()
        averaged = {
            f"averaged.{name.removeprefix(prefix)}": tensor
            for name, tensor in metadata["averaged"].items()
        }
        self.without_gain = metadata.get("without_gain", 0)  # earlier versions wrote none
        try:
            self.load_state_dict(state.get("updates") or {**state["state_dict"], **averaged})
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:160]
            raise UserError(
                f"the run had another model, loss or trainer.ema ({reason}); resume it with its"
                " own, or start a new one with --from"
            ) from None
        self._optimizer_states = state["optimizers"]

    def on_train_start(self) -> None:
        """The optimizers have the run's moments, and rates and betas of the configuration."""
        for optimizer, state in zip(self._optimizers(), self._optimizer_states):
            options = [
                {key: group[key] for key in OPTIONS if key in group}
                for group in optimizer.param_groups
            ]
            optimizer.load_state_dict(spread_states(optimizer, state))
            for group, values in zip(optimizer.param_groups, options):
                group.update(values)
        self._optimizer_states = []

    def config(self) -> dict:
        """The configuration in the checkpoint, enough to rebuild the model."""
        return to_plain(self.experiment)

    # Details

    def _averaged_prefix(self) -> str:
        """Checkpoints name averaged weights by their place in the whole model."""
        trained = self.trained()
        for name, module in self.model.named_modules():
            if module is trained:
                return f"averaged.{name}." if name else "averaged."
        return "averaged."

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        optimizers = self.optimizers(use_pl_optimizer=False)
        return optimizers if isinstance(optimizers, list) else [optimizers]

    def _rate(self, batch: int) -> float:
        return schedule(self.experiment.optimizer, batch, self.experiment.trainer.max_steps)

    def _set_rates(self) -> None:
        for optimizer in self._optimizers():
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * self._rate(self.batches)

    @torch.no_grad()
    def _average(self) -> None:
        """averaged <- decay averaged + (1 - decay) weights, with a shorter memory in the first
        batches; buffers are copied.
        """
        decay = self.experiment.trainer.ema
        if self.averaged is None or decay is None:
            return
        decay = min(decay, (1 + self.batches) / (10 + self.batches))
        for mean, now in zip(self.averaged.parameters(), self.trained().parameters()):
            mean.lerp_(now, 1 - decay)
        for mean, now in zip(self.averaged.buffers(), self.trained().buffers()):
            mean.copy_(now)

    def _refuse_nonfinite(self, terms: dict[str, Tensor]) -> None:
        values = [torch.as_tensor(value).detach().float().reshape(()) for value in terms.values()]
        # One look for all of them: each look waits until a GPU has done all that it was asked for
        if bool(torch.stack(values).isfinite().all()):
            return
        for name, value in terms.items():
            if math.isfinite(float(value)):
                continue
            checkpoint = self.last_checkpoint or "the start: there is no checkpoint yet"
            raise NotFinite(
                f"{name} became {float(value)} at batch {self.batches + 1}; lower"
                f" optimizer.learning_rate (now {self.experiment.optimizer.learning_rate}) or"
                f" trainer.gradient_clip_val, and resume from {checkpoint}"
            )

    def _moved(self, value):
        if isinstance(value, list | tuple):
            return [self._moved(item) for item in value]
        if not isinstance(value, Tensor):
            return value
        value = value.to(self.device, non_blocking=value.is_pinned())
        if self.experiment.trainer.channels_last and value.ndim == 4 and value.is_floating_point():
            return value.to(memory_format=torch.channels_last)
        return value


def in_groups(batches: Iterable[dict], size: int) -> Iterator[list[dict]]:
    """Lists of so many; the last one may be shorter."""
    batches = iter(batches)
    while group := list(islice(batches, size)):
        yield group


def images_per_batch(experiment: Experiment) -> int:
    """What one optimizer step sees, over all processes."""
    trainer = experiment.trainer
    processes = trainer.devices * trainer.nodes
    return experiment.data.batch_size * trainer.accumulate_grad_batches * processes


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
    beta1, beta2 = optimizer.betas
    return torch.optim.AdamW(groups, lr=rate, betas=(beta1, beta2), fused=True)


def muon(matrices: list[Tensor], optimizer: Optimizer, rate: float) -> torch.optim.Optimizer:
    """Muon (Jordan et al. 2024), its steps scaled to the size of AdamW's (Liu et al. 2025, arXiv
    2502.16982), so that both take the same rate and decay.
    """
    group = {"params": matrices, "weight_decay": optimizer.weight_decay, "peak": rate}
    return Muon([group], lr=rate, adjust_lr_fn="match_rms_adamw")


def _mix(*numbers: int) -> int:
    """One 63-bit seed of several numbers (FNV-1a over them)."""
    mixed = 0xCBF29CE484222325
    for number in numbers:
        mixed = ((mixed ^ (number & 0xFFFFFFFFFFFFFFFF)) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return mixed >> 1
