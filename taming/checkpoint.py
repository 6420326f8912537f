"""Saving and loading: a file holds the weights and, in plain types, the configuration that rebuilds their model.

Two containers, one content: `.ckpt` (what training writes: everything that an exact resume needs) and `.safetensors` (weights and config only, for passing
on). Published checkpoints are read too, with the YAML that came with them (published.py).
"""

import json
import os
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from taming import config, published
from taming.errors import UserError, did_you_mean

PRETRAINED = Path(__file__).parent / "pretrained"


@dataclass
class Content:
    """What a file of ours holds, before anything is built."""

    stage: str  # first or second
    config: dict  # a whole Experiment, plain
    weights: dict[str, Tensor]  # of the model; averaged weights where the run kept them
    batches: int  # seen in training
    figures: dict  # what validation said last
    loss: dict[str, Tensor] = field(default_factory=dict)  # of the loss: the discriminator, for going on with training
    left: dict[str, str] = field(default_factory=dict)  # of a published file: what was not taken, and why
    notes: list[str] = field(default_factory=list)  # on the translation of a published configuration
    unknown: list[str] = field(default_factory=list)  # tensors of a published file that no published model has
    source: str = "taming"  # who wrote the file: taming, or published


def make_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".write{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"folder '{folder}' is not writable ({error.strerror}); choose another") from None


def find(path: str | Path) -> Path:
    """The file that a user means: a file, a run folder (its last checkpoint), or the name of a shipped model."""
    named = PRETRAINED / f"{path}.safetensors"
    path = Path(path)
    if path.is_file():
        return path
    if path.is_dir():
        for place in ("checkpoints/last.ckpt", "ckpts/last.ckpt", "last.ckpt", "model.ckpt"):
            if (path / place).is_file():
                return path / place
        raise UserError(f"'{path}' is a folder without checkpoints/last.ckpt; name a checkpoint, or a run folder that has one")
    if named.is_file():
        return named
    shipped = [p.stem for p in PRETRAINED.glob("*.safetensors")]
    raise UserError(f"checkpoint '{path}' does not exist{did_you_mean(path, shipped) if shipped else ''}")


def read(path: str | Path, yaml: str | Path | None = None) -> Content:
    """Reads a file without building a model. Raises UserError where it is none that we know.

    yaml: the configuration that came with a published checkpoint; by default the one beside it.
    """
    path = find(path)
    raw = {"state_dict": None} if path.suffix == ".safetensors" else read_raw(path)
    if path.suffix == ".safetensors":
        metadata, weights = _read_safetensors(path)
        if "taming" in metadata:
            about = json.loads(metadata["taming"])
            loss = {k.removeprefix("loss."): weights.pop(k) for k in list(weights) if k.startswith("loss.")}
            return Content(about["stage"], about["config"], weights, about["batches"], about.get("figures", {}), loss)
        raw = {"state_dict": weights}
    ours = raw.get("taming")
    if ours is None:
        return _read_published(path, raw, yaml)
    state = raw["state_dict"]
    weights = {k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")}
    weights.update({k.removeprefix("averaged."): v for k, v in ours.get("averaged", {}).items()})
    loss = {k.removeprefix("loss."): v for k, v in state.items() if k.startswith("loss.")}
    return Content(ours["stage"], ours["config"], weights, ours["batches"], ours.get("figures", {}), loss)


def _read_published(path: Path, raw: dict, yaml: str | Path | None) -> Content:
    state = raw.get("state_dict", raw)
    if not isinstance(state, dict) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"'{path}' was written neither by taming nor by the published code: it holds no dictionary of tensors")
    yamls = [Path(yaml)] if yaml else published.configs_beside(path)
    if not yamls:
        raise UserError(f"'{path}' was not written by taming, and no YAML lies beside it; give the one that came with it by --config")
    tree = published.read_yaml(yamls)
    if not published.is_theirs(tree):
        raise UserError(f"'{yamls[-1]}' is not a configuration of the published code (model.target names none of its models); give the right one by --config")
    translated = published.translate(tree, {name: tuple(tensor.shape) for name, tensor in state.items()})
    second = "first_stage" in translated.config["model"]["params"]
    found = published.sort_weights(state, path, second, translated.config)
    left = found.left | {name: "not needed for weights" for name in raw if name in ("optimizer_states", "lr_schedulers", "callbacks")}
    plain = config.to_plain(config.from_plain(translated.plain, str(yamls[-1])))
    batches = raw["global_step"] if isinstance(raw.get("global_step"), int) else 0
    return Content("second" if second else "first", plain, found.weights, batches, {}, found.loss, left, translated.notes, found.unknown, "published")


def read_raw(path: str | Path) -> dict:
    """The dictionary in a .ckpt, memory-mapped: by torch's safe loader, or, where that refuses, by one that rebuilds tensors and leaves all else inert."""
    try:
        raw = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception:  # torch raises many kinds
        raw = published.read_restricted(Path(path))
    if not isinstance(raw, dict):
        raise UserError(f"'{path}' holds a {type(raw).__name__}, not a checkpoint")
    return raw


