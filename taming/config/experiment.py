"""YAML -> Experiment -> objects: every key is checked before anything is built, and errors name the
place in the file.
"""

import dataclasses
import sys
import types
import typing
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from taming.config.build import check, refusal, with_sizes
from taming.config.hints import fits, shortened
from taming.config.merge import (
    check_variables,
    interpolated,
    merge,
    overriding,
    plain_yaml,
    read_yaml,
    refuse_interpolation,
    source_name,
)
from taming.config.names import EXAMPLES, ForeignName, check_seam, resolve
from taming.config.older import upgrade
from taming.config.ranges import Count, Decay, Index, Length, Positive, Range, Share, Weight
from taming.errors import UserError, did_you_mean
from taming.precision import Precision

Few = Annotated[int, Range(1, 1024)]
"""Devices, threads, views: what no machine has or no run wants more of."""


@dataclass
class Optimizer:
    """Adam with decoupled weight decay; one schedule for both stages: linear warm-up, then a cosine
    to `final` x the rate. Steps are batches.

    Args:
        learning_rate: at the end of the warm-up
        betas: of Adam's two running means
        weight_decay: per batch, times the rate
        warmup: batches of linear warm-up
        final: share of the rate that the cosine ends at; 1: no decay
        decay_steps: the cosine's end; default: trainer.max_steps
        discriminator_learning_rate: default: learning_rate
        algorithm: adamw, or muon: the matrices of a Transformer's blocks move by an orthogonal
            matrix of the same size (Jordan et al. 2024; torch.optim.Muon), all else by AdamW
    """

    learning_rate: Positive = 1e-3
    betas: Annotated[list[Decay], Length(2, 2)] = field(default_factory=lambda: [0.9, 0.99])
    weight_decay: Weight = 0.0
    warmup: Index = 50
    final: Share = 0.02
    decay_steps: Count | None = None
    discriminator_learning_rate: Positive | None = None
    algorithm: Literal["adamw", "muon"] = "adamw"


@dataclass
class Data:
    """Data sets and how they are cut into batches.

    Args:
        train: the data set to learn from, as target and params
        validation: the one to measure on; null: nothing is measured
        batch_size: pictures that one device reads at once
        workers: processes that read pictures beside the main one
        views: precompute the codes of so many fixed crops and flips per picture (second stage);
            null encodes random crops on the fly
        cache: where those codes are
        check: what is read of the pictures before training starts: their headers, or full files
            with labels
    """

    train: dict[str, Any] = field(default_factory=dict)
    validation: dict[str, Any] = field(default_factory=dict)
    batch_size: Annotated[int, Range(1, 2**20)] = 8
    workers: Annotated[int, Range(0, 1024)] = 0
    views: Few | None = None
    cache: str = "runs/cache"
    check: Literal["headers", "full"] = "headers"


@dataclass
class Trainer:
    """How long, how often and on what. All intervals count batches: what one optimizer step sees,
    accumulation counted as one.

    Args:
        max_steps: batches of the training
        validate_every: batches between two measurements on the validation set
        checkpoint_every: batches between two checkpoints
        pictures_every: batches between two montages
        log_every: batches between two rows of training figures
        validation_batches: default: the whole validation set
        accumulate_grad_batches: parts that a batch is computed in, each of data.batch_size
        gradient_clip_val: highest norm of the gradient; null: not clipped
        ema: decay of the averaged weights; null: none are kept
        accelerator: where to compute; auto: the fastest there is
        devices: how many of them, on each node
        nodes: machines that train together; torchrun says both itself
        strategy: auto: each device holds all weights (DDP); fsdp: a share of them, for priors that
            do not fit otherwise (FSDP2)
        recompute: layers compute their activations again in the backward pass instead of holding
            them: less memory, a third more time
        compile: compile the networks first; needs a C++ compiler, on a GPU Triton
        precision: auto: bfloat16 products where the processor has hardware for them, else float32;
            half precision would need a gradient scaler for both optimizers
        threads: default: what torch chooses
        channels_last: memory layout of pictures, faster for convolutions
        share_forward: first stage: one autoencoder forward for both optimizers; false as published
        freeze_codes: first stage: only the decoder learns, so that codes, and priors over them,
            stay what they are
        perturb_codes: first stage: share of codes that are replaced by one of their nearest before
            the decoder reads them, so that it bears with a prior's errors; falls to 0 by the end,
            with freeze_codes it stays
    """

    max_steps: Count = 1000
    validate_every: Count = 250
    checkpoint_every: Count = 250
    pictures_every: Count = 250
    log_every: Count = 10
    validation_batches: Count | None = None
    accumulate_grad_batches: Annotated[int, Range(1, 2**20)] = 1
    gradient_clip_val: Positive | None = 1.0
    ema: Decay | None = None
    accelerator: Literal["cpu", "gpu", "cuda", "mps", "auto"] = "cpu"
    devices: Few = 1
    nodes: Few = 1
    strategy: Literal["auto", "fsdp"] = "auto"
    recompute: bool = False
    compile: bool = False
    precision: Precision = "auto"
    threads: Few | None = None
    channels_last: bool = True
    share_forward: bool = True
    freeze_codes: bool = False
    perturb_codes: Share = 0.0


