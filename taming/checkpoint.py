"""Saving and loading: a file holds the weights and, in plain types, the configuration that rebuilds their model.

Two containers, one content: `.ckpt` (what training writes: everything that an exact resume needs) and `.safetensors` (weights and config only, for passing
on).
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from taming import config
from taming.errors import UserError, did_you_mean

PRETRAINED = Path(__file__).parent / "pretrained"
STAGES = ("first", "second")


@dataclass
class Content:
    """What a file of ours holds, before anything is built."""

    stage: str  # first or second
    config: dict  # a whole Experiment, plain
    weights: dict[str, Tensor]  # of the model; averaged weights where the run kept them
    batches: int  # seen in training
    figures: dict  # what validation said last


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
        for candidate in (path / "checkpoints" / "last.ckpt", path / "last.ckpt"):
            if candidate.is_file():
                return candidate
        raise UserError(f"'{path}' is a folder without checkpoints/last.ckpt; name a checkpoint, or a run folder that has one")
    if named.is_file():
        return named
    shipped = [p.stem for p in PRETRAINED.glob("*.safetensors")]
    raise UserError(f"checkpoint '{path}' does not exist{did_you_mean(path, shipped) if shipped else ''}")


def read(path: str | Path) -> Content:
    """Reads a file of ours without building a model. Raises UserError where it is not one."""
    path = find(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    raw = read_raw(path)
    ours = raw.get("taming")
    if ours is None:
        raise UserError(f"'{path}' was not written by taming (it has no entry 'taming'); published CompVis checkpoints can't be read yet")
    state = raw["state_dict"]
    weights = {k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")}
    weights.update({k.removeprefix("averaged."): v for k, v in ours.get("averaged", {}).items()})
    return Content(ours["stage"], ours["config"], weights, ours["batches"], ours.get("figures", {}))


def read_raw(path: str | Path) -> dict:
    """The dictionary in a .ckpt, by torch's safe loader."""
    try:
        raw = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"'{path}' can't be read as a checkpoint: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(raw, dict):
        raise UserError(f"'{path}' holds a {type(raw).__name__}, not a checkpoint")
    return raw


def load(path: str | Path, stage: str | None = None) -> nn.Module:
    """The model in a checkpoint, in eval mode on the CPU: a FirstStage or a SecondStage.

    path: a .ckpt or .safetensors of ours, a run folder, or the name of a shipped model. stage: refuse anything but "first" or "second".
    """
    content = read(path)
    if stage and content.stage != stage:
        raise UserError(f"'{path}' is a {content.stage}-stage checkpoint, but a {stage} stage is needed here; {_cure(stage)}")
    experiment = config.from_plain(content.config, str(path))
    with torch.device("meta"):
        model = config.build(experiment.model, experiment.allow)
    model = model.to_empty(device="cpu")
    load_weights(model, {k: v.float() if v.is_floating_point() else v for k, v in content.weights.items()}, path)
    return model.eval()


def load_weights(model: nn.Module, weights: dict[str, Tensor], source: str | Path) -> None:
    """Strictly: a missing, spare or misshapen tensor is a UserError that names it."""
    own = model.state_dict()
    for what, names in (("lacks", own.keys() - weights.keys()), ("has, but the model does not,", weights.keys() - own.keys())):
        if names:
            raise UserError(f"'{source}' {what} {len(names)} tensors, the first '{min(names)}'; does its configuration belong to these weights?")
    for name, tensor in own.items():
        if tensor.shape != weights[name].shape:
            raise UserError(f"'{source}': '{name}' has shape {tuple(weights[name].shape)}, but its configuration says {tuple(tensor.shape)}")
    model.load_state_dict(weights)


def save_safetensors(path: str | Path, content: Content, dtype: torch.dtype | None = None) -> None:
    """Writes weights and configuration for passing on; floats as `dtype` where given."""
    from safetensors.torch import save_file

    tensors = {k: (v.to(dtype) if dtype and v.is_floating_point() else v).contiguous().clone() for k, v in content.weights.items()}
    about = {"stage": content.stage, "config": content.config, "batches": content.batches, "figures": content.figures}
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    save_file(tensors, temporary, metadata={"taming": json.dumps(about)})
    os.replace(temporary, path)


def _read_safetensors(path: Path) -> Content:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            about = (file.metadata() or {}).get("taming")
            if about is None:
                raise UserError(f"'{path}' was not written by taming: it carries no configuration")
            about = json.loads(about)
            weights = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 (not a dictionary)
    except (SafetensorError, OSError) as error:
        raise UserError(f"'{path}' can't be read as safetensors: {error}") from None
    return Content(about["stage"], about["config"], weights, about["batches"], about.get("figures", {}))


def _cure(stage: str) -> str:
    if stage == "second":
        return "train a prior on it first (configs/second_stage), and give that run"
    return "give the run of a first stage (configs/first_stage)"


def describe(path: str | Path) -> str:
    """What a file is, in a few lines, without building its model."""
    content = read(path)
    sizes: dict[str, list[int]] = {}
    for name, tensor in content.weights.items():
        part = ".".join(name.split(".")[: 2 if content.stage == "second" else 1])
        count = sizes.setdefault(part, [0, 0])
        count[0], count[1] = count[0] + 1, count[1] + tensor.numel()
    lines = [f"{find(path)}: {content.stage} stage, {content.config['model']['target']}, {content.batches} batches"]
    lines += [f"  {part:<28} {tensors:>4} tensors {numbers / 1e6:>9.3f} M parameters" for part, (tensors, numbers) in sizes.items()]
    lines += [
        f"  codebook {name.removesuffix('.embedding.weight')}: {tensor.shape[0]} codes of {tensor.shape[1]} numbers"
        for name, tensor in content.weights.items()
        if name.endswith("quantizer.embedding.weight")
    ]
    lines += [f"  validation {name}: {value:.5g}" for name, value in content.figures.items()]
    lines += [f"  trained on {content.config['data']['train'].get('target')} with seed {content.config['seed']}"]
    return "\n".join(lines)