def load(path: str | Path, config: str | Path | None = None, stage: str | None = None) -> nn.Module:
    """The model in a checkpoint, in eval mode on the CPU: a FirstStage, a SecondStage, or a Segmenter.

    path: a .ckpt or .safetensors of ours, a run folder, the name of a shipped model, or a published run folder, .ckpt or state dict. config: the YAML of a
    published one, by default what lies beside it. stage: refuse anything but "first", "second" or "segmenter".
    """
    content = read(path, config)
    if content.unknown:
        told = f"{len(content.unknown)} tensors that a published model of this kind does not have, the first '{min(content.unknown)}'"
        raise UserError(f"'{path}' has {told}; taming inspect lists what it has")
    if stage and content.stage != stage:
        raise UserError(f"'{path}' is a {content.stage}-stage checkpoint, but a {stage} stage is needed here; {_cure(stage)}")
    model = built(content, path)
    own = model.state_dict(keep_vars=True)
    compare(own, content.weights, path)
    with torch.no_grad():
        for name in list(content.weights):
            own[name].copy_(content.weights.pop(name))  # one by one, so that no second copy of all stands in memory
    if content.stage == "second":
        model.condition_dropout = content.config["condition_dropout"]
    return model.eval()


def built(content: Content, source: str | Path) -> nn.Module:
    """The model that a file describes, with memory but no values yet."""
    experiment = config.from_plain(content.config, str(source))
    with torch.device("meta"):
        model = config.build(experiment.model, experiment.allow)
    return model.to_empty(device="cpu")


def compare(own: dict[str, Tensor], weights: dict[str, Tensor], source: str | Path) -> None:
    """Raises UserError for a missing, spare or misshapen tensor, and names it."""
    for what, names in (("lacks", own.keys() - weights.keys()), ("has, but the model does not,", weights.keys() - own.keys())):
        if names:
            raise UserError(f"'{source}' {what} {len(names)} tensors, the first '{min(names)}'; does its configuration belong to these weights?")
    for name, tensor in own.items():
        if tensor.shape != weights[name].shape:
            raise UserError(f"'{source}': '{name}' has shape {tuple(weights[name].shape)}, but its configuration says {tuple(tensor.shape)}{_meaning(name)}")


def load_weights(model: nn.Module, weights: dict[str, Tensor], source: str | Path) -> None:
    """Strictly: see `compare`."""
    compare(model.state_dict(), weights, source)
    _refuse_other_order(model, weights, source)
    model.load_state_dict(weights)


def load_fitting(model: nn.Module, weights: dict[str, Tensor], source: str | Path) -> list[str]:
    """Takes what has the model's names and shapes; returns the names of what was left, on either side. Frozen tokenizers come whole or not at all: half of
    one and half of another would make codes of neither.
    """
    _refuse_other_order(model, weights, source)
    own = model.state_dict()
    fitting = {name: tensor for name, tensor in weights.items() if name in own and own[name].shape == tensor.shape}
    for part in ("first_stage.", "conditioner."):
        names = {name for name in own.keys() | weights.keys() if name.startswith(part)}
        if not names <= fitting.keys():
            fitting = {name: tensor for name, tensor in fitting.items() if name not in names}
    if not fitting:
        raise UserError(f"nothing in '{source}' fits this model; is it of the other stage?")
    model.load_state_dict(fitting, strict=False)
    return sorted((own.keys() | weights.keys()) - fitting.keys())


def _refuse_other_order(model: nn.Module, weights: dict[str, Tensor], source: str | Path) -> None:
    for name, tensor in model.state_dict().items():
        if name.endswith("permutation") and name in weights and not torch.equal(weights[name], tensor):
            raise UserError(f"'{source}' reads codes in another order than the configuration says; set model.params.prior.params.order to its own")


def _meaning(name: str) -> str:
    """What a shape stands for, where a user is likely to have changed it."""
    if name.endswith(("quantizer.embedding.weight", "inner.embedding.weight", "proj.weight")):
        return " (number of codes, and their dimension)"
    if name.endswith(("encoder.conv_in.weight", "decoder.conv_out.weight", "decoder.conv_out.bias")):
        return " (channels of the picture, or labels)"
    if name.endswith(("tok_emb.weight", "head.weight", "cond_emb.weight")):
        return " (codes or condition tokens)"
    return ""


def save_safetensors(path: str | Path, content: Content, half: bool = False) -> None:
    """Writes weights and configuration for passing on.

    half: floats in half precision, and in a quarter (float8) the decoder of a condition's tokenizer, which no sample needs.
    """
    from safetensors.torch import save_file

    def stored(name: str, tensor: Tensor) -> Tensor:
        if not half or not tensor.is_floating_point():
            return tensor.contiguous().clone()
        unneeded = name.startswith("conditioner.first_stage.decoder.")
        return tensor.to(torch.float8_e4m3fn if unneeded else torch.float16).contiguous()

    everything = content.weights | {f"loss.{k}": v for k, v in content.loss.items()}
    tensors = {name: stored(name, tensor) for name, tensor in everything.items()}
    about = {"stage": content.stage, "config": content.config, "batches": content.batches, "figures": content.figures}
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    save_file(tensors, temporary, metadata={"taming": json.dumps(about)})
    os.replace(temporary, path)


