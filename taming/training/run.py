"""One run: from an Experiment to a folder with config.yaml, metrics.csv, checkpoints/ and
pictures/, interrupted and resumed at will.
"""

import copy
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor, nn

from taming.config.build import build
from taming.config.experiment import Experiment, load, to_plain
from taming.data.checks import check_pictures
from taming.data.codes import Codes
from taming.data.interface import PictureSet
from taming.data.ordinary import ordinary
from taming.data.shards import shards_problems
from taming.errors import UserError
from taming.files import make_writable, run_lock, write_atomically
from taming.first_stage.interface import Autoencoder
from taming.formats.content import Content
from taming.formats.fitting import load_fitting, load_weights
from taming.formats.load import read_checkpoint
from taming.formats.parts import part_for
from taming.formats.sharded import last_checkpoint
from taming.precision import resolved
from taming.second_stage.cascade import Cascade
from taming.second_stage.interface import current_name
from taming.second_stage.model import SecondStage
from taming.segmenter import Segmenter
from taming.training.callbacks import (
    Checkpoints,
    Inputs,
    Interrupted,
    Pictures,
    Progress,
    signals_restored,
)
from taming.training.card import run_card
from taming.training.cascade import CascadeTraining, check_pieces
from taming.training.checks import (
    SETS,
    check_condition,
    check_hardware,
    check_sections,
    check_sets,
    contents,
)
from taming.training.codes import cached_codes, check_codes
from taming.training.curve import Curve
from taming.training.datamodule import DataModule
from taming.training.first_stage import FirstStageTraining
from taming.training.loggers import make_loggers
from taming.training.module import NotFinite, Training, images_per_batch
from taming.training.resume import compare_data, place_data, read_run, take_over
from taming.training.second_stage import SecondStageTraining
from taming.training.segmenter import SegmenterTraining, check_masks
from taming.training.strategies import (
    adopt_processes,
    check_strategy,
    checkpoint_activations,
    rank,
    strategy_of,
)
from taming.training.tuning import tune

Sets = tuple[PictureSet, PictureSet | None]
"""For training and for validation."""
COPIES = 4  # of a weight that learns: its gradient, and two means of AdamW


def train(
    config: Experiment | str | Path | dict | Iterable[str | Path | dict],
    folder: str | Path,
    resume: bool | str | Path = False,
    start_from: str | Path | None = None,
    fitting: bool = False,
    yaml: str | None = None,
) -> Path:
    """Trains, and returns the path of the last checkpoint.

    Args:
        config: an Experiment, a YAML file, the name of a shipped one, a plain tree, or several of
            them, merged from left to right
        folder: of the run; one process at a time
        resume: continue the run in `folder` from its last checkpoint, or from this one
        start_from: a checkpoint, ours or a published one, whose weights (discriminator included)
            are taken before batch 0
        fitting: take of it what has the right name and shape, and print what was not taken;
            otherwise all of the model must fit
        yaml: what came with a published `start_from`

    Raises:
        UserError: a mistake in the configuration, the data or the surroundings. What was learned
            until then is saved.
    """
    experiment = copy.deepcopy(config) if isinstance(config, Experiment) else load(config)
    folder = Path(folder)
    last = last_checkpoint(folder)
    if last and not resume:
        raise UserError(
            f"run '{folder}' exists already; resume it with -r {folder}, or choose another name"
            " with -n"
        )
    check_sections(experiment)
    adopt_processes(experiment)
    check_hardware(experiment)
    device = _device(experiment.trainer.accelerator)
    experiment.trainer.precision = resolved(experiment.trainer.precision, device)
    make_writable(folder)
    with _alone(folder):
        if experiment.trainer.threads:
            torch.set_num_threads(experiment.trainer.threads)
        pl.seed_everything(experiment.seed, verbose=False)
        if resume:
            checkpoint = Path(last or "") if resume is True else Path(resume)
            module, data = _resumed(experiment, folder, checkpoint)
        else:
            module, data = _started(experiment, start_from, fitting, yaml)
        write_config(experiment, folder / "config.yaml")
        if not rank():
            print(cost(module), file=sys.stderr)
        fit(experiment, module, data, folder)
    return Path(module.last_checkpoint or folder / "checkpoints" / "last.ckpt")


