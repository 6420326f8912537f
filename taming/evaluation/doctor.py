"""`taming doctor`: what a run's curves and checkpoint say is wrong with it, in plain words, and
what to change.
"""

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from taming import config
from taming.errors import UserError
from taming.evaluation.metrics import read_metrics
from taming.first_stage.losses import LARGEST
from taming.formats.load import read_checkpoint

EARLY = 50  # batches before which nothing is said about what training has not had time for


@dataclass
class Diagnosis:
    """what: is wrong. evidence: the figures that say so. cure: what to change."""

    what: str
    evidence: str
    cure: str

    def __str__(self) -> str:
        return f"{self.what}: {self.evidence}. Try: {self.cure}."


@dataclass
class Patient:
    """A run as its files tell it: curves by name as [(batch, value)], the configuration, codes per
    level, parameters that are not numbers.
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


def read(folder: str | Path) -> Patient:
    """Raises UserError for a folder that is no run."""
    folder = Path(folder)
    for name in ("metrics.csv", "checkpoints/last.ckpt"):
        if not (folder / name).is_file():
            raise UserError(
                f"run '{folder}' has no {name}; give the folder of a run of taming train"
            )
    content = read_checkpoint(folder)
    experiment = config.from_plain(content.config, str(folder))
    with torch.device("meta"):
        model = config.build(experiment.model, experiment.allow)
    curves: dict[str, list[tuple[int, float]]] = {}
    for batch, name, value in read_metrics(folder / "metrics.csv"):
        curves.setdefault(name, []).append((batch, value))
    broken = [
        name
        for name, tensor in content.weights.items()
        if tensor.is_floating_point() and not torch.isfinite(tensor).all()
    ]
    return Patient(
        content.batches, content.stage, experiment, curves, getattr(model, "num_codes", ()), broken
    )


def examine(folder: str | Path) -> list[Diagnosis]:
    """Everything found, the gravest first; empty where nothing is."""
    patient = read(folder)
    return [found for check in CHECKS if (found := check(patient)) is not None]


def diagnose(folder: str | Path) -> str:
    found = examine(folder)
    if not found:
        return (
            f"{folder}: nothing wrong was found (looked for:"
            f" {', '.join(check.__doc__.splitlines()[0].rstrip('.').lower() for check in CHECKS)})"
        )
    return "\n".join(
        [f"{folder}:", *(f"  {i}. {diagnosis}" for i, diagnosis in enumerate(found, start=1))]
    )


def not_numbers(p: Patient) -> Diagnosis | None:
    """Weights that are no numbers."""
    if p.broken:
        evidence = (
            f"{len(p.broken)} tensors of the checkpoint hold NaN or infinity, the first"
            f" {p.broken[0]}"
        )
        return Diagnosis(
            "The weights are broken",
            evidence,
            "go back to an earlier checkpoint, and lower optimizer.learning_rate or"
            " trainer.gradient_clip_val",
        )


def learning_rate(p: Patient) -> Diagnosis | None:
    """An absurd learning rate."""
    rate = p.experiment.optimizer.learning_rate
    pictures = (
        p.experiment.data.batch_size
        * p.experiment.trainer.accumulate_grad_batches
        * p.experiment.trainer.devices
    )
    if 1e-6 <= rate <= 5e-3:
        return None
    evidence = (
        f"it is {rate:g}, or {rate / pictures:.2g} for each of the {pictures} pictures of a batch;"
        " the published rule, base rate x pictures x devices, was made for batches of about a"
        " dozen"
    )
    where = "too high for Adam" if rate > 5e-3 else "too low to learn anything"
    return Diagnosis(
        f"The learning rate is {where}",
        evidence,
        "optimizer.learning_rate between 1e-4 and 2e-3, whatever the batch",
    )


def diverged(p: Patient) -> Diagnosis | None:
    """A loss that runs away."""
    name = next(
        (
            f"train/{name}"
            for name in ("l1", "mse", "nll", "cross_entropy")
            if f"train/{name}" in p.curves
        ),
        "train/total",
    )
    values = p.values(name)
    if len(values) < 8:
        return None
    lowest, now = min(values), statistics.mean(p.values(name, 0.1))
    if lowest > 0 and now > 1.5 * lowest and now > values[0]:
        evidence = (
            f"{name} has been down to {lowest:.3g}, and is {now:.3g}, above the {values[0]:.3g}"
            " that it began with"
        )
        return Diagnosis(
            "Training diverges",
            evidence,
            f"a lower optimizer.learning_rate (now {p.experiment.optimizer.learning_rate:g})",
        )


def collapse(p: Patient) -> Diagnosis | None:
    """A collapsed codebook."""
    if p.stage != "first" or not p.num_codes or p.batches < EARLY:
        return None
    for level, size in enumerate(p.num_codes):
        suffix = f"_{level}" if level else ""
        used, perplexity = (
            p.last(f"validation/used{suffix}"),
            p.last(f"validation/perplexity{suffix}"),
        )
        if used is None:
            continue
        if used < 0.1 or perplexity < 0.02 * size:
            where = f" (level {level})" if len(p.num_codes) > 1 else ""
            evidence = (
                f"of {size} codes {used:.1%} occur in the validation pictures{where}, with a"
                f" perplexity of {perplexity:.3g}"
            )
            cure = (
                "a quantizer with restart: 20 or from_data, or l2-normalised codes of few"
                " dimensions (normalize: true, dim: 8), or FSQ, which cannot collapse; else fewer"
                " codes (docs/family.md compares them)"
            )
            return Diagnosis("The codebook has collapsed", evidence, cure)


def discriminator_wins(p: Patient) -> Diagnosis | None:
    """A discriminator that wins."""
    losses = _since_start(p)
    if losses is None:
        return None
    mean, bound = statistics.mean(losses), 0.1
    if mean < bound:
        evidence = (
            f"its loss is {mean:.2g} on average over the last {len(losses)} rows; one that learns"
            f" something from the generator stays above {bound}"
        )
        cure = (
            "a lower optimizer.discriminator_learning_rate (a quarter of the generator's), a"
            " smaller loss.params.adversarial or a longer adversarial_ramp, or a later"
            " adversarial_start"
        )
        return Diagnosis("The discriminator wins", evidence, cure)


def discriminator_dead(p: Patient) -> Diagnosis | None:
    """A dead discriminator."""
    losses = _since_start(p)
    if losses is None:
        return None
    even = (
        math.log(2) if (p.experiment.loss or {}).get("params", {}).get("form") == "vanilla" else 1.0
    )
    apart = statistics.mean(
        [real - fake for real, fake in zip(p.values("train/real"), p.values("train/fake"))][
            -len(losses) :
        ]
    )
    if statistics.mean(losses) > 0.97 * even and apart < 0.05:
        says = (
            f"its loss is {statistics.mean(losses):.3g}, where {even:.3g} means that it says the"
            " same of everything"
        )
        evidence = f"{says}, and it rates real pictures {apart:+.2g} above made ones"
        cure = (
            "a higher optimizer.discriminator_learning_rate, more batches after adversarial_start,"
            " or loss.params.layers: 2 where pictures are small"
        )
        return Diagnosis("The discriminator is dead", evidence, cure)


def _since_start(p: Patient) -> list[float] | None:
    """The discriminator's loss over the last half of its time, where it has had some."""
    rows = p.curves.get("train/discriminator", [])
    if len(rows) < 5 or rows[-1][0] - rows[0][0] < EARLY // 2:
        return None
    return p.values("train/discriminator", 0.5)


