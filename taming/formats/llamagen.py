"""LlamaGen's tokenizers (Sun et al. 2024, arXiv 2406.06525): VQ-GANs with a codebook of unit rows.

Their networks are ours under other names; the decoder's scales are counted from the coarsest.
"""

import re
from collections.abc import Iterable

from torch import Tensor

from taming.formats.architecture import autoencoder_params, codebook_params, vqgan_model
from taming.formats.content import Content
from taming.formats.source import Source, tokenizer_content

NAME = "LlamaGen"
READS_CARD = False
SIZE = 256  # of the images that they were trained on
TABLE = "quantize.embedding.weight"
UNUSED = {"quantize.codebook_used": "which codes were in use, in training"}
MIDDLE = ("block_1", "attn_1", "block_2")


def recognises(source: Source) -> bool:
    return source.has_part("encoder.conv_blocks.0.res.0.")


def read(source: Source, allow: Iterable[str] = ()) -> Content:
    """A tokenizer as ours. Nothing but its tensors is needed: all have the same quantizer.

    Raises:
        UserError: a tensor is missing that tells the architecture.
    """
    path, unknown = str(source.path), []
    weights: dict[str, Tensor] = {}
    levels = 1 + max(_level(name) for name in source.weights)
    for name, tensor in source.weights.items():
        ours = our_name(name, levels)
        if name in UNUSED:
            source.unused[name] = UNUSED[name]
        elif ours is None:
            unknown.append(name)
        else:
            weights[ours] = tensor
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    quantizer = {**codebook_params(shapes, path, 1.0, 0.25), "normalize": True}
    model = vqgan_model("VQGAN", autoencoder_params(shapes, path), "VectorQuantizer", quantizer)
    return tokenizer_content(source, NAME, model, weights, unknown, size=SIZE, allow=allow)


def our_name(name: str, levels: int) -> str | None:
    """A published tensor by our name; None for what no published tokenizer has."""
    if name == TABLE:
        return "quantizer.embedding.weight"
    if re.match(r"(post_)?quant_conv\.", name):
        return name
    match = re.fullmatch(r"(encoder|decoder)\.(.+)", name)
    if not match:
        return None
    side, rest = match[1], match[2]
    if re.match(r"(conv_in|conv_out|norm_out)\.", rest):
        return name
    middle = re.fullmatch(r"mid\.([012])\.(.+)", rest)
    if middle:
        return f"{side}.mid.{MIDDLE[int(middle[1])]}.{middle[2]}"
    scale = re.fullmatch(r"conv_blocks\.(\d+)\.(res|attn|downsample|upsample)\.(.+)", rest)
    if not scale:
        return None
    level = int(scale[1]) if side == "encoder" else levels - 1 - int(scale[1])
    part = "block" if scale[2] == "res" else scale[2]
    return f"{side}.{'down' if side == 'encoder' else 'up'}.{level}.{part}.{scale[3]}"


def _level(name: str) -> int:
    match = re.match(r"encoder\.conv_blocks\.(\d+)\.", name)
    return int(match[1]) if match else -1
