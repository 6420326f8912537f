"""VAR's tokenizer (Tian et al. 2024, arXiv 2404.02905): a VQ-GAN whose quantizer has ten scales."""

import re
from collections.abc import Iterable

from torch import Tensor

from taming.errors import UserError
from taming.formats.architecture import autoencoder_params, codebook_params, vqgan_model
from taming.formats.content import Content
from taming.formats.source import Source, tokenizer_content

NAME = "VAR"
READS_CARD = False
SIZE = 256  # of the images that it was trained on
SCALES = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)  # at 256 px; no tensor tells them
CONVOLUTIONS = "quantize.quant_resi.qresi_ls."
UNUSED = {"quantize.ema_vocab_hit_SV": "how often codes were used, in training"}
TRANSFORMER = ("word_embed.weight", "pos_1LC")


def recognises(source: Source) -> bool:
    return source.has_part(CONVOLUTIONS) or source.has(*TRANSFORMER)


def read(source: Source, allow: Iterable[str] = ()) -> Content:
    """The tokenizer as ours. Nothing but its tensors is needed.

    Raises:
        UserError: it is the Transformer, or a tensor is missing that tells the architecture.
    """
    path = str(source.path)
    if source.has(*TRANSFORMER):
        raise UserError(
            f"'{path}' is VAR's Transformer, a prior over all scales at once, which is not"
            " supported; its tokenizer (vae_ch160v4096z32.pth) is"
        )
    unknown = []
    weights: dict[str, Tensor] = {}
    for name, tensor in source.weights.items():
        named = _our_tensors(name, tensor)
        if name in UNUSED:
            source.unused[name] = UNUSED[name]
        elif not named:
            unknown.append(name)
        weights |= named
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    count = sum(name.endswith(".weight") for name in source.weights if CONVOLUTIONS in name)
    quantizer = codebook_params(shapes, path, 1.0, 0.25)
    quantizer |= {"scales": list(SCALES), "convolutions": count}
    kernel = (shapes.get("quant_conv.weight") or (1,))[-1]
    networks = {**autoencoder_params(shapes, path), "quant_kernel": kernel}
    model = vqgan_model("VQGAN", networks, "MultiScaleQuantizer", quantizer)
    source.notes.append(f"scales of {SIZE} px: {', '.join(map(str, SCALES))}")
    return tokenizer_content(source, NAME, model, weights, unknown, size=SIZE, allow=allow)


def _our_tensors(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """A published tensor under our names; none for what no published tokenizer has."""
    if name == "quantize.embedding.weight":
        return {"quantizer.embedding.weight": tensor}
    if name.startswith(CONVOLUTIONS):
        return {f"quantizer.convolutions.{name.removeprefix(CONVOLUTIONS)}": tensor}
    joined = re.fullmatch(r"(.+\.attn(?:_1|\.\d+))\.qkv\.(weight|bias)", name)
    if joined and tensor.ndim and len(tensor) % 3 == 0:
        parts = zip("qkv", tensor.chunk(3))
        return {f"{joined[1]}.{letter}.{joined[2]}": part for letter, part in parts}
    if name.startswith(("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")):
        return {name: tensor}
    return {}
