"""Ours -> the published code's YAML and checkpoint."""

import math

import torch
from torch import Tensor

from taming.errors import UserError
from taming.formats.compvis.gpt import CompVisGPT
from taming.formats.compvis.names import (
    ADVERSARIAL_LOSSES,
    EMBEDDINGS,
    GPTS,
    MASK_LOSSES,
    NO_LOSSES,
    ORDERS,
    PERMUTERS,
    SECOND_STAGES,
    published_key,
)

VERSION = "1.0.8"  # of Lightning, whose checkpoints theirs are
SHARED_TABLE = f"taming.formats.compvis.{CompVisGPT.__name__}"


def to_published(
    config: dict, weights: dict[str, Tensor], loss: dict[str, Tensor], batches: int
) -> tuple[dict, dict]:
    """Our model as (their YAML tree, their checkpoint dictionary).

    Args:
        config: a whole Experiment, plain.
        weights: of the model.
        loss: of the discriminator.
        batches: seen in training.

    Raises:
        UserError: their code can't express it.
    """
    model = config["model"]
    size = _image_size(config)
    rate = config["optimizer"]["learning_rate"] / (
        config["data"]["batch_size"]
        * config["trainer"]["accumulate_grad_batches"]
        * config["trainer"]["devices"]
    )
    if model["target"] == "taming.second_stage.SecondStage":
        target, params = SECOND_STAGES[0], _second_stage(model["params"], config, size)
        state = _second_stage_state(weights, model["params"])
    else:
        node = _first_stage(model, size, config.get("loss"), config["trainer"]["max_steps"])
        target, params = node["target"], node["params"]
        state = _first_stage_state(weights, "", "", model)
        state |= {f"loss.{name}": tensor for name, tensor in loss.items()}
    tree = {"model": {"base_learning_rate": rate, "target": target, "params": params}}
    return tree, {
        "state_dict": state,
        "epoch": 0,
        "global_step": batches,
        "pytorch-lightning_version": VERSION,
    }


def _image_size(config: dict) -> int:
    """The side of the images trained on, which their YAML states and ours need not."""
    params = config["model"]["params"]
    if "prior" in params:
        grid = params["prior"]["params"].get("grid")
        if grid is None:
            raise UserError(
                "only a GPT that names its grid has a counterpart in the published code"
            )
        if grid[0] != grid[1]:
            raise UserError(f"the published code only knows square grids, not {grid[0]}x{grid[1]}")
        # Other first stages are refused in a moment
        return grid[0] * 2 ** (len(params["first_stage"]["params"].get("multipliers", [1])) - 1)
    dataset = (config["data"].get("train") or {}).get("params") or {}
    sizes = (
        (config.get("variables") or {}).get("size"),
        dataset.get("size"),
        (dataset.get("view") or {}).get("size"),
    )
    return next((size for size in sizes if isinstance(size, int)), 256)


def _first_stage(node: dict, size: int, loss: dict | None = None, max_steps: int = 0) -> dict:
    name, params = node["target"].rpartition(".")[2], node["params"]
    if name not in ("VQGAN", "MaskVQGAN"):
        raise UserError(
            f"{name} has no counterpart in the published code; VQGAN and MaskVQGAN have"
        )
    if params.get("colour") or params.get("padding", "zeros") != "zeros":
        raise UserError(
            "colour and padding have no counterpart in the published code; RGB and zeros have"
        )
    if params.get("quant_kernel", 1) != 1:
        raise UserError("quant_kernel 3 has no counterpart in the published code; 1 has")
    channels = params["labels"] if name == "MaskVQGAN" else params.get("in_channels", 3)
    net = {
        "double_z": False,
        "z_channels": params.get("latent_channels", 256),
        "resolution": size,
        "in_channels": channels,
        "out_ch": channels,
        "ch": params["channels"],
        "ch_mult": list(params["multipliers"]),
        "num_res_blocks": params.get("blocks", 2),
        "attn_resolutions": [size >> level for level in params.get("attention", [])],
        "dropout": params.get("dropout", 0.0),
    }
    if not params.get("middle_attention", True):
        net["attn_type"] = "none"
    kind, quantizer, weight = _quantizer(params["quantizer"], name == "MaskVQGAN")
    exported = {**quantizer, "ddconfig": net}
    if name == "MaskVQGAN":
        exported |= {"n_labels": channels, "image_key": "segmentation"}
    elif params.get("key", "image") != "image":
        exported["image_key"] = published_key(params["key"])
    exported["lossconfig"] = _loss(loss, weight, max_steps)
    return {"target": f"taming.models.vqgan.{kind}", "params": exported}