def _device(accelerator: str) -> str:
    """The kind of device that Lightning will take."""
    kinds = {"gpu": "cuda" if torch.cuda.is_available() else "mps"}
    if torch.cuda.is_available():
        kinds["auto"] = "cuda"
    elif torch.backends.mps.is_available():
        kinds["auto"] = "mps"
    return kinds.get(accelerator, "cpu" if accelerator == "auto" else accelerator)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One run in the folder, whose processes after the first hold no lock of their own. What a kill
    cut short is removed.
    """
    if rank():
        yield
        return
    with run_lock(folder):
        for temporary in (*folder.glob(".*.tmp"), *folder.glob("checkpoints/.*.tmp")):
            temporary.unlink(missing_ok=True)
        yield


def _started(
    experiment: Experiment, start_from: str | Path | None, fitting: bool, yaml: str | None
) -> tuple[Training, DataModule]:
    """A new run, on fresh weights or on those of a checkpoint."""
    if start_from is None:
        return prepare(experiment)
    content = part_for(experiment, read_checkpoint(start_from, yaml))
    if content.unknown:
        raise UserError(
            f"'{start_from}' has tensors that no published model has, the first"
            f" '{content.unknown[0]}'"
        )
    module, data = prepare(experiment, content.weights, start_from, fitting)
    take_discriminator(module, content, fitting, str(start_from))
    return module, data


def _resumed(experiment: Experiment, folder: Path, checkpoint: Path) -> tuple[Training, DataModule]:
    """The run in the folder, where a checkpoint of it was saved."""
    run = read_run(checkpoint, experiment.allow)
    take_over(experiment, run, folder)
    module, data = prepare(experiment, run.weights, checkpoint)
    module.resume(run.state)
    module.last_checkpoint = str(checkpoint)
    compare_data(experiment, run, module)
    place_data(experiment, run, module, data)
    return module, data


def prepare(
    experiment: Experiment,
    weights: dict[str, Tensor] | None = None,
    source: str | Path = "",
    fitting: bool = False,
) -> tuple[Training, DataModule]:
    """The module that trains and the data it reads, checked against each other.

    Args:
        weights: of the model, from `source`, instead of fresh ones
        fitting: take only those with the right shape; tokenizers, and a cascade's base, that the
            configuration names by checkpoint stay
    """
    # 1. the model, with weights of its own or of a checkpoint
    check_sections(experiment)
    everything = not (experiment.tuning.lora or experiment.tuning.parts)
    here = _device(experiment.trainer.accelerator) == "cpu"
    copies = COPIES if here and everything else 1
    model = _build(experiment, experiment.model, "model", copies)
    if weights:
        weights = _without_other_parts(experiment, model, weights, source, fitting)
        if fitting:
            report_unused(load_fitting(model, weights, source), source)
        else:
            load_weights(model, weights, source)
    elif experiment.tuning.lora or experiment.tuning.parts:
        raise UserError("tuning: it says what learns of a trained model; name one with --from")
    tune(model, experiment.tuning)
    # 2. the data sets
    data = experiment.data
    train: PictureSet = ordinary(_build(experiment, data.train, "data.train"))
    validation: PictureSet | None = ordinary(_build(experiment, data.validation, "data.validation"))
    sets = (train, validation)
    if not rank():
        pictures = {f"data.{name}": dataset for name, dataset in zip(SETS, sets)}
        check_pictures(pictures, experiment.data.check == "full")
        for line in shards_problems(sets):
            print(f"skipped: {line}", file=sys.stderr)
    # 3. what trains it, once both fit each other
    if isinstance(model, Autoencoder):
        module = _first_stage(experiment, model, sets)
    elif isinstance(model, SecondStage):
        module = _second_stage(experiment, model, sets)
    elif isinstance(model, Segmenter):
        module = _segmenter(experiment, model, sets)
    else:
        raise UserError(
            f"model.target: {experiment.model['target']} is no model that can be trained"
        )
    module.card = run_card(experiment, model, train)
    check_strategy(experiment, module.stage)
    module.data = {name: contents(dataset) for name, dataset in zip(SETS, sets)}
    # 4. codes that are computed once
    views = None
    if isinstance(model, SecondStage) and data.views:
        views = data.views
        on_cpu = experiment.trainer.accelerator == "cpu"
        train = cached_codes(model, train, views, data.cache, on_cpu)
        if validation is not None:
            validation = cached_codes(model, validation, None, data.cache, on_cpu)
    return module, DataModule(
        train, validation, data.batch_size, experiment.seed, data.workers, views
    )


def _build(experiment: Experiment, node: dict | None, place: str, copies: int = 1) -> Any:
    """The object, where there is a node for it."""
    if not node:
        return None
    return build(node, experiment.allow, place, experiment.trusted, copies)


def _first_stage(experiment: Experiment, model: Autoencoder, sets: Sets) -> FirstStageTraining:
    if experiment.loss is None:
        raise UserError(
            "loss: missing; a first stage needs one, for example {target:"
            " taming.first_stage.VQGANLoss}"
        )
    for key, value in (
        ("noise", experiment.noise),
        ("condition_dropout", experiment.condition_dropout),
        ("data.views", experiment.data.views),
        ("optimizer.algorithm", "muon" * (experiment.optimizer.algorithm == "muon")),
    ):
        if value:
            raise UserError(f"{key}: {value}, but a first stage has no use for it; leave it out")
    check_sets(model, sets)
    return FirstStageTraining(experiment, model, _build(experiment, experiment.loss, "loss"))


def _second_stage(experiment: Experiment, model: SecondStage, sets: Sets) -> SecondStageTraining:
    _refuse_loss(experiment, "a prior")
    if isinstance(model, Cascade):
        if experiment.data.views:
            raise UserError(
                "data.views: the level of a cascade reads fresh pieces of pictures in each batch;"
                " leave it out"
            )
        check_pieces(model, sets)
        return CascadeTraining(experiment, model)
    if experiment.condition_dropout and any(not prior.knows_null for prior in model.levels):
        raise UserError(
            "condition_dropout: a prior with shared_vocabulary has no token for an empty"
            " condition; leave it out"
        )
    check_sets(
        model.first_stage,
        tuple(None if isinstance(dataset, Codes) else dataset for dataset in sets),
        [prior.grid for prior in model.levels],
    )
    for name, dataset in zip(SETS, sets):
        if isinstance(dataset, Codes):
            check_codes(model, dataset, name)
    return SecondStageTraining(experiment, model, check_condition(model, sets[0]))


def _segmenter(experiment: Experiment, model: Segmenter, sets: Sets) -> SegmenterTraining:
    _refuse_loss(experiment, "a segmenter")
    check_masks(model, sets)
    return SegmenterTraining(experiment, model)


def _refuse_loss(experiment: Experiment, kind: str) -> None:
    if experiment.loss is not None:
        raise UserError(
            f"loss: {kind} is trained by cross-entropy, so this key is for first stages; leave it"
            " out"
        )


def _without_other_parts(
    experiment: Experiment,
    model: nn.Module,
    weights: dict[str, Tensor],
    source: str | Path,
    fitting: bool,
) -> dict[str, Tensor]:
    """A checkpoint of a prior holds its tokenizers, and one of a cascade its base, and would put
    them in place of other ones that the configuration names by checkpoint: refused, or with
    `fitting` those of the configuration stay, and the prior goes on over their codes.
    """
    weights = {current_name(name): tensor for name, tensor in weights.items()}
    for key, checkpoint, prefixes in _named_parts(experiment):
        there = {n: t for n, t in model.state_dict().items() if n.startswith(prefixes)}
        if not any(
            name in weights
            and (weights[name].shape != tensor.shape or not weights[name].to(tensor).equal(tensor))
            for name, tensor in there.items()
        ):
            continue
        if not fitting:
            raise UserError(
                f"--from {source} has another {key} than model.params.{key} ('{checkpoint}'), and"
                " its prior knows the codes of its own; name the one that it was trained on, or"
                f" add --fitting to train the prior on over '{checkpoint}'"
            )
        print(f"{key}: that of '{checkpoint}' stays, not that of '{source}'", file=sys.stderr)
        weights = {
            name: tensor for name, tensor in weights.items() if not name.startswith(prefixes)
        } | there
    return weights


def _named_parts(experiment: Experiment) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Keys of the model that name a checkpoint, that, and what the part's tensors begin with."""
    params = experiment.model.get("params") or {}
    conditioner = (params.get("conditioner") or {}).get("params") or {}
    for key, node, prefixes in (
        ("first_stage", params.get("first_stage"), ("first_stage.",)),
        ("conditioner.first_stage", conditioner.get("first_stage"), ("conditioner.first_stage.",)),
        ("base", params.get("base"), ("first_stage.", "conditioner.", "priors.")),
    ):
        if isinstance(node, dict) and str(node.get("target")).endswith("_stage.pretrained"):
            yield key, node["params"]["checkpoint"], prefixes


