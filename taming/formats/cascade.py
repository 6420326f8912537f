"""A cascade whose base and level were trained apart, on the same tokenizer, as one file."""

import copy
from pathlib import Path

import torch

from taming.errors import UserError
from taming.formats.load import read_checkpoint
from taming.formats.ours import save_safetensors

BASE = ("first_stage.", "conditioner.", "priors.", "coarser.")


def join_cascade(level: str | Path, base: str | Path, out: str | Path, half: bool = False) -> Path:
    """Writes the cascade in `level` with the prior in `base` in place of its own.

    Args:
        level: a checkpoint of a Cascade.
        base: a checkpoint of a SecondStage.
        out: a .safetensors file.
        half: floats in half precision.

    Raises:
        UserError: they are none, or their tokenizers differ.
    """
    cascade, second = read_checkpoint(level), read_checkpoint(base)
    if not cascade.config["model"]["target"].endswith(".Cascade"):
        raise UserError(f"'{level}' holds no cascade, but {cascade.config['model']['target']}")
    if not second.config["model"]["target"].endswith(".SecondStage"):
        raise UserError(f"'{base}' holds no second stage, but {second.config['model']['target']}")
    for name, tensor in cascade.weights.items():
        if name.startswith("first_stage."):
            other = second.weights.get(name)
            if other is None or other.shape != tensor.shape or not torch.equal(other, tensor):
                raise UserError(
                    f"'{level}' and '{base}' have different tokenizers ('{name}'); train both on"
                    " the same one"
                )
    config = copy.deepcopy(cascade.config)
    config["model"]["params"]["base"] = second.config["model"]
    weights = {n: t for n, t in cascade.weights.items() if not n.startswith(BASE)}
    weights |= {n: t for n, t in second.weights.items() if n.startswith(BASE)}
    cascade.config, cascade.weights = config, weights
    save_safetensors(out, cascade, half)
    return Path(out)
