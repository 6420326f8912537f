"""Checkpoints and configurations of CompVis/taming-transformers and latent-diffusion <-> ours. The only file that knows their names.

What tensors do not tell (heads, order, start token, kind of condition) comes from their YAML and is never guessed. Nothing that a file or a YAML names is
imported: targets are looked up in closed tables, and pickles are read by an unpickler that can rebuild tensors and nothing else.
"""

import codecs
import math
import pickle
import re
import types
from collections import OrderedDict, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from taming.errors import UserError, did_you_mean

KINDS = {
    "taming.models.vqgan.VQModel": "vector",
    "taming.models.vqgan.VQSegmentationModel": "vector",
    "taming.models.vqgan.VQNoDiscModel": "vector",
    "taming.models.vqgan.GumbelVQ": "gumbel",
    "taming.models.vqgan.EMAVQ": "ema",
    "ldm.models.autoencoder.VQModel": "vector",
    "ldm.models.autoencoder.VQModelInterface": "vector",
}
PRIORS = ("taming.models.cond_transformer.Net2NetTransformer",)
GPTS = ("taming.modules.transformer.mingpt.GPT",)
ADVERSARIAL_LOSSES = ("taming.modules.losses.vqperceptual.VQLPIPSWithDiscriminator", "ldm.modules.losses.vqperceptual.VQLPIPSWithDiscriminator")
MASK_LOSSES = ("taming.modules.losses.segmentation.BCELoss", "taming.modules.losses.segmentation.BCELossWithQuant")
NO_LOSSES = ("taming.modules.losses.DummyLoss", "taming.modules.losses.vqperceptual.DummyLoss", "torch.nn.Identity")
CONDITIONS = {
    "taming.modules.misc.coord.CoordStage": "coordinates",
    "taming.modules.util.Labelator": "class",
    "taming.modules.util.SOSProvider": "start",
    "taming.models.dummy_cond_stage.DummyCondStage": "boxes",
}
ORDERS = {
    "Identity": "raster",
    "Subsample": "subsample",
    "ZCurve": "z_curve",
    "SpiralOut": "spiral_out",
    "SpiralIn": "spiral_in",
    "RandomPermute": "shuffled",
    "AlternateParsing": "alternate",
}
KEYS = {"class_label": "class", "coord": "coordinates", "objects_bbox": "boxes", "objects_center_points": "boxes"}  # entries of a batch; others keep theirs
LEGACY_CODEBOOK_WEIGHT = 0.25  # all published models: beta stands at the codebook's term
UNREAD = {"ckpt_path", "ignore_keys", "monitor", "sane_index_shape", "colorize_nlabels"}


@dataclass
class Translation:
    """A plain Experiment, what a user should know about how it came about, and the checkpoints that its parts were to be filled from."""

    config: dict
    notes: list[str] = field(default_factory=list)
    checkpoints: dict[str, str] = field(default_factory=dict)  # by part: model, first_stage, conditioner

    @property
    def plain(self) -> dict:
        """The configuration with its ${...} filled in."""
        return resolved(self.config)


@dataclass
class Sorted:
    """Tensors under our names: of the model, of its loss; and what was left aside, with the reason."""

    weights: dict[str, Tensor] = field(default_factory=dict)
    loss: dict[str, Tensor] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)  # what a published model of this kind does not have


# Configurations


def is_theirs(tree) -> bool:
    """Whether a YAML tree is one of theirs."""
    model = tree.get("model") if isinstance(tree, dict) else None
    return isinstance(model, dict) and (model.get("target") in (*KINDS, *PRIORS) or "base_learning_rate" in model)


def read_yaml(paths: list[Path]) -> dict:
    """Their YAML files, merged from left to right."""
    try:
        return OmegaConf.to_container(OmegaConf.merge(*(OmegaConf.load(path) for path in paths)), resolve=True)
    except Exception as error:  # PyYAML and OmegaConf raise many kinds
        raise UserError(f"config {' + '.join(map(str, paths))} can't be read: {' '.join(str(error).split())[:200]}") from None


def resolved(tree: dict) -> dict:
    """A tree with its ${...} filled in."""
    try:
        return OmegaConf.to_container(OmegaConf.create(tree), resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(f"the published YAML can't be resolved: {' '.join(str(error).split())[:200]}") from None


def configs_beside(path: Path) -> list[Path]:
    """The YAML files that belong to a published checkpoint by the layouts in use: logs/NAME/{checkpoints,configs}, {ckpts,configs}, or in its own folder."""
    for folder in (path.parent.parent / "configs", path.parent / "configs", path.parent, path.parent.parent):
        project = sorted(folder.glob("*project.yaml")) or [p for name in ("model.yaml", "config.yaml") if (p := folder / name).is_file()]
        if project:
            return project
    return []


def translate(tree: dict, shapes: dict[str, tuple[int, ...]] | None = None, devices: int | None = None) -> Translation:
    """Their configuration as ours. shapes: of the checkpoint's tensors, for what only they tell (how many codes a remapped codebook uses). devices: where
    the command line says how many.

    Raises UserError for what is missing, malformed or not supported.
    """
    try:
        return _translate(tree, shapes, devices)
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError, IndexError) as error:
        raise UserError(f"the published YAML is malformed or incomplete: {type(error).__name__}: {error}; compare it with the one that was published") from None