def _quantizer(node: dict, masks: bool) -> tuple[str, dict, float]:
    """Their model's class, its parameters of the quantizer, and the weight in its loss."""
    inner = _inner(node)
    kind, params, weight = inner["target"].rpartition(".")[2], inner["params"], 1.0
    if params.get("normalize"):
        raise UserError(
            f"{kind} with normalize has no counterpart in the published code, which searches plain"
            " Euclidean neighbours"
        )
    if node["params"].get("unknown", "nearest") != "nearest":
        raise UserError(
            "a remapped codebook with an extra or a fixed code for the others has no counterpart in"
            " published YAMLs"
        )
    exported = {"embed_dim": params["dim"], "n_embed": params["num_codes"]}
    if kind == "VectorQuantizer":
        target = "VQSegmentationModel" if masks else "VQModel"
        # Their proportion is always 0.25 to 1; the codebook's own weight hardly matters under Adam
        weight = params.get("commitment_weight", 0.25)
    elif kind == "GumbelQuantizer":
        target = "GumbelVQ"
        exported |= {
            "kl_weight": params.get("kl_weight", 5e-4),
            "temperature_scheduler_config": _temperature(params),
        }
    elif kind == "EMAQuantizer":
        target = "EMAVQ"
        exported["beta"] = params.get("commitment_weight", 0.25)
    else:
        raise UserError(f"{kind} has no counterpart in the published code")
    used = node["params"].get("used")
    if used is not None:
        exported["remap"] = used if isinstance(used, str) else "used.npy"
    return target, exported, weight


def _inner(quantizer: dict) -> dict:
    """The codebook inside a remapped one."""
    return quantizer["params"].get("quantizer", quantizer)


def _temperature(params: dict) -> dict:
    first, last = params.get("temperature", (1.0, 1 / 16))
    schedule = {
        "warm_up_steps": 0,
        "max_decay_steps": params.get("temperature_batches", 150_000),
        "lr_start": first,
        "lr_max": first,
        "lr_min": last,
        "verbosity_interval": 0,
    }
    return {"target": "taming.lr_scheduler.LambdaWarmUpCosineScheduler", "params": schedule}


def _loss(node: dict | None, weight: float, max_steps: int) -> dict:
    node = node or {}
    name, params = (node.get("target") or "").rpartition(".")[2], node.get("params") or {}
    if name == "MaskLoss" and params.get("form") == "bce":
        return {"target": MASK_LOSSES[1], "params": {"codebook_weight": weight}}
    if name != "VQGANLoss":
        return {"target": NO_LOSSES[0]}
    start = params.get("adversarial_start", 0)
    patch = (params.get("discriminator") or {}).get("params") or {}
    perceptual = params.get("perceptual_weight", 1.0)
    exported = {
        "disc_start": start if isinstance(start, int) or start >= 1 else round(start * max_steps),
        "codebook_weight": weight,
        "perceptual_weight": 0.0 if params.get("perceptual") == "none" else perceptual,
        "disc_weight": params.get("adversarial", 0.8),
        "disc_num_layers": patch.get("layers", 3),
        "disc_in_channels": patch.get("in_channels", 3),
        "disc_ndf": patch.get("width", 64),
        "disc_loss": params.get("form", "hinge"),
        "use_actnorm": patch.get("normalization", "batch") == "act",
    }
    return {"target": ADVERSARIAL_LOSSES[0], "params": exported}


def _second_stage(params: dict, config: dict, size: int) -> dict:
    node = params.get("prior") or {"target": "several priors", "params": {}}
    prior = node["params"]
    if node["target"] != SHARED_TABLE:
        raise UserError(
            f"{node['target'].rpartition('.')[2]} has no counterpart in the published code, where"
            f" condition and codes share one table; {CompVisGPT.__name__} has"
        )
    length = sum(p.get("length") or math.prod(p["grid"]) for p in prior["parts"])
    gpt = {
        "vocab_size": prior["shared_vocabulary"],
        "block_size": prior.get("positions") or length + math.prod(prior["grid"]),
        "n_layer": prior["layers"],
        "n_head": prior["heads"],
        "n_embd": prior["width"],
        "embd_pdrop": prior.get("dropout", 0.0),
        "resid_pdrop": prior.get("dropout", 0.0),
        "attn_pdrop": prior.get("attention_dropout", 0.0),
        "n_unmasked": prior.get("unmasked", 0),
    }
    exported = {
        "transformer_config": {"target": GPTS[0], "params": gpt},
        "first_stage_config": _first_stage(params["first_stage"], size),
        "pkeep": 1.0 - config.get("noise", 0.0),
    }
    key = params["first_stage"]["params"].get("key", "image")
    if key != "image":
        exported["first_stage_key"] = key
    if prior.get("order", "raster") != "raster":
        exported["permuter_config"] = _permuter(prior["order"], prior["grid"])
    return exported | _condition(params["conditioner"], size, prior)


