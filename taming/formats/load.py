"""The facade: whose file is this? A file, a run folder or a shipped model's name -> its model."""

import functools
import hashlib
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from torch import nn

from taming.errors import UserError, did_you_mean
from taming.files import file_hash
from taming.formats import dalle, diffusers, ibq, llamagen, llamagen_prior, maskgit, rar, var
from taming.formats.building import filled_model
from taming.formats.compvis.checkpoint import read_published
from taming.formats.compvis.config import configs_beside
from taming.formats.content import STAGES, Content
from taming.formats.fitting import count
from taming.formats.ours import is_ours, read_ours
from taming.formats.parts import first_stage_content
from taming.formats.sharded import is_sharded, newest_sharded
from taming.formats.source import INDEX, Source, is_index, read_shards, shards

SHIPPED = Path(__file__).parents[1] / "pretrained"
IN_A_RUN = ("checkpoints/last.ckpt", "ckpts/last.ckpt", "last.ckpt", "model.ckpt")
STEMS = ("model", "diffusion_pytorch_model", "pytorch_model")  # in folders of other libraries
SUFFIXES = (".safetensors", ".fp16.safetensors", f".safetensors{INDEX}", ".bin", f".bin{INDEX}")
IN_A_FOLDER = tuple(f"{stem}{ending}" for stem in STEMS for ending in SUFFIXES)
ORIGIN = "origin"  # the attribute of a loaded model that says what it is
PARTS = ("vqvae", "vqmodel", "vae", "movq")  # folders of a pipeline that hold its first stage
PAIRS = (dalle.FILES,)  # two files of a folder, of which either may be named
ENDINGS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".tar", ".pkl")
FORMATS = (diffusers, llamagen, llamagen_prior, var, maskgit, rar, ibq)
CURES = {
    "first": "give the run of a first stage (configs/first_stage)",
    "second": "train a prior on it first (configs/second_stage), and give that run",
    "segmenter": "train one on images with masks (configs/segmenter), and give that run",
}


def shipped_names() -> dict[str, Path]:
    """The models that come with the package, by name."""
    return {file.stem: file for file in sorted(SHIPPED.glob("*.safetensors"))}


def find_checkpoint(path: str | Path) -> Path:
    """The file that a user means: a file, a run folder (its last checkpoint), or the name of a
    shipped model. Raises UserError where there is none.
    """
    if not isinstance(path, str | Path):
        raise UserError(f"a checkpoint is named by a path, not by a {type(path).__name__}")
    shipped = shipped_names()
    named, path = shipped.get(str(path)), Path(path)
    try:
        if path.is_file() or is_sharded(path):
            return path
        files = [path / place for place in IN_A_RUN if (path / place).is_file()]
        is_folder = path.is_dir()
        if is_folder and not files:
            files = _in_foreign_folder(path)
    except (OSError, ValueError):  # no name that a disk could have
        files, is_folder = [], False
    if files:
        return files[0]
    if named:  # a folder of that name that is no run is no reason to refuse
        return named
    if is_folder:
        best = path / "checkpoints" / "best.ckpt"
        there = f" ('{best}' is there)" if best.is_file() else ""
        if sharded := newest_sharded(path):
            raise UserError(
                f"'{path}' has its checkpoint in parts; put them together first: taming convert"
                f" {sharded} OUT.safetensors"
            )
        raise UserError(
            f"'{path}' is a folder without checkpoints/last.ckpt; name a checkpoint{there}, or a"
            " run folder that has one"
        )
    hint = did_you_mean(str(path), shipped) if shipped else ""
    raise UserError(f"checkpoint '{path}' does not exist{hint}")


def _in_foreign_folder(folder: Path) -> list[Path]:
    """The file that a folder of another library means: by name, else the only one of weights."""
    for place in (folder, *(folder / part for part in PARTS)):
        files = [place / name for name in IN_A_FOLDER if (place / name).is_file()]
        if files:
            return files
    files = sorted(one for one in folder.iterdir() if one.suffix in ENDINGS and one.is_file())
    if tuple(sorted(one.name for one in files)) in map(tuple, map(sorted, PAIRS)):
        return files
    if len(files) > 1:
        raise UserError(
            f"'{folder}' has several files of weights, among them '{files[0].name}' and"
            f" '{files[1].name}'; name the one that is meant"
        )
    return files


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
    named = None if config is None else Path(config)
    if dalle.recognises_file(path):
        return dalle.read_dalle(path, allow)
    if is_index(path):
        content, raw = None, read_shards(path)
    else:
        content, raw = read_ours(path, allow)
    if content is None:
        return _read_foreign(Source(path, raw, named), allow)
    if config is not None:
        raise UserError(
            f"'{path}' was written by taming and has its configuration inside; leave '{config}' out"
        )
    return content


