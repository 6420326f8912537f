"""Ours -> the published code's YAML and checkpoint."""

import math

import torch
from torch import Tensor

from taming.errors import UserError
from taming.formats.compvis.config import (
    ADVERSARIAL_LOSSES,
    GPTS,
    KEYS,
    MASK_LOSSES,
    NO_LOSSES,
    ORDERS,
    PRIORS,
)

# The way back


def to_theirs(
    config: dict, weights: dict[str, Tensor], loss: dict[str, Tensor], batches: int
) -> tuple[dict, dict]:
    """Our model as (their YAML tree, their checkpoint dictionary). Raises UserError for what their
    code can't express.
    """
    model = config["model"]
    size = _size_of(config)
    rate = config["optimizer"]["learning_rate"] / (
        config["data"]["batch_size"]
        * config["trainer"]["accumulate_grad_batches"]
        * config["trainer"]["devices"]
    )
    if model["target"] == "taming.second_stage.SecondStage":
        target, params = PRIORS[0], _theirs_second(model["params"], config, size)
        state = _second_state(weights, model["params"])
    else:
        node = _theirs_first(model, size, config.get("loss"), config["trainer"]["max_steps"])
        target, params = node["target"], node["params"]
        state = _first_state(weights, "", "", model) | {
            f"loss.{name}": tensor for name, tensor in loss.items()
        }
    tree = {"model": {"base_learning_rate": rate, "target": target, "params": params}}
    return tree, {
        "state_dict": state,
        "epoch": 0,
        "global_step": batches,
        "pytorch-lightning_version": "1.0.8",
    }


def _size_of(config: dict) -> int:
    """The side of the pictures trained on, which their YAML states and ours need not."""
    params = config["model"]["params"]
    if "prior" in params:
        grid = params["prior"]["params"]["grid"]
        if grid[0] != grid[1]:
            raise UserError(f"the published code only knows square grids, not {grid[0]}x{grid[1]}")
        # Other first stages are refused in a moment
        return grid[0] * 2 ** (len(params["first_stage"]["params"].get("multipliers", [1])) - 1)
    told = [
        (config.get("variables") or {}).get("size"),
        ((config["data"].get("train") or {}).get("params") or {}).get("size"),
    ]
    return next((size for size in told if isinstance(size, int)), 256)


def _theirs_first(node: dict, size: int, loss: dict | None = None, steps: int = 0) -> dict:
    name, params = node["target"].rsplit(".", 1)[-1], node["params"]
    if name not in ("VQGAN", "MaskVQGAN"):
        raise UserError(
            f"{name} has no counterpart in the published code; VQGAN and MaskVQGAN have"
        )
    quantizer = params["quantizer"]
    used = quantizer["params"].get("used")
    inner = quantizer["params"].get("quantizer", quantizer)
    kind, own = inner["target"].rsplit(".", 1)[-1], inner["params"]
    if own.get("normalize"):
        raise UserError(
            f"{kind} with normalize has no counterpart in the published code, which searches plain"
            " Euclidean neighbours"
        )
    if quantizer["params"].get("unknown", "nearest") != "nearest":
        raise UserError(
            "a remapped codebook with an extra or a fixed code for the others has no counterpart in"
            " published YAMLs"
        )
    levels = params["multipliers"]
    channels = params["labels"] if name == "MaskVQGAN" else params.get("in_channels", 3)
    net = {
        "double_z": False,
        "z_channels": params.get("latent_channels", 256),
        "resolution": size,
        "in_channels": channels,
        "out_ch": channels,
        "ch": params["channels"],
        "ch_mult": list(levels),
        "num_res_blocks": params.get("blocks", 2),
        "attn_resolutions": [size >> i for i in params.get("attention", [])],
        "dropout": params.get("dropout", 0.0),
    }
    if not params.get("middle_attention", True):
        net["attn_type"] = "none"
    weight = 1.0
    made = {"embed_dim": own["dim"], "n_embed": own["num_codes"], "ddconfig": net}
    if name == "MaskVQGAN":
        made |= {"n_labels": channels, "image_key": "segmentation"}
    elif params.get("key", "image") != "image":
        made["image_key"] = next(
            (theirs for theirs, ours in KEYS.items() if ours == params["key"]), params["key"]
        )
    if kind == "VectorQuantizer":
        target = "VQSegmentationModel" if name == "MaskVQGAN" else "VQModel"
        # Their proportion is always 0.25 to 1; the codebook's own weight hardly matters under Adam
        weight = own.get("commitment_weight", 0.25)
    elif kind == "GumbelQuantizer":
        target = "GumbelVQ"
        first, last = own.get("temperature", (1.0, 1 / 16))
        schedule = {
            "warm_up_steps": 0,
            "max_decay_steps": own.get("temperature_batches", 150_000),
            "lr_start": first,
            "lr_max": first,
            "lr_min": last,
        }
        scheduler = {
            "target": "taming.lr_scheduler.LambdaWarmUpCosineScheduler",
            "params": schedule | {"verbosity_interval": 0},
        }
        made |= {"kl_weight": own.get("kl_weight", 5e-4), "temperature_scheduler_config": scheduler}
    elif kind == "EMAQuantizer":
        target = "EMAVQ"
        made["beta"] = own.get("commitment_weight", 0.25)
    else:
        raise UserError(f"{kind} has no counterpart in the published code")
    if used is not None:
        made["remap"] = used if isinstance(used, str) else "used.npy"
    made["lossconfig"] = _theirs_loss(loss, weight, steps)
    return {"target": f"taming.models.vqgan.{target}", "params": made}