@dataclass
class Logger:
    """The CSV file is always written; these come on top.

    Args:
        tensorboard: write its event files too
        wandb: off, offline (a folder to upload later) or online
        project: of Weights & Biases
    """

    tensorboard: bool = False
    wandb: Literal["off", "offline", "online"] = "off"
    project: str = "taming"


@dataclass
class Evaluation:
    """The training curve of the metrics.

    Args:
        every: measured every so many batches; null: never
        pictures: on so many fixed validation pictures
        features: as for taming evaluate; null measures reconstructions without a network
    """

    every: Count | None = None
    pictures: Annotated[int, Range(2, 2**20)] = 128
    features: str | None = None


@dataclass
class Tuning:
    """What learns of a model that was trained before (--from); by default all of it.

    Args:
        lora: rank of updates of linear layers, which learn in their place (second stage)
        parts: names of parts that learn, such as decoder or 0.cond_emb; all others are frozen
        patience: validations without gain after which training stops; null: it goes to max_steps
    """

    lora: Annotated[int, Range(1, 1024)] | None = None
    parts: list[str] = field(default_factory=list)
    patience: Count | None = None


@dataclass
class Recommendation:
    """What the checkpoint says to whoever uses it.

    Args:
        sampling: settings that suit the model, such as {guidance: 3, top_p: 0.9}; taming sample
            uses them unless told otherwise
        data: what the model learns from, its origin and terms, in a sentence or two
    """

    sampling: dict[str, Any] = field(default_factory=dict)
    data: str = ""


@dataclass
class Objective:
    """What a prior learns beside the next code (training/objective.py).

    Args:
        noise_end: share of noise at the end of the training, to which `noise` falls linearly;
            default: it stays
        regression: weight of two regressions of code embeddings from hidden states
        cluster_weight: weight of the cross-entropy of the code's cluster
        clusters: how many of them
        random_order: share of batches in which codes are read in random order, at the start
        random_order_end: the same at the end
        alignment: strength of contrastive alignment with the condition, instead of all else; for
            a short run on a trained prior (--from)
    """

    noise_end: Decay | None = None
    regression: Weight = 0.0
    cluster_weight: Weight = 0.0
    clusters: Count = 128
    random_order: Share = 0.0
    random_order_end: Share = 0.0
    alignment: Weight = 0.0