def _translate(tree: dict, shapes: dict | None, devices: int | None) -> Translation:
    node = tree["model"]
    target, params = node.get("target"), dict(node.get("params") or {})
    notes: list[str] = []
    for section in tree.keys() - {"model", "data", "lightning"}:
        notes.append(f"section {section} is none of theirs and was left aside; put keys of ours on the command line")
    found = {"model": params.get("ckpt_path")}
    if target in KINDS:
        model, resolution = _first_stage(node, notes, shapes, "")
        plain = {"model": model, "loss": _loss(params.get("lossconfig"), notes), "optimizer": {"betas": [0.5, 0.9], "weight_decay": 0.0}}
    elif target in PRIORS:
        model, resolution, noise = _second_stage(params, tree.get("data") or {}, notes, shapes)
        plain = {"model": model, "noise": noise, "optimizer": {"betas": [0.9, 0.95], "weight_decay": 0.01}}
        found |= {
            part: (params.get(key) or {}).get("params", {}).get("ckpt_path")
            for part, key in (("first_stage", "first_stage_config"), ("conditioner", "cond_stage_config"))
            if isinstance(params.get(key), dict)
        }
    else:
        raise UserError(f"model.target: '{target}' is none of the published models that can be read{did_you_mean(target, [*KINDS, *PRIORS])}")
    plain["variables"] = {"size": resolution, "root": "data"}
    plain["trainer"] = _trainer((tree.get("lightning") or {}).get("trainer") or {}, notes)
    if devices:
        plain["trainer"] |= {"accelerator": "gpu", "devices": devices}
    plain["data"] = _data(tree.get("data") or {}, plain, notes)
    _rate(plain, node.get("base_learning_rate"), notes)
    if plain.get("loss", 0) is None:
        del plain["loss"]
    return Translation(plain, notes, {part: path for part, path in found.items() if path})