def _theirs_loss(loss: dict | None, weight: float, steps: int) -> dict:
    name, own = (
        ((loss or {}).get("target") or "").rsplit(".", 1)[-1],
        (loss or {}).get("params") or {},
    )
    if name == "MaskLoss" and own.get("form") == "bce":
        return {"target": MASK_LOSSES[1], "params": {"codebook_weight": weight}}
    if name != "VQGANLoss":
        return {"target": NO_LOSSES[0]}
    start = own.get("adversarial_start", 0)
    how = {
        "disc_start": start if isinstance(start, int) or start >= 1 else round(start * steps),
        "codebook_weight": weight,
        "perceptual_weight": (
            0.0 if own.get("perceptual") == "none" else own.get("perceptual_weight", 1.0)
        ),
        "disc_weight": own.get("adversarial", 0.8),
        "disc_num_layers": own.get("layers", 3),
        "disc_in_channels": own.get("in_channels", 3),
        "disc_ndf": own.get("width", 64),
        "disc_loss": own.get("form", "hinge"),
        "use_actnorm": own.get("normalization", "batch") == "act",
    }
    return {"target": ADVERSARIAL_LOSSES[0], "params": how}


def _theirs_second(params: dict, config: dict, size: int) -> dict:
    node = params.get("prior") or {"target": "several", "params": {}}
    prior = node["params"]
    if not node["target"].endswith(".GPT") or prior.get("shared_vocabulary") is None:
        raise UserError(
            "only a GPT with shared_vocabulary has a counterpart in the published code, where"
            " condition and codes share one table"
        )
    first = _theirs_first(params["first_stage"], size)
    gpt = {
        "vocab_size": prior["shared_vocabulary"],
        "block_size": (
            prior.get("positions")
            or sum(p.get("length") or math.prod(p["grid"]) for p in prior["parts"])
            + math.prod(prior["grid"])
        ),
        "n_layer": prior["layers"],
        "n_head": prior["heads"],
        "n_embd": prior["width"],
        "embd_pdrop": prior.get("dropout", 0.0),
        "resid_pdrop": prior.get("dropout", 0.0),
        "attn_pdrop": prior.get("attention_dropout", 0.0),
        "n_unmasked": prior.get("unmasked", 0),
    }
    made = {
        "transformer_config": {"target": GPTS[0], "params": gpt},
        "first_stage_config": first,
        "pkeep": 1.0 - config.get("noise", 0.0),
    }
    if params["first_stage"]["params"].get("key", "image") != "image":
        made["first_stage_key"] = params["first_stage"]["params"]["key"]
    order = prior.get("order", "raster")
    if order != "raster":
        name = next(theirs for theirs, ours in ORDERS.items() if ours == order)
        made["permuter_config"] = {
            "target": f"taming.modules.transformer.permuter.{name}",
            "params": (
                {"length": math.prod(prior["grid"])}
                if order == "shuffled"
                else {"H": prior["grid"][0], "W": prior["grid"][1]}
            ),
        }
    return made | _theirs_condition(params["conditioner"], size, prior)