@dataclass
class Experiment:
    """One run, or what is known of one.

    Args:
        model: what to train, as target and params
        loss: first stage only
        noise: second stage: share of input codes replaced by random ones (1 - the paper's pkeep)
        condition_dropout: second stage: share of conditions replaced by the null condition, for
            guidance
        seed: of everything random
        allow: further packages that targets may come from
        variables: a place for values that ${...} refers to
    """

    model: dict[str, Any] = field(default_factory=dict)
    loss: dict[str, Any] | None = None
    optimizer: Optimizer = field(default_factory=Optimizer)
    data: Data = field(default_factory=Data)
    trainer: Trainer = field(default_factory=Trainer)
    logger: Logger = field(default_factory=Logger)
    evaluation: Evaluation = field(default_factory=Evaluation)
    card: Recommendation = field(default_factory=Recommendation)
    tuning: Tuning = field(default_factory=Tuning)
    objective: Objective = field(default_factory=Objective)
    noise: Decay = 0.0
    condition_dropout: Decay = 0.0
    seed: Annotated[int, Range(0, 2**32 - 1)] = 23
    allow: list[str] = field(default_factory=list)
    variables: dict[str, Any] = field(default_factory=dict)

    trusted: ClassVar[bool] = True
    """False where it comes from a file: to be handed on to `build`."""


def load(
    paths: Iterable[str | Path | dict] | str | Path,
    overrides: Iterable[str] = (),
    allow: Iterable[str] = (),
    resumed: str | Path | None = None,
) -> Experiment:
    """The Experiment of YAML files, merged from left to right, then of `key=value` overrides.

    Args:
        paths: files, names of shipped ones, or plain trees; the user's own
        overrides: for example `optimizer.learning_rate=1e-3`
        allow: further packages whose classes may be named
        resumed: config.yaml of a run that goes on, below the others. It is a file: what it allows
            is ignored, and all together names what a file may name. Its model is not checked,
            because the checkpoint's replaces it.

    Raises:
        UserError: missing file, broken YAML, unknown or ill-typed key, an interpolation that leads
            nowhere, a target that can't be built.
    """
    paths = [paths] if isinstance(paths, str | Path | dict) else list(paths)
    if resumed is not None:
        tree = read_yaml(resumed)
        refuse_interpolation(tree, str(resumed))
        paths = [{**tree, "allow": []}, *paths]
    source = source_name(paths if resumed is None else [resumed, *paths[1:]])
    notes: list[str] = []
    changes, tree = overriding(overrides), plain_yaml(paths, notes=notes)
    check_variables(tree, changes, source)
    packages = [*allow, *_listed(tree.get("allow"), source), *_listed(changes.get("allow"), source)]
    plain = interpolated(merge(tree, changes, notes, packages), source)
    experiment = _loaded(plain, source, allow, resumed is not None)
    for note in notes:  # of a configuration that is refused only what is wrong is said
        print(note, file=sys.stderr)
    return experiment


def _loaded(plain: dict, source: str, allow: Iterable[str], resumed: bool) -> Experiment:
    """As `load` says, of the merged tree."""
    if not resumed:
        return from_plain(plain, source, allow)
    allow = [*allow, *_listed(plain.get("allow"), source)]
    _check_keys(plain, source)
    experiment = _typed(upgrade({**plain, "allow": allow}), source)
    experiment.trusted = False
    for name, node in _nodes(experiment).items():
        if name != "model":
            _set_node(experiment, name, _checked(node, source, name, allow, trusted=False))
    return experiment


def from_plain(
    plain: dict,
    source: str = "configuration",
    allow: Iterable[str] | None = None,
    trusted: bool = True,
) -> Experiment:
    """The Experiment of a plain dictionary, as a checkpoint holds it; keys, types and targets are
    checked.

    Args:
        allow: further packages whose classes may be named
        trusted: false where `plain` comes from a file: it names classes of a closed table and of
            `allow`, and what it allows itself is ignored. Loss and data sets, which only training
            needs, are left out where they name others.
    """
    if not isinstance(plain, dict):
        raise UserError(
            f"{source}: the file should be a mapping of keys, not {shortened(repr(plain), 60)}"
        )
    _check_keys(plain, source)
    allow = [*(allow or ()), *(_listed(plain.get("allow"), source) if trusted else ())]
    experiment = _typed(upgrade({**plain, "allow": allow}), source)
    experiment.trusted = trusted
    for name, node in _nodes(experiment).items():
        try:
            node = _checked(node, source, name, allow, trusted)
        except ForeignName:
            if trusted or name == "model":
                raise
            node = None
        _set_node(experiment, name, node)
    return experiment


