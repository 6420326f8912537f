"""Weights into models: names, shapes, order and finiteness are compared first, and errors name the
tensor.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from taming.errors import UserError
from taming.second_stage.interface import current_name


def compare(expected: dict[str, Tensor], weights: dict[str, Tensor], source: str | Path) -> None:
    """Raises UserError for a tensor that is missing, spare, of another shape, no floats where they
    are expected, or not finite, and names it.
    """
    for verb, names in (
        ("lacks", expected.keys() - weights.keys()),
        ("has, but the model does not,", weights.keys() - expected.keys()),
    ):
        if names:
            raise UserError(
                f"'{source}' {verb} {count(names, 'tensor')}; does its configuration belong to"
                " these weights?"
            )
    for name, tensor in expected.items():
        if tensor.shape != weights[name].shape:
            raise UserError(
                f"'{source}': '{name}' has shape {tuple(weights[name].shape)}, but its"
                f" configuration says {tuple(tensor.shape)}{_meaning(name)}"
            )
        if tensor.is_floating_point() and not weights[name].is_floating_point():
            raise UserError(
                f"'{source}': '{name}' holds {str(weights[name].dtype).removeprefix('torch.')},"
                " but floats are expected; were the weights rounded on the way?"
            )
    refuse_non_finite(weights, source)


def count(names, noun: str) -> str:
    """`1 tensor, 'a'` or `3 tensors, the first 'a'`."""
    if len(names) == 1:
        return f"1 {noun}, '{min(names)}'"
    return f"{len(names)} {noun}s, the first '{min(names)}'"


def non_finite(weights: dict[str, Tensor]) -> list[str]:
    """Names of the tensors that hold NaN or infinity."""
    return [name for name, tensor in weights.items() if not _is_finite(tensor)]


def refuse_non_finite(weights: dict[str, Tensor], source: str | Path) -> None:
    names = non_finite(weights)
    if names:
        raise UserError(
            f"'{source}' has NaN or infinity in {count(names, 'tensor')}: its training diverged;"
            " take an earlier checkpoint, such as best.ckpt"
        )


def load_weights(model: nn.Module, weights: dict[str, Tensor], source: str | Path) -> None:
    """Strictly: see `compare`."""
    weights = {current_name(name): tensor for name, tensor in weights.items()}
    compare(model.state_dict(), weights, source)
    _refuse_other_order(model, weights, source)
    model.load_state_dict(weights)


def load_fitting(model: nn.Module, weights: dict[str, Tensor], source: str | Path) -> list[str]:
    """Takes what has the model's names and shapes; returns the names of what is not taken, on
    either side. Frozen tokenizers come complete or not at all: half of one and half of another
    would make codes of neither.
    """
    weights = {current_name(name): tensor for name, tensor in weights.items()}
    _refuse_other_order(model, weights, source)
    expected = model.state_dict()
    fitting = {
        name: tensor
        for name, tensor in weights.items()
        if name in expected and expected[name].shape == tensor.shape
    }
    for part in ("first_stage.", "conditioner."):
        names = {name for name in expected.keys() | weights.keys() if name.startswith(part)}
        if not names <= fitting.keys():
            fitting = {name: tensor for name, tensor in fitting.items() if name not in names}
    if not fitting:
        raise UserError(f"nothing in '{source}' fits this model; is it of the other stage?")
    refuse_non_finite(fitting, source)
    model.load_state_dict(fitting, strict=False)
    return sorted((expected.keys() | weights.keys()) - fitting.keys())


def _is_finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    if tensor.element_size() == 1:  # float8 has no arithmetic
        tensor = tensor.float()
    # The sum is finite but where something is not, or the numbers are huge
    total = tensor.sum(dtype=torch.float32)
    return bool(total.isfinite()) or bool(tensor.isfinite().all())


def _refuse_other_order(model: nn.Module, weights: dict[str, Tensor], source: str | Path) -> None:
    for name, tensor in model.state_dict().items():
        if not name.endswith("permutation") or name not in weights:
            continue
        if not torch.equal(weights[name], tensor):
            raise UserError(
                f"'{source}' reads codes in another order than the configuration says; set"
                " model.params.prior.params.order to that of the file"
            )


def _meaning(name: str) -> str:
    """What a shape stands for, where a user is likely to have changed it."""
    meanings = {
        " (number of codes, and their dimension)": (
            "quantizer.embedding.weight",
            "inner.embedding.weight",
            "proj.weight",
        ),
        " (channels of the image, or labels)": (
            "encoder.conv_in.weight",
            "decoder.conv_out.weight",
            "decoder.conv_out.bias",
        ),
        " (codes or condition tokens)": ("tok_emb.weight", "head.weight", "cond_emb.weight"),
    }
    return next((text for text, endings in meanings.items() if name.endswith(endings)), "")
