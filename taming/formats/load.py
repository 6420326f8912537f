"""The facade: whose file is this? A file, a run folder or a shipped model's name -> its model."""

import json
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from taming import config
from taming.errors import UserError, did_you_mean
from taming.files import make_writable
from taming.formats.compvis.config import configs_beside, is_theirs, read_yaml, translate
from taming.formats.compvis.export import to_theirs
from taming.formats.compvis.weights import sort_weights
from taming.formats.ours import Content, compare, read_raw, read_safetensors

PRETRAINED = Path(__file__).parents[1] / "pretrained"


def find_checkpoint(path: str | Path) -> Path:
    """The file that a user means: a file, a run folder (its last checkpoint), or the name of a
    shipped model.
    """
    named = PRETRAINED / f"{path}.safetensors"
    path = Path(path)
    if path.is_file():
        return path
    if path.is_dir():
        for place in ("checkpoints/last.ckpt", "ckpts/last.ckpt", "last.ckpt", "model.ckpt"):
            if (path / place).is_file():
                return path / place
        raise UserError(
            f"'{path}' is a folder without checkpoints/last.ckpt; name a checkpoint, or a run"
            " folder that has one"
        )
    if named.is_file():
        return named
    shipped = [p.stem for p in PRETRAINED.glob("*.safetensors")]
    raise UserError(
        f"checkpoint '{path}' does not exist{did_you_mean(path, shipped) if shipped else ''}"
    )


