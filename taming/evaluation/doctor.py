"""`taming doctor`: what a run's curves and checkpoint say is wrong with it, in plain words, and
what to change.
"""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from taming import config
from taming.errors import UserError
from taming.evaluation import path
from taming.evaluation.metrics import read_metrics
from taming.evaluation.protocol import Figures
from taming.first_stage.losses import LARGEST
from taming.formats.building import without_memory
from taming.formats.load import read_checkpoint

EARLY = 50  # batches, before which training has not had time for most things
LEARNING_RATES = (1e-6, 5e-3)  # outside of which nothing of ours has learned
WINNING = 0.1  # a discriminator that learns from the generator has a larger loss


@dataclass
class Diagnosis:
    """What is wrong, the figures that say so, and what to change."""

    problem: str
    evidence: str
    cure: str

    def __str__(self) -> str:
        return f"{self.problem}: {self.evidence}. Try: {self.cure}."


@dataclass
class Run:
    """A run as its files show it.

    Args:
        batches: seen in training.
        stage: first, second or segmenter.
        experiment: its configuration.
        curves: [(batch, value)] by name.
        num_codes: of each level; () where the model has no codes.
        broken: names of weights that hold NaN or infinity.
    """

    batches: int
    stage: str
    experiment: config.Experiment
    curves: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    num_codes: tuple[int, ...] = ()
    broken: list[str] = field(default_factory=list)

    def values(self, name: str, share: float = 1.0) -> list[float]:
        """Of the last `share` of a curve."""
        rows = self.curves.get(name, [])
        return [value for _, value in rows[math.floor(len(rows) * (1 - share)) :]]

    def last(self, name: str) -> float | None:
        rows = self.curves.get(name)
        return rows[-1][1] if rows else None

    def loss_parameter(self, name: str) -> Any:
        """What the configuration says of the loss; None where it is silent."""
        return ((self.experiment.loss or {}).get("params") or {}).get(name)


def read(folder: str | Path, allow: Sequence[str] = ()) -> Run:
    """The run in a folder. Raises UserError where there is none, or a damaged one."""
    folder = Path(folder)
    for name in ("metrics.csv", "checkpoints/last.ckpt"):
        if not (folder / name).is_file():
            raise UserError(
                f"run '{folder}' has no {name}; give the folder of a run of taming train"
            )
    # 1. the checkpoint
    content = read_checkpoint(folder, allow=allow)
    experiment = content.experiment()
    with without_memory():
        model = config.build(experiment.model, allow, trusted=False)
    broken = [
        name
        for name, tensor in content.weights.items()
        if tensor.is_floating_point() and not torch.isfinite(tensor).all()
    ]
    # 2. the curves
    curves: dict[str, list[tuple[int, float]]] = {}
    for batch, name, value in read_metrics(folder / "metrics.csv"):
        curves.setdefault(name, []).append((batch, value))
    num_codes = getattr(model, "num_codes", ())  # a segmenter has none
    return Run(content.batches, content.stage, experiment, curves, num_codes, broken)


def examine(folder: str | Path, allow: Sequence[str] = ()) -> list[Diagnosis]:
    """All that is wrong, the gravest first; empty where nothing is.

    Args:
        folder: of a run.
        allow: packages of one's own that its checkpoint may name.
    """
    run = read(folder, allow)
    diagnoses = (check(run) for check in CHECKS)
    return [diagnosis for diagnosis in diagnoses if diagnosis is not None]


def diagnose(folder: str | Path, allow: Sequence[str] = ()) -> str:
    """`examine` in words."""
    diagnoses = examine(folder, allow)
    if diagnoses:
        lines = [f"  {number}. {diagnosis}" for number, diagnosis in enumerate(diagnoses, start=1)]
        lines = [f"{folder}:", *lines]
    else:
        titles = [(check.__doc__ or "").splitlines()[0].rstrip(".").lower() for check in CHECKS]
        lines = [f"{folder}: nothing wrong was found (looked for: {', '.join(titles)})"]
    return "\n".join([*lines, *(f"  {line}" for line in limits(Path(folder)))])


def limits(folder: Path) -> list[str]:
    """What limits the model, by the figures that taming evaluate wrote into the run, in words."""
    if not (folder / "figures.json").is_file():
        return []
    try:
        return path.verdict(Figures.read(folder / "figures.json"))
    except UserError as error:
        return [str(error)]