def _refuse_continuous(source: Source) -> None:
    """KL autoencoders, by their tensors: means and variances before sampling, and no codebook."""
    for prefix in ("", "first_stage_model."):
        before = source.weights.get(f"{prefix}quant_conv.weight")
        after = source.weights.get(f"{prefix}post_quant_conv.weight")
        if before is None or after is None or min(before.ndim, after.ndim) < 2:
            continue
        if not source.has_part(f"{prefix}quantize.") and len(before) == 2 * after.shape[1]:
            raise UserError(
                f"'{source.path}' is a KL autoencoder, whose latents are continuous: there are no"
                " codes; take a VQ model (of latent-diffusion vq-f4, vq-f8 or vq-f16)"
            )


def _read_foreign(source: Source, allow: Iterable[str]) -> Content:
    _refuse_continuous(source)
    for room in FORMATS:
        if room.recognises(source):
            content = room.read(source, allow)
            if source.card_path and room.READS_CARD:
                content.configs = (str(source.card_path),)
            return content
    return read_published(source, allow)


def checkpoint_files(path: str | Path, config: str | Path | None = None) -> list[Path]:
    """The files that make a model what it is: the checkpoint, all parts of it, and of other
    people's the configuration that belongs to it.
    """
    path = find_checkpoint(path)
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    files = [path, *shards(path)] if is_index(path) else [path]
    if config is not None:
        return [*files, Path(config)]
    if dalle.recognises_file(path):
        return dalle.parts(path)
    if not is_index(path) and is_ours(path):
        return files
    for start, room in (("c2i_", llamagen_prior), ("rar_", rar)):
        if path.stem.startswith(start) and (tokenizer := room.tokenizer_of(path)):
            return [*files, tokenizer]
    card = path.parent / "config.json"
    return [*files, *([card] if card.is_file() else configs_beside(path))]


def config_beside(path: str | Path) -> Path | None:
    """The one configuration that belongs to somebody else's checkpoint; None for one of ours, which
    has its own inside, and where several are merged.
    """
    files = [one for one in checkpoint_files(path)[1:] if one.suffix in (".yaml", ".yml", ".json")]
    return files[0] if len(files) == 1 else None


def checkpoint_hash(path: str | Path, config: str | Path | None = None) -> str:
    """Of what `checkpoint_files` lists, as `file_hash`; of a single file, its own."""
    hashes = [file_hash(file) for file in checkpoint_files(path, config)]
    if len(hashes) == 1:
        return hashes[0]
    return hashlib.sha256("".join(hashes).encode()).hexdigest()[:16]


def load(
    path: str | Path,
    config: str | Path | None = None,
    stage: str | None = None,
    allow: Iterable[str] = (),
) -> nn.Module:
    """The model in a checkpoint, in eval mode on the CPU: a FirstStage or a VAE, frozen; a
    SecondStage, or a Segmenter.

    Args:
        path: a .ckpt or .safetensors of ours, a run folder, the name of a shipped model, or
            somebody else's folder or file of weights (docs/formats.md lists them).
        config: the YAML or config.json of somebody else's, by default what lies beside it.
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
    if stage == "first" and content.stage == "second":
        content = first_stage_content(content)
    if stage and content.stage != stage:
        raise UserError(
            f"'{path}' is a {content.stage}-stage checkpoint, but a {stage} stage is needed here;"
            f" {CURES[stage]}"
        )
    for name in content.configs if config is None else ():
        _say_once(f"'{content.path}': its configuration is '{name}'")
    return model_of(content)


def model_of(content: Content) -> nn.Module:
    """The model of a file's content, which is emptied; see `load`."""
    refuse_unknown(content, content.path)
    model = filled_model(content)
    # What `save_pretrained` needs besides weights
    setattr(model, ORIGIN, replace(content, weights={}, loss={}))
    # What a first stage is taken for: tokens, latents, somebody's score
    return model.requires_grad_(False) if content.stage == "first" else model


@functools.cache
def _say_once(message: str) -> None:
    print(message, file=sys.stderr)


def refuse_unknown(content: Content, path: str | Path) -> None:
    """Raises UserError where a published file has tensors that no published model has."""
    if content.unknown:
        raise UserError(
            f"'{path}' has {count(content.unknown, 'tensor')}, that a published model of this kind"
            " does not have; taming inspect lists what it has"
        )