def _check_keys(tree: Any, source: str) -> None:
    """Keys are named in messages of one line."""
    for key, value in tree.items() if isinstance(tree, dict) else ():
        if not str(key).isprintable() or len(str(key)) > 200:
            raise UserError(f"{source}: {shortened(repr(key), 60)} is no name of a key")
        _check_keys(value, source)
    for value in tree if isinstance(tree, list) else ():
        _check_keys(value, source)


def _nodes(experiment: Experiment) -> dict[str, dict]:
    """The trees with targets, by their place."""
    nodes = {
        "model": experiment.model,
        "loss": experiment.loss,
        "data.train": experiment.data.train,
        "data.validation": experiment.data.validation,
    }
    return {name: node for name, node in nodes.items() if node}


def _checked(node: dict, source: str, name: str, allow: list[str], trusted: bool) -> dict:
    """One of `_nodes`, checked, and of the kind that belongs there; 96x128 as [96, 128]."""
    if "target" not in node:
        example = EXAMPLES[name.split(".")[0]]
        raise UserError(f"{source}: {name}.target: missing; name a class, for example {example}")
    made = resolve(node["target"], f"{source}: {name}", allow, trusted)
    check_seam(made, node["target"], name, source)
    node = with_sizes(node, f"{source}: {name}", allow, trusted)
    check(node, f"{source}: {name}", allow, trusted)
    return node


def _set_node(experiment: Experiment, name: str, node: dict | None) -> None:
    if name == "loss":
        experiment.loss = node
    elif name == "model":
        experiment.model = node or {}
    else:
        setattr(experiment.data, name.removeprefix("data."), node or {})


def to_plain(experiment: Experiment) -> dict:
    """Nested dict, list and scalars only: what checkpoints and the report hold."""
    return dataclasses.asdict(experiment)


def _typed(plain: Any, source: str, schema: type = Experiment, place: str = "") -> Any:
    """The dataclass of a mapping, each key known, each value as declared."""
    if plain is None:
        return schema()
    if not isinstance(plain, dict):
        raise UserError(
            f"{source}: {place.rstrip('.')} should be a mapping of keys, not"
            f" {shortened(repr(plain), 60)}"
        )
    hints = {
        name: hint
        for name, hint in typing.get_type_hints(schema, include_extras=True).items()
        if typing.get_origin(hint) is not ClassVar
    }
    values = {}
    for key, value in plain.items():
        if key not in hints:
            raise UserError(f"{source}: unknown key '{place}{key}'{did_you_mean(key, hints)}")
        hint = hints[key]
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            values[key] = _typed(value, source, hint, f"{place}{key}.")
            continue
        value = _converted(value, hint)
        if not fits(value, hint):
            raise UserError(f"{source}: {place}{key}: {refusal(value, hint)}")
        values[key] = value
    return schema(**values)


def _converted(value: Any, hint: Any) -> Any:
    """What YAML or the environment writes otherwise: 1 for 1.0, "8" for 8, the word off (false in
    YAML 1.1), null for an empty mapping.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _converted(value, arguments[0])
    if origin is Literal and value is False and "off" in arguments:
        return "off"
    if origin is dict and value is None:
        return {}
    if origin is list and isinstance(value, list | tuple):
        return [_converted(entry, arguments[0]) for entry in value]
    if origin in (typing.Union, types.UnionType) and value is not None:
        return _converted(value, arguments[0])
    if hint is str and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if hint in (int, float) and isinstance(value, str):
        return _number(value, hint)
    if hint is float and type(value) is int and abs(value) < 2**53:
        return float(value)
    return value


def _number(text: str, kind: type) -> Any:
    try:
        return kind(text)
    except ValueError:
        return text


def _listed(names: Any, source: str) -> list[str]:
    """The packages that a tree allows: one, or a list."""
    if names is None or isinstance(names, str):
        return [names] if names else []
    if isinstance(names, list) and all(isinstance(name, str) for name in names):
        return names
    raise UserError(
        f"{source}: allow: {shortened(repr(names), 60)} should be a list of packages, for example"
        " [mine]"
    )
