"""MaskGIT's tokenizer as it is passed on for PyTorch (maskgit-vqgan-imagenet-f16-256.bin): of
MaskGIT, RAR and others (Chang et al. 2022, arXiv 2202.04200).
"""

from collections.abc import Iterable

from torch import Tensor

from taming.errors import UserError
from taming.formats.architecture import codebook_size, scale_params
from taming.formats.content import Content
from taming.formats.source import Source, tokenizer_content

NAME = "MaskGIT"
READS_CARD = False
SIZE = 256  # of the images that it was trained on
TABLE = "quantize.embedding.weight"
RAR = ("target_aware_pos_embed", "pos_embed")


def recognises(source: Source) -> bool:
    return source.has_part("decoder.up.1.upsample_conv.") or source.has(*RAR)


def read(source: Source, allow: Iterable[str] = ()) -> Content:
    """The tokenizer as ours. Nothing but its tensors is needed.

    Raises:
        UserError: it is RAR's Transformer, or a tensor is missing that tells the architecture.
    """
    path = str(source.path)
    if source.has(*RAR):
        raise UserError(
            f"'{path}' is RAR's Transformer, whose blocks are scaled and shifted by the class"
            " (adaLN), which no prior here has; its tokenizer (maskgit-vqgan-imagenet-f16-256.bin)"
            " is supported"
        )
    weights: dict[str, Tensor] = {}
    unknown = []
    for name, tensor in source.weights.items():
        if name == TABLE:
            weights["quantizer.embedding.weight"] = tensor
        elif name.startswith(("encoder.", "decoder.")):
            weights[name] = tensor
        else:
            unknown.append(name)
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    num_codes, dim = codebook_size(shapes, "quantizer.embedding.weight", path)
    quantizer = {
        "num_codes": num_codes,
        "dim": dim,
        "codebook_weight": 0.25,
        "commitment_weight": 1.0,
    }
    params = {
        **scale_params(shapes, path),
        "quantizer": {"target": "taming.first_stage.VectorQuantizer", "params": quantizer},
    }
    model = {"target": "taming.first_stage.MaskGITVQGAN", "params": params}
    return tokenizer_content(source, NAME, model, weights, unknown, size=SIZE, allow=allow)