def broken_weights(run: Run) -> Diagnosis | None:
    """Weights that are no numbers."""
    count = len(run.broken)
    if not count:
        return None
    tensors = "1 tensor of the checkpoint holds" if count == 1 else f"{count} tensors hold"
    return Diagnosis(
        "The weights are broken",
        f"{tensors} NaN or infinity, the first {run.broken[0]}",
        "go back to an earlier checkpoint, and lower optimizer.learning_rate or"
        " trainer.gradient_clip_val",
    )


def learning_rate(run: Run) -> Diagnosis | None:
    """An absurd learning rate."""
    rate, trainer = run.experiment.optimizer.learning_rate, run.experiment.trainer
    lowest, highest = LEARNING_RATES
    if lowest <= rate <= highest:
        return None
    parts = trainer.accumulate_grad_batches * trainer.devices * trainer.nodes
    pictures = run.experiment.data.batch_size * parts
    where = "too high for Adam" if rate > highest else "too low to learn anything"
    return Diagnosis(
        f"The learning rate is {where}",
        f"it is {rate:g}, or {rate / pictures:.2g} for each of the {pictures} pictures of a batch;"
        " the published rule, base rate x pictures x devices, was made for batches of about a"
        " dozen",
        "optimizer.learning_rate between 1e-4 and 2e-3, whatever the batch",
    )


def diverged(run: Run) -> Diagnosis | None:
    """A loss that runs away."""
    losses = [f"train/{loss}" for loss in ("l1", "mse", "nll", "cross_entropy")]
    name = next((loss for loss in losses if loss in run.curves), "train/total")
    values = run.values(name)
    if len(values) < 8:
        return None
    lowest, now = min(values), statistics.mean(run.values(name, 0.1))
    cure = f"a lower optimizer.learning_rate (now {run.experiment.optimizer.learning_rate:g})"
    if not math.isfinite(now):
        return Diagnosis("Training diverges", f"{name} has become NaN or infinite", cure)
    if not (lowest > 0 and now > 1.5 * lowest and now > values[0]):
        return None
    return Diagnosis(
        "Training diverges",
        f"{name} has been down to {lowest:.3g}, and is {now:.3g}, above the {values[0]:.3g} that"
        " it began with",
        cure,
    )


def collapse(run: Run) -> Diagnosis | None:
    """A collapsed codebook."""
    if run.stage != "first" or run.batches < EARLY:
        return None
    for level, size in enumerate(run.num_codes):
        suffix = f"_{level}" if level else ""
        used = run.last(f"validation/used{suffix}")
        perplexity = run.last(f"validation/perplexity{suffix}")
        if used is None or perplexity is None:
            continue
        if used < 0.1 or perplexity < 0.02 * size:
            where = f" (level {level})" if len(run.num_codes) > 1 else ""
            return Diagnosis(
                "The codebook has collapsed",
                f"of {size} codes {used:.1%} occur in the validation pictures{where}, with a"
                f" perplexity of {perplexity:.3g}",
                "a quantizer with restart: 20 or from_data, or l2-normalised codes of few"
                " dimensions (normalize: true, dim: 8), or FSQ, which cannot collapse; else fewer"
                " codes (docs/family.md compares them)",
            )
    return None


def discriminator_wins(run: Run) -> Diagnosis | None:
    """A discriminator that wins."""
    losses = _discriminator_losses(run)
    if not losses or statistics.mean(losses) >= WINNING:
        return None
    return Diagnosis(
        "The discriminator wins",
        f"its loss is {statistics.mean(losses):.2g} on average over the last {len(losses)} rows;"
        f" one that learns something from the generator stays above {WINNING}",
        "a lower optimizer.discriminator_learning_rate (a quarter of the generator's), a smaller"
        " loss.params.adversarial or a longer adversarial_ramp, or a later adversarial_start",
    )


def discriminator_dead(run: Run) -> Diagnosis | None:
    """A dead discriminator."""
    losses = _discriminator_losses(run)
    pairs = list(zip(run.values("train/real"), run.values("train/fake")))[-len(losses) :]
    if not losses or not pairs:
        return None
    undecided = math.log(2) if run.loss_parameter("form") == "vanilla" else 1.0
    margin = statistics.mean(real - fake for real, fake in pairs)
    loss = statistics.mean(losses)
    if loss <= 0.97 * undecided or margin >= 0.05:
        return None
    return Diagnosis(
        "The discriminator is dead",
        f"its loss is {loss:.3g}, where {undecided:.3g} means that it says the same of everything,"
        f" and it rates real pictures {margin:+.2g} above reconstructions",
        "a higher optimizer.discriminator_learning_rate, more batches after adversarial_start, or"
        " two layers (loss.params.discriminator.params.layers: 2) where pictures are small",
    )


