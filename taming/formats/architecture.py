"""The shape of a VQ-GAN's networks, from the names and shapes of its tensors, for files that come
without a configuration. Names are those of first_stage/resnet.py.
"""

import re
from typing import Any

from taming.errors import UserError

Shapes = dict[str, tuple[int, ...]]


def autoencoder_params(shapes: Shapes, path: str) -> dict[str, Any]:
    """What tensors tell of `VQGAN`'s parameters: all but its quantizer and dropout.

    Raises:
        UserError: a tensor is missing that would tell.
    """
    return {
        **scale_params(shapes, path),
        "attention": [
            int(match[1])
            for name in sorted(shapes)
            if (match := re.fullmatch(r"encoder\.down\.(\d+)\.attn\.0\.norm\.weight", name))
        ],
        "latent_channels": _shape(shapes, "encoder.conv_out.weight", path)[0],
        "middle_attention": "encoder.mid.attn_1.norm.weight" in shapes,
    }


def scale_params(shapes: Shapes, path: str) -> dict[str, Any]:
    """How many scales there are, and how wide and deep they are.

    Raises:
        UserError: as `autoencoder_params`.
    """
    channels, in_channels = _shape(shapes, "encoder.conv_in.weight", path)[:2]
    levels = _count(shapes, r"encoder\.down\.(\d+)\.")
    blocks = {_count(shapes, rf"encoder\.down\.{i}\.block\.(\d+)\.") for i in range(levels)}
    if len(blocks) != 1 or not levels:
        raise UserError(
            f"'{path}' has scales of {sorted(blocks)} residual blocks, where all have as many; is"
            " it whole?"
        )
    widths = [
        _shape(shapes, f"encoder.down.{i}.block.0.conv2.weight", path)[0] for i in range(levels)
    ]
    if any(width % channels for width in widths):
        raise UserError(f"'{path}' has scales of {widths} channels, no multiples of {channels}")
    return {
        "channels": channels,
        "multipliers": [width // channels for width in widths],
        "blocks": blocks.pop(),
        "in_channels": in_channels,
    }


def codebook_params(
    shapes: Shapes, path: str, codebook_weight: float, commitment_weight: float
) -> dict[str, Any]:
    """Of a quantizer whose codebook is `quantizer.embedding.weight`, with these weights of its
    loss.

    Raises:
        UserError: there is no such tensor, or it is no table.
    """
    shape = _shape(shapes, name := "quantizer.embedding.weight", path)
    if len(shape) != 2:
        raise UserError(f"'{path}': '{name}' has shape {shape}, not (codes, numbers of a code)")
    return {
        "num_codes": shape[0],
        "dim": shape[1],
        "codebook_weight": codebook_weight,
        "commitment_weight": commitment_weight,
    }


def vqgan_model(
    target: str, networks: dict[str, Any], quantizer: str, params: dict[str, Any]
) -> dict[str, Any]:
    """The node of a tokenizer of ours: `target` of these networks around a quantizer."""
    node = {"target": f"taming.first_stage.{quantizer}", "params": params}
    return {"target": f"taming.first_stage.{target}", "params": {**networks, "quantizer": node}}


def _count(shapes: Shapes, pattern: str) -> int:
    """One more than the highest number that stands where the pattern has its group."""
    numbers = [int(match[1]) for name in shapes if (match := re.match(pattern, name))]
    return max(numbers, default=-1) + 1


def _shape(shapes: Shapes, name: str, path: str) -> tuple[int, ...]:
    if len(shapes.get(name, ())) < 2:
        raise UserError(f"'{path}' lacks '{name}'; is it whole? copy or download it again")
    return shapes[name]
