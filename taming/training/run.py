"""One run: from an Experiment to a folder with config.yaml, metrics.csv, checkpoints/ and
pictures/, interrupted and resumed at will.
"""

import os
import sys
import warnings
from pathlib import Path

import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from pytorch_lightning.utilities import rank_zero_only

from taming import config
from taming.config.experiment import Experiment
from taming.errors import UserError
from taming.files import make_writable
from taming.first_stage.interface import Autoencoder
from taming.formats.load import read_checkpoint
from taming.formats.ours import Content, load_fitting, load_weights, read_raw
from taming.second_stage.model import SecondStage
from taming.segmenter import Segmenter
from taming.training import segmenter
from taming.training.callbacks import Checkpoints, Pictures, Progress, Skipped, signals_restored
from taming.training.checks import check_condition, check_hardware, check_sets
from taming.training.codes import cached_codes, parts_of
from taming.training.curve import Curve
from taming.training.datamodule import DataModule
from taming.training.first_stage import FirstStageTraining
from taming.training.loggers import make_loggers
from taming.training.module import Training
from taming.training.second_stage import SecondStageTraining
from taming.training.segmenter import SegmenterTraining


def train(
    experiment: Experiment,
    folder: str | Path,
    resume: bool = False,
    start_from: str | None = None,
    fitting: bool = False,
    yaml: str | None = None,
) -> Path:
    """Trains, and returns the path of the last checkpoint.

    start_from: a checkpoint, ours or a published one, whose weights (discriminator included) are
    taken before batch 0. fitting: take of it what has the right name and shape, and say what was
    left; otherwise all of the model must fit. yaml: what came with a published `start_from`.
    """
    folder = Path(folder)
    last = folder / "checkpoints" / "last.ckpt"
    if last.is_file() and not resume:
        raise UserError(
            f"run '{folder}' exists already; go on with it by -r {folder}, or choose another name"
            " with -n"
        )
    check_hardware(experiment)
    if experiment.trainer.threads:
        torch.set_num_threads(experiment.trainer.threads)
    make_writable(folder)
    pl.seed_everything(experiment.seed, verbose=False)
    keep_to = None
    if resume:
        state = read_raw(last)
        if "taming" not in state:
            raise UserError(
                f"'{last}' was not written by taming train; to start from its weights, use -b"
                f" CONFIG --from {last}"
            )
        done = state["taming"]["batches"]
        if done >= experiment.trainer.max_steps:
            raise UserError(
                f"run '{folder}' has done its {done} batches; for more, add for example"
                f" trainer.max_steps={2 * done}"
            )
        # A second stage carries its first one; the file that it came from may have changed since
        experiment.model = state["taming"]["config"]["model"]
        weights = {
            k.removeprefix("model."): v
            for k, v in state["state_dict"].items()
            if k.startswith("model.")
        }
        module, data = prepare(experiment, weights, last)
        module.resume(state)
        module.last_checkpoint = str(last)
        keep_to = module.batches
        data.start = module.batches * experiment.trainer.accumulate_grad_batches
    else:
        content = read_checkpoint(start_from, yaml) if start_from else None
        if content is not None and content.unknown:
            raise UserError(
                f"'{start_from}' has tensors that no published model has, the first"
                f" '{content.unknown[0]}'"
            )
        module, data = prepare(experiment, content and content.weights, start_from, fitting)
        if content is not None:
            take_discriminator(module, content, fitting, str(start_from))
    write_config(experiment, folder / "config.yaml")
    print(cost(module), file=sys.stderr)
    fit(experiment, module, data, folder, keep_to)
    return last


def fit(
    experiment: Experiment, module: Training, data: DataModule, folder: Path, keep_to: int | None
) -> None:
    settings = experiment.trainer
    watching = [
        Skipped(),
        Pictures(folder / "pictures"),
        Checkpoints(folder / "checkpoints"),
        Progress(),
    ]
    if experiment.evaluation.every:
        watching.insert(0, Curve(experiment))
    trainer = pl.Trainer(
        accelerator=settings.accelerator,
        devices=settings.devices,
        strategy=strategy_of(experiment, module),
        precision=settings.precision,
        # The loop counts from where it starts; all else counts module.batches
        max_steps=settings.max_steps - module.batches,
        max_epochs=-1,
        logger=make_loggers(experiment, folder, keep_to),
        callbacks=watching,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        use_distributed_sampler=False,
    )
    if settings.channels_last:
        module.model.to(memory_format=torch.channels_last)
        for extra in (getattr(module, "loss", None), module.averaged):
            if extra is not None:
                extra.to(memory_format=torch.channels_last)
    with warnings.catch_warnings(), signals_restored():
        warnings.filterwarnings("ignore", module="pytorch_lightning")
        warnings.filterwarnings(
            "ignore", message=".*(num_workers|does not have many workers|_pytree|LeafSpec).*"
        )
        try:
            trainer.fit(module, datamodule=data)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if (
                isinstance(error, RuntimeError)
                and not isinstance(error, torch.OutOfMemoryError)
                and "allocate memory" not in str(error)
            ):
                raise
            cure = (
                "data.batch_size"
                if experiment.data.batch_size > 1
                else "the picture size or model.params.channels"
            )
            raise UserError(
                f"out of memory at batch {module.batches + 1}; lower {cure} (batch_size is"
                f" {experiment.data.batch_size}; trainer.accumulate_grad_batches makes up for it)"
            ) from None