def never_starts(p: Patient) -> Diagnosis | None:
    """A discriminator that never starts."""
    params = (p.experiment.loss or {}).get("params", {})
    start, steps = params.get("adversarial_start"), p.experiment.trainer.max_steps
    if start is not None and start >= steps and params.get("adversarial", 1):
        evidence = f"loss.params.adversarial_start is batch {start}, but the run ends at {steps}"
        return Diagnosis(
            "The discriminator never starts",
            evidence,
            "adversarial_start: 0.5, half of the run, or a longer run",
        )


def adaptive_weight(p: Patient) -> Diagnosis | None:
    """An adaptive weight at its clamp."""
    values = p.values("train/adaptive_weight", 0.5)
    if len(values) < 5:
        return None
    high, low = (
        sum(test(v) for v in values) / len(values)
        for test in (lambda v: v >= 0.999 * LARGEST, lambda v: v <= 1e-6)
    )
    if max(high, low) < 0.5:
        return None
    where, why = (
        (f"its largest, {LARGEST:g}", "the discriminator")
        if high >= low
        else ("zero", "the reconstruction loss")
    )
    evidence = (
        f"in {max(high, low):.0%} of the last {len(values)} rows it is {where}: {why} sends no"
        " gradient to the last layer"
    )
    cure = (
        "look at the discriminator first (its loss, its learning rate); fix loss.params.adversarial"
        " at a small number such as 0.1 meanwhile"
    )
    return Diagnosis("The adaptive weight is at its clamp", evidence, cure)


def above_unigram(p: Patient) -> Diagnosis | None:
    """A prior that knows no more than the codes' frequencies."""
    nll, unigram = p.last("validation/nll"), p.last("validation/unigram")
    if p.stage != "second" or nll is None or p.batches < EARLY or nll < unigram:
        return None
    evidence = (
        f"validation {nll:.3f} nats per code, and a table of the codes' frequencies gets"
        f" {unigram:.3f}"
    )
    cure = (
        "more batches or a higher optimizer.learning_rate if the training loss is still that high"
        " too; if it is far lower, the prior overfits: more pictures, data.views, dropout and"
        " noise; and is the first stage the one that the codes are from?"
    )
    return Diagnosis("The prior is no better than the codes' frequencies", evidence, cure)


def overfits(p: Patient) -> Diagnosis | None:
    """A prior that overfits."""
    rows, train = p.curves.get("validation/nll", []), p.values("train/nll", 0.2)
    if p.stage != "second" or len(rows) < 3 or not train:
        return None
    (best, lowest), (_, now) = min(rows, key=lambda row: row[1]), rows[-1]
    if now > lowest + 0.05 and statistics.mean(train) < now - 0.1:
        evidence = (
            f"validation was {lowest:.3f} nats at batch {best} and is {now:.3f}, while training"
            f" goes on down to {statistics.mean(train):.3f}"
        )
        cure = (
            "checkpoints/best.ckpt; then more pictures, data.views: 8, noise: 0.1, dropout, or a"
            " smaller prior (taming evaluate shows whether samples copy)"
        )
        return Diagnosis("The prior overfits", evidence, cure)


def average_too_slow(p: Patient) -> Diagnosis | None:
    """Averaged weights that remember too long."""
    decay = p.experiment.trainer.ema
    if decay and 1 / (1 - decay) > p.experiment.trainer.max_steps / 4:
        evidence = (
            f"trainer.ema {decay} averages over {1 / (1 - decay):.0f} batches, and the run has"
            f" {p.experiment.trainer.max_steps}"
        )
        return Diagnosis(
            "The averaged weights lag behind",
            evidence,
            f"trainer.ema={1 - 10 / p.experiment.trainer.max_steps:.3f}, or none",
        )


CHECKS: tuple[Callable[[Patient], Diagnosis | None], ...] = (
    not_numbers,
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
