"""Published tensor names -> ours."""

import re
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from taming.errors import UserError


@dataclass
class RenamedWeights:
    """Tensors under our names: of the model, of its loss; and what was left aside, with the reason."""

    weights: dict[str, Tensor] = field(default_factory=dict)
    loss: dict[str, Tensor] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    # What a published model of this kind does not have
    unknown: list[str] = field(default_factory=list)


# Weights


def sort_weights(
    state: dict[str, Tensor], source: str | Path, second: bool, config: dict
) -> RenamedWeights:
    """Every tensor of `state` under our name, or named as left aside and why, or as unknown."""
    found = RenamedWeights()
    fused = defaultdict(dict)
    remapped = {
        prefix
        for prefix in ("", "first_stage_model.", "cond_stage_model.")
        if f"{prefix}quantize.used" in state
    }
    for name in list(state):
        place = _second_name(name, remapped) if second else _first_name(name, "", "" in remapped)
        if place is None:
            found.unknown.append(name)
        elif place[0] == "left":
            found.left[place[1]] = place[2]
        elif place[0] == "fused":
            fused[place[1]][place[2]] = state[name]
        else:
            (found.loss if place[0] == "loss" else found.weights)[place[1]] = state[name]
    for name, parts in fused.items():
        lacking = [p for p in ("query", "key", "value") if p not in parts]
        if lacking:
            raise UserError(f"'{source}' lacks '{name.replace('qkv', lacking[0])}'")
        found.weights[name] = torch.cat([parts[p] for p in ("query", "key", "value")])
    if second:
        _check_against_yaml(state, source, config)
    return found


def _first_name(name: str, prefix: str, remapped: bool) -> tuple | None:
    if name.startswith(("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")):
        return "model", prefix + name
    if name.startswith("quantize."):
        if name == "quantize.used":
            return "model", f"{prefix}quantizer.used"
        inner = f"{prefix}quantizer.{'inner.' if remapped else ''}"
        tail = {
            "embedding.weight": "embedding.weight",
            "embed.weight": "embedding.weight",
            "proj.weight": "proj.weight",
            "proj.bias": "proj.bias",
            "embedding.cluster_size": "counts",
            "embedding.embed_avg": "sums",
        }.get(name.removeprefix("quantize."))
        return tail and ("model", inner + tail)
    if name.startswith("loss.discriminator."):
        return "loss", name.removeprefix("loss.")
    if name.startswith("loss.perceptual_loss."):
        return "left", "loss.perceptual_loss", "LPIPS: frozen, comes with its own package"
    if name == "loss.logvar":
        return "left", name, "not used by the published VQ losses"
    if name == "colorize":
        return "left", prefix + name, "random colours of masks in their logs"
    if name.startswith("model_ema."):
        return "left", "model_ema", "averages beside the weights; the weights themselves are taken"
    return None


def _second_name(name: str, remapped: set[str]) -> tuple | None:
    for theirs, ours in (
        ("first_stage_model.", "first_stage."),
        ("cond_stage_model.", "conditioner.first_stage."),
    ):
        if name.startswith(theirs):
            return _first_name(name.removeprefix(theirs), ours, theirs in remapped)
    if name == "permuter.forward_shuffle_idx":
        return "model", "priors.0.permutation"
    if name == "permuter.backward_shuffle_idx":
        return "left", name, "the inverse of the order"
    if not name.startswith("transformer."):
        return None
    name = name.removeprefix("transformer.")
    split = re.fullmatch(r"(blocks\.\d+\.attn)\.(key|query|value)\.(weight|bias)", name)
    if split:
        return "fused", f"priors.0.{split[1]}.qkv.{split[3]}", split[2]
    if re.fullmatch(r"blocks\.\d+\.attn\.mask", name):
        return "left", "transformer.blocks.*.attn.mask", "causal masks follow from the block size"
    if name in ("pos_emb", "tok_emb.weight", "head.weight") or re.fullmatch(
        r"(ln_f|blocks\.\d+\.(ln1|ln2|attn\.proj|mlp\.[02]))\.(weight|bias)", name
    ):
        return "model", f"priors.0.{name}"
    return None


def _check_against_yaml(state: dict[str, Tensor], source: str | Path, config: dict) -> None:
    prior = config["model"]["params"]["prior"]["params"]
    mask = state.get("transformer.blocks.0.attn.mask")
    if mask is not None:
        seen = int((mask.view(mask.shape[-2:])[0] != 0).sum())
        if seen != max(1, prior["unmasked"]):
            raise UserError(
                f"'{source}': its mask leaves {seen} tokens unmasked, but the YAML says n_unmasked"
                f" {prior['unmasked']}"
            )
    order = state.get("permuter.forward_shuffle_idx")
    if (order is None) != (prior["order"] == "raster"):
        has = "has no permuter" if order is None else "has a permuter"
        raise UserError(f"'{source}' {has}, but the YAML says order {prior['order']}")
    if order is not None:
        # The package loads models, which load checkpoints, which load this file
        from taming.second_stage.orders import order as named

        if order.tolist() != named(prior["order"], tuple(prior["grid"])):
            raise UserError(
                f"'{source}': its permuter's indices are not those of order {prior['order']}, which"
                " the YAML says"
            )