def _theirs_condition(node: dict, size: int, prior: dict) -> dict:
    name, own = node["target"].rsplit(".", 1)[-1], node.get("params") or {}
    if name == "Unconditional":
        return {
            "unconditional": True,
            "cond_stage_config": "__is_unconditional__",
            "sos_token": own.get("token", 0),
        }
    if name == "ClassLabel":
        return {
            "cond_stage_key": "class_label",
            "cond_stage_config": {
                "target": "taming.modules.util.Labelator",
                "params": {"n_classes": own["classes"]},
            },
        }
    if name == "Coordinates":
        stage = {
            "target": "taming.modules.misc.coord.CoordStage",
            "params": {"n_embed": own["steps"], "down_factor": own["factor"]},
        }
        return {"cond_stage_key": "coord", "cond_stage_config": stage}
    if name == "Boxes":
        key = "objects_center_points" if own.get("points") else "objects_bbox"
        return {
            "cond_stage_key": key,
            "cond_stage_config": {
                "target": "taming.models.dummy_cond_stage.DummyCondStage",
                "params": {"conditional_key": key},
            },
        }
    if name != "EncodedImage":
        raise UserError(f"conditioner {name} has no counterpart in the published code")
    stage = own["first_stage"]
    strides = [
        2 ** (len(stage["params"]["multipliers"]) - 1),
        2 ** (len(stage["params"]["multipliers"]) - 1),
    ]
    part = prior["parts"][0]["grid"]
    key = stage["params"].get(
        "key", "segmentation" if stage["target"].endswith("MaskVQGAN") else "image"
    )
    made = {
        "cond_stage_key": key,
        "cond_stage_config": _theirs_first(
            stage, part[0] * strides[0] if not own.get("size") else size
        ),
    }
    return made | ({"downsample_cond_size": own["size"][0]} if own.get("size") else {})


def _first_state(
    weights: dict[str, Tensor], ours: str, theirs: str, node: dict
) -> dict[str, Tensor]:
    inner = node["params"]["quantizer"]["params"].get("quantizer", node["params"]["quantizer"])
    kind = inner["target"].rsplit(".", 1)[-1]
    book = "embed.weight" if kind == "GumbelQuantizer" else "embedding.weight"
    renamed = {
        "embedding.weight": book,
        "counts": "embedding.cluster_size",
        "sums": "embedding.embed_avg",
    }
    state = {}
    for name, tensor in weights.items():
        if not name.startswith(ours) or (not ours and name.startswith("loss.")):
            continue
        tail = name.removeprefix(ours)
        if tail in ("quantizer.batches", "quantizer.unseen"):
            continue  # when codes were last seen: for restarts, in training
        if tail.startswith("quantizer."):
            tail = tail.removeprefix("quantizer.").removeprefix("inner.")
            tail = f"quantize.{renamed.get(tail, tail)}"
        state[theirs + tail] = tensor
    if node["target"].endswith("MaskVQGAN"):
        state[f"{theirs}colorize"] = torch.randn(
            3, node["params"]["labels"], 1, 1, generator=torch.Generator().manual_seed(0)
        )
    return state


def _second_state(weights: dict[str, Tensor], params: dict) -> dict[str, Tensor]:
    prior = params["prior"]["params"]
    state = _first_state(weights, "first_stage.", "first_stage_model.", params["first_stage"])
    if params["conditioner"]["target"].endswith("EncodedImage"):
        stage = params["conditioner"]["params"]["first_stage"]
        state |= _first_state(weights, "conditioner.first_stage.", "cond_stage_model.", stage)
    for name, tensor in weights.items():
        if not name.startswith("priors.0."):
            continue
        tail = name.removeprefix("priors.0.")
        if tail == "permutation":
            state |= {
                "permuter.forward_shuffle_idx": tensor,
                "permuter.backward_shuffle_idx": tensor.argsort(),
            }
        elif ".attn.qkv." in tail:
            for part, own in zip(("query", "key", "value"), tensor.chunk(3)):
                state[f"transformer.{tail.replace('qkv', part)}"] = own.clone()
        else:
            state[f"transformer.{tail}"] = tensor
    length = weights["priors.0.pos_emb"].shape[1]
    mask = torch.ones(length, length).tril()
    mask[: prior.get("unmasked", 0), : prior.get("unmasked", 0)] = 1
    for layer in range(prior["layers"]):
        state[f"transformer.blocks.{layer}.attn.mask"] = mask[None, None]
    return state
