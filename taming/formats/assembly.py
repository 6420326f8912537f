"""Parts that were trained apart as one file: a cascade with its base, a model with a decoder that
was finished later.
"""

import copy
import dataclasses

import torch
from torch import Tensor

from taming.errors import UserError
from taming.formats.content import Content
from taming.formats.parts import first_stage_content

BASE = ("first_stage.", "conditioner.", "priors.", "coarser.")
DECODING = ("decoder.", "post_quant_conv.")


def with_base(cascade: Content, base: Content) -> Content:
    """The cascade with another prior of its scenes.

    Args:
        cascade: of a checkpoint of a Cascade.
        base: of a checkpoint of a SecondStage over the same codes.

    Raises:
        UserError: they are none, or their tokenizers differ.
    """
    if not _target(cascade).endswith(".Cascade"):
        raise UserError(f"'{cascade.path}' holds no cascade, but {_target(cascade)}")
    if not _target(base).endswith(".SecondStage"):
        raise UserError(f"'{base.path}' holds no second stage, but {_target(base)}")
    _check_same_codes(_tokenizer(cascade.weights), _tokenizer(base.weights), cascade, base)
    config = copy.deepcopy(cascade.config)
    config["model"]["params"]["base"] = base.config["model"]
    weights = {n: t for n, t in cascade.weights.items() if not n.startswith(BASE)}
    weights |= {n: t for n, t in base.weights.items() if n.startswith(BASE)}
    # What is said of the model is what its base reached; what its level did stands beside it
    figures = {**base.figures, **{f"level_{k}": v for k, v in cascade.figures.items()}}
    return dataclasses.replace(cascade, config=config, weights=weights, figures=figures)


def with_decoder(content: Content, finished: Content) -> Content:
    """The model with another decoder of the same codes, as `trainer.freeze_codes` trains one.

    Args:
        content: of a checkpoint of a first or second stage.
        finished: of a checkpoint of a first stage, or of a second one that has it.

    Raises:
        UserError: their codes differ, or so do the decoders' shapes.
    """
    prefix = "" if content.stage == "first" else "first_stage."
    if finished.stage == "second":
        finished = first_stage_content(finished)
    ours = content.weights if not prefix else _tokenizer(content.weights)
    _check_same_codes(ours, finished.weights, content, finished)
    decoder = {n: t for n, t in finished.weights.items() if n.startswith(DECODING)}
    there = {n for n in ours if n.startswith(DECODING)}
    if not decoder or decoder.keys() != there:
        raise UserError(f"'{finished.path}' has no decoder of the kind of '{content.path}'")
    for name, tensor in decoder.items():
        if tensor.shape != ours[name].shape:
            raise UserError(
                f"'{finished.path}': {name} is {tuple(tensor.shape)}, but {tuple(ours[name].shape)}"
                f" in '{content.path}'; decoders of one architecture can be exchanged"
            )
    weights = content.weights | {f"{prefix}{name}": tensor for name, tensor in decoder.items()}
    return dataclasses.replace(content, weights=weights)


def _target(content: Content) -> str:
    return content.config["model"]["target"]


def _tokenizer(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of the pictures, as a first stage names its weights."""
    prefix = "first_stage."
    return {n.removeprefix(prefix): t for n, t in weights.items() if n.startswith(prefix)}


def _check_same_codes(
    ours: dict[str, Tensor], others: dict[str, Tensor], content: Content, other: Content
) -> None:
    """Encoders and codebooks are equal, in half precision at least: files are passed on in it."""
    for name, tensor in ours.items():
        if name.startswith(DECODING):
            continue
        match = others.get(name)
        if match is None or match.shape != tensor.shape or not _equal(match, tensor):
            raise UserError(
                f"'{content.path}' and '{other.path}' have different tokenizers ('{name}'); train"
                " both on the same one"
            )


def _equal(one: Tensor, other: Tensor) -> bool:
    if not one.is_floating_point():
        return torch.equal(one, other)
    return torch.equal(one.half(), other.half())