def _first_stage(node: dict, notes: list[str], shapes: dict | None, prefix: str) -> tuple[dict, int]:
    params = dict(node.get("params") or {})
    kind = KINDS.get(node.get("target"))
    if kind is None:
        raise UserError(f"target '{node.get('target')}' is none of the published first stages{did_you_mean(node.get('target'), KINDS)}")
    try:
        net = dict(params["ddconfig"])
        num_codes, dim = params["n_embed"], params["embed_dim"]
        channels, multipliers, resolution = net["ch"], list(net["ch_mult"]), net["resolution"]
        blocks, latent, inputs, outputs = net["num_res_blocks"], net["z_channels"], net["in_channels"], net["out_ch"]
    except KeyError as error:
        raise UserError(f"{node['target']}: the YAML lacks {error}, which tensors do not tell; give the one that came with the checkpoint") from None
    if net.get("double_z") or inputs != outputs or not net.get("resamp_with_conv", True) or net.get("tanh_out"):
        raise UserError(f"{node['target']}: double_z, different in_channels and out_ch, resamp_with_conv: false and tanh_out are not supported")
    for name in params.keys() - UNREAD - {"ddconfig", "lossconfig", "n_embed", "embed_dim", "image_key", "n_labels", "remap", "beta"}:
        if name not in ("kl_weight", "temperature_scheduler_config"):
            notes.append(f"{prefix}{name}: {params[name]!r} has no counterpart here")
    weight = ((params.get("lossconfig") or {}).get("params") or {}).get("codebook_weight", 1.0)
    quantizer = _quantizer(kind, num_codes, dim, weight, params, notes)
    if params.get("remap") or f"{prefix}quantize.used" in (shapes or {}):
        used = shapes[f"{prefix}quantize.used"][0] if f"{prefix}quantize.used" in (shapes or {}) else params["remap"]
        quantizer = {"target": "taming.first_stage.RemappedQuantizer", "params": {"quantizer": quantizer, "used": used}}
        notes.append("codes outside the remapped set become the nearest in it; the published code draws one at random")
    built = {
        "channels": channels,
        "multipliers": multipliers,
        "blocks": blocks,
        "attention": [i for i in range(len(multipliers)) if resolution // 2**i in (net.get("attn_resolutions") or [])],
        "latent_channels": latent,
        "dropout": float(net.get("dropout", 0.0)),
        "quantizer": quantizer,
        "key": KEYS.get(params.get("image_key", "image"), params.get("image_key", "image")),
    }
    if net.get("attn_type", "vanilla") == "none":
        built["middle_attention"] = False
    elif net.get("attn_type", "vanilla") != "vanilla":
        raise UserError(f"{node['target']}: attn_type '{net['attn_type']}' is not supported; vanilla and none are")
    if node["target"].endswith("VQSegmentationModel") or built["key"] == "segmentation":
        if params.get("n_labels", inputs) != inputs:
            raise UserError(f"{node['target']}: n_labels is {params['n_labels']}, but in_channels is {inputs}")
        return {"target": "taming.first_stage.MaskVQGAN", "params": {"labels": inputs, **built, "key": "segmentation"}}, resolution
    return {"target": "taming.first_stage.VQGAN", "params": {**built, "in_channels": inputs}}, resolution


def _quantizer(kind: str, num_codes: int, dim: int, weight: float, params: dict, notes: list[str]) -> dict:
    size = {"num_codes": num_codes, "dim": dim}
    if kind == "vector":
        how = {"codebook_weight": LEGACY_CODEBOOK_WEIGHT * weight, "commitment_weight": 1.0 * weight}
        return {"target": "taming.first_stage.VectorQuantizer", "params": {**size, **how}}
    if kind == "ema":
        return {"target": "taming.first_stage.EMAQuantizer", "params": {**size, "commitment_weight": params.get("beta", 0.25) * weight}}
    how = {"kl_weight": params.get("kl_weight", 1e-8) * weight, "hard": True, "temperature": [1.0, 1.0], "temperature_batches": 1}
    schedule = (params.get("temperature_scheduler_config") or {}).get("params")
    if schedule:
        if schedule.get("warm_up_steps") and schedule["lr_start"] != schedule["lr_max"]:
            notes.append(f"the temperature's warm-up over {schedule['warm_up_steps']} batches has no counterpart here")
        how |= {"temperature": [schedule["lr_max"], schedule["lr_min"]], "temperature_batches": schedule["max_decay_steps"]}
    return {"target": "taming.first_stage.GumbelQuantizer", "params": {**size, **how}}


def _loss(node: dict | None, notes: list[str]) -> dict | None:
    target, params = (node or {}).get("target"), dict((node or {}).get("params") or {})
    if node is None or target in NO_LOSSES:
        notes.append("the YAML names no loss (its model was only to be used); to train, add one with loss.target=...")
        return None
    if target in MASK_LOSSES:
        return {"target": "taming.first_stage.MaskLoss", "params": {"form": "bce"}}
    if target not in ADVERSARIAL_LOSSES:
        raise UserError(f"lossconfig.target: '{target}' is none of the published losses{did_you_mean(target, [*ADVERSARIAL_LOSSES, *MASK_LOSSES, *NO_LOSSES])}")
    if params.get("disc_conditional"):
        notes.append("disc_conditional: no published model calls the discriminator with a condition; left out")
    how = {
        "perceptual": "lpips",
        "perceptual_weight": params.get("perceptual_weight", 1.0),
        "perceptual_blocks": 5,
        "adversarial": params.get("disc_weight", 1.0) * params.get("disc_factor", 1.0),
        "adversarial_start": params.get("disc_start", 0),
        "form": params.get("disc_loss", "hinge"),
        "width": params.get("disc_ndf", 64),
        "layers": params.get("disc_num_layers", 3),
        "normalization": "act" if params.get("use_actnorm") else "batch",
        "in_channels": params.get("disc_in_channels", 3),
    }
    if not how["perceptual_weight"]:
        how["perceptual"] = "none"
    return {"target": "taming.first_stage.VQGANLoss", "params": how}


def _second_stage(params: dict, data: dict, notes: list[str], shapes: dict | None) -> tuple[dict, int, float]:
    gpt_node = params.get("transformer_config") or {}
    if gpt_node.get("target") not in GPTS:
        raise UserError(f"transformer_config.target: '{gpt_node.get('target')}' is not supported{did_you_mean(gpt_node.get('target'), GPTS)}")
    gpt = dict(gpt_node.get("params") or {})
    missing = [name for name in ("vocab_size", "block_size", "n_layer", "n_head", "n_embd") if name not in gpt]
    if missing:
        raise UserError(f"transformer_config.params lacks {', '.join(missing)}, which tensors do not tell; give the YAML that came with the checkpoint")
    if "first_stage_config" not in params:
        raise UserError("model.params lacks first_stage_config; give the YAML that came with the checkpoint")
    first, resolution = _first_stage(params["first_stage_config"], notes, shapes, "first_stage_model.")
    first["params"]["key"] = KEYS.get(params.get("first_stage_key", "image"), params.get("first_stage_key", "image"))
    stride = 2 ** (len(first["params"]["multipliers"]) - 1)
    grid = [resolution // stride, resolution // stride]
    conditioner, part = _conditioner(params, first, resolution, gpt["block_size"] - math.prod(grid), data, notes, shapes)
    drops = {name: float(gpt.get(name, 0.0)) for name in ("embd_pdrop", "resid_pdrop", "attn_pdrop")}
    if drops["embd_pdrop"] != drops["resid_pdrop"]:
        notes.append(f"dropout of embeddings {drops['embd_pdrop']} and of residual branches {drops['resid_pdrop']} are one number here: {drops['resid_pdrop']}")
    prior = {
        "num_codes": _num_codes(first["params"]["quantizer"]),
        "grid": grid,
        "parts": [part],
        "layers": gpt["n_layer"],
        "heads": gpt["n_head"],
        "width": gpt["n_embd"],
        "dropout": drops["resid_pdrop"],
        "attention_dropout": drops["attn_pdrop"],
        "shared_vocabulary": gpt["vocab_size"],
        "positions": gpt["block_size"],
        "unmasked": gpt.get("n_unmasked", 0),
        "order": _order(params.get("permuter_config"), grid),
    }
    model = {"first_stage": first, "conditioner": conditioner, "prior": {"target": "taming.second_stage.GPT", "params": prior}}
    kept = params.get("pkeep", 1.0)
    if kept <= 0:
        notes.append(f"pkeep {kept} (all codes replaced by noise) has no counterpart here; trained without noise")
        kept = 1.0
    return {"target": "taming.second_stage.SecondStage", "params": model}, resolution, round(1.0 - kept, 10)


def _conditioner(params: dict, first: dict, resolution: int, spare: int, data: dict, notes: list[str], shapes: dict | None) -> tuple[dict, dict]:
    """Our conditioner, and the part of the condition that the prior hears."""
    node, key = params.get("cond_stage_config"), params.get("cond_stage_key", "depth")
    key = KEYS.get(key, key)
    if params.get("unconditional") or node == "__is_unconditional__":
        return _start(params.get("sos_token", 0))
    if node == "__is_first_stage__":
        node, stage = None, {"target": first["target"], "params": {**first["params"], "key": key}}
    elif not isinstance(node, dict):
        raise UserError(f"cond_stage_config: {node!r} is not supported; a model, __is_first_stage__ or __is_unconditional__ is")
    else:
        kind, how = CONDITIONS.get(node.get("target")), dict(node.get("params") or {})
        if kind == "start":
            return _start(how["sos_token"])
        if kind == "class":
            return {"target": "taming.second_stage.ClassLabel", "params": {"classes": how["n_classes"]}}, {"vocabulary": how["n_classes"], "length": 1}
        if kind == "coordinates":
            side = resolution // how["down_factor"]
            made = {"target": "taming.second_stage.Coordinates", "params": {"steps": how["n_embed"], "factor": how["down_factor"]}}
            return made, {"vocabulary": how["n_embed"], "grid": [side, side]}
        if kind == "boxes":
            return _boxes(how["conditional_key"], spare, (params["transformer_config"]["params"])["vocab_size"], data)
        stage, resolution = _first_stage(node, notes, shapes, "cond_stage_model.")
        if stage["target"].endswith(".VQGAN"):
            stage["params"]["key"] = key
            if key == "segmentation":  # plain models were trained on masks too
                inputs = stage["params"].pop("in_channels")
                stage = {"target": "taming.first_stage.MaskVQGAN", "params": {"labels": inputs, **stage["params"]}}
    size = params.get("downsample_cond_size", -1)
    how = {"first_stage": stage} | ({"size": [size, size], "trained_size": [resolution, resolution]} if size > 0 else {})
    side = (size if size > 0 else resolution) // 2 ** (len(stage["params"]["multipliers"]) - 1)
    made = {"target": "taming.second_stage.EncodedImage", "params": how}
    return made, {"vocabulary": _num_codes(stage["params"]["quantizer"]), "grid": [side, side]}


def _start(token: int) -> tuple[dict, dict]:
    return {"target": "taming.second_stage.Unconditional", "params": {"token": token}}, {"vocabulary": token + 1, "length": 1}


def _boxes(key: str, spare: int, vocabulary: int, data: dict) -> tuple[dict, dict]:
    """The number of slots follows from the block size (codes, slots, two crop tokens); the data's section must agree where it is there."""
    points = key == "objects_center_points"
    told = (((data.get("params") or {}).get("train") or {}).get("params")) or {}
    each, crop = (2 if points else 3), told.get("encode_crop")
    if crop is None:
        fitting = [c for c in (True, False) if (spare - 2 * c) % each == 0]
        if len(fitting) != 1:
            raise UserError("whether the crop is encoded is told neither by the block size nor by the YAML; add data.params.train.params.encode_crop")
        crop = fitting[0]
    slots, rest = divmod(spare - 2 * crop, each)
    if rest or slots < 1 or told.get("max_objects_per_image", slots) != slots:
        said = told.get("max_objects_per_image", "nothing")
        raise UserError(
            f"block_size leaves {spare} tokens to the objects, which is not {each} for each of {said} objects{' and 2 for the crop' if crop else ''}"
        )
    how = {"objects": slots, "vocabulary": told.get("no_tokens", vocabulary), "points": points, "crop": bool(crop)}
    return {"target": "taming.second_stage.Boxes", "params": how}, {"vocabulary": how["vocabulary"], "length": spare}


def _order(node: dict | None, grid: list[int]) -> str:
    if not node:
        return "raster"
    name = str(node.get("target")).rsplit(".", 1)[-1]
    if not str(node.get("target")).startswith("taming.modules.transformer.permuter.") or name not in ORDERS:
        raise UserError(f"permuter_config.target: '{node.get('target')}' is unknown{did_you_mean(name, ORDERS)}")
    said = node.get("params") or {}
    if any(said.get(side, n) != n for side, n in zip("HW", grid)):
        raise UserError(f"permuter_config says {said.get('H')}x{said.get('W')}, but the first stage makes {grid[0]}x{grid[1]} codes")
    return ORDERS[name]


def _num_codes(quantizer: dict) -> int:
    params = quantizer["params"]
    if "quantizer" not in params:
        return params["num_codes"]
    if not isinstance(params["used"], int):
        raise UserError(f"remap: how many codes '{params['used']}' lists is needed; load it together with the checkpoint")
    return params["used"]


def _trainer(theirs: dict, notes: list[str]) -> dict:
    found: dict = {"gradient_clip_val": None, "share_forward": False}
    for name, value in theirs.items():
        if name == "gpus":
            numbers = [n for n in value.split(",") if n.strip()] if isinstance(value, str) else value if isinstance(value, list) else range(value or 0)
            if value in (-1, "-1"):
                numbers = range(max(1, torch.cuda.device_count()))
            if len(numbers):
                found |= {"accelerator": "gpu", "devices": len(numbers)}
                notes.append(f"gpus {value!r}: trainer.accelerator=gpu trainer.devices={len(numbers)}")
        elif name in ("max_steps", "accumulate_grad_batches", "gradient_clip_val") and isinstance(value, int | float) and value > 0:
            found[name] = value
        elif name == "distributed_backend" or (name == "accelerator" and value == "ddp"):
            notes.append(f"{name} {value}: left to trainer.strategy=auto, which takes DDP where there are several devices")
        else:
            notes.append(f"lightning.trainer.{name}: {value!r} is left aside; see the keys of trainer in any of our configurations")
    if "max_steps" not in found:
        notes.append("the YAML does not say how long to train; set trainer.max_steps (batches)")
    return found


def _data(theirs: dict, plain: dict, notes: list[str]) -> dict:
    """Data sets of ours by what the model reads; where pictures lie is for the user to say (variables.root)."""
    params = dict(theirs.get("params") or {})
    found: dict = {"batch_size": params.get("batch_size", 8), "workers": params.get("num_workers") or 0}
    model = plain["model"]["params"]
    reads = {model.get("key")} if "first_stage" not in model else {model["first_stage"]["params"]["key"], _condition_key(model["conditioner"])}
    target = {"segmentation": "SegmentedImages", "depth": "DepthImages"}.get(next((k for k in reads if k in ("segmentation", "depth")), ""), "ImageFolder")
    if reads - {"image", "segmentation", "depth", None}:
        notes.append(f"no data set of ours gives {', '.join(sorted(r for r in reads if r))} to train on yet; give data.train a target of your own")
        return found
    for name in ("train", "validation"):
        node = params.get(name) or {}
        told = dict(node.get("params") or {})
        size = told.get("crop_size") or told.get("size")
        own = {"root": "${variables.root}", "size": size or "${variables.size}"} | ({"flip": False} if name == "validation" else {})
        lists = [value for key, value in told.items() if key.endswith("images_list_file")]
        own |= {"list": lists[0]} if lists else {}
        found[name] = {"target": f"taming.data.{target}", "params": own}
        if node:
            notes.append(f"data.{name}: {node.get('target')} becomes taming.data.{target} with root 'data'; set variables.root to your folder")
    return found


def _condition_key(conditioner: dict) -> str | None:
    name, params = conditioner["target"].rsplit(".", 1)[-1], conditioner.get("params") or {}
    return {"EncodedImage": lambda: params["first_stage"]["params"]["key"], "ClassLabel": lambda: "class"}.get(
        name, lambda: {"Coordinates": "coordinates", "Boxes": "boxes"}.get(name)
    )()


def _rate(plain: dict, base: float | None, notes: list[str]) -> None:
    """Their rule: accumulation x devices x batch x base; constant, no warm-up."""
    if base is None:
        return
    accumulation, devices = plain["trainer"].get("accumulate_grad_batches", 1), plain["trainer"].get("devices", 1)
    rate = accumulation * devices * plain["data"]["batch_size"] * base
    plain["optimizer"] |= {"learning_rate": rate, "warmup": 0, "final": 1.0}
    notes.append(f"learning rate {rate:.3g} = {accumulation} (accumulation) x {devices} (devices) x {plain['data']['batch_size']} (batch) x {base:.3g} (base)")


# Weights


def sort_weights(state: dict[str, Tensor], source: str | Path, second: bool, config: dict) -> Sorted:
    """Every tensor of `state` under our name, or named as left aside and why, or as unknown."""
    found = Sorted()
    fused = defaultdict(dict)
    remapped = {prefix for prefix in ("", "first_stage_model.", "cond_stage_model.") if f"{prefix}quantize.used" in state}
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
    for theirs, ours in (("first_stage_model.", "first_stage."), ("cond_stage_model.", "conditioner.first_stage.")):
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
    if name in ("pos_emb", "tok_emb.weight", "head.weight") or re.fullmatch(r"(ln_f|blocks\.\d+\.(ln1|ln2|attn\.proj|mlp\.[02]))\.(weight|bias)", name):
        return "model", f"priors.0.{name}"
    return None


def _check_against_yaml(state: dict[str, Tensor], source: str | Path, config: dict) -> None:
    prior = config["model"]["params"]["prior"]["params"]
    mask = state.get("transformer.blocks.0.attn.mask")
    if mask is not None:
        seen = int((mask.view(mask.shape[-2:])[0] != 0).sum())
        if seen != max(1, prior["unmasked"]):
            raise UserError(f"'{source}': its mask leaves {seen} tokens unmasked, but the YAML says n_unmasked {prior['unmasked']}")
    order = state.get("permuter.forward_shuffle_idx")
    if (order is None) != (prior["order"] == "raster"):
        has = "has no permuter" if order is None else "has a permuter"
        raise UserError(f"'{source}' {has}, but the YAML says order {prior['order']}")
    if order is not None:
        from taming.second_stage.permuters import order as named  # the package loads models, which load checkpoints, which load this file

        if order.tolist() != named(prior["order"], tuple(prior["grid"])):
            raise UserError(f"'{source}': its permuter's indices are not those of order {prior['order']}, which the YAML says")


# The way back


def to_theirs(config: dict, weights: dict[str, Tensor], loss: dict[str, Tensor], batches: int) -> tuple[dict, dict]:
    """Our model as (their YAML tree, their checkpoint dictionary). Raises UserError for what their code can't express."""
    model = config["model"]
    size = _size_of(config)
    rate = config["optimizer"]["learning_rate"] / (config["data"]["batch_size"] * config["trainer"]["accumulate_grad_batches"] * config["trainer"]["devices"])
    if model["target"] == "taming.second_stage.SecondStage":
        target, params = PRIORS[0], _theirs_second(model["params"], config, size)
        state = _second_state(weights, model["params"])
    else:
        node = _theirs_first(model, size, config.get("loss"), config["trainer"]["max_steps"])
        target, params = node["target"], node["params"]
        state = _first_state(weights, "", "", model) | {f"loss.{name}": tensor for name, tensor in loss.items()}
    tree = {"model": {"base_learning_rate": rate, "target": target, "params": params}}
    return tree, {"state_dict": state, "epoch": 0, "global_step": batches, "pytorch-lightning_version": "1.0.8"}


def _size_of(config: dict) -> int:
    """The side of the pictures trained on, which their YAML states and ours need not."""
    params = config["model"]["params"]
    if "prior" in params:
        grid = params["prior"]["params"]["grid"]
        if grid[0] != grid[1]:
            raise UserError(f"the published code only knows square grids, not {grid[0]}x{grid[1]}")
        return grid[0] * 2 ** (len(params["first_stage"]["params"].get("multipliers", [1])) - 1)  # other first stages are refused in a moment
    told = [(config.get("variables") or {}).get("size"), ((config["data"].get("train") or {}).get("params") or {}).get("size")]
    return next((size for size in told if isinstance(size, int)), 256)


def _theirs_first(node: dict, size: int, loss: dict | None = None, steps: int = 0) -> dict:
    name, params = node["target"].rsplit(".", 1)[-1], node["params"]
    if name not in ("VQGAN", "MaskVQGAN"):
        raise UserError(f"{name} has no counterpart in the published code; VQGAN and MaskVQGAN have")
    quantizer = params["quantizer"]
    used = quantizer["params"].get("used")
    inner = quantizer["params"].get("quantizer", quantizer)
    kind, own = inner["target"].rsplit(".", 1)[-1], inner["params"]
    if own.get("normalize"):
        raise UserError(f"{kind} with normalize has no counterpart in the published code, which searches plain Euclidean neighbours")
    if quantizer["params"].get("unknown", "nearest") != "nearest":
        raise UserError("a remapped codebook with an extra or a fixed code for the others has no counterpart in published YAMLs")
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
        made["image_key"] = next((theirs for theirs, ours in KEYS.items() if ours == params["key"]), params["key"])
    if kind == "VectorQuantizer":
        target = "VQSegmentationModel" if name == "MaskVQGAN" else "VQModel"
        weight = own.get("commitment_weight", 0.25)  # their proportion is always 0.25 to 1; the codebook's own weight hardly matters under Adam
    elif kind == "GumbelQuantizer":
        target = "GumbelVQ"
        first, last = own.get("temperature", (1.0, 1 / 16))
        schedule = {"warm_up_steps": 0, "max_decay_steps": own.get("temperature_batches", 150_000), "lr_start": first, "lr_max": first, "lr_min": last}
        scheduler = {"target": "taming.lr_scheduler.LambdaWarmUpCosineScheduler", "params": schedule | {"verbosity_interval": 0}}
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
    name, own = ((loss or {}).get("target") or "").rsplit(".", 1)[-1], (loss or {}).get("params") or {}
    if name == "MaskLoss" and own.get("form") == "bce":
        return {"target": MASK_LOSSES[1], "params": {"codebook_weight": weight}}
    if name != "VQGANLoss":
        return {"target": NO_LOSSES[0]}
    start = own.get("adversarial_start", 0)
    how = {
        "disc_start": start if isinstance(start, int) or start >= 1 else round(start * steps),
        "codebook_weight": weight,
        "perceptual_weight": 0.0 if own.get("perceptual") == "none" else own.get("perceptual_weight", 1.0),
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
        raise UserError("only a GPT with shared_vocabulary has a counterpart in the published code, where condition and codes share one table")
    first = _theirs_first(params["first_stage"], size)
    gpt = {
        "vocab_size": prior["shared_vocabulary"],
        "block_size": prior.get("positions") or sum(p.get("length") or math.prod(p["grid"]) for p in prior["parts"]) + math.prod(prior["grid"]),
        "n_layer": prior["layers"],
        "n_head": prior["heads"],
        "n_embd": prior["width"],
        "embd_pdrop": prior.get("dropout", 0.0),
        "resid_pdrop": prior.get("dropout", 0.0),
        "attn_pdrop": prior.get("attention_dropout", 0.0),
        "n_unmasked": prior.get("unmasked", 0),
    }
    made = {"transformer_config": {"target": GPTS[0], "params": gpt}, "first_stage_config": first, "pkeep": 1.0 - config.get("noise", 0.0)}
    if params["first_stage"]["params"].get("key", "image") != "image":
        made["first_stage_key"] = params["first_stage"]["params"]["key"]
    order = prior.get("order", "raster")
    if order != "raster":
        name = next(theirs for theirs, ours in ORDERS.items() if ours == order)
        made["permuter_config"] = {
            "target": f"taming.modules.transformer.permuter.{name}",
            "params": {"length": math.prod(prior["grid"])} if order == "shuffled" else {"H": prior["grid"][0], "W": prior["grid"][1]},
        }
    return made | _theirs_condition(params["conditioner"], size, prior)


def _theirs_condition(node: dict, size: int, prior: dict) -> dict:
    name, own = node["target"].rsplit(".", 1)[-1], node.get("params") or {}
    if name == "Unconditional":
        return {"unconditional": True, "cond_stage_config": "__is_unconditional__", "sos_token": own.get("token", 0)}
    if name == "ClassLabel":
        return {"cond_stage_key": "class_label", "cond_stage_config": {"target": "taming.modules.util.Labelator", "params": {"n_classes": own["classes"]}}}
    if name == "Coordinates":
        stage = {"target": "taming.modules.misc.coord.CoordStage", "params": {"n_embed": own["steps"], "down_factor": own["factor"]}}
        return {"cond_stage_key": "coord", "cond_stage_config": stage}
    if name == "Boxes":
        key = "objects_center_points" if own.get("points") else "objects_bbox"
        return {
            "cond_stage_key": key,
            "cond_stage_config": {"target": "taming.models.dummy_cond_stage.DummyCondStage", "params": {"conditional_key": key}},
        }
    if name != "EncodedImage":
        raise UserError(f"conditioner {name} has no counterpart in the published code")
    stage = own["first_stage"]
    strides = [2 ** (len(stage["params"]["multipliers"]) - 1), 2 ** (len(stage["params"]["multipliers"]) - 1)]
    part = prior["parts"][0]["grid"]
    key = stage["params"].get("key", "segmentation" if stage["target"].endswith("MaskVQGAN") else "image")
    made = {"cond_stage_key": key, "cond_stage_config": _theirs_first(stage, part[0] * strides[0] if not own.get("size") else size)}
    return made | ({"downsample_cond_size": own["size"][0]} if own.get("size") else {})


def _first_state(weights: dict[str, Tensor], ours: str, theirs: str, node: dict) -> dict[str, Tensor]:
    inner = node["params"]["quantizer"]["params"].get("quantizer", node["params"]["quantizer"])
    kind = inner["target"].rsplit(".", 1)[-1]
    book = "embed.weight" if kind == "GumbelQuantizer" else "embedding.weight"
    renamed = {"embedding.weight": book, "counts": "embedding.cluster_size", "sums": "embedding.embed_avg"}
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
        state[f"{theirs}colorize"] = torch.randn(3, node["params"]["labels"], 1, 1, generator=torch.Generator().manual_seed(0))
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
            state |= {"permuter.forward_shuffle_idx": tensor, "permuter.backward_shuffle_idx": tensor.argsort()}
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


# Reading pickles that torch's safe loader refuses


DATA_MODULES = (  # packages whose objects old checkpoints carry along; they become inert
    "pytorch_lightning",
    "lightning",
    "lightning_fabric",
    "omegaconf",
    "taming",
    "ldm",
    "main",
    "__main__",
    "pathlib",
    "argparse",
    "typing",
    "enum",
    "datetime",
    "numpy",
    "collections",
)


class _Rebuilder:
    """Calls a function, and lets pickle's BUILD set nothing on it, as it could on the function itself."""

    __slots__ = ("_function",)

    def __init__(self, function):
        object.__setattr__(self, "_function", function)

    def __call__(self, *arguments):
        return self._function(*arguments)

    def __setattr__(self, name, value):
        raise UserError(f"it asks to change '{self._function.__name__}', which weights have no need of; nothing was run. Do not trust this file")

    def __setstate__(self, state):
        self.state = state


REBUILDERS = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor"): _Rebuilder(torch._utils._rebuild_tensor),
    ("torch._utils", "_rebuild_tensor_v2"): _Rebuilder(torch._utils._rebuild_tensor_v2),
    ("torch._utils", "_rebuild_parameter"): _Rebuilder(torch._utils._rebuild_parameter),
    ("_codecs", "encode"): _Rebuilder(codecs.encode),  # bytes of a numpy scalar
    ("torch", "Size"): torch.Size,
    ("torch", "device"): _Rebuilder(torch.device),
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,
    **{("torch", name): getattr(torch, name) for name in dir(torch) if isinstance(getattr(torch, name), torch.dtype)},
}


class _Inert(type):
    """The class of stand-ins: to name one is harmless, to make or call one is refused unless its package only carries data."""

    def __call__(cls, *arguments, **keywords):
        return cls.__new__(cls)


def _stand_in(module: str, name: str) -> type:
    def make(cls, *arguments, **keywords):
        if module.split(".")[0] not in DATA_MODULES:
            raise UserError(f"it asks to run '{module}.{name}', which weights have no need of; nothing was run. Do not trust this file")
        return object.__new__(cls)

    inert = {
        "__new__": make,
        "__setstate__": lambda self, state: None,
        "__setitem__": lambda self, key, value: None,
        "append": lambda self, item: None,
        "extend": lambda self, items: None,
        "add": lambda self, item: None,
        "__hash__": object.__hash__,
    }
    return _Inert(name.rsplit(".", 1)[-1] or "nameless", (), inert)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str):
        return REBUILDERS.get((module, name)) or _stand_in(module, name)


RESTRICTED = types.SimpleNamespace(__name__="restricted", Unpickler=_Unpickler, load=lambda file, **how: _Unpickler(file, **how).load())


def read_restricted(path: Path) -> object:
    """What a pickled checkpoint holds, with tensors rebuilt and everything else inert."""
    try:
        with open(path, "rb") as file:
            zipped = file.read(4) == b"PK\x03\x04"  # what torch goes by; zipfile looks at the end of the file
        if zipped and "constants.pkl" in torch._C.PyTorchFileReader(str(path)).get_all_records():
            raise UserError("it is a TorchScript program, not weights")
        return torch.load(path, map_location="cpu", weights_only=False, pickle_module=RESTRICTED, mmap=zipped)
    except UserError as error:
        raise UserError(f"'{path}' is refused: {error}") from None
    except Exception as error:  # pickle raises many kinds
        raise UserError(f"'{path}' can't be read as a checkpoint: {type(error).__name__}: {' '.join(str(error).split())[:200]}") from None