def _permuter(order: str, grid: list[int]) -> dict:
    name = next(name for name, ours in ORDERS.items() if ours == order)
    sides = {"length": math.prod(grid)} if order == "shuffled" else {"H": grid[0], "W": grid[1]}
    return {"target": f"{PERMUTERS}.{name}", "params": sides}


def _condition(node: dict, size: int, prior: dict) -> dict:
    name, params = node["target"].rpartition(".")[2], node.get("params") or {}
    if name == "Unconditional":
        return {
            "unconditional": True,
            "cond_stage_config": "__is_unconditional__",
            "sos_token": params.get("token", 0),
        }
    if name == "ClassLabel":
        key, target = "class_label", "taming.modules.util.Labelator"
        exported = {"n_classes": params["classes"]}
    elif name == "Coordinates":
        key, target = "coord", "taming.modules.misc.coord.CoordStage"
        exported = {"n_embed": params["steps"], "down_factor": params["factor"]}
    elif name == "Boxes":
        key = "objects_center_points" if params.get("points") else "objects_bbox"
        target = "taming.models.dummy_cond_stage.DummyCondStage"
        exported = {"conditional_key": key}
    elif name == "EncodedImage":
        return _encoded_image(params, size, prior)
    else:
        raise UserError(f"conditioner {name} has no counterpart in the published code")
    return {"cond_stage_key": key, "cond_stage_config": {"target": target, "params": exported}}


def _encoded_image(params: dict, size: int, prior: dict) -> dict:
    stage, smaller = params["first_stage"], params.get("size")
    default = "segmentation" if stage["target"].endswith("MaskVQGAN") else "image"
    if not smaller:
        stride = 2 ** (len(stage["params"]["multipliers"]) - 1)
        size = prior["parts"][0]["grid"][0] * stride
    exported = {
        "cond_stage_key": stage["params"].get("key", default),
        "cond_stage_config": _first_stage(stage, size),
    }
    return exported | ({"downsample_cond_size": smaller[0]} if smaller else {})


def _first_stage_state(
    weights: dict[str, Tensor], prefix: str, published_prefix: str, node: dict
) -> dict[str, Tensor]:
    """The tensors under `prefix` by their names."""
    gumbel = _inner(node["params"]["quantizer"])["target"].endswith("GumbelQuantizer")
    table = "embed.weight" if gumbel else "embedding.weight"
    names = {ours: name for name, ours in EMBEDDINGS.items()} | {"embedding.weight": table}
    state = {}
    for name, tensor in weights.items():
        if not name.startswith(prefix) or (not prefix and name.startswith("loss.")):
            continue
        tail = name.removeprefix(prefix)
        if tail in ("quantizer.batches", "quantizer.unseen"):
            continue  # when codes were last used: for restarts, in training
        if tail.startswith("quantizer."):
            tail = tail.removeprefix("quantizer.").removeprefix("inner.")
            tail = f"quantize.{names.get(tail, tail)}"
        state[published_prefix + tail] = tensor
    if node["target"].endswith("MaskVQGAN"):
        state[f"{published_prefix}colorize"] = torch.randn(
            3, node["params"]["labels"], 1, 1, generator=torch.Generator().manual_seed(0)
        )
    return state


def _second_stage_state(weights: dict[str, Tensor], params: dict) -> dict[str, Tensor]:
    prior = params["prior"]["params"]
    state = _first_stage_state(weights, "first_stage.", "first_stage_model.", params["first_stage"])
    if params["conditioner"]["target"].endswith("EncodedImage"):
        stage = params["conditioner"]["params"]["first_stage"]
        state |= _first_stage_state(weights, "conditioner.first_stage.", "cond_stage_model.", stage)
    for name, tensor in weights.items():
        if not name.startswith("priors.0."):
            continue
        tail = name.removeprefix("priors.0.")
        if tail == "permutation":
            state["permuter.forward_shuffle_idx"] = tensor
            state["permuter.backward_shuffle_idx"] = tensor.argsort()
        elif ".attn.qkv." in tail:
            for part, rows in zip(("query", "key", "value"), tensor.chunk(3)):
                state[f"transformer.{tail.replace('qkv', part)}"] = rows.clone()
        else:
            state[f"transformer.{tail}"] = tensor
    length = weights["priors.0.pos_emb"].shape[1]
    mask = torch.ones(length, length).tril()
    mask[: prior.get("unmasked", 0), : prior.get("unmasked", 0)] = 1
    for layer in range(prior["layers"]):
        state[f"transformer.blocks.{layer}.attn.mask"] = mask[None, None]
    return state
