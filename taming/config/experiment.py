"""YAML -> Experiment -> objects: every key is checked before anything is built, and errors name the
place in the file.
"""

import typing
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from taming.config.build import check
from taming.errors import UserError, did_you_mean, first_line

ACCELERATORS = ("cpu", "gpu", "cuda", "mps", "auto")


# Half precision would need a gradient scaler for both optimizers
PRECISIONS = ("32-true", "bf16-mixed")


@dataclass
class Optimizer:
    """Adam with decoupled weight decay; one schedule for both stages: linear warm-up, then a cosine
    to `final` x the rate. Steps are batches.
    """

    learning_rate: float = 1e-3
    betas: list[float] = field(default_factory=lambda: [0.9, 0.99])
    weight_decay: float = 0.0
    warmup: int = 50
    final: float = 0.02
    decay_steps: int | None = None  # the cosine's end; default: trainer.max_steps
    discriminator_learning_rate: float | None = None  # default: learning_rate


@dataclass
class Data:
    """Data sets and how they are cut into batches. `views`: precompute the codes of so many fixed
    crops and flips per picture (second stage); null encodes random crops on the fly.
    """

    train: dict[str, Any] = field(default_factory=dict)
    validation: dict[str, Any] = field(default_factory=dict)
    batch_size: int = 8
    workers: int = 0
    views: int | None = None
    cache: str = "runs/cache"


@dataclass
class Trainer:
    """How long, how often and on what. All intervals count batches: what one optimizer step sees,
    accumulation counted as one.
    """

    max_steps: int = 1000
    validate_every: int = 250
    checkpoint_every: int = 250
    pictures_every: int = 250
    log_every: int = 10
    validation_batches: int | None = None  # default: the whole validation set
    accumulate_grad_batches: int = 1
    gradient_clip_val: float | None = 1.0
    ema: float | None = None  # decay of the averaged weights
    accelerator: str = "cpu"
    devices: int = 1
    strategy: str = "auto"
    precision: str = "32-true"
    threads: int | None = None  # default: what torch chooses
    channels_last: bool = True
    # First stage: one autoencoder forward for both optimizers; false as published
    share_forward: bool = True


@dataclass
class Logger:
    """The CSV file is always written; these come on top. `wandb`: off, offline or online."""

    tensorboard: bool = False
    wandb: str = "off"
    project: str = "taming"


@dataclass
class Evaluation:
    """The training curve of the metrics: every so many batches, on so many fixed validation
    pictures. `features`: as for taming evaluate; null measures reconstructions without a network.
    """

    every: int | None = None  # default: never
    pictures: int = 128
    features: str | None = None


@dataclass
class Experiment:
    model: dict[str, Any] = field(default_factory=dict)
    loss: dict[str, Any] | None = None  # first stage only
    optimizer: Optimizer = field(default_factory=Optimizer)
    data: Data = field(default_factory=Data)
    trainer: Trainer = field(default_factory=Trainer)
    logger: Logger = field(default_factory=Logger)
    evaluation: Evaluation = field(default_factory=Evaluation)
    # Second stage: share of input codes replaced by random ones (1 - the paper's pkeep)
    noise: float = 0.0
    # Second stage: share of conditions replaced by the null condition, for guidance
    condition_dropout: float = 0.0
    seed: int = 23
    allow: list[str] = field(default_factory=list)  # further packages that targets may come from
    # A place for values that ${...} refers to
    variables: dict[str, Any] = field(default_factory=dict)


def load(
    paths: Iterable[str | Path | dict] | str | Path, overrides: Iterable[str] = ()
) -> Experiment:
    """The Experiment of one or several YAML files (or plain trees), merged left to right, then of
    `key=value` overrides.

    Raises UserError: missing file, broken YAML, unknown or ill-typed key, an interpolation that
    leads nowhere, a target that can't be built.
    """
    paths = [paths] if isinstance(paths, str | Path) else list(paths)
    merged = OmegaConf.create({})
    for path in paths:
        merged = OmegaConf.merge(merged, _read_yaml(path))
    for override in overrides:
        if "=" not in override:
            raise UserError(
                f"'{override}' is neither a flag nor key=value; write for example"
                " optimizer.learning_rate=1e-3"
            )
    try:
        given = OmegaConf.create({})
        for override in overrides:
            try:
                given = OmegaConf.merge(given, OmegaConf.from_dotlist([override]))
            except YAMLError:
                raise UserError(
                    f"'{override}': the value is not valid YAML; quote it, or close its brackets"
                ) from None
        for name in given.get("variables") or {}:
            if name not in (merged.get("variables") or {}):
                raise UserError(
                    f"variables.{name}: {_names(paths)} has no such"
                    f" variable{did_you_mean(name, merged.get('variables') or [])}"
                )
        merged = OmegaConf.merge(merged, given)
        plain = OmegaConf.to_container(merged, resolve=True)
    except (OmegaConfBaseException, YAMLError) as error:
        raise UserError(f"{_names(paths)}: {' '.join(str(error).split())[:300]}") from None
    return from_plain(plain, _names(paths))


