"""MaskGIT's tokenizer as it is passed on for PyTorch (maskgit-vqgan-imagenet-f16-256.bin): of
MaskGIT, RAR and others (Chang et al. 2022, arXiv 2202.04200).
"""

from collections.abc import Iterable

from torch import Tensor

from taming.formats.architecture import codebook_params, scale_params, vqgan_model
from taming.formats.content import Content
from taming.formats.source import Source, tokenizer_content

NAME = "MaskGIT"
READS_CARD = False
SIZE = 256  # of the images that it was trained on
TABLE = "quantize.embedding.weight"


def recognises(source: Source) -> bool:
    return source.has_part("decoder.up.1.upsample_conv.")


def read(source: Source, allow: Iterable[str] = ()) -> Content:
    """The tokenizer as ours. Nothing but its tensors is needed.

    Raises:
        UserError: a tensor is missing that tells the architecture.
    """
    path = str(source.path)
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
    quantizer = codebook_params(shapes, path, 0.25, 1.0)
    model = vqgan_model("MaskGITVQGAN", scale_params(shapes, path), "VectorQuantizer", quantizer)
    return tokenizer_content(source, NAME, model, weights, unknown, size=SIZE, allow=allow)
