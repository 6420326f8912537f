"""What conditioners read: entries of a batch, checked."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from taming.errors import UserError
from taming.second_stage.interface import describe

TOLERANCE = 1e-3
"""How far relative places may lie outside [0, 1]."""


def entry_of(batch: dict, key: str | None) -> Tensor:
    """A tensor of the batch; arrays and lists of numbers become one."""
    if key not in batch:
        raise UserError(
            f"the prior is conditioned on '{key}', but the batch has"
            f" {', '.join(map(str, batch)) or 'nothing'}"
        )
    value = batch[key]
    if isinstance(value, Tensor):
        return value
    if isinstance(value, np.ndarray | int | float | list | tuple):
        try:
            return torch.as_tensor(value)
        except (TypeError, ValueError):  # of objects, ragged
            pass
    raise UserError(f"'{key}' should be a tensor of numbers, not {describe(value)}")


def check_class(labels: Tensor, classes: int, name: str) -> None:
    if not labels.numel():
        return
    lowest, highest = float(labels.min()), float(labels.max())
    if not 0 <= lowest <= highest < classes:
        wrong = lowest if lowest < 0 else highest
        raise UserError(f"{name} {wrong:g} is unknown: this prior knows 0 to {classes - 1}")


def check_relative(places: Any, name: str) -> None:
    """Raises UserError for places outside [0, 1], such as pixels, and for NaN."""
    if not isinstance(places, Tensor) or not bool(torch.isfinite(places).all()):
        raise UserError(f"'{name}' should hold finite numbers")
    wrong = places[(places < -TOLERANCE) | (places > 1 + TOLERANCE)]
    if wrong.numel():
        raise UserError(
            f"'{name}' has {float(wrong[0]):g}, but places are relative to the picture, from 0 to"
            " 1; divide pixels by its width and height"
        )
