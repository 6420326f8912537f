"""The facade: whose file is this? A file, a run folder or a shipped model's name -> its model."""

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from taming.config import build
from taming.errors import UserError, did_you_mean
from taming.first_stage.interface import Autoencoder
from taming.formats.compvis.checkpoint import read_published
from taming.formats.content import STAGES, Content
from taming.formats.fitting import compare, count
from taming.formats.ours import read_ours
from taming.second_stage import SecondStage
from taming.segmenter import Segmenter

SHIPPED = Path(__file__).parents[1] / "pretrained"
IN_A_RUN = ("checkpoints/last.ckpt", "ckpts/last.ckpt", "last.ckpt", "model.ckpt")
KINDS = {"first": Autoencoder, "second": SecondStage, "segmenter": Segmenter}
CURES = {
    "first": "give the run of a first stage (configs/first_stage)",
    "second": "train a prior on it first (configs/second_stage), and give that run",
    "segmenter": "train one on images with masks (configs/segmenter), and give that run",
}


def find_checkpoint(path: str | Path) -> Path:
    """The file that a user means: a file, a run folder (its last checkpoint), or the name of a
    shipped model. Raises UserError where there is none.
    """
    if not isinstance(path, str | Path):
        raise UserError(f"a checkpoint is named by a path, not by a {type(path).__name__}")
    shipped = {file.stem: file for file in sorted(SHIPPED.glob("*.safetensors"))}
    named, path = shipped.get(str(path)), Path(path)
    try:
        if path.is_file():
            return path
        files = [path / place for place in IN_A_RUN if (path / place).is_file()]
        is_folder = path.is_dir()
    except (OSError, ValueError):  # no name that a disk could have
        files, is_folder = [], False
    if files:
        return files[0]
    if named:  # a folder of that name that is no run is no reason to refuse
        return named
    if is_folder:
        best = path / "checkpoints" / "best.ckpt"
        there = f" ('{best}' is there)" if best.is_file() else ""
        raise UserError(
            f"'{path}' is a folder without checkpoints/last.ckpt; name a checkpoint{there}, or a"
            " run folder that has one"
        )
    hint = did_you_mean(str(path), shipped) if shipped else ""
    raise UserError(f"checkpoint '{path}' does not exist{hint}")


def read_checkpoint(
    path: str | Path, config: str | Path | None = None, allow: Iterable[str] = ()
) -> Content:
    """Reads a file without building a model.

    Args:
        path: see `load`.
        config: see `load`.
        allow: see `load`.

    Raises:
        UserError: it is none that we know, it is damaged, or it is malformed.
    """
    path = find_checkpoint(path)
    if config is not None and not Path(config).is_file():
        raise UserError(f"config '{config}' does not exist; give the YAML of '{path}'")
    content, raw = read_ours(path, allow)
    if content is None:
        return read_published(path, raw, config, allow)
    if config is not None:
        raise UserError(
            f"'{path}' was written by taming and has its configuration inside; leave '{config}' out"
        )
    return content


def load(
    path: str | Path,
    config: str | Path | None = None,
    stage: str | None = None,
    allow: Iterable[str] = (),
) -> nn.Module:
    """The model in a checkpoint, in eval mode on the CPU: a FirstStage, a VAE, a SecondStage, or a
    Segmenter.

    Args:
        path: a .ckpt or .safetensors of ours, a run folder, the name of a shipped model, or a
            published run folder, .ckpt or state dict.
        config: the YAML of a published one, by default what lies beside it.
        stage: refuse anything but "first", "second" or "segmenter".
        allow: packages of your own whose classes the file may name. What these import and build is
            run; a file that you do not trust needs none.

    Raises:
        UserError: there is no such file, it is damaged or malformed, it names a class that it may
            not name, or its weights and its configuration do not fit.
    """
    if stage is not None and stage not in STAGES:
        raise UserError(f"stage '{stage}' is none{did_you_mean(stage, STAGES)}")
    content = read_checkpoint(path, config, allow)
    refuse_unknown(content, path)
    if stage and content.stage != stage:
        raise UserError(
            f"'{path}' is a {content.stage}-stage checkpoint, but a {stage} stage is needed here;"
            f" {CURES[stage]}"
        )
    model = build_model(content)
    tensors = model.state_dict(keep_vars=True)
    with torch.no_grad():
        for name in list(content.weights):
            # One by one, so that no second copy of all stands in memory
            tensors[name].copy_(content.weights.pop(name))
    if isinstance(model, SecondStage):
        model.condition_dropout = content.config["condition_dropout"]
    return model.eval()


def refuse_unknown(content: Content, path: str | Path) -> None:
    """Raises UserError where a published file has tensors that no published model has."""
    if content.unknown:
        raise UserError(
            f"'{path}' has {count(content.unknown, 'tensor')}, that a published model of this kind"
            " does not have; taming inspect lists what it has"
        )


def build_model(content: Content) -> nn.Module:
    """The model that a file describes, in memory but without values yet. Raises UserError where its
    weights do not fit.
    """
    experiment = content.experiment()
    with torch.device("meta"):
        model = build(experiment.model, content.allow, trusted=False)
    kind = KINDS[content.stage]
    if not isinstance(model, kind):
        raise UserError(
            f"'{content.path}' says that it is a {content.stage} stage, but its model is a"
            f" {type(model).__name__}"
        )
    expected: dict[str, Tensor] = model.state_dict()
    compare(expected, content.weights, content.path)
    return model.to_empty(device="cpu")