def take_discriminator(module: Training, content: Content, fitting: bool, source: str) -> None:
    """What a checkpoint has of the loss."""
    if not isinstance(module, FirstStageTraining) or module.loss.discriminator is None:
        return
    discriminator, part = module.loss.discriminator, f"{source} (discriminator)"
    weights = {
        name.removeprefix("discriminator."): tensor
        for name, tensor in content.loss.items()
        if name.startswith("discriminator.")
    }
    if not weights:
        print(f"{source} holds no discriminator; it starts anew", file=sys.stderr)
    elif fitting:
        report_unused(load_fitting(discriminator, weights, source), part)
    else:
        load_weights(discriminator, weights, part)


def report_unused(names: list[str], source: str | Path | None) -> None:
    """Prints which tensors of a file and of the model did not match."""
    if names:
        rest = f" and {len(names) - 8} more" if len(names) > 8 else ""
        print(
            f"of {source} and the model, {len(names)} tensor{'s' if len(names) > 1 else ''} did not"
            f" fit and start anew or are not used: {', '.join(names[:8])}{rest}",
            file=sys.stderr,
        )


@rank_zero_only
def write_config(experiment: Experiment, path: Path) -> None:
    tree = OmegaConf.create(to_plain(experiment))
    write_atomically(path, lambda file: OmegaConf.save(tree, file))