def plain_yaml(paths: Iterable[str | Path | dict], overrides: Iterable[str] = ()) -> dict:
    """YAML files (or trees) merged from left to right, then `key=value` overrides, as plain
    containers; nothing is checked or filled in.
    """
    try:
        return OmegaConf.to_container(
            OmegaConf.merge(
                *(_read_yaml(path) for path in paths), OmegaConf.from_dotlist(list(overrides))
            )
        )
    except (OmegaConfBaseException, YAMLError) as error:
        raise UserError(f"{_names(paths)}: {' '.join(str(error).split())[:300]}") from None


def from_plain(plain: dict, source: str = "configuration") -> Experiment:
    """The Experiment of a plain dictionary (as a checkpoint holds it); checks keys, types and targets."""
    _refuse_unknown(plain, Experiment, source)
    try:
        typed = OmegaConf.merge(OmegaConf.structured(Experiment), plain)
        experiment = OmegaConf.to_object(typed)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", "") or ""
        raise UserError(f"{source}: {key}: {first_line(error)}") from None
    _check_ranges(experiment, source)
    for name in ("model", "loss", "data.train", "data.validation"):
        node = _at(plain, name)
        if node is not None and node != {}:
            check(node, f"{source}: {name}", experiment.allow)
    return experiment


def _check_ranges(experiment: Experiment, source: str) -> None:
    for key in (
        "max_steps",
        "validate_every",
        "checkpoint_every",
        "pictures_every",
        "log_every",
        "accumulate_grad_batches",
        "devices",
    ):
        if getattr(experiment.trainer, key) < 1:
            raise UserError(
                f"{source}: trainer.{key}: {getattr(experiment.trainer, key)} should be at least 1"
            )
    for key, least in (("every", 1), ("pictures", 2)):
        value = getattr(experiment.evaluation, key)
        if value is not None and value < least:
            raise UserError(f"{source}: evaluation.{key}: {value} should be at least {least}")
    for key, value in (
        ("data.batch_size", experiment.data.batch_size),
        ("data.views", experiment.data.views or 1),
        ("trainer.threads", experiment.trainer.threads or 1),
    ):
        if value < 1:
            raise UserError(f"{source}: {key}: {value} should be at least 1")
    for key, choices in (("accelerator", ACCELERATORS), ("precision", PRECISIONS)):
        value = getattr(experiment.trainer, key)
        if value not in choices:
            raise UserError(f"{source}: trainer.{key}: '{value}'{did_you_mean(value, choices)}")
    if not 0 <= experiment.seed < 2**32:
        raise UserError(f"{source}: seed: {experiment.seed} should be from 0 to 2^32 - 1")
    if not 0 <= experiment.noise < 1 or not 0 <= experiment.condition_dropout < 1:
        raise UserError(
            f"{source}: noise {experiment.noise} and condition_dropout"
            f" {experiment.condition_dropout} are shares, from 0 to below 1"
        )


def to_plain(experiment: Experiment) -> dict:
    """Nested dict, list and scalars only: what checkpoints and the report hold."""
    return OmegaConf.to_container(OmegaConf.structured(experiment), resolve=True)


def _refuse_unknown(plain: Any, schema: Any, source: str, place: str = "") -> None:
    if not isinstance(plain, dict):
        raise UserError(
            f"{source}: {place or 'the file'} should be a mapping of keys, not {plain!r}"
        )
    hints = typing.get_type_hints(schema)
    for key, value in plain.items():
        if key not in hints:
            raise UserError(f"{source}: unknown key '{place}{key}'{did_you_mean(key, hints)}")
        if hasattr(hints[key], "__dataclass_fields__"):
            _refuse_unknown(value, hints[key], source, f"{place}{key}.")


def _read_yaml(path: str | Path | dict):
    if isinstance(path, dict):
        return OmegaConf.create(path)
    path = Path(path)
    if not path.is_file():
        raise UserError(f"config '{path}' does not exist; the shipped ones are under configs/")
    try:
        content = OmegaConf.load(path)
    except Exception as error:  # PyYAML raises many kinds
        raise UserError(
            f"config '{path}' is not valid YAML: {' '.join(str(error).split())}"
        ) from None
    if not OmegaConf.is_dict(content):
        raise UserError(
            f"config '{path}' should be a mapping of keys, not a {type(content).__name__}"
        )
    return content


def _at(plain: dict, dotted: str) -> Any:
    for key in dotted.split("."):
        plain = plain.get(key) if isinstance(plain, dict) else None
    return plain


def _names(paths: Iterable) -> str:
    return (
        " + ".join("configuration" if isinstance(p, dict) else str(p) for p in paths)
        or "configuration"
    )
