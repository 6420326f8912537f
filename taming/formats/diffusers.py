"""diffusers' VQModel: a folder with config.json and diffusion_pytorch_model.safetensors.

A VQ-GAN of ours under other names (its networks are those of latent-diffusion, arXiv 2112.10752);
1x1 convolutions of attention are matrices there, and scales of the decoder count from the coarsest.
"""

import json
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from taming.config import build, from_plain
from taming.errors import UserError
from taming.files import make_writable, write_atomically
from taming.first_stage.quantizers import EMAQuantizer, SimVQ, VectorQuantizer
from taming.first_stage.vqgan import VQGAN
from taming.formats.building import filled_model, without_memory
from taming.formats.compvis.first_stage import CODEBOOK_WEIGHT
from taming.formats.content import Content, brief
from taming.formats.fitting import count
from taming.formats.source import Source, tokenizer_content

NAME = "diffusers"
CLASS = "VQModel"
READS_CARD = True  # config.json
FILE = "diffusion_pytorch_model.safetensors"
VERSION = "0.42.1"  # whose VQModel was compared
GROUPS = 32  # of every group normalisation
OLDER = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
BLOCKS = ("DownEncoderBlock2D", "UpDecoderBlock2D")
FIXED = {"act_fn": "silu", "norm_type": "group"}
CURES = {
    "AutoencoderKL": "a KL autoencoder, whose latents are continuous: there are no codes",
    "AutoencoderTiny": "a distilled KL autoencoder: there are no codes",
    "ConsistencyDecoderVAE": "a KL autoencoder: there are no codes",
    "VQDiffusionTransformer": "a prior; give its folder vqvae/",
    "UNet2DModel": "a diffusion model; give its first stage, the folder vqvae/ beside it",
    "UNet2DConditionModel": "a diffusion model; give its first stage, the folder vqvae/ beside it",
}


def recognises(source: Source) -> bool:
    """By the class that config.json names, or by names of tensors."""
    named = source.card.get("_class_name") if source.card_path else None
    return isinstance(named, str) or source.has_part(".down_blocks.0.resnets.0.")


def read(source: Source, allow: Iterable[str] = ()) -> Content:
    """A VQModel as ours.

    Raises:
        UserError: it is none, or one of a kind that we do not have; tensors are missing or spare.
    """
    path, card = str(source.path), source.card
    if not card:
        raise UserError(
            f"'{path}' is of diffusers, and no config.json lies beside it; download that file too,"
            " or give it by --config"
        )
    model = _model_node(card, path)
    from_plain({"model": model}, path)
    weights = {_newer(name): tensor for name, tensor in source.weights.items()}
    with without_memory():
        expected = build(model).state_dict()
    names = {_their_name(name, len(model["params"]["multipliers"])): name for name in expected}
    missing = names.keys() - weights.keys()
    if missing:
        raise UserError(f"'{path}' lacks {count(missing, 'tensor')}; download it again")
    renamed = {names[k]: _convolution(names[k], weights[k]) for k in names}
    unknown, size = weights.keys() - names.keys(), card.get("sample_size", 256)
    size = size if isinstance(size, int) else 256
    return tokenizer_content(source, NAME, model, renamed, unknown, size=size, allow=allow)


def write(folder: str | Path, content: Content) -> Path:
    """Writes config.json and the weights into a folder, as `VQModel.from_pretrained` reads them;
    returns it. Normalised codebooks become plain ones of unit rows, in which the nearest is the
    same.

    Raises:
        UserError: diffusers can't express the model, a file of this kind is there, or it can't be
            written.
    """
    from safetensors.torch import save_file

    folder = Path(folder)
    for name in ("config.json", FILE):
        if (folder / name).is_file():
            raise UserError(f"'{folder / name}' is there already; export into a new folder")
    params, size = content.config["model"]["params"], _size(content.config)
    model = filled_model(content)
    card = _card(model, params, size)
    levels = len(params["multipliers"])
    tensors = {}
    for name, tensor in model.state_dict().items():
        if not name.startswith("quantizer."):
            tensors[_their_name(name, levels)] = _matrix(name, tensor).contiguous()
    assert isinstance(model, VQGAN)
    tensors["quantize.embedding.weight"] = model.quantizer.codebook().detach().contiguous()
    make_writable(folder)
    write_atomically(
        folder / FILE, lambda file: save_file(tensors, file, metadata={"format": "pt"})
    )
    text = json.dumps(card, indent=2, sort_keys=True) + "\n"
    write_atomically(folder / "config.json", lambda file: file.write_text(text, encoding="utf-8"))
    return folder