def read_checkpoint(path: str | Path, yaml: str | Path | None = None) -> Content:
    """Reads a file without building a model. Raises UserError where it is none that we know.

    yaml: the configuration that came with a published checkpoint; by default the one beside it.
    """
    path = find_checkpoint(path)
    raw = {"state_dict": None} if path.suffix == ".safetensors" else read_raw(path)
    if path.suffix == ".safetensors":
        metadata, weights = read_safetensors(path)
        if "taming" in metadata:
            about = json.loads(metadata["taming"])
            loss = {
                k.removeprefix("loss."): weights.pop(k)
                for k in list(weights)
                if k.startswith("loss.")
            }
            return Content(
                about["stage"],
                about["config"],
                weights,
                about["batches"],
                about.get("figures", {}),
                loss,
            )
        raw = {"state_dict": weights}
    ours = raw.get("taming")
    if ours is None:
        return _read_published(path, raw, yaml)
    state = raw["state_dict"]
    weights = {k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")}
    weights.update({k.removeprefix("averaged."): v for k, v in ours.get("averaged", {}).items()})
    loss = {k.removeprefix("loss."): v for k, v in state.items() if k.startswith("loss.")}
    return Content(
        ours["stage"], ours["config"], weights, ours["batches"], ours.get("figures", {}), loss
    )


def _read_published(path: Path, raw: dict, yaml: str | Path | None) -> Content:
    state = raw.get("state_dict", raw)
    if (
        not isinstance(state, dict)
        or not state
        or not all(isinstance(v, Tensor) for v in state.values())
    ):
        raise UserError(
            f"'{path}' was written neither by taming nor by the published code: it holds no"
            " dictionary of tensors"
        )
    yamls = [Path(yaml)] if yaml else configs_beside(path)
    if not yamls:
        raise UserError(
            f"'{path}' was not written by taming, and no YAML lies beside it; give the one that"
            " came with it by --config"
        )
    tree = read_yaml(yamls)
    if not is_theirs(tree):
        raise UserError(
            f"'{yamls[-1]}' is not a configuration of the published code (model.target names none"
            " of its models); give the right one by --config"
        )
    translated = translate(tree, {name: tuple(tensor.shape) for name, tensor in state.items()})
    second = "first_stage" in translated.config["model"]["params"]
    found = sort_weights(state, path, second, translated.config)
    left = found.left | {
        name: "not needed for weights"
        for name in raw
        if name in ("optimizer_states", "lr_schedulers", "callbacks")
    }
    plain = config.to_plain(config.from_plain(translated.plain, str(yamls[-1])))
    batches = raw["global_step"] if isinstance(raw.get("global_step"), int) else 0
    return Content(
        "second" if second else "first",
        plain,
        found.weights,
        batches,
        {},
        found.loss,
        left,
        translated.notes,
        found.unknown,
        "published",
    )


def load(path: str | Path, config: str | Path | None = None, stage: str | None = None) -> nn.Module:
    """The model in a checkpoint, in eval mode on the CPU: a FirstStage, a SecondStage, or a Segmenter.

    path: a .ckpt or .safetensors of ours, a run folder, the name of a shipped model, or a published
    run folder, .ckpt or state dict. config: the YAML of a published one, by default what lies
    beside it. stage: refuse anything but "first", "second" or "segmenter".
    """
    content = read_checkpoint(path, config)
    if content.unknown:
        told = (
            f"{len(content.unknown)} tensors that a published model of this kind does not have, the"
            f" first '{min(content.unknown)}'"
        )
        raise UserError(f"'{path}' has {told}; taming inspect lists what it has")
    if stage and content.stage != stage:
        raise UserError(
            f"'{path}' is a {content.stage}-stage checkpoint, but a {stage} stage is needed here;"
            f" {_cure(stage)}"
        )
    model = built(content, path)
    own = model.state_dict(keep_vars=True)
    compare(own, content.weights, path)
    with torch.no_grad():
        for name in list(content.weights):
            # One by one, so that no second copy of all stands in memory
            own[name].copy_(content.weights.pop(name))
    if content.stage == "second":
        model.condition_dropout = content.config["condition_dropout"]
    return model.eval()


def built(content: Content, source: str | Path) -> nn.Module:
    """The model that a file describes, with memory but no values yet."""
    experiment = config.from_plain(content.config, str(source))
    with torch.device("meta"):
        model = config.build(experiment.model, experiment.allow)
    return model.to_empty(device="cpu")


def _cure(stage: str) -> str:
    if stage == "second":
        return "train a prior on it first (configs/second_stage), and give that run"
    if stage == "segmenter":
        return "train one on pictures with masks (configs/segmenter), and give that run"
    return "give the run of a first stage (configs/first_stage)"


def save_published(folder: str | Path, content: Content) -> Path:
    """Writes checkpoints/last.ckpt and configs/model-project.yaml, as the published code reads
    them; returns the folder.
    """
    from omegaconf import OmegaConf

    tree, raw = to_theirs(content.config, content.weights, content.loss, content.batches)
    folder = Path(folder)
    there = [
        p
        for p in (
            folder / "checkpoints" / "last.ckpt",
            folder / "config.yaml",
            *folder.glob("configs/*project.yaml"),
        )
        if p.is_file()
    ]
    if there:
        raise UserError(f"'{there[0]}' is there already; export into a new folder")
    for place in ("checkpoints", "configs"):
        make_writable(folder / place)
    remap = tree["model"]["params"].get("remap")
    if remap:
        used = folder / "configs" / "used.npy"
        np.save(used, content.weights["quantizer.used"].numpy())
        tree["model"]["params"]["remap"] = str(used)
    for path, write in (
        (folder / "checkpoints" / "last.ckpt", lambda p: torch.save(raw, p)),
        (
            folder / "configs" / "model-project.yaml",
            lambda p: OmegaConf.save(OmegaConf.create(tree), p),
        ),
    ):
        temporary = path.with_name(f".{path.name}.tmp")
        write(temporary)
        os.replace(temporary, path)
    return folder


def convert_yaml(path: str | Path, out: str | Path) -> Path:
    """Writes a published configuration as one of ours, what is worth knowing about the translation
    on top; returns the path.
    """
    from omegaconf import OmegaConf

    tree = read_yaml([Path(path)])
    if not is_theirs(tree):
        raise UserError(
            f"'{path}' is not a configuration of the published code: model.target names none of its"
            " models"
        )
    translated = translate(tree)
    config.from_plain(translated.plain, str(path))
    lines = [
        f"# Translated from {Path(path).name}, a configuration of the published code.",
        *(f"# {note}" for note in translated.notes),
    ]
    out = Path(out)
    make_writable(out.parent)
    temporary = out.with_name(f".{out.name}.tmp")
    temporary.write_text(
        "\n".join(lines) + "\n" + OmegaConf.to_yaml(OmegaConf.create(translated.config))
    )
    os.replace(temporary, out)
    return out


def describe(path: str | Path, yaml: str | Path | None = None) -> str:
    """What a file is, in a few lines, without memory for its model."""
    content = read_checkpoint(path, yaml)
    sizes: dict[str, list[int]] = {}
    for name, tensor in [
        *content.weights.items(),
        *((f"loss.{k}", v) for k, v in content.loss.items()),
    ]:
        part = ".".join(name.split(".")[: 2 if content.stage == "second" else 1])
        count = sizes.setdefault(part, [0, 0])
        count[0], count[1] = count[0] + 1, count[1] + tensor.numel()
    by = "" if content.source == "taming" else " of the published code"
    lines = [
        f"{find_checkpoint(path)}: {content.stage} stage{by}, {content.config['model']['target']},"
        f" {content.batches} batches"
    ]
    lines += [
        f"  {part:<28} {tensors:>4} tensors {numbers / 1e6:>9.3f} M parameters"
        for part, (tensors, numbers) in sizes.items()
    ]
    lines += [
        f"  codebook {name.removesuffix('.embedding.weight')}: {tensor.shape[0]} codes of"
        f" {tensor.shape[1]} numbers"
        for name, tensor in content.weights.items()
        if name.endswith("embedding.weight") and "quantizer" in name
    ]
    lines += _unmatched(content, path)
    lines += [f"  unknown: {name}" for name in sorted(content.unknown)[:20]]
    lines += [f"  left aside {name}: {why}" for name, why in content.left.items()]
    lines += [f"  note: {note}" for note in content.notes]
    lines += [f"  validation {name}: {value:.5g}" for name, value in content.figures.items()]
    if content.source == "taming":
        lines += [
            f"  trained on {content.config['data']['train'].get('target')} with seed"
            f" {content.config['seed']}"
        ]
    return "\n".join(lines)


def _unmatched(content: Content, source: str | Path) -> list[str]:
    """Names that the configuration's model has and the file has not, and the reverse; shapes that
    differ.
    """
    experiment = config.from_plain(content.config, str(source))
    with torch.device("meta"):
        own = config.build(experiment.model, experiment.allow).state_dict()
    shaped = [
        n for n in own.keys() & content.weights.keys() if own[n].shape != content.weights[n].shape
    ]
    told = [
        ("missing", own.keys() - content.weights.keys()),
        ("left over", content.weights.keys() - own.keys()),
        ("misshapen", shaped),
    ]
    return [
        f"  {what}: {len(names)} tensors, the first '{min(names)}'" for what, names in told if names
    ] or ["  nothing is missing or left over"]