def _discriminator_losses(run: Run) -> list[float]:
    """Over the last half of the discriminator's time; empty where it has had little."""
    rows = run.curves.get("train/discriminator", [])
    if len(rows) < 5 or rows[-1][0] - rows[0][0] < EARLY // 2:
        return []
    return run.values("train/discriminator", 0.5)


def never_starts(run: Run) -> Diagnosis | None:
    """A discriminator that never starts."""
    start, steps = run.loss_parameter("adversarial_start"), run.experiment.trainer.max_steps
    if not isinstance(start, int | float) or start < steps:
        return None
    if run.loss_parameter("adversarial") == 0:
        return None
    return Diagnosis(
        "The discriminator never starts",
        f"loss.params.adversarial_start is batch {start}, but the run ends at {steps}",
        "adversarial_start: 0.5, half of the run, or a longer run",
    )


def adaptive_weight(run: Run) -> Diagnosis | None:
    """An adaptive weight at its clamp."""
    values = run.values("train/adaptive_weight", 0.5)
    if len(values) < 5:
        return None
    high = sum(value >= 0.999 * LARGEST for value in values) / len(values)
    low = sum(value <= 1e-6 for value in values) / len(values)
    if max(high, low) < 0.5:
        return None
    where, silent = "zero", "the reconstruction loss"
    if high >= low:
        where, silent = f"its largest, {LARGEST:g}", "the discriminator"
    return Diagnosis(
        "The adaptive weight is at its clamp",
        f"in {max(high, low):.0%} of the last {len(values)} rows it is {where}: {silent} sends no"
        " gradient to the last layer",
        "look at the discriminator first (its loss, its learning rate); fix"
        " loss.params.adversarial at a small number such as 0.1 meanwhile",
    )


def above_unigram(run: Run) -> Diagnosis | None:
    """A prior that knows no more than the codes' frequencies."""
    nll, unigram = run.last("validation/nll"), run.last("validation/unigram")
    if run.stage != "second" or nll is None or unigram is None or run.batches < EARLY:
        return None
    if nll < unigram:
        return None
    return Diagnosis(
        "The prior is no better than the codes' frequencies",
        f"validation {nll:.3f} nats per code, and a table of the codes' frequencies gets"
        f" {unigram:.3f}",
        "more batches or a higher optimizer.learning_rate if the training loss is still that high"
        " too; if it is far lower, the prior overfits: more pictures, data.views, dropout and"
        " noise; and is the first stage the one that the codes are from?",
    )


def overfits(run: Run) -> Diagnosis | None:
    """A prior that overfits."""
    rows, train = run.curves.get("validation/nll", []), run.values("train/nll", 0.2)
    if run.stage != "second" or len(rows) < 3 or not train:
        return None
    (best, lowest), (_, now) = min(rows, key=lambda row: row[1]), rows[-1]
    if not (now > lowest + 0.05 and statistics.mean(train) < now - 0.1):
        return None
    return Diagnosis(
        "The prior overfits",
        f"validation was {lowest:.3f} nats at batch {best} and is {now:.3f}, while training still"
        f" goes down, to {statistics.mean(train):.3f}",
        "checkpoints/best.ckpt; then more pictures, data.views: 8, noise: 0.1, dropout, or a"
        " smaller prior (taming evaluate shows whether samples copy)",
    )


def average_too_slow(run: Run) -> Diagnosis | None:
    """Averaged weights that remember too long."""
    decay, steps = run.experiment.trainer.ema, run.experiment.trainer.max_steps
    if not decay or not decay < 1 or 1 / (1 - decay) <= steps / 4:
        return None
    return Diagnosis(
        "The averaged weights lag behind",
        f"trainer.ema {decay} averages over {1 / (1 - decay):.0f} batches, and the run has {steps}",
        f"trainer.ema={1 - 10 / steps:.3f}, or none",
    )


CHECKS: tuple[Callable[[Run], Diagnosis | None], ...] = (
    broken_weights,
    diverged,
    learning_rate,
    collapse,
    discriminator_wins,
    discriminator_dead,
    adaptive_weight,
    never_starts,
    above_unigram,
    overfits,
    average_too_slow,
)