def _model_node(card: dict[str, Any], path: str) -> dict:
    """The configuration of a VQModel as ours."""
    named = card.get("_class_name")
    if named != CLASS:
        meaning = CURES.get(str(named), f"of diffusers' models, {CLASS} can be read")
        raise UserError(f"'{path}' is a {brief(named)}: {meaning}")
    for key, value in FIXED.items():
        if card.get(key, value) != value:
            kind = " (MoVQ)" if key == "norm_type" else ""
            raise UserError(
                f"'{path}': {key} {brief(card[key])}{kind} is not supported; {value} is"
            )
    widths, blocks = _widths(card, path), _number(card, "layers_per_block", 1, path)
    _refuse_other_groups(widths, _number(card, "norm_num_groups", GROUPS, path), path)
    latent = _number(card, "latent_channels", 3, path)
    channels = _number(card, "in_channels", 3, path)
    if _number(card, "out_channels", 3, path) != channels:
        raise UserError(f"'{path}': different in_channels and out_channels are not supported")
    middle = card.get("mid_block_add_attention", True)
    dim = card.get("vq_embed_dim") or latent
    quantizer = {
        "num_codes": _number(card, "num_vq_embeddings", 256, path),
        "dim": _number({"vq_embed_dim": dim}, "vq_embed_dim", latent, path),
        "codebook_weight": CODEBOOK_WEIGHT,
        "commitment_weight": 1.0,
    }
    params = {
        "channels": widths[0],
        "multipliers": [width // widths[0] for width in widths],
        "blocks": blocks,
        "attention": _attention(card, len(widths), path),
        "latent_channels": latent,
        "in_channels": channels,
        "middle_attention": bool(middle),
        "quantizer": {"target": "taming.first_stage.VectorQuantizer", "params": quantizer},
    }
    return {"target": "taming.first_stage.VQGAN", "params": params}


def _number(card: dict[str, Any], key: str, default: int, path: str) -> int:
    value = card.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**31:
        raise UserError(f"'{path}': {key} in its config.json is {brief(value)}, not a number")
    return value


def _widths(card: dict[str, Any], path: str) -> list[int]:
    widths = card.get("block_out_channels", [64])
    if not isinstance(widths, list) or not widths or not all(type(w) is int for w in widths):
        raise UserError(f"'{path}': block_out_channels in its config.json is no list of numbers")
    if min(widths) < 1 or any(width % widths[0] for width in widths):
        raise UserError(
            f"'{path}': block_out_channels {brief(str(widths))} should be multiples of the first"
        )
    return widths


def _refuse_other_groups(widths: list[int], groups: int, path: str) -> None:
    if any(math.gcd(GROUPS, width) != groups for width in widths):
        raise UserError(
            f"'{path}': norm_num_groups {groups} at block_out_channels {brief(str(widths))} is not"
            f" supported; {GROUPS} groups, or the most that divide each layer, are"
        )


def _attention(card: dict[str, Any], levels: int, path: str) -> list[int]:
    """The scales whose blocks have attention, fine to coarse; the decoder must have the same."""
    sides = []
    for key, plain, reverse in (
        ("down_block_types", BLOCKS[0], False),
        ("up_block_types", BLOCKS[1], True),
    ):
        types = card.get(key, [plain])
        if not isinstance(types, list) or len(types) != levels:
            raise UserError(f"'{path}': {key} in its config.json should list {levels} blocks")
        foreign = [one for one in types if one not in (plain, f"Attn{plain}")]
        if foreign:
            raise UserError(f"'{path}': {key} has {brief(foreign[0])}; {plain} is supported")
        types = types[::-1] if reverse else types
        sides.append([i for i, one in enumerate(types) if one != plain])
    if sides[0] != sides[1]:
        raise UserError(f"'{path}': encoder and decoder have attention at different scales")
    return sides[0]


def _card(model: Any, params: dict, size: int) -> dict[str, Any]:
    """config.json of a model of ours."""
    # 1. what has no counterpart
    name, quantizer = type(model).__name__, getattr(model, "quantizer", None)
    if type(model) is not VQGAN:
        raise UserError(f"{name} has no counterpart in diffusers; a VQGAN of images has")
    if not isinstance(quantizer, VectorQuantizer | EMAQuantizer | SimVQ):
        raise UserError(
            f"{type(quantizer).__name__} has no counterpart in diffusers, which searches the"
            " nearest row of a codebook; VectorQuantizer, EMAQuantizer and SimVQ have"
        )
    multipliers = list(params["multipliers"])
    widths = [params["channels"] * multiplier for multiplier in multipliers]
    groups = {math.gcd(GROUPS, width) for width in (params["channels"], *widths)}
    if multipliers[0] != 1 or len(groups) > 1:
        raise UserError(
            f"scales of {widths} channels have no counterpart in diffusers: the first is as wide as"
            " the first convolution, and all have as many groups; take multipliers that begin with"
            " 1, and channels in multiples of 32"
        )
    if params.get("colour") or params.get("padding", "zeros") != "zeros":
        raise UserError("colour and padding have no counterpart in diffusers; RGB and zeros have")
    if model.quant_conv.kernel_size != (1, 1):
        raise UserError("quant_kernel 3 has no counterpart in diffusers; 1 has")
    # 2. the rest under their names
    levels = range(len(widths))
    attention = set(params.get("attention", ()))
    down, up = ([f"{'Attn' * (i in attention)}{plain}" for i in levels] for plain in BLOCKS)
    return {
        "_class_name": CLASS,
        "_diffusers_version": VERSION,
        **FIXED,
        "block_out_channels": widths,
        "down_block_types": down,
        "in_channels": model.in_channels,
        "out_channels": model.in_channels,
        "latent_channels": params.get("latent_channels", 256),
        "layers_per_block": params.get("blocks", 2),
        "lookup_from_codebook": True,  # so that it decodes codes
        "mid_block_add_attention": params.get("middle_attention", True),
        "norm_num_groups": groups.pop(),
        "num_vq_embeddings": quantizer.num_codes[0],
        "sample_size": size,
        "scaling_factor": 1.0,  # latents are as they are
        "up_block_types": up[::-1],
        "vq_embed_dim": quantizer.dim,
    }


def _size(config: dict) -> int:
    """The side of the images trained on, which their configuration states and ours need not."""
    size = (config.get("variables") or {}).get("size")
    return size if isinstance(size, int) else 256


def _their_name(name: str, levels: int) -> str:
    """A tensor of ours by their name."""
    name = re.sub(r"\.down\.(\d+)\.downsample\.", r".down_blocks.\1.downsamplers.0.", name)
    name = re.sub(r"\.down\.(\d+)\.", r".down_blocks.\1.", name)

    def up(match: re.Match) -> str:
        return f".up_blocks.{levels - 1 - int(match[1])}."

    name = re.sub(r"\.up\.(\d+)\.", up, name).replace(".upsample.", ".upsamplers.0.")
    name = re.sub(r"\.block\.(\d+)\.", r".resnets.\1.", name)
    name = name.replace(".mid.block_1.", ".mid_block.resnets.0.")
    name = name.replace(".mid.block_2.", ".mid_block.resnets.1.")
    name = name.replace(".mid.attn_1.", ".mid_block.attentions.0.")
    name = re.sub(r"\.attn\.(\d+)\.", r".attentions.\1.", name)
    layer = re.fullmatch(r"(.*\.attentions\.\d+)\.(\w+)\.(weight|bias)", name)
    if layer:
        return f"{layer[1]}.{ATTENTION[layer[2]]}.{layer[3]}"
    name = name.replace(".norm_out.", ".conv_norm_out.").replace(
        ".nin_shortcut.", ".conv_shortcut."
    )
    return re.sub(r"^quantizer\.", "quantize.", name)


def _newer(name: str) -> str:
    """The names of attention's layers before diffusers 0.15."""
    layer = re.fullmatch(r"(.*\.attentions\.\d+)\.(query|key|value|proj_attn)\.(weight|bias)", name)
    return f"{layer[1]}.{OLDER[layer[2]]}.{layer[3]}" if layer else name


def _is_projection(name: str) -> bool:
    return re.search(r"\.attn(_1|\.\d+)\.(q|k|v|proj_out)\.weight$", name) is not None


def _convolution(name: str, tensor: Tensor) -> Tensor:
    return tensor[:, :, None, None] if _is_projection(name) and tensor.ndim == 2 else tensor


def _matrix(name: str, tensor: Tensor) -> Tensor:
    return tensor[:, :, 0, 0] if _is_projection(name) else tensor