def strategy_of(experiment: Experiment, module: Training) -> str:
    """With several processes: DDP; a discriminator that is not used yet would make plain DDP wait
    for its gradients.
    """
    if experiment.trainer.strategy != "auto" or experiment.trainer.devices == 1:
        return experiment.trainer.strategy
    return "ddp_find_unused_parameters_true" if module.stage == "first" else "ddp"


def prepare(
    experiment: Experiment,
    weights: dict | None = None,
    source: str | Path | None = None,
    fitting: bool = False,
) -> tuple[Training, DataModule]:
    """The module that trains and the data it reads, checked against each other. weights: of the
    model, from `source`, instead of fresh ones; fitting: only what has the right shape.
    """
    if not experiment.model:
        raise UserError(
            "model: missing; name one, for example {target: taming.first_stage.VQGAN, params:"
            " {...}}"
        )
    if not experiment.data.train:
        raise UserError(
            "data.train: missing; name a data set, for example {target: taming.data.ImageFolder,"
            " params: {root: my/pictures, size: 64}}"
        )
    for name, node in (
        ("train", experiment.data.train),
        ("validation", experiment.data.validation),
    ):
        if node and "target" not in node:
            raise UserError(
                f"data.{name}.target: missing; name a data set, for example taming.data.ImageFolder"
            )
    model = config.build(experiment.model, experiment.allow, trusted=experiment.trusted)
    if weights and fitting:
        report_unused(load_fitting(model, weights, source), source)
    elif weights:
        load_weights(model, weights, source)
    sets = [
        config.build(node, experiment.allow, f"data.{name}", experiment.trusted) if node else None
        for name, node in (
            ("train", experiment.data.train),
            ("validation", experiment.data.validation),
        )
    ]
    views = None
    if isinstance(model, Autoencoder):
        if experiment.loss is None:
            raise UserError(
                "loss: missing; a first stage needs one, for example {target:"
                " taming.first_stage.VQGANLoss}"
            )
        for key, value in (
            ("noise", experiment.noise),
            ("condition_dropout", experiment.condition_dropout),
            ("data.views", experiment.data.views),
        ):
            if value:
                raise UserError(
                    f"{key}: {value}, but a first stage has no use for it; leave it out"
                )
        check_sets(model, sets)
        module = FirstStageTraining(
            experiment,
            model,
            config.build(experiment.loss, experiment.allow, "loss", experiment.trusted),
        )
    elif isinstance(model, SecondStage):
        if experiment.loss is not None:
            raise UserError(
                "loss: a prior is trained by cross-entropy, so this key is for first stages; leave"
                " it out"
            )
        if experiment.condition_dropout and any(
            getattr(prior, "tied", False) for prior in model.priors
        ):
            raise UserError(
                "condition_dropout: a prior with shared_vocabulary has no token that says nothing;"
                " leave it out"
            )
        check_sets(model.first_stage, sets, [prior.grid for prior in model.priors])
        check_condition(model, sets[0])
        module = SecondStageTraining(experiment, model, parts_of(model, sets[0]))
        views = experiment.data.views
        if views:
            sets = [
                cached_codes(model, s, v, experiment.data.cache) if s is not None else None
                for s, v in zip(sets, (views, None))
            ]
    elif isinstance(model, Segmenter):
        if experiment.loss is not None:
            raise UserError(
                "loss: a segmenter is trained by cross-entropy, so this key is for first stages;"
                " leave it out"
            )
        segmenter.check_sets(model, sets)
        module = SegmenterTraining(experiment, model)
    else:
        raise UserError(
            f"model.target: {experiment.model['target']} is no model that can be trained"
        )
    return module, DataModule(
        *sets, experiment.data.batch_size, experiment.seed, experiment.data.workers, views
    )


def take_discriminator(module: Training, content: Content, fitting: bool, source: str) -> None:
    """What a checkpoint has of the loss."""
    loss = getattr(module, "loss", None)
    if loss is None or loss.discriminator is None:
        return
    weights = {
        k.removeprefix("discriminator."): v
        for k, v in content.loss.items()
        if k.startswith("discriminator.")
    }
    if not weights:
        print(f"{source} holds no discriminator; it starts anew", file=sys.stderr)
    elif fitting:
        report_unused(
            load_fitting(loss.discriminator, weights, source), f"{source} (discriminator)"
        )
    else:
        load_weights(loss.discriminator, weights, f"{source} (discriminator)")


def report_unused(left: list[str], source: str | Path | None) -> None:
    if left:
        shown = ", ".join(left[:8]) + (f" and {len(left) - 8} more" if len(left) > 8 else "")
        print(
            f"of {source} and the model, {len(left)} tensors did not fit and start anew or are"
            f" left: {shown}",
            file=sys.stderr,
        )


@rank_zero_only
def write_config(experiment: Experiment, path: Path) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    OmegaConf.save(OmegaConf.create(config.to_plain(experiment)), temporary)
    os.replace(temporary, path)


def cost(module: Training) -> str:
    """What the run will take, before it starts: parameters, the memory they bind, batches."""
    learning = sum(p.numel() for p in module.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in module.model.parameters() if not p.requires_grad)
    # Weights, gradients, two moments, average
    bound = (learning * (4 if module.averaged is None else 5) + frozen) * 4 / 1e9
    settings = module.experiment.trainer
    total = module.experiment.data.batch_size * settings.accumulate_grad_batches * settings.devices
    return (
        f"{learning / 1e6:.2f} M parameters learn, {frozen / 1e6:.2f} M are frozen; weights,"
        f" gradients and optimizer state bind {bound:.2f} GB, activations come on top\nbatches"
        f" {module.batches} to {settings.max_steps} of {total} pictures; learning rate"
        f" {module.experiment.optimizer.learning_rate}"
    )