def _read_safetensors(path: Path) -> tuple[dict, dict[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}, {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 (not a dictionary)
    except (SafetensorError, OSError) as error:
        raise UserError(f"'{path}' can't be read as safetensors: {error}") from None


def _cure(stage: str) -> str:
    if stage == "second":
        return "train a prior on it first (configs/second_stage), and give that run"
    if stage == "segmenter":
        return "train one on pictures with masks (configs/segmenter), and give that run"
    return "give the run of a first stage (configs/first_stage)"


def save_published(folder: str | Path, content: Content) -> Path:
    """Writes checkpoints/last.ckpt and configs/model-project.yaml, as the published code reads them; returns the folder."""
    from omegaconf import OmegaConf

    tree, raw = published.to_theirs(content.config, content.weights, content.loss, content.batches)
    folder = Path(folder)
    there = [p for p in (folder / "checkpoints" / "last.ckpt", folder / "config.yaml", *folder.glob("configs/*project.yaml")) if p.is_file()]
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
        (folder / "configs" / "model-project.yaml", lambda p: OmegaConf.save(OmegaConf.create(tree), p)),
    ):
        temporary = path.with_name(f".{path.name}.tmp")
        write(temporary)
        os.replace(temporary, path)
    return folder


def convert_yaml(path: str | Path, out: str | Path) -> Path:
    """Writes a published configuration as one of ours, what is worth knowing about the translation on top; returns the path."""
    from omegaconf import OmegaConf

    tree = published.read_yaml([Path(path)])
    if not published.is_theirs(tree):
        raise UserError(f"'{path}' is not a configuration of the published code: model.target names none of its models")
    translated = published.translate(tree)
    config.from_plain(translated.plain, str(path))
    lines = [f"# Translated from {Path(path).name}, a configuration of the published code.", *(f"# {note}" for note in translated.notes)]
    out = Path(out)
    make_writable(out.parent)
    temporary = out.with_name(f".{out.name}.tmp")
    temporary.write_text("\n".join(lines) + "\n" + OmegaConf.to_yaml(OmegaConf.create(translated.config)))
    os.replace(temporary, out)
    return out


def describe(path: str | Path, yaml: str | Path | None = None) -> str:
    """What a file is, in a few lines, without memory for its model."""
    content = read(path, yaml)
    sizes: dict[str, list[int]] = {}
    for name, tensor in [*content.weights.items(), *((f"loss.{k}", v) for k, v in content.loss.items())]:
        part = ".".join(name.split(".")[: 2 if content.stage == "second" else 1])
        count = sizes.setdefault(part, [0, 0])
        count[0], count[1] = count[0] + 1, count[1] + tensor.numel()
    by = "" if content.source == "taming" else " of the published code"
    lines = [f"{find(path)}: {content.stage} stage{by}, {content.config['model']['target']}, {content.batches} batches"]
    lines += [f"  {part:<28} {tensors:>4} tensors {numbers / 1e6:>9.3f} M parameters" for part, (tensors, numbers) in sizes.items()]
    lines += [
        f"  codebook {name.removesuffix('.embedding.weight')}: {tensor.shape[0]} codes of {tensor.shape[1]} numbers"
        for name, tensor in content.weights.items()
        if name.endswith("embedding.weight") and "quantizer" in name
    ]
    lines += _unmatched(content, path)
    lines += [f"  unknown: {name}" for name in sorted(content.unknown)[:20]]
    lines += [f"  left aside {name}: {why}" for name, why in content.left.items()]
    lines += [f"  note: {note}" for note in content.notes]
    lines += [f"  validation {name}: {value:.5g}" for name, value in content.figures.items()]
    if content.source == "taming":
        lines += [f"  trained on {content.config['data']['train'].get('target')} with seed {content.config['seed']}"]
    return "\n".join(lines)


def _unmatched(content: Content, source: str | Path) -> list[str]:
    """Names that the configuration's model has and the file has not, and the reverse; shapes that differ."""
    experiment = config.from_plain(content.config, str(source))
    with torch.device("meta"):
        own = config.build(experiment.model, experiment.allow).state_dict()
    shaped = [n for n in own.keys() & content.weights.keys() if own[n].shape != content.weights[n].shape]
    told = [("missing", own.keys() - content.weights.keys()), ("left over", content.weights.keys() - own.keys()), ("misshapen", shaped)]
    return [f"  {what}: {len(names)} tensors, the first '{min(names)}'" for what, names in told if names] or ["  nothing is missing or left over"]
