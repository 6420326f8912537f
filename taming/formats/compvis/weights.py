"""Published tensor names -> ours."""

import re
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from taming.errors import UserError
from taming.formats.compvis.names import EMBEDDINGS
from taming.second_stage.orders import order as named_order

PROJECTIONS = ("query", "key", "value")
FIRST_STAGES = {
    "first_stage_model.": "first_stage.",
    "cond_stage_model.": "conditioner.first_stage.",
}


@dataclass
class RenamedWeights:
    """Tensors under our names.

    Args:
        weights: of the model.
        loss: of its discriminator.
        unused: what is not taken, and why.
        unknown: what a published model of this kind does not have.
    """

    weights: dict[str, Tensor] = field(default_factory=dict)
    loss: dict[str, Tensor] = field(default_factory=dict)
    unused: dict[str, str] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Place:
    """Where a published tensor goes: to the model, to the loss, nowhere (unused, and why), or into
    one of ours that joins three of theirs (fused, and which it is).
    """

    kind: str
    name: str
    detail: str = ""


def rename_weights(
    state: dict[str, Tensor], source: str | Path, second: bool, config: dict
) -> RenamedWeights:
    """Every tensor of a published file under our name, or named as unused or unknown.

    Args:
        state: theirs.
        source: the file, for messages.
        second: whether it is a second stage.
        config: ours, translated; what it says is compared with what the tensors show.
    """
    renamed = RenamedWeights()
    fused: dict[str, dict[str, Tensor]] = defaultdict(dict)
    remapped = {prefix for prefix in ("", *FIRST_STAGES) if f"{prefix}quantize.used" in state}
    for name, tensor in state.items():
        place = _second_stage_place(name, remapped) if second else _place(name, "", "" in remapped)
        if place is None:
            renamed.unknown.append(name)
        elif place.kind == "unused":
            renamed.unused[place.name] = place.detail
        elif place.kind == "fused":
            fused[place.name][place.detail] = tensor
        else:
            (renamed.loss if place.kind == "loss" else renamed.weights)[place.name] = tensor
    for name, parts in fused.items():
        missing = [part for part in PROJECTIONS if part not in parts]
        if missing:
            raise UserError(f"'{source}' lacks '{name.replace('qkv', missing[0])}'")
        renamed.weights[name] = _joined([parts[part] for part in PROJECTIONS], name, source)
    if second:
        _compare_with_yaml(state, source, config)
    return renamed


def _joined(parts: list[Tensor], name: str, source: str | Path) -> Tensor:
    if len({part.shape for part in parts}) > 1 or parts[0].ndim == 0:
        shapes = ", ".join(str(tuple(part.shape)) for part in parts)
        raise UserError(f"'{source}': query, key and value of '{name}' have shapes {shapes}")
    return torch.cat(parts)


def _place(name: str, prefix: str, remapped: bool) -> _Place | None:
    """Of a first stage's tensor; `prefix` is that of our model."""
    if name.startswith(("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")):
        return _Place("model", prefix + name)
    if name == "quantize.used":
        return _Place("model", f"{prefix}quantizer.used")
    if name.startswith("quantize."):
        tail = EMBEDDINGS.get(name.removeprefix("quantize."))
        inner = "inner." if remapped else ""
        return _Place("model", f"{prefix}quantizer.{inner}{tail}") if tail else None
    if name.startswith("loss.discriminator."):
        return _Place("loss", name.removeprefix("loss."))
    if name.startswith("loss.perceptual_loss."):
        reason = "LPIPS: frozen, comes with its own package"
        return _Place("unused", "loss.perceptual_loss", reason)
    if name == "loss.logvar":
        return _Place("unused", name, "not used by the published VQ losses")
    if name == "colorize":
        return _Place("unused", prefix + name, "random colours of masks in their logs")
    if name.startswith("model_ema."):
        reason = "averages beside the weights; the weights themselves are taken"
        return _Place("unused", "model_ema", reason)
    return None


def _second_stage_place(name: str, remapped: set[str]) -> _Place | None:
    for prefix, ours in FIRST_STAGES.items():
        if name.startswith(prefix):
            return _place(name.removeprefix(prefix), ours, prefix in remapped)
    if name == "permuter.forward_shuffle_idx":
        return _Place("model", "priors.0.permutation")
    if name == "permuter.backward_shuffle_idx":
        return _Place("unused", name, "the inverse of the order")
    if not name.startswith("transformer."):
        return None
    name = name.removeprefix("transformer.")
    split = re.fullmatch(r"(blocks\.\d+\.attn)\.(key|query|value)\.(weight|bias)", name)
    if split:
        return _Place("fused", f"priors.0.{split[1]}.qkv.{split[3]}", split[2])
    if re.fullmatch(r"blocks\.\d+\.attn\.mask", name):
        reason = "causal masks follow from the block size"
        return _Place("unused", "transformer.blocks.*.attn.mask", reason)
    if name in ("pos_emb", "tok_emb.weight", "head.weight") or re.fullmatch(
        r"(ln_f|blocks\.\d+\.(ln1|ln2|attn\.proj|mlp\.[02]))\.(weight|bias)", name
    ):
        return _Place("model", f"priors.0.{name}")
    return None


def _compare_with_yaml(state: dict[str, Tensor], source: str | Path, config: dict) -> None:
    """What masks and permuters show, and the YAML says too."""
    prior = config["model"]["params"]["prior"]["params"]
    mask = state.get("transformer.blocks.0.attn.mask")
    if mask is not None and mask.numel():
        visible = int((mask.reshape(-1, mask.shape[-1] if mask.ndim else 1)[0] != 0).sum())
        if visible != max(1, prior["unmasked"]):
            raise UserError(
                f"'{source}': its mask leaves {visible} tokens unmasked, but the YAML says"
                f" n_unmasked {prior['unmasked']}"
            )
    permutation = state.get("permuter.forward_shuffle_idx")
    if (permutation is None) != (prior["order"] == "raster"):
        has = "has no permuter" if permutation is None else "has a permuter"
        raise UserError(f"'{source}' {has}, but the YAML says order {prior['order']}")
    if permutation is None:
        return
    if permutation.tolist() != named_order(prior["order"], tuple(prior["grid"])):
        raise UserError(
            f"'{source}': its permuter's indices are not those of order {prior['order']}, which"
            " the YAML says"
        )