def cost(module: Training) -> str:
    """What the run will take, before it starts: parameters, the memory they bind, batches."""
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in module.model.parameters() if not p.requires_grad)
    # Weights, gradients, two moments, average
    copies = 4 if module.averaged is None else 5
    gigabytes = (trained * copies + frozen) * 4 / 1e9
    return (
        f"{trained / 1e6:.2f} M parameters learn, {frozen / 1e6:.2f} M are frozen; weights,"
        f" gradients and optimizer state take {gigabytes:.2f} GB, activations come on top\nbatches"
        f" {module.batches} to {module.experiment.trainer.max_steps} of"
        f" {images_per_batch(module.experiment)} pictures; learning rate"
        f" {module.experiment.optimizer.learning_rate}"
    )


def fit(experiment: Experiment, module: Training, data: DataModule, folder: Path) -> None:
    """The loop, from `module.batches` to max_steps."""
    checkpoints = Checkpoints(folder / "checkpoints")
    trainer = _trainer(experiment, module, folder, checkpoints)
    if experiment.trainer.channels_last:
        for part in module.children():
            part.to(memory_format=torch.channels_last)
    if experiment.trainer.recompute:
        checkpoint_activations(module.trained())
    if experiment.trainer.compile:
        for network in [*module.trained().children()] or [module.trained()]:
            network.compile()
    with _quiet(), signals_restored():
        try:
            trainer.fit(module, datamodule=data)
        except (NotFinite, Interrupted):
            raise
        except UserError as error:
            error.args = (f"{str(error).split('UserError: ')[-1]}; {checkpoints.way_on()}",)
            raise
        except (MemoryError, RuntimeError) as error:
            reason = _explained(error, experiment, module)
            if not reason:
                raise
            if rank():
                raise SystemExit(2) from None
            raise UserError(f"{reason}; {checkpoints.way_on()}") from None


def _trainer(
    experiment: Experiment, module: Training, folder: Path, checkpoints: Checkpoints
) -> pl.Trainer:
    settings = experiment.trainer
    resumed = module.batches if module.last_checkpoint else None
    assert settings.precision != "auto"  # `train` has resolved it
    callbacks = [Inputs(), Pictures(folder / "pictures"), checkpoints, Progress()]
    if experiment.evaluation.every:
        callbacks.insert(0, Curve(experiment))
    if module.is_sharded:  # one process alone can't draw
        callbacks = [one for one in callbacks if not isinstance(one, Pictures)]
    return pl.Trainer(
        accelerator=settings.accelerator,
        devices=settings.devices,
        num_nodes=settings.nodes,
        strategy=strategy_of(experiment, module.stage),
        precision=settings.precision,
        # The loop counts from where it starts; all else counts module.batches
        max_steps=settings.max_steps - module.batches,
        max_epochs=-1,
        logger=make_loggers(experiment, folder, resumed),
        callbacks=callbacks,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        use_distributed_sampler=False,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's advice on loaders."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pytorch_lightning")
        warnings.filterwarnings(
            "ignore", message=".*(num_workers|does not have many workers|_pytree|LeafSpec).*"
        )
        yield


def _explained(error: Exception, experiment: Experiment, module: Training) -> str:
    """What a user can do about an error that torch raises; empty where that is nothing."""
    message = str(error).lower()
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in message:
        size = experiment.data.batch_size
        cure = "data.batch_size" if size > 1 else "the picture size or model.params.channels"
        return (
            f"out of memory at batch {module.batches + 1}; lower {cure} (batch_size is {size};"
            " trainer.accumulate_grad_batches makes up for it)"
        )
    words = ("gloo", "nccl", "connection closed", "connection reset", "timed out")
    processes = experiment.trainer.devices * experiment.trainer.nodes
    if processes > 1 and any(word in message for word in words):
        return "another process of this run has stopped; what it says comes first"
    return ""
