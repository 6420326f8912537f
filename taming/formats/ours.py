"""Saving and loading: a file holds the weights and, in plain types, the configuration that rebuilds
their model.

Two containers, one content: `.ckpt` (what training writes: everything that an exact resume needs)
and `.safetensors` (weights and config only, for passing on). Published checkpoints are read too,
with the YAML that came with them (published.py).
"""

import json
import os
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from taming.errors import UserError
from taming.formats.unpickler import read_restricted


@dataclass
class Content:
    """What a file of ours holds, before anything is built."""

    stage: str  # first or second
    config: dict  # a whole Experiment, plain
    weights: dict[str, Tensor]  # of the model; averaged weights where the run kept them
    batches: int  # seen in training
    figures: dict  # what validation said last
    # Of the loss: the discriminator, for going on with training
    loss: dict[str, Tensor] = field(default_factory=dict)
    # Of a published file: what was not taken, and why
    left: dict[str, str] = field(default_factory=dict)
    # On the translation of a published configuration
    notes: list[str] = field(default_factory=list)
    # Tensors of a published file that no published model has
    unknown: list[str] = field(default_factory=list)
    source: str = "taming"  # who wrote the file: taming, or published


def read_raw(path: str | Path) -> dict:
    """The dictionary in a .ckpt, memory-mapped: by torch's safe loader, or, where that refuses, by
    one that rebuilds tensors and leaves all else inert.
    """
    try:
        raw = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception:  # torch raises many kinds
        raw = read_restricted(Path(path))
    if not isinstance(raw, dict):
        raise UserError(f"'{path}' holds a {type(raw).__name__}, not a checkpoint")
    return raw


def compare(own: dict[str, Tensor], weights: dict[str, Tensor], source: str | Path) -> None:
    """Raises UserError for a missing, spare or misshapen tensor, and names it."""
    for what, names in (
        ("lacks", own.keys() - weights.keys()),
        ("has, but the model does not,", weights.keys() - own.keys()),
    ):
        if names:
            raise UserError(
                f"'{source}' {what} {len(names)} tensors, the first '{min(names)}'; does its"
                " configuration belong to these weights?"
            )
    for name, tensor in own.items():
        if tensor.shape != weights[name].shape:
            raise UserError(
                f"'{source}': '{name}' has shape {tuple(weights[name].shape)}, but its"
                f" configuration says {tuple(tensor.shape)}{_meaning(name)}"
            )


def load_weights(model: nn.Module, weights: dict[str, Tensor], source: str | Path) -> None:
    """Strictly: see `compare`."""
    compare(model.state_dict(), weights, source)
    _refuse_other_order(model, weights, source)
    model.load_state_dict(weights)


def load_fitting(model: nn.Module, weights: dict[str, Tensor], source: str | Path) -> list[str]:
    """Takes what has the model's names and shapes; returns the names of what was left, on either
    side. Frozen tokenizers come whole or not at all: half of one and half of another would make
    codes of neither.
    """
    _refuse_other_order(model, weights, source)
    own = model.state_dict()
    fitting = {
        name: tensor
        for name, tensor in weights.items()
        if name in own and own[name].shape == tensor.shape
    }
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
        if (
            name.endswith("permutation")
            and name in weights
            and not torch.equal(weights[name], tensor)
        ):
            raise UserError(
                f"'{source}' reads codes in another order than the configuration says; set"
                " model.params.prior.params.order to its own"
            )


def _meaning(name: str) -> str:
    """What a shape stands for, where a user is likely to have changed it."""
    if name.endswith(("quantizer.embedding.weight", "inner.embedding.weight", "proj.weight")):
        return " (number of codes, and their dimension)"
    if name.endswith(
        ("encoder.conv_in.weight", "decoder.conv_out.weight", "decoder.conv_out.bias")
    ):
        return " (channels of the picture, or labels)"
    if name.endswith(("tok_emb.weight", "head.weight", "cond_emb.weight")):
        return " (codes or condition tokens)"
    return ""


def save_safetensors(path: str | Path, content: Content, half: bool = False) -> None:
    """Writes weights and configuration for passing on.

    half: floats in half precision, and in a quarter (float8) the decoder of a condition's
    tokenizer, which no sample needs.
    """
    from safetensors.torch import save_file

    def stored(name: str, tensor: Tensor) -> Tensor:
        if not half or not tensor.is_floating_point():
            return tensor.contiguous().clone()
        unneeded = name.startswith("conditioner.first_stage.decoder.")
        return tensor.to(torch.float8_e4m3fn if unneeded else torch.float16).contiguous()

    everything = content.weights | {f"loss.{k}": v for k, v in content.loss.items()}
    tensors = {name: stored(name, tensor) for name, tensor in everything.items()}
    about = {
        "stage": content.stage,
        "config": content.config,
        "batches": content.batches,
        "figures": content.figures,
    }
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    save_file(tensors, temporary, metadata={"taming": json.dumps(about)})
    os.replace(temporary, path)


def read_safetensors(path: Path) -> tuple[dict, dict[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}, {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 (not a dictionary)
    except (SafetensorError, OSError) as error:
        raise UserError(f"'{path}' can't be read as safetensors: {error}") from None
